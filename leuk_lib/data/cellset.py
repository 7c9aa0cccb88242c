"""The cells of stage ``data``: memory-mapped images, labels, groups and a split with a closed test part."""

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

from leuk_lib import quoting
from leuk_lib.data.splits import EXTERNAL, PARTS, assert_disjoint
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.numbers import parse_json
from leuk_lib.runs.recorder import Notes
from leuk_lib.runs.records import Record, check_record
from leuk_lib.runs.tables import numbers, read_table

CELLS, TABLE = "cells.safetensors", "cells.csv"
TEXT = (
    "path",
    "label",
    "group",
    "split",
    "part",
    "source",
    *(f"label{k}" for k in range(2, 10)),
)  # never read as numbers


AGAIN = "run 01_data.ipynb again"


class About(Record):
    """The metadata of ``cells.safetensors``."""

    classes: list[str]
    kind: Literal["rendered", "micrographs"]
    name: str


@dataclass(frozen=True)
class CellSet:
    """N cells of S x S pixels with labels, groups and a split. The tensors are memory-mapped: index, do not write.

    Attributes:
        images: (N,3,S,S) uint8 RGB.
        masks: (N,S,S) uint8 with 0 background, 128 cytoplasm, 255 nucleus; or None.
        labels: (N,) int64, positions in ``classes``.
        classes: Names of the classes.
        table: One row per cell: path, label, group, split and more.
        kind: Rendered cells or micrographs.
        name: Name of the data set.

    Raises:
        LeukError: If shapes or types do not fit together.
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
        """Open the cells that stage ``data`` wrote to ``folder``.

        Raises:
            LeukError: If a file is missing or damaged, if the files disagree, or if a group is in two parts.
        """
        folder = Path(folder)
        for name in (CELLS, TABLE):
            if not (folder / name).is_file():
                raise LeukError(f"{folder / name}: no such file; run notebooks/01_data.ipynb first")
        tensors, metadata = _read(folder / CELLS)
        if not {"images", "labels"} <= set(tensors):
            raise LeukError(f"{folder / CELLS}: holds {sorted(tensors)}, not images and labels; {AGAIN}")
        about = _about(folder / CELLS, metadata)
        table = read_table(folder / TABLE, ("label", "group", "split"), AGAIN, dict.fromkeys(TEXT, str))
        if "um_per_px" in table:
            table["um_per_px"] = numbers(table, "um_per_px", folder / TABLE, AGAIN, blank=True)
        table["split"] = table["split"].str.replace("^foreign:", EXTERNAL, regex=True)  # the earlier prefix
        cells = cls(
            images=tensors["images"],
            masks=tensors.get("masks"),
            labels=tensors["labels"],
            classes=tuple(about.classes),
            table=table,
            kind=about.kind,
            name=about.name,
        )
        if len(cells) and not 0 <= int(cells.labels.min()) <= int(cells.labels.max()) < len(cells.classes):
            raise LeukError(f"{folder / CELLS}: has labels of none of its {len(cells.classes)} classes; {AGAIN}")
        if [cells.classes[k] for k in cells.labels.tolist()] != table["label"].tolist():
            raise LeukError(f"{folder}: {CELLS} and {TABLE} disagree on the labels; {AGAIN}")
        assert_disjoint(cells.parts, cells.groups)
        return cells

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``cells.safetensors`` and ``cells.csv`` to ``folder``, atomically; return their paths."""
        tensors = {"images": self.images.contiguous(), "labels": self.labels.contiguous()}
        if self.masks is not None:
            tensors["masks"] = self.masks.contiguous()
        # One key: safetensors writes several metadata keys in a random order, and the file's hash is in the card.
        metadata = {"cells": json.dumps({"classes": list(self.classes), "kind": self.kind, "name": self.name})}
        with atomic(Path(folder) / CELLS) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        with atomic(Path(folder) / TABLE) as temporary:
            quoting.cells(self.table).to_csv(temporary, index=False)
        return Path(folder) / CELLS, Path(folder) / TABLE

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return int(self.images.shape[-1])

    @property
    def groups(self) -> NDArray[Any]:
        """(N,) str: patient, slide or inferred group of each cell."""
        return self.table["group"].to_numpy(dtype=str)

    @property
    def parts(self) -> NDArray[Any]:
        """(N,) str: train, val, test, or external:<name of the test set>."""
        return self.table["split"].to_numpy(dtype=str)

    @property
    def external(self) -> tuple[str, ...]:
        """Names of the external test sets: cells of another source that are never trained on."""
        return tuple(sorted({part.removeprefix(EXTERNAL) for part in self.parts if part.startswith(EXTERNAL)}))

    def indices(self, part: str) -> Tensor:
        """Return the positions of a part's cells, (M,) int64.

        Raises:
            LeukError: For the test parts, which only ``open_test`` opens, and for unknown parts.
        """
        if part == "test" or part.startswith(EXTERNAL):
            raise LeukError("the test part is closed: cells.open_test(stage) opens it and notes that in the run card")
        return self._positions(part)

    def open_test(self, stage: Notes, external: str | None = None) -> Tensor:
        """Return the positions of the test cells, (M,) int64, and note in the run card that they were read.

        Args:
            stage: The stage whose card gets the note.
            external: Name of an external test set to open instead of the test part.
        """
        test = self._positions("test" if external is None else EXTERNAL + external)
        which = "test part" if external is None else f"external test set {external}"
        stage.note(f"{which} opened: {len(test)} cells of {self.name}")
        return test

    def _positions(self, part: str) -> Tensor:
        allowed = (*PARTS, *(EXTERNAL + name for name in self.external))
        if part not in allowed:
            raise LeukError(f"no part {part!r}; allowed: {', '.join(allowed)}")
        return torch.from_numpy(np.flatnonzero(self.parts == part).astype(np.int64))

    def counts(self, part: str | None = None) -> pd.Series:
        """Count the cells per class, in the order of ``classes``, of one part or of all."""
        labels = self.table["label"] if part is None else self.table.loc[self.table["split"] == part, "label"]
        return labels.value_counts().reindex(list(self.classes), fill_value=0)

    def with_images(self, path: Path) -> CellSet:
        """Return the same cells with other images, such as enhanced ones.

        Args:
            path: safetensors file with the key ``images``, (N,3,S,S) uint8, or the folder that holds it.

        Raises:
            LeukError: If the file is missing or its images do not fit.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "images.safetensors"
        if not path.is_file():
            raise LeukError(f"{path}: no such file; run notebooks/02_alhe.ipynb first")
        images = _read(path)[0].get("images")
        if images is None or images.shape != self.images.shape:
            content = "no images" if images is None else f"images {tuple(images.shape)}"
            raise LeukError(f"{path}: {content}, but the data have {tuple(self.images.shape)}; run 02_alhe.ipynb again")
        return replace(self, images=images)


def _about(path: Path, metadata: dict[str, str]) -> About:
    try:
        content = parse_json(metadata.get("cells", "null"))
    except ValueError as error:
        raise LeukError(f"{path}: damaged ({str(error)[:100]}); {AGAIN}") from error
    return About.model_validate(check_record(content, About, path, "the cells of stage data", AGAIN))


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
    """Build a CellSet from NumPy arrays.

    Args:
        images: (N,S,S,3) uint8.
        labels: (N,) positions in ``classes``.
        classes: Names of the classes.
        table: N rows with at least label, group and split.
        kind: Rendered cells or micrographs.
        masks: (N,S,S) uint8, or None.
        name: Name of the data set.
    """
    return CellSet(
        images=torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        masks=None if masks is None else torch.from_numpy(np.ascontiguousarray(masks)),
        labels=torch.as_tensor(labels, dtype=torch.int64),
        classes=tuple(classes),
        table=table.reset_index(drop=True),
        kind=kind,
        name=name,
    )
