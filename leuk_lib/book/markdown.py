"""Pieces of MyST Markdown: escaped text, tables, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


def number(value: Any, digits: int = 4) -> str:
    """Format a number to ``digits`` significant digits. None and NaN become ``–``.

    >>> number(0.123456), number(12345), number(None)
    ('0.1235', '12,345', '–')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.{digits}g}" if abs(value) < 10_000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Format seconds.

    >>> duration(4.2), duration(185), duration(7800)
    ('4.2 s', '3 min 05 s', '2 h 10 min')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Return a table whose cells are Markdown. ``align`` has a letter ``l``, ``r`` or ``c`` per column; default left."""
    marks = {"l": ":--", "r": "--:", "c": ":-:"}
    rule = [marks[letter] for letter in (align or "l" * len(header))]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(rule) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
