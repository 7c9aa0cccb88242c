"""What can be wrong with a file, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import pandas as pd

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
COLUMNS = ["path", "finding", "severity", "advice", "other"]


class Finding(NamedTuple):
    """``severity``: error (the file is left out), warning (used, look at it), info (nothing to do). ``other``: the
    file that it is about, too, or nothing."""

    path: str
    finding: str
    severity: Severity
    advice: str
    other: str = ""


def as_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """The findings as a table, one row each."""
    return pd.DataFrame(list(findings), columns=COLUMNS)


# How a file is unusual -> severity and advice; the keys are the words of ``decode.Decoded.findings``.
UNUSUAL: dict[str, tuple[Severity, str]] = {
    "grey": ("warning", "colour carries the diagnosis; replace it by the colour original if there is one"),
    "16-bit": ("warning", "reduced to 8 bits; check that its range was used"),
    "CMYK": ("warning", "converted; save it as RGB to be sure of the colours"),
    "palette": ("warning", "converted; colours were reduced when it was saved"),
    "transparent": ("warning", "laid on white; save it without transparency"),
    "EXIF-rotated": ("info", "turned upright; nothing to do"),
    "tiny": ("warning", "enlarging invents no detail; use the original crop"),
    "blank": ("warning", "it shows one colour only; delete it or restore it"),
    "far from square": ("warning", "only the centre square is used; crop the cell yourself"),
}
EXTENSION: tuple[Severity, str] = ("warning", "give it the extension of its content")


def unusual(path: str, words: Iterable[str]) -> list[Finding]:
    """Findings about one file that is used."""
    return [Finding(path, word, *UNUSUAL.get(word, EXTENSION)) for word in words]


KINDS = (
    "copy of", "suspicious JPEG", "near-duplicate of", "turned near-duplicate of", "overlaps", "label conflict", "truncated", "damaged",
    "oversized", "class with too few groups", "also in the test set",
)  # fmt: skip


def kind_of(finding: str) -> str:
    """What a finding is, without the names of files and the numbers in it."""
    for start in KINDS:
        if finding.startswith(start):
            return start.removesuffix(" of") + (" under another label" if "under another label" in finding else "")
    return "another extension" if finding.endswith("under another name") else finding
