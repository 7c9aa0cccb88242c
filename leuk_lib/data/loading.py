"""The data sets by name: ``smear`` is rendered, the known sets of ``sets`` and anything else are folders of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.data.catalog import SETS
from leuk_lib.data.findings import as_table
from leuk_lib.data.fingerprint import RENDERED, fingerprint
from leuk_lib.data.folder import read_folder
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive

__all__ = ["Dataset", "fingerprint", "load_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Decoded cells before the split: images (N,S,S,3) and masks (N,S,S) uint8, labels in ``table``.

    ``notes`` are lines for the card: everything that was left out or decided. ``findings`` is the check's table.
    """

    name: str
    kind: Literal["rendered", "micrographs"]
    classes: tuple[str, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    table: pd.DataFrame
    findings: pd.DataFrame
    notes: tuple[str, ...]
    grouped_by: str

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) position of every cell's label in ``classes``."""
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[label] for label in self.table["label"]], dtype=np.int64)


def load_dataset(
    name_or_path: str,
    *,
    size: int = 64,
    seed: int = 0,
    workers: int = 2,
    cells: int = 2400,
    patients: int = 16,
    patient_effect: float = 1.0,
    per_class: int = 0,
    class_map: Mapping[str, str] | None = None,
) -> Dataset:
    """Render or read a data set at ``size`` pixels. The result does not depend on ``workers``.

    ``cells``, ``patients`` and ``patient_effect`` are for ``smear``; ``per_class`` (0: all) thins a folder's classes;
    ``class_map`` renames, merges or drops them (``files.list_folder``). Cells of a foreign test set carry its name in the
    table's column ``foreign``; their classes are those of the other cells.
    Raises ``LeukError`` (exit code 2) if fewer than two classes hold a usable image.
    """
    if name_or_path == RENDERED:
        if class_map:
            raise LeukError(
                "class_map is for folders of images; the rendered cells have their four classes", exit_code=2
            )
        return _rendered(size, seed, workers, cells, patients, patient_effect)
    return _folder(name_or_path, size, seed, workers, per_class, class_map)


def _rendered(size: int, seed: int, workers: int, cells: int, patients: int, patient_effect: float) -> Dataset:
    from leuk_lib.data.smear.cohort import render_smear
    from leuk_lib.data.smear.morphology import CLASSES

    images, masks, table = render_smear(cells, patients, size, seed, patient_effect, workers)
    table.insert(0, "path", [f"{RENDERED}/{i:05d}" for i in table["index"]])
    table.insert(2, "group", table["patient"])
    table.insert(3, "foreign", "")
    nothing = as_table([])
    note = f"rendered cells: {len(table)} cells of {table['patient'].nunique()} patients, no micrographs"
    return Dataset(RENDERED, "rendered", CLASSES, images, masks, table, nothing, (note,), "patient")


def _folder(
    path: str, size: int, seed: int, workers: int, per_class: int, class_map: Mapping[str, str] | None
) -> Dataset:
    reading = read_folder(path, size, workers, class_map)
    table, findings = reading.table, reading.findings
    name = path if path in SETS else reading.root.name
    notes = [
        f"{len(table)} cells of {name} read; grouped by {reading.grouped_by}"
        + (": figures on the test part are upper bounds" if "near" in reading.grouped_by else "")
    ]
    errors = findings[findings["severity"] == "error"]
    if len(errors):
        shown = "; ".join(f"{row.path}: {row.finding}" for row in errors.head(8).itertuples())
        notes.append(f"{len(errors)} files left out: {shown}{'; …' if len(errors) > 8 else ''}")
    warned = int((findings["severity"] == "warning").sum())
    if warned:
        notes.append(f"{warned} warnings about files that were used, in findings.csv")
    own = table["foreign"] == ""
    classes = tuple(sorted(table.loc[own, "label"].unique()))
    if len(classes) < 2:
        raise LeukError(
            f"data set {reading.root}: {len(classes)} class with usable images; at least 2 class folders are needed "
            "(leuk data check tells what was left out)",
            exit_code=2,
        )
    keep = table["label"].isin(classes).to_numpy(copy=True)
    for test in sorted(table.loc[~own, "foreign"].unique()):
        here = (table["foreign"] == test).to_numpy()
        strange = f", {int((here & ~keep).sum())} more of other classes left out" if (here & ~keep).any() else ""
        notes.append(f"foreign test set {test}: {int((here & keep).sum())} cells, never trained on{strange}")
    if per_class:
        rank = table["sha256"].map(lambda content: derive(seed, "per class", content))
        keep &= (rank.groupby([table["foreign"], table["label"]]).rank(method="first") <= per_class).to_numpy()
        notes.append(f"thinned to at most {per_class} cells a class: {int(keep.sum())} of {len(table)} kept")
    return Dataset(
        name=name,
        kind="micrographs",
        classes=classes,
        images=reading.images[keep],
        masks=None if reading.masks is None else reading.masks[keep],
        table=table[keep].reset_index(drop=True),
        findings=findings,
        notes=tuple(notes),
        grouped_by=reading.grouped_by,
    )
