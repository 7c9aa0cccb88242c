"""CellSet: the decoded cells of stage ``data``, memory-mapped, with a lock on the test part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leuk_lib.data.splits import FOREIGN, PARTS, assert_disjoint
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.recorder import Notes

CELLS, TABLE, SPLITS = "cells.safetensors", "cells.csv", "splits.json"


@dataclass(frozen=True)
class CellSet:
    """Cells with labels, groups and a split; N cells of S x S pixels.

    images (N,3,S,S) uint8 RGB; masks (N,S,S) uint8 with 0 background, 128 cytoplasm, 255 nucleus, or None;
    labels (N,) int64, positions in ``classes``; table: one row a cell (path, label, group, split, …).
    ``kind`` tells rendered cells from micrographs. The tensors are memory-mapped: index, do not write.
    """

    images: Tensor
    masks: Tensor | None
    labels: Tensor
    classes: tuple[str, ...]
    table: pd.DataFrame = field(repr=False)
    kind: Literal["rendered", "micrographs"]
    name: str = "cells"

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[:2] != (n, 3):
            raise LeukError(
                f"{self.name}: images must be ({n},3,S,S) uint8, got {tuple(self.images.shape)} {self.images.dtype}"
            )
        if self.masks is not None and self.masks.shape != (n, *self.images.shape[2:]):
            raise LeukError(f"{self.name}: masks {tuple(self.masks.shape)} do not fit {tuple(self.images.shape)}")
        if len(self.table) != n or not {"label", "group", "split"} <= set(self.table.columns):
            raise LeukError(f"{self.name}: the table needs {n} rows with label, group and split")

    @classmethod
    def open(cls, folder: Path) -> CellSet:
        """Open what stage ``data`` wrote into ``folder``; raises ``LeukError`` if a file is missing or torn."""
        folder = Path(folder)
        for name in (CELLS, TABLE):
            if not (folder / name).is_file():
                raise LeukError(f"{folder / name}: no such file; run notebooks/01_data.ipynb first")
        tensors, metadata = _read(folder / CELLS)
        about = json.loads(metadata["cells"])
        table = pd.read_csv(
            folder / TABLE, dtype={"path": str, "label": str, "group": str, "split": str}, keep_default_na=False
        )
        cells = cls(
            images=tensors["images"],
            masks=tensors.get("masks"),
            labels=tensors["labels"],
            classes=tuple(about["classes"]),
            table=table,
            kind=about["kind"],
            name=about["name"],
        )
        if [cells.classes[k] for k in cells.labels.tolist()] != table["label"].tolist():
            raise LeukError(f"{folder}: {CELLS} and {TABLE} disagree on the labels; run 01_data.ipynb again")
        assert_disjoint(cells.parts, cells.groups)
        return cells

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``cells.safetensors`` and ``cells.csv`` atomically into ``folder``."""
        tensors = {"images": self.images.contiguous(), "labels": self.labels.contiguous()}
        if self.masks is not None:
            tensors["masks"] = self.masks.contiguous()
        # One key: safetensors writes several metadata keys in a random order, and the file's hash is in the card.
        metadata = {"cells": json.dumps({"classes": list(self.classes), "kind": self.kind, "name": self.name})}
        with atomic(Path(folder) / CELLS) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        with atomic(Path(folder) / TABLE) as temporary:
            self.table.to_csv(temporary, index=False)
        return Path(folder) / CELLS, Path(folder) / TABLE

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return int(self.images.shape[-1])

    @property
    def groups(self) -> NDArray[Any]:
        """(N,) str: patient, slide or near-duplicate group of every cell."""
        return self.table["group"].to_numpy(dtype=str)

    @property
    def parts(self) -> NDArray[Any]:
        """(N,) str: train, val, test, or foreign:<name of the test set>."""
        return self.table["split"].to_numpy(dtype=str)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Names of the foreign test sets: cells of another source, split off by their providers, never trained on."""
        return tuple(sorted({part.removeprefix(FOREIGN) for part in self.parts if part.startswith(FOREIGN)}))

    def indices(self, part: str) -> Tensor:
        """Positions of a part's cells, LongTensor; the test parts only open through ``open_test``."""
        if part == "test" or part.startswith(FOREIGN):
            raise LeukError("the test part is closed: cells.open_test(stage) opens it and writes so to the card")
        return self._positions(part)

    def open_test(self, stage: Notes, foreign: str | None = None) -> Tensor:
        """Positions of the test cells, or of those of a foreign test set; ``stage``'s card records that they were read."""
        test = self._positions("test" if foreign is None else FOREIGN + foreign)
        which = "test part" if foreign is None else f"foreign test set {foreign}"
        stage.note(f"{which} opened: {len(test)} cells of {self.name}")
        return test

    def _positions(self, part: str) -> Tensor:
        allowed = (*PARTS, *(FOREIGN + name for name in self.foreign))
        if part not in allowed:
            raise LeukError(f"no part {part!r}; allowed: {', '.join(allowed)}")
        return torch.from_numpy(np.flatnonzero(self.parts == part).astype(np.int64))

    def counts(self, part: str | None = None) -> pd.Series:
        """Cells per class, in the order of ``classes``, of one part or of all."""
        labels = self.table["label"] if part is None else self.table.loc[self.table["split"] == part, "label"]
        return labels.value_counts().reindex(list(self.classes), fill_value=0)

    def with_images(self, path: Path) -> CellSet:
        """The same cells with other pictures: ``path`` is a safetensors file with key ``images`` (N,3,S,S) uint8."""
        path = Path(path)
        if path.is_dir():
            path = path / "images.safetensors"
        if not path.is_file():
            raise LeukError(f"{path}: no such file; run notebooks/02_alhe.ipynb first")
        images = _read(path)[0].get("images")
        if images is None or images.shape != self.images.shape:
            found = "no images" if images is None else f"images {tuple(images.shape)}"
            raise LeukError(f"{path}: {found}, but the data have {tuple(self.images.shape)}; run 02_alhe.ipynb again")
        return replace(self, images=images)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
        return load_file(path), metadata
    except (SafetensorError, OSError, KeyError) as error:
        raise LeukError(f"{path}: damaged ({error}); delete it and run its stage again") from error


def from_arrays(
    images: NDArray[np.uint8],
    labels: Sequence[int] | NDArray[np.int64],
    classes: Sequence[str],
    table: pd.DataFrame,
    kind: Literal["rendered", "micrographs"],
    masks: NDArray[np.uint8] | None = None,
    name: str = "cells",
) -> CellSet:
    """A CellSet from NumPy arrays in image layout: images (N,S,S,3), masks (N,S,S)."""
    return CellSet(
        images=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        masks=None if masks is None else torch.from_numpy(np.ascontiguousarray(masks)),
        labels=torch.as_tensor(labels, dtype=torch.int64),
        classes=tuple(classes),
        table=table.reset_index(drop=True),
        kind=kind,
        name=name,
    )
