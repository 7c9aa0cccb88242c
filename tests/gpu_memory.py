"""Memory that each training of a profile takes on a GPU, and the parameters with which it fits smaller ones.

Counted on a GPU that is not there (`leuk_lib.training.fake_gpu`): ``python tests/gpu_memory.py`` writes gpu_memory.csv,
whose rows are the table of book/use/gpu.md (some minutes on one core). ``tests/training/test_gpu_memory.py`` counts the
trainings of profile *paper* on 80 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from torch import Tensor, nn

from leuk_lib.chapters.wpat import wpat_names
from leuk_lib.evaluation.baselines import BASELINES, split_kind
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import pretrain
from leuk_lib.gan.features import feature_settings
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.train import train_gan
from leuk_lib.gan.verifier import TRAINING_LABEL, verifier_network, verifier_settings
from leuk_lib.stages import load_profile
from leuk_lib.training import pretrained
from leuk_lib.training.backbones import TimmBackbone
from leuk_lib.training.fabric import Fabric
from leuk_lib.training.fake_gpu import Usage, used
from leuk_lib.training.pretrained import NetworkSpec
from leuk_lib.wpat.finetune import finetune
from leuk_lib.wpat.params import FCMAE, WpatParams

CARDS = (24, 40, 80, 141)  # GB
USABLE = 0.9  # share of a card; the rest is for CUDA itself, workspaces of cuDNN and gaps between blocks
CLASSES = 4
GIB = 1 << 30
CHAPTERS = {"acdb_gan": "3", "fcmae": "4", "wpat": "5"}  # of the stages that train

Params = AcdbGanParams | FcmaeParams | WpatParams
Count = Callable[[dict[str, Any]], Usage]


def _cells(size: int, count: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.arange(count) % CLASSES


def _unused() -> Path:
    return Path("unused")  # a fake GPU writes no checkpoint


def count_gan(params: AcdbGanParams) -> Usage:
    """Generator and discriminator, with penalties."""

    def train(fabric: Fabric) -> None:
        train_gan(*_cells(params.gan_size, 64), CLASSES, params, _unused(), "id", fabric)

    return used(train, params.precision)


def count_fcmae(params: FcmaeParams, size: int) -> Usage:
    """Masked autoencoder."""
    return used(lambda fabric: pretrain(_cells(size, 64)[0], params, _unused(), "id", fabric), params.precision)


def count_finetune(params: WpatParams, size: int, network: Callable[[], nn.Module], label: str = "WPAT") -> Usage:
    """A classifier, fitted linear head included."""
    few = _cells(size, 4)

    def train(fabric: Fabric) -> None:
        finetune(
            *_cells(size, 64), *few, network(), params, _unused(), "id", fabric, n_classes=CLASSES, label=label
        )  # fmt: skip

    return used(train, params.precision)


def trainings(profile: str) -> Iterator[tuple[str, str, Params, Callable[[Any], Usage]]]:
    """Stage, name, parameters and count of each training of a profile."""
    values = load_profile(profile)
    size = values["data"].get("image_size", 64)
    gan, fcmae, wpat = AcdbGanParams(**values["acdb_gan"]), FcmaeParams(**values["fcmae"]), WpatParams(**values["wpat"])
    yield "acdb_gan", "feature network", FcmaeParams(**feature_settings(gan)), lambda p: count_fcmae(p, gan.gan_size)
    yield (
        "acdb_gan", "class verifier", WpatParams(**verifier_settings(gan)),
        lambda p: count_finetune(p, gan.gan_size, lambda: verifier_network(gan, CLASSES), TRAINING_LABEL),
    )  # fmt: skip
    yield "acdb_gan", "GAN", gan, count_gan
    yield "fcmae", "masked autoencoder", fcmae, lambda p: count_fcmae(p, size)

    def backbone(name: str) -> nn.Module:
        if name == FCMAE:
            return Encoder(fcmae.variant, fcmae.stem_stride, wpat.drop_path)
        return TimmBackbone(NetworkSpec.of(pretrained.split_name(name)[0], size, False), size)

    for name, network in wpat_names(wpat.backbones).items():
        yield "wpat", name, wpat, lambda p, network=network: count_finetune(p, size, lambda: backbone(network))
    for name in wpat.baselines:
        if name in BASELINES or split_kind(name)[0]:
            continue
        yield "wpat", name, wpat, lambda p, name=name: count_finetune(p, size, lambda: baseline(name))


def baseline(name: str) -> nn.Module:
    """A network of timm with random weights."""
    return timm.create_model(pretrained.split_name(name)[0], num_classes=CLASSES)


def fits(peak: float, card: int) -> bool:
    """Whether ``peak`` bytes fit a card of ``card`` GB."""
    return peak <= USABLE * card * 1e9


def peaks(params: Params, count: Callable[[Any], Usage]) -> Callable[[int], float]:
    """Bytes at the peak as a function of ``accumulate``: a straight line in the images of a pass, from two counts.

    What a pass holds is proportional to its images; weights, moments and gradients are not. The images of the whole batch
    in float32 (at most 0.6 GiB here) are left to the share of a card that is not used.
    """
    sizes = [params.batch_size // 16 * k for k in (1, 2)] if params.batch_size >= 256 else [16, 32]
    values = [count(params.model_copy(update={"batch_size": size, "accumulate": 1})).peak for size in sizes]
    slope = (values[1] - values[0]) / (sizes[1] - sizes[0])
    fixed = values[0] - slope * sizes[0]
    return lambda accumulate: fixed + slope * params.batch_size / accumulate


def smallest_accumulate(params: Params, peak: Callable[[int], float], card: int) -> int | None:
    """Smallest number of passes with which a training fits a card; None if there is none."""
    least = 16 if isinstance(params, AcdbGanParams) else 1
    for accumulate in (2**k for k in range(11)):
        if accumulate > 1 and params.batch_size % (accumulate * least):
            return None
        if fits(peak(accumulate), card):
            return accumulate
    return None


def table(profile: str = "paper", only: str = "") -> pd.DataFrame:
    """One row per training: stage, training, batch, accumulate and GiB of the profile, and accumulate for each card."""
    rows = []
    for stage, name, params, count in trainings(profile):
        if only not in f"{stage} {name}":
            continue
        peak = peaks(params, count)
        row: dict[str, Any] = {"stage": stage, "training": name, "batch_size": params.batch_size}
        row |= {"accumulate": params.accumulate, "GiB": round(peak(params.accumulate) / GIB, 1)}
        fitting = {card: smallest_accumulate(params, peak, card) for card in CARDS}
        row |= {f"{card} GB": fit for card, fit in fitting.items()}
        row |= {f"GiB on {card} GB": fit and round(peak(fit) / GIB, 1) for card, fit in fitting.items()}
        rows.append(row)
        print(row, flush=True)
    return pd.DataFrame(rows)


def page_rows(kept: pd.DataFrame) -> list[str]:
    """Rows of the table in book/use/gpu.md: training, batch, and for each card accumulate and memory."""
    rows = []
    for row in kept.to_dict("records"):
        cells = []
        for card in CARDS:
            fitting = row[f"{card} GB"]
            cells.append("–" if pd.isna(fitting) else f"{int(fitting)} ({row[f'GiB on {card} GB']:.1f})")
        rows.append(
            f"| {CHAPTERS[row['stage']]}: {row['training']} | {row['batch_size']} | " + " | ".join(cells) + " |"
        )
    return rows


if __name__ == "__main__":
    table().to_csv(Path(__file__).with_suffix(".csv"), index=False)
