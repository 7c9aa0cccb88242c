"""``leuk data check``: what is wrong with a folder of images, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from leuk_lib.data.manifest import Reading, read_folder
from leuk_lib.data.splits import unsplittable

CLEAN, FINDINGS, UNUSABLE = 0, 1, 2
SEVERITIES = ("error", "warning", "info")


def check_folder(path: str | Path, workers: int = 2) -> pd.DataFrame:
    """Decode everything once; one row a finding: path, finding, severity, advice, worst first.

    Severity "error": the file is left out by ``load_dataset``; "warning": used, but look at it; "info": nothing to do.
    ``attrs`` of the frame hold the counts that ``render_report`` prints. Raises ``LeukError`` (exit code 2) if the
    folder is missing or holds no image.
    """
    reading = read_folder(path, size=32, workers=workers)
    findings = pd.concat([reading.findings, _about_classes(reading)], ignore_index=True)
    rank = findings["severity"].map({name: i for i, name in enumerate(SEVERITIES)})
    findings = findings.assign(_rank=rank).sort_values(["_rank", "path", "finding"], kind="stable")
    findings = findings.drop(columns="_rank").reset_index(drop=True)
    findings.attrs = {
        "root": str(reading.root),
        "classes": {str(k): int(v) for k, v in reading.table["label"].value_counts().sort_index().items()},
        "groups": int(reading.table["group"].nunique()),
        "grouped_by": reading.grouped_by,
        "masks": reading.masks is not None,
    }
    return findings


def _about_classes(reading: Reading) -> pd.DataFrame:
    """Classes that cannot be split, groups that straddle classes, too few classes."""
    table, rows = reading.table, []
    labels = table["label"].unique()
    if len(labels) < 2:
        rows.append((".", f"{len(labels)} class with usable images", "error", "at least 2 class folders are needed"))
    if len(labels):
        for name in unsplittable(table["label"].to_numpy(dtype=str), table["group"].to_numpy(dtype=str)):
            n = int((table["label"] == name).sum())
            rows.append(
                (f"{name}/", f"class with too few groups to split (cells: {n})", "warning",
                 "stays wholly in training and is never tested; add patients or merge it")
            )  # fmt: skip
        told = table[~table["group"].str.startswith("near:")]
        straddling = told.groupby("group")["label"].nunique()
        if 0 < int((straddling > 1).sum()) < 0.5 * max(len(straddling), 1):
            # Rare among otherwise pure groups: looks like a slip. (Cell types of one patient straddle by nature.)
            for group in straddling.index[straddling > 1]:
                rows.append(
                    (
                        f"group {group}",
                        "has cells of several classes",
                        "info",
                        "right for cell types, not for diagnoses",
                    )
                )
    return pd.DataFrame(rows, columns=["path", "finding", "severity", "advice"])


def exit_code(findings: pd.DataFrame) -> int:
    """0 clean (infos at most), 1 findings, 2 unusable (fewer than two classes hold a usable image)."""
    if len(findings.attrs.get("classes", {})) < 2:
        return UNUSABLE
    return FINDINGS if findings["severity"].isin(["error", "warning"]).any() else CLEAN


def render_report(findings: pd.DataFrame, limit: int = 12) -> str:
    """The summary a person can act on: counts, then findings by kind with the files (``limit`` a kind) and advice."""
    about = findings.attrs
    total = sum(about["classes"].values())
    lines = [
        f"{about['root']}: {total} usable cells, {len(about['classes'])} classes, {about['groups']} groups "
        f"(by {about['grouped_by']}), {'with' if about['masks'] else 'no'} masks",
        "  " + ", ".join(f"{name} {n}" for name, n in about["classes"].items()),
    ]
    meaning = {"error": "left out", "warning": "used, look at it", "info": "nothing to do"}
    for severity in SEVERITIES:
        some = findings[findings["severity"] == severity]
        if len(some):
            lines.append(f"{severity.upper()} ({meaning[severity]}): {len(some)}")
        for kind, rows in some.groupby(some["finding"].map(_kind), sort=True):
            lines.append(f"  {kind}: {len(rows)}; {rows['advice'].iloc[0]}")
            lines += [f"    {row.path}" + _detail(row.finding, str(kind)) for row in rows.head(limit).itertuples()]
            if len(rows) > limit:
                lines.append(f"    … and {len(rows) - limit} more")
    verdict = ("clean", "findings: see above", "unusable: fewer than two classes hold a usable image")
    return "\n".join([*lines, f"Verdict: {verdict[exit_code(findings)]}"])


def _kind(finding: str) -> str:
    for start in ("copy of", "near-duplicate of", "label conflict", "truncated", "damaged"):
        if finding.startswith(start):
            return start.removesuffix(" of")
    return finding


def _detail(finding: object, kind: str) -> str:
    return "" if finding == kind else f": {finding}"
