"""Memory of each training of profile *paper* on a GPU, and the parameters with which it fits smaller ones.

Counted without a GPU (`training.fake_gpu`), in the first two steps of each training: forward and backward passes,
penalties, optimiser, averages. ``PYTHONPATH=.:tests python tests/gpu_memory.py`` counts all of them (about ten minutes on
one core) and writes ``gpu_memory.csv``, whose rows are the table of ``book/use/gpu.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pandas as pd
import torch
from torch import Tensor, nn

from leuk_lib.chapters.wpat import wpat_names
from leuk_lib.evaluation.baselines import BASELINES
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import pretrain
from leuk_lib.gan.features import feature_settings
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.train import train_gan
from leuk_lib.gan.verifier import TRAINING_LABEL, verifier_network, verifier_settings
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import TrainParams
from leuk_lib.stages import load_profile
from leuk_lib.training import pretrained
from leuk_lib.training.backbones import TimmBackbone
from leuk_lib.training.pretrained import NetworkSpec
from leuk_lib.wpat import linear_head
from leuk_lib.wpat.finetune import finetune
from leuk_lib.wpat.params import FCMAE, ComparisonParams, WpatParams
from training.fake_gpu import Usage, used

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

TABLE = Path(__file__).with_suffix(".csv")
CARDS = (24, 40, 80, 141)  # GB, 10^9 bytes
#: Share of a card that a count may take. A tenth is for training images that stay on the GPU, a tenth for CUDA itself,
#: workspaces of cuDNN and gaps between blocks.
USABLE = 0.8
CLASSES = 4
IMAGES = 256  # in a counted training: as many as are read at once before the first step


@dataclass(frozen=True)
class Training:
    """One training of a stage.

    Attributes:
        stage: The stage.
        name: Of the network.
        params: Parameters; with ``accumulate`` if the memory of the batch can be divided.
        run: Trains with given parameters.
        divisible: Whether the stage's ``accumulate`` is this training's.
        alike: Side of the images in px if nothing but images and draws is kept of the whole batch, so that more than two
            passes need no more than two; 0 for WPAT, which keeps features.
    """

    stage: str
    name: str
    params: Any
    run: Callable[[Any, Fabric], object]
    divisible: bool = True
    alike: int = 0

    def count(self, accumulate: int | None = None) -> Usage:
        """What the first two steps use, with another number of passes if it is given.

        Of passes that are alike two are counted, and the images of the others are added.
        """
        passes, batch = accumulate or self.params.accumulate, self.params.batch_size
        counted = min(passes, 2) if self.alike else passes
        images = batch * counted // passes
        change = {"accumulate": counted, "batch_size": images}
        usage = self._count(self.params.model_copy(update=change))
        usage.peak += (batch - images) * COPIES * 3 * self.alike**2 * 4
        return usage

    def _count(self, params: TrainParams) -> Usage:
        # The logistic regression before the first step, of a few MB, would read a loss that a fake GPU does not have.
        with mock.patch.object(linear_head, "MAX_ITERATIONS", 1):
            return used(lambda fabric: self.run(params, fabric), params.precision)


def cells(size: int, count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """Blank images and their classes."""
    return torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.arange(count) % CLASSES


COPIES = 4  # of the images of a batch in float32 that are alive at once, at most

NOWHERE = Path("unused"), "id"  # folder and identity of a checkpoint that is not written


def trainings(profile: str = "paper") -> list[Training]:
    """Each training of a profile, in the order of the stages."""
    values = load_profile(profile)
    size = values["data"]["image_size"]
    gan, fcmae, wpat = AcdbGanParams(**values["acdb_gan"]), FcmaeParams(**values["fcmae"]), WpatParams(**values["wpat"])

    def masked(side: int) -> Callable[[FcmaeParams, Fabric], object]:
        return lambda params, fabric: pretrain(cells(side)[0], params, *NOWHERE, fabric)

    def classifier(side: int, network: Callable[[], nn.Module], label: str) -> Callable[[WpatParams, Fabric], object]:
        return lambda params, fabric: finetune(
            *cells(side), *cells(side, 4), network(), params, *NOWHERE, fabric, n_classes=CLASSES, label=label
        )

    def backbone(name: str) -> nn.Module:
        if name == FCMAE:
            return Encoder(fcmae.variant, fcmae.stem_stride, wpat.drop_path)
        base, _ = pretrained.split_name(name)
        return TimmBackbone(NetworkSpec.of(base, size, pretrained=False), size)

    found = [
        Training(
            "acdb_gan", "feature network", FcmaeParams(**feature_settings(gan)), masked(gan.gan_size), divisible=False
        ),
        Training(
            "acdb_gan", "class verifier", WpatParams(**verifier_settings(gan)),
            classifier(gan.gan_size, lambda: verifier_network(gan, CLASSES), TRAINING_LABEL), divisible=False,
        ),
        Training(
            "acdb_gan", "GAN", gan,
            lambda params, fabric: train_gan(*cells(gan.gan_size), CLASSES, params, *NOWHERE, fabric),
            alike=gan.gan_size,
        ),
        Training("fcmae", "masked autoencoder", fcmae, masked(size), alike=size),
    ]  # fmt: skip
    for shown, name in wpat_names(wpat.backbones).items():
        found.append(
            Training("wpat", shown, wpat, classifier(size, lambda name=name: backbone(name), "WPAT"))  # type: ignore[misc]
        )
    for name in ComparisonParams(**values["comparison"]).baselines:
        if name not in BASELINES:
            network = lambda name=name: pretrained.create(name, None, CLASSES, size)  # noqa: E731
            found.append(Training("comparison", name, wpat, classifier(size, network, name), alike=size))
    return found


def fits(peak: float, card: int) -> bool:
    """Whether ``peak`` bytes fit a card of ``card`` GB."""
    return peak <= USABLE * card * 1e9


def count_peaks(training: Training) -> Iterator[tuple[int, int]]:
    """Number of passes and bytes at the peak: the profile's number, then twice as many and so on, until it fits the smallest card."""
    accumulate = training.params.accumulate
    yield accumulate, (peak := training.count().peak)
    while training.divisible and not fits(peak, CARDS[0]):
        accumulate *= 2
        try:
            yield accumulate, (peak := training.count(accumulate).peak)
        except LeukError:  # the batch cannot be cut into so many passes
            return


def rows(training: Training) -> Iterator[dict[str, Any]]:
    """Rows of the table, one for each number of passes; GB (10^9 bytes) at the peak."""
    named = {"stage": training.stage, "training": training.name, "batch_size": training.params.batch_size}
    for accumulate, peak in count_peaks(training):
        yield named | {"accumulate": accumulate, "GB": round(peak / 1e9, 2), "divisible": training.divisible}


def page_rows(table: pd.DataFrame) -> list[str]:
    """Rows of the table in ``book/use/gpu.md``: what fits each card, as ``accumulate`` and GB."""
    lines = []
    for (stage, name, batch), counted in table.groupby(["stage", "training", "batch_size"], sort=False):
        line = [f"`{stage}`: {name}", str(batch)]
        for card in CARDS:
            fitting = counted[[fits(gb * 1e9, card) for gb in counted["GB"]]]
            best = None if fitting.empty else fitting.loc[fitting["accumulate"].idxmin()]
            if best is None:
                line.append("–")
            else:
                line.append(f"{best['accumulate']} ({best['GB']:.1f})" if best["divisible"] else f"({best['GB']:.1f})")
        lines.append("| " + " | ".join(line) + " |")
    return lines


def main(only: str = "") -> None:
    """Count the trainings whose stage or name contains ``only``, and write their rows into the table."""
    kept = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["stage", "training"])
    parts = dict(list(kept.groupby(["stage", "training"])))
    present = {(training.stage, training.name): training for training in trainings()}
    for pair, training in present.items():
        if only not in " ".join(pair):
            continue
        parts[pair] = pd.DataFrame(rows(training))
        table = pd.concat([parts[each] for each in present if each in parts])
        table.to_csv(TABLE, index=False)
        print("\n".join(page_rows(table)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
