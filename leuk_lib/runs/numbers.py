"""Numbers and JSON in texts from outside, read more strictly than Python reads them."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any


def parse_number(text: Any) -> float:
    """Read a number, as programs write it. ``float`` would also take "1_0" and the digits of other scripts.

    Raises:
        ValueError: For a text that is no such number.
        TypeError: For what is neither a text nor a number.
        OverflowError: For a whole number that no float can hold.

    >>> parse_number("1e-3"), parse_number("nan")
    (0.001, nan)
    """
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise ValueError(f"{text!r} is no number")
    return float(text)


def load_json(text: str, **hooks: Any) -> Any:
    r"""Parse JSON, without names that stand twice in one object and unpaired surrogates, both of which ``json.loads`` takes.

    Of two entries of one name it keeps the last; UTF-8 cannot encode an unpaired surrogate (``"\ud800"``).

    Raises:
        ValueError: For anything else, also for what is nested too deeply.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique, **hooks)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"an unpaired surrogate (half a character), {error.object[error.start]!r}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return content


def parse_json(text: str) -> Any:
    """Parse JSON whose numbers are finite. Python's parser takes NaN, Infinity and 1e999, and whole numbers that no float holds.

    Raises:
        ValueError: For anything else, also for what is nested too deeply.
    """
    return load_json(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice!r} stands twice in one object")
    return content


MAX_DIGITS = 300  # of a whole number; floats end at 1.8e308


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
