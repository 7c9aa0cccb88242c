"""``leuk data check``: what is wrong with a folder of images, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from leuk_lib.data.findings import SEVERITIES, Finding, as_table, kind_of
from leuk_lib.data.folder import ANONYMOUS, Reading, read_folder
from leuk_lib.data.splits import unsplittable

CLEAN, FINDINGS, UNUSABLE = 0, 1, 2
MEANING = {"error": "left out", "warning": "used, look at it", "info": "nothing to do"}
VERDICTS = ("clean", "findings: see above", "unusable: fewer than two classes hold a usable image")


def check_folder(path: str | Path, workers: int = 2, class_map: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Decode everything once; one row a finding: path, finding, severity, advice, other, kind; worst first.

    Severity "error": the file is left out by ``load_dataset``; "warning": used, but look at it; "info": nothing to do.
    ``attrs`` of the frame hold the counts that ``render_report`` prints. Files that may show the same thing are read
    once more, to compare their pixels. Raises ``LeukError`` (exit code 2) if the folder is missing or holds no image.
    """
    reading = read_folder(path, size=32, workers=workers, class_map=class_map)
    findings = pd.concat([reading.findings, as_table(_about_classes(reading))], ignore_index=True)
    rank = findings["severity"].map({name: i for i, name in enumerate(SEVERITIES)})
    findings = findings.assign(_rank=rank, kind=findings["finding"].map(kind_of))
    findings = findings.sort_values(["_rank", "path", "finding"], kind="stable")
    findings = findings.drop(columns="_rank").reset_index(drop=True)
    findings.attrs = {
        "root": str(reading.root),
        "classes": {str(k): int(v) for k, v in reading.table["label"].value_counts().sort_index().items()},
        "groups": int(reading.table["group"].nunique()),
        "grouped_by": reading.grouped_by,
        "masks": reading.masks is not None,
    }
    return findings


def _about_classes(reading: Reading) -> list[Finding]:
    """Classes that cannot be split, groups that straddle classes, too few classes."""
    table = reading.table[reading.table["foreign"] == ""]
    labels = table["label"].unique()
    out = []
    if len(labels) < 2:
        what = f"{len(labels)} class with usable images"
        out.append(Finding(".", what, "error", "at least 2 class folders are needed"))
    if len(labels):
        for name in unsplittable(table["label"].to_numpy(dtype=str), table["group"].to_numpy(dtype=str)):
            what = f"class with too few groups to split (cells: {int((table['label'] == name).sum())})"
            advice = "stays wholly in training and is never tested; add patients or merge it"
            out.append(Finding(f"{name}/", what, "warning", advice))
    told = table[~table["group"].str.startswith(ANONYMOUS)]
    classes = told.groupby("group")["label"].unique()
    straddling = classes[classes.map(len) > 1]
    if len(straddling) >= 0.5 * max(len(classes), 1) and len(straddling):
        what = f"{len(straddling)} of {len(classes)} groups have cells of several classes"
        out.append(Finding(".", what, "info", "right where classes are cell types, wrong where they are diagnoses"))
    else:  # rare among otherwise pure groups: looks like a slip
        for group, names in straddling.items():
            what = f"group has cells of several classes ({', '.join(sorted(names))})"
            advice = "one patient, two diagnoses? correct the label or the group (cell types may do so)"
            out.append(Finding(f"group {group}", what, "warning", advice))
    return out


def exit_code(findings: pd.DataFrame) -> int:
    """0 clean (infos at most), 1 findings, 2 unusable (fewer than two classes hold a usable image)."""
    if len(findings.attrs.get("classes", {})) < 2:
        return UNUSABLE
    return FINDINGS if findings["severity"].isin(["error", "warning"]).any() else CLEAN


def summary_lines(findings: pd.DataFrame) -> tuple[str, str]:
    """What was read: one line about the folder, one about its classes."""
    about = findings.attrs
    return (
        f"{about['root']}: {sum(about['classes'].values())} usable cells, {len(about['classes'])} classes, "
        f"{about['groups']} groups (by {about['grouped_by']}), {'with' if about['masks'] else 'no'} masks",
        ", ".join(f"{name} {n}" for name, n in about["classes"].items()),
    )


def render_report(findings: pd.DataFrame, limit: int = 12) -> str:
    """The summary a person can act on: counts, then findings by kind with the files (``limit`` a kind) and advice."""
    first, second = summary_lines(findings)
    lines = [first, f"  {second}"]
    for severity in SEVERITIES:
        some = findings[findings["severity"] == severity]
        if len(some):
            lines.append(f"{severity.upper()} ({MEANING[severity]}): {len(some)}")
        for kind, rows in some.groupby("kind", sort=True):
            lines.append(f"  {kind}: {len(rows)}; {rows['advice'].iloc[0]}")
            lines += [
                f"    {row.path}" + ("" if row.finding == kind else f": {row.finding}")
                for row in rows.head(limit).itertuples()
            ]
            if len(rows) > limit:
                lines.append(f"    … and {len(rows) - limit} more")
    return "\n".join([*lines, f"Verdict: {VERDICTS[exit_code(findings)]}"])
