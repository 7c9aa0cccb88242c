"""Findings about image files: what is wrong, how severe it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Finding(NamedTuple):
    """One finding.

    Args:
        path: The file, relative to the data folder; "." for the folder itself.
        finding: What is wrong.
        severity: error: the file is left out; warning: used, but look at it; info: nothing to do.
        advice: What to do.
        other: Another file that the finding concerns, or "".
    """

    path: str
    finding: str
    severity: Severity
    advice: str
    other: str = ""


def as_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Return the findings as a table, one per row."""
    import pandas as pd  # slow to import, and listing a folder needs no table

    return pd.DataFrame(list(findings), columns=list(Finding._fields))


def repeated(paths: Sequence[str], finding: str, severity: Severity, advice: str) -> pd.DataFrame:
    """Return a table as ``as_table`` does, of one finding about each path: a million of them take 40 MB."""
    import pandas as pd

    columns = {"path": paths, "finding": finding, "severity": severity, "advice": advice, "other": ""}
    return pd.DataFrame(columns)


# What is unusual about a file that is used (``decode.Decoded.findings``) -> severity and advice.
UNUSUAL: dict[str, tuple[Severity, str]] = {
    "grey": ("warning", "the stain's colour is missing; use the colour original if there is one"),
    "16-bit": ("warning", "reduced to 8 bits; check that it is neither too dark nor too bright"),
    "32-bit": ("warning", "scaled to 8 bits by the range that the file states; check that it looks right"),
    "CMYK": ("warning", "converted from print colours; save it as RGB to be sure of the colours"),
    "palette": ("warning", "its colours were reduced when it was saved; use the original"),
    "transparent": ("warning", "laid on white; save it without transparency"),
    "EXIF-rotated": ("info", "turned upright as its camera recorded; nothing to do"),
    "tiny": ("warning", "enlarging adds no detail; use the original crop"),
    "blank": ("warning", "it shows one colour only; delete it or restore it"),
    "far from square": ("warning", "only the centre square is used; crop the cell yourself"),
    "suspicious JPEG": (
        "warning",
        "look at it: if its lower part is shifted or has other colours, restore the file; else save it again",
    ),
    "unchecked JPEG": ("warning", "its colour subsampling is unusual, so damage cannot be detected; save it again"),
    "unchecked TIFF": (
        "warning",
        "damage to its kind of compression cannot be detected; save it with deflate or as PNG",
    ),
    "suspicious TIFF": (
        "warning",
        "no usual program writes such LZW codes: look at it; if a row has other colours, restore the file, else save it again",
    ),
    "another extension": ("warning", "give it the extension of its content"),
}


def unusual(path: str, keys: Iterable[str]) -> list[Finding]:
    """Return the findings about one file that is used, from the keys of ``UNUSUAL`` (details may follow a key)."""
    return [Finding(path, key, *UNUSUAL[kind_of(key)]) for key in keys]


KINDS = (
    "copy of", "suspicious JPEG", "near-duplicate of", "turned near-duplicate of", "overlaps", "label conflict", "truncated", "damaged",
    "oversized", "class with too few groups", "also in the test set",
    "looks like a field of view", "box too small", "box outside the field", "box over the field's border",
    "box with reversed corners", "box without finite numbers", "box repeated", "box under two categories",
    "boxes without their image", "boxes without an image entry", "boxes of unknown categories", "category left out",
    "category also spelled", "image entry repeated", "field in several published parts", "field cannot be read",
    "annotated for", "images without boxes", "images without an annotation",
)  # fmt: skip


ACROSS_PARTS = " in another published part"  # ends the finding about a copy on the other side of a published split


def is_across_parts(finding: str) -> bool:
    """Whether a finding is about a copy on the other side of a published split."""
    return finding.endswith(ACROSS_PARTS)


def kind_of(finding: str) -> str:
    """Strip the file names and numbers from a finding.

    Example:
        >>> kind_of("overlaps b/13.png by 53 %")
        'overlaps'
    """
    for start in KINDS:
        if finding.startswith(start):
            label = " under another label" if "under another label" in finding else ""
            return start.removesuffix(" of") + label + (ACROSS_PARTS if is_across_parts(finding) else "")
    return "another extension" if finding.endswith("under another name") else finding
