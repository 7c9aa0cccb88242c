"""What stage ``wpat`` trains on: the cells as every model sees them, accepted synthetic cells, the pretrained encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from leuk_lib.data.loading import CellSet
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.fcmae.weights import load_backbone
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json
from leuk_lib.runs.tensors import named_tensors, read_tensors
from leuk_lib.training.fabric import Fabric
from leuk_lib.wpat.finetune import Finetuned, finetune
from leuk_lib.wpat.params import WpatParams


class StageLike(Protocol):
    """What is needed of a ``Stage[WpatParams]``."""

    @property
    def params(self) -> WpatParams: ...
    @property
    def identity(self) -> str: ...
    @property
    def checkpoints(self) -> Path: ...
    def input(self, upstream: str) -> Path: ...
    def note(self, text: str) -> Any: ...


@dataclass(frozen=True)
class Material:
    """Cells (their ``images`` are those the models see), training and validation positions, synthetic cells.

    alhe_settings: None for raw images.
    """

    cells: CellSet
    train: Tensor
    val: Tensor
    extra_images: Tensor
    extra_labels: Tensor
    alhe_settings: Mapping[str, Any] | None
    encoder_path: Path

    @property
    def n_classes(self) -> int:
        """K, also counting classes that training lacks."""
        return len(self.cells.classes)

    def counts(self) -> dict[str, list[Any]]:
        """Columns of a table: class, real training cells, synthetic ones, validation cells."""
        k = self.n_classes

        def per_class(labels: Tensor) -> list[int]:
            return torch.bincount(labels, minlength=k).tolist()

        return {
            "class": list(self.cells.classes),
            "train": per_class(self.cells.labels[self.train]),
            "synthetic": per_class(self.extra_labels),
            "val": per_class(self.cells.labels[self.val]),
        }


def gather(stage: StageLike, alhe_fields: Iterable[str]) -> Material:
    """Open the inputs of the stage and note in its card what the models will be trained on.

    ``alhe_fields``: which parameters of stage alhe decide how an image is enhanced; ``leuk predict`` needs them.
    """
    params = stage.params
    cells = CellSet.open(stage.input("data"))
    settings = None
    alhe_folder = stage.input("alhe")
    if params.images == "alhe":
        cells = cells.with_images(alhe_folder)
        used = read_json(alhe_folder / "card.json")["params"]
        settings = {name: used[name] for name in alhe_fields}
    images, labels = read_synthetic(stage.input("acdb_gan"), cells)
    if not params.synthetic:
        images, labels = images[:0], labels[:0]
    stage.note(f"trained on {params.images} images, {len(labels)} accepted synthetic cells added")
    return Material(
        cells, cells.indices("train"), cells.indices("val"), images, labels, settings,
        stage.input("fcmae") / "encoder.safetensors",
    )  # fmt: skip


def read_synthetic(folder: Path, cells: CellSet) -> tuple[Tensor, Tensor]:
    """Accepted cells of stage acdb_gan: images (M,3,S,S) uint8, labels (M,).

    Raises ``LeukError`` where the file is missing, damaged or foreign, or they do not fit the cells.
    """
    path, again = Path(folder) / "synthetic.safetensors", "run notebooks/03_acdb_gan.ipynb again"
    tensors = named_tensors(read_tensors(path, "synthetic cells", again)[0], str(path), again)
    if not {"images", "labels"} <= set(tensors):
        raise LeukError(f"{path}: holds {sorted(tensors)}, not images and labels; {again}")
    images, labels = tensors["images"], tensors["labels"].long()
    side = cells.size
    fits = labels.ndim == 1 and images.shape == (len(labels), 3, side, side) and images.dtype == torch.uint8
    if not fits:
        raise LeukError(
            f"{path}: images {tuple(images.shape)} {images.dtype} and labels {tuple(labels.shape)} do not fit cells of "
            f"{side} px; {again}"
        )
    strange = labels[(labels < 0) | (labels >= len(cells.classes))]
    if len(strange):
        raise LeukError(f"{path}: label {int(strange[0])} is none of the {len(cells.classes)} classes; {again}")
    return images, labels


def train_network(stage: StageLike, material: Material, model: nn.Module, label: str, fabric: Fabric) -> Finetuned:
    """Any network under the stage's budget; only WPAT (an ``Encoder`` is given) is fed synthetic cells."""
    own = isinstance(model, Encoder)
    cells = material.cells
    return finetune(
        cells.images[material.train], cells.labels[material.train],
        cells.images[material.val], cells.labels[material.val],
        model, stage.params, stage.checkpoints / label, stage.identity, fabric,
        extra_images=material.extra_images if own else None, extra_labels=material.extra_labels if own else None,
        n_classes=material.n_classes, label=label,
    )  # fmt: skip


def train_wpat(stage: StageLike, material: Material, fabric: Fabric) -> Finetuned:
    """WPAT on the pretrained encoder of stage fcmae."""
    encoder = load_backbone(material.encoder_path, drop_path=stage.params.drop_path)
    return train_network(stage, material, encoder, "WPAT", fabric)


def network_trainer(stage: StageLike, material: Material, fabric: Fabric) -> Callable[[nn.Module, str], nn.Module]:
    """``fit(network, name)`` for the baselines: the network that validated best."""

    def fit(model: nn.Module, label: str) -> nn.Module:
        return train_network(stage, material, model, label, fabric).model

    return fit
