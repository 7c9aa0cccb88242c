"""Load a data set before the split: ``smear`` is rendered, known sets and any other path are folders of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.data.catalog import KNOWN_SETS
from leuk_lib.data.findings import Finding, as_table, kind_of
from leuk_lib.data.fingerprint import RENDERED
from leuk_lib.data.folder import ImageFolder, read_folder
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive


@dataclass(frozen=True)
class Dataset:
    """Decoded cells before the split.

    Attributes:
        name: Name of the data set.
        kind: Rendered cells or micrographs.
        classes: Names of the classes, in the order of the label numbers.
        images: (N,S,S,3) uint8 RGB.
        masks: (N,S,S) uint8 with 0 background, 128 cytoplasm, 255 nucleus; or None.
        table: One row per cell, with at least path, label, group and external (name of its external test set, or "") and part
            (its published part, or "").
        findings: Findings about the files (``findings.Finding``).
        notes: Lines for the run card: what was left out or decided.
        grouped_by: Where the groups come from.
        understood: How the data were read, in lines for a person.
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
    understood: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) position of each cell's label in ``classes``."""
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[label] for label in self.table["label"]], dtype=np.int64)

    def with_findings(self, found: Iterable[Finding], notes: Iterable[str] = ()) -> Dataset:
        """Return the data set with further findings and notes."""
        findings = pd.concat([self.findings, as_table(found)], ignore_index=True)
        return replace(self, findings=findings, notes=(*self.notes, *notes))


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
    layout: str = "",
    reader: str = "",
    reader_options: Mapping[str, str] | None = None,
    pattern: str = "",
    um_per_px: float = 0.0,
    field_um: float = 0.0,
) -> Dataset:
    """Render or read a data set. The result does not depend on ``workers``.

    Args:
        name_or_path: "smear", the name of a known set, a folder of images, or a file that a reader recognises.
        size: Side of the images in pixels.
        seed: Seed of the rendering, and of the choice with ``per_class``.
        workers: Processes that render or read; few files are read in threads.
        cells: Rendered cells in total (``smear`` only).
        patients: Rendered patients per class (``smear`` only).
        patient_effect: How much the slides of rendered patients differ; 0: not at all (``smear`` only).
        per_class: Cells per class of a folder, at most; 0: all.
        class_map: Class of a folder -> new name; several classes may get one name; "" drops the class.
        layout: Roles of a folder's levels, as for ``listing.list_folder``; "" to infer them.
        reader: Name of a reader, as for ``listing.list_folder``; "" for the one that recognises the data.
        reader_options: Options of the reader.
        pattern: Pattern of the file names, as for ``listing.list_folder``.
        um_per_px: Micrometres per pixel of the files for which nothing else states it; 0: unknown.
        field_um: Side of the field to which all cells are brought, in micrometres; 0: as ``scale.plan_scale`` decides.

    Returns:
        The data set. Cells of external test sets are limited to the classes of the other cells.

    Raises:
        LeukError: With exit code 2 if fewer than two classes hold a usable image, and as ``listing.list_folder`` does.
    """
    if name_or_path == RENDERED:
        given = {"class_map": class_map, "layout": layout, "reader": reader or reader_options, "pattern": pattern,
            "um_per_px": um_per_px, "field_um": field_um,
        }  # fmt: skip
        for what in (name for name, value in given.items() if value):
            raise LeukError(f"{what} is for folders of images; the rendered cells have their four classes", exit_code=2)
        return _rendered(size, seed, workers, cells, patients, patient_effect)
    folder = read_folder(
        name_or_path, size, workers, class_map, layout, reader=reader, reader_options=reader_options, pattern=pattern,
        um_per_px=um_per_px, field_um=field_um,
    )  # fmt: skip
    return _folder(name_or_path, folder, seed, per_class)


def _rendered(size: int, seed: int, workers: int, cells: int, patients: int, patient_effect: float) -> Dataset:
    from leuk_lib.data.smear.cohort import render_smear
    from leuk_lib.data.smear.morphology import CLASSES

    images, masks, table = render_smear(cells, patients, size, seed, patient_effect, workers)
    table.insert(0, "path", [f"{RENDERED}/{i:05d}" for i in table["index"]])
    table.insert(2, "group", table["patient"])
    table.insert(3, "external", "")
    table.insert(4, "part", "")
    note = f"rendered cells: {len(table)} cells of {table['patient'].nunique()} patients, no micrographs"
    return Dataset(RENDERED, "rendered", CLASSES, images, masks, table, as_table([]), (note,), "patient", (note,))


def _folder(path: str, folder: ImageFolder, seed: int, per_class: int) -> Dataset:
    table, findings = folder.table, folder.findings
    name = path if path in KNOWN_SETS else folder.name
    notes = [
        *folder.understood,
        f"{len(table)} cells of {name} read; grouped by {folder.grouped_by}"
        + (": figures on the test part are upper bounds" if "near" in folder.grouped_by else ""),
    ]
    errors = findings[findings["severity"] == "error"]
    if len(errors):
        shown = "; ".join(f"{row.path}: {row.finding}" for row in errors.head(8).itertuples())
        notes.append(f"{len(errors)} files left out: {shown}{'; …' if len(errors) > 8 else ''}")
    warned = int((findings["severity"] == "warning").sum())
    if warned:
        notes.append(f"{warned} warnings about files that were used, in findings.csv")
    own = table["external"] == ""
    classes = tuple(sorted(table.loc[own, "label"].unique()))
    if len(classes) < 2:
        raise LeukError(
            f"data set {folder.root}: {len(classes)} class with usable images; at least 2 class folders are needed "
            "(leuk data check lists what was left out)",
            exit_code=2,
        )
    keep = table["label"].isin(classes).to_numpy(copy=True)
    for test in sorted(table.loc[~own, "external"].unique()):
        inside = (table["external"] == test).to_numpy()
        dropped = int((inside & ~keep).sum())
        others = f", {dropped} more of other classes left out" if dropped else ""
        notes.append(f"external test set {test}: {int((inside & keep).sum())} cells, never trained on{others}")
    if per_class:
        rank = table["sha256"].map(lambda content: derive(seed, "per class", content))
        keep &= (rank.groupby([table["external"], table["label"]]).rank(method="first") <= per_class).to_numpy()
        notes.append(f"thinned to at most {per_class} cells per class: {int(keep.sum())} of {len(table)} kept")
    return Dataset(
        name=name,
        kind="micrographs",
        classes=classes,
        images=folder.images[keep],
        masks=None if folder.masks is None else folder.masks[keep],
        table=table[keep].reset_index(drop=True),
        findings=findings,
        notes=tuple(notes),
        grouped_by=folder.grouped_by,
        understood=(*folder.understood, *_counts(folder)),
    )


def _counts(folder: ImageFolder) -> list[str]:
    """Say how many cells were read, how they are grouped, and what was not used."""
    table, findings = folder.table, folder.findings
    lines = [f"{len(table)} cells in {table['group'].nunique()} groups, by {folder.grouped_by}"]
    kinds = findings.loc[findings["severity"] == "error", "finding"].map(kind_of).value_counts()
    if len(kinds):
        shown = ", ".join(f"{kind} {n}" for kind, n in kinds.head(6).items())
        lines.append(f"left out: {int(kinds.sum())} ({shown}{', …' if len(kinds) > 6 else ''})")
    if ignored := int((findings["finding"] == "not an image file").sum()):
        lines.append(f"ignored: {ignored} files that are no images")
    return lines
