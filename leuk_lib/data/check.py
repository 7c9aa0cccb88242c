"""Check a folder of images: everything that is wrong with its files, groups and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from leuk_lib.data.catalog import KNOWN_SETS
from leuk_lib.data.findings import SEVERITIES, Finding, as_table, kind_of
from leuk_lib.data.folder import FIELD, INFERRED, ImageFolder, read_folder
from leuk_lib.data.published import (
    base_parts,
    cross_check,
    on_both_sides,
    one_person_classes,
    published_parts,
    summary,
)
from leuk_lib.data.splits import PARTS, unsplittable
from leuk_lib.runs.errors import LeukError

CLEAN, FINDINGS, UNUSABLE = 0, 1, 2


def check_folder(
    path: str | Path,
    workers: int = 0,
    class_map: Mapping[str, str] | None = None,
    layout: str = "",
    split: str = "",
    *,
    reader: str = "",
    reader_options: Mapping[str, str] | None = None,
    pattern: str = "",
) -> pd.DataFrame:
    """Read every file of a folder and list what is wrong.

    Args:
        path: A folder, a file that a reader recognises, or the name of a known set.
        workers: As for ``read_folder``.
        class_map: Class -> new name; "" drops the class.
        layout: Roles of the folder levels, as for ``listing.list_folder``; "" to infer them.
        split: "published" to check that the published split can be used, and what would be left out for it; "" for the
            default of the data set.
        reader: Name of a reader, as for ``listing.list_folder``; "" for the one that recognises the data.
        reader_options: Options of the reader.
        pattern: Pattern of the file names, as for ``listing.list_folder``.

    Returns:
        One row per finding, worst first: path, finding, severity, advice, other (``findings.Finding``) and kind, the
        finding without names and numbers. ``attrs`` holds the counts for ``report.render_text``.

    Raises:
        LeukError: With exit code 2 if the folder is missing or holds no image.
    """
    folder = read_folder(
        path,
        32,
        workers,
        class_map,
        layout,
        reader=reader,
        reader_options=reader_options,
        pattern=pattern,
    )
    known = KNOWN_SETS.get(str(path))
    split = split or (known.split if known else "")
    about = _about_classes(folder, split == "published")
    understood = list(folder.understood)
    if split == "published":
        lines, found = _about_published(folder)
        understood += lines
        about += found
    findings = pd.concat([folder.findings, as_table(about)], ignore_index=True)
    folder = replace(folder, findings=as_table([]))  # a million rows of it need not stay beside their copy
    rank = pd.Categorical(findings["severity"], categories=SEVERITIES).codes
    # DataFrame.sort_values makes a table of a million different paths first.
    order = np.lexsort([findings["finding"].to_numpy(object), findings["path"].to_numpy(object), rank])
    findings = findings.iloc[order].reset_index(drop=True)
    kinds = {what: kind_of(what) for what in findings["finding"].unique()}  # a million rows may say the same
    findings = findings.assign(kind=findings["finding"].map(kinds))
    findings.attrs = {
        "root": str(folder.root),
        "classes": {str(k): int(v) for k, v in folder.table["label"].value_counts().sort_index().items()},
        "groups": int(folder.table["group"].nunique()),
        "grouped_by": folder.grouped_by,
        "understood": understood,
        "masks": folder.masks is not None,
    }
    return findings


def _about_classes(folder: ImageFolder, published: bool) -> list[Finding]:
    """Find classes that cannot be split or have one patient, groups of several classes, and too few classes."""
    table = folder.table[folder.table["external"] == ""]
    labels = table["label"].unique()
    findings = []
    if len(labels) < 2:
        what = f"{len(labels)} class with usable images"
        findings.append(Finding(".", what, "error", "at least 2 class folders are needed"))
    findings += cross_check(table, folder.findings)
    if published:
        findings += one_person_classes(table)
    elif len(labels):
        for name in unsplittable(table["label"].to_numpy(dtype=str), table["group"].to_numpy(dtype=str)):
            what = f"class with too few groups to split (cells: {int((table['label'] == name).sum())})"
            advice = "stays wholly in training and is never tested; add patients or merge it"
            findings.append(Finding(f"{name}/", what, "warning", advice))
    given = table[~table["group"].str.startswith((INFERRED, FIELD))]
    classes = given.groupby("group")["label"].unique()
    mixed = classes[classes.map(len) > 1]
    if len(mixed) >= 0.5 * max(len(classes), 1) and len(mixed):
        what = f"{len(mixed)} of {len(classes)} groups have cells of several classes"
        findings.append(
            Finding(".", what, "info", "right where classes are cell types, wrong where they are diagnoses")
        )
    else:  # rare among groups of one class: probably a mistake
        for group, names in mixed.items():
            what = f"group has cells of several classes ({', '.join(sorted(names))})"
            advice = "one patient, two diagnoses? correct the label or the group (cell types may do so)"
            findings.append(Finding(f"group {group}", what, "warning", advice))
    return findings


def _about_published(folder: ImageFolder) -> tuple[list[str], list[Finding]]:
    """Say what a run with the published split would train and test on, and find what forbids it."""
    table = folder.table[folder.table["external"] == ""]
    left_out = on_both_sides(table)
    try:
        parts = published_parts(table[~left_out], (0.7, 0.1, 0.2), 0)
    except LeukError as error:
        advice = "correct the parts in the manifest or the folders' names, or use --split grouped"
        return [], [Finding(".", str(error), "error", advice)]
    counts = ", ".join(f"{name} {int((parts == k).sum())}" for k, name in enumerate(PARTS))
    taken = "" if (base_parts(table["part"]) == 1).any() else "; validation is taken from training"
    line = f"published split ({summary(table)}): {counts} cells{taken}"
    return [line + (f"; {int(left_out.sum())} left out, whose group is on both sides" if left_out.any() else "")], []


def exit_code(findings: pd.DataFrame) -> int:
    """Return 0 if clean (info at most), 1 for findings, 2 if fewer than two classes hold a usable image."""
    if len(findings.attrs.get("classes", {})) < 2:
        return UNUSABLE
    return FINDINGS if findings["severity"].isin(["error", "warning"]).any() else CLEAN
