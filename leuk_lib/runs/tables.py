"""Tables (CSV) that a run wrote, checked when they are read."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leuk_lib import quoting
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import refuse_pipe
from leuk_lib.runs.numbers import parse_number

MAX_WHOLE = 2**53  # above, floats are not exact


def read_table(
    path: Path, columns: Collection[str], advice: str, dtype: Mapping[str, type] | type = str
) -> pd.DataFrame:
    """Read a table whose blank cells are empty texts; quoted cells (``quoting.cells``) are read as what they mean.

    Args:
        path: The CSV file.
        columns: Columns that it must have; others are kept.
        advice: What to do if it is missing or wrong, for the error message.
        dtype: Type of all columns, or type by column; pandas infers that of others.

    Raises:
        LeukError: If the file is missing, is no table, lacks a column or has one twice, or if a row is too long.
    """
    try:
        refuse_pipe(path)
        with path.open(newline="", encoding="utf-8-sig") as handle:
            header = Counter(next(csv.reader(handle), []))
        table = pd.read_csv(path, dtype=dtype, keep_default_na=False)
    except FileNotFoundError as error:
        raise LeukError(f"{path}: no such file; {advice}") from error
    except (OSError, ValueError, OverflowError, csv.Error) as error:  # pandas' errors of parsing are ValueErrors
        reason = getattr(error, "strerror", None) or str(error)
        raise LeukError(f"{path}: not a readable table ({reason[:200]}); {advice}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas has moved the columns
        raise LeukError(f"{path}: its rows have more values than there are columns; {advice}")
    if twice := [name for name, count in header.items() if count > 1]:  # pandas would call the second "name.1"
        raise LeukError(f"{path}: has the column {twice[0]} twice; {advice}")
    table = quoting.cells(table, quoting.from_cell)
    if missing := [name for name in columns if name not in table.columns]:
        raise LeukError(f"{path}: lacks column {', '.join(missing)}; {advice}")
    return table


def numbers(
    table: pd.DataFrame, column: str, path: Path, advice: str, blank: bool = False, whole: bool = False
) -> pd.Series:
    """Return a column of texts as finite floats.

    Args:
        table: From :func:`read_table`.
        column: The column.
        path: The file, for the error message.
        advice: What to do if a value is wrong, for the error message.
        blank: Empty cells are allowed and become NaN.
        whole: Only whole numbers below 2^53 are allowed.

    Raises:
        LeukError: If a value is not such a number. The message names the first.
    """
    text = table[column].astype(str)
    given = text != "" if blank else pd.Series(True, index=text.index)
    values = pd.Series([_number(value) for value in text], index=text.index, dtype=np.float64)
    wrong = given & ~np.isfinite(values)
    if whole:
        wrong |= given & ((values % 1 != 0) | (values.abs() >= MAX_WHOLE))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        kind = "whole" if whole else "finite"
        raise LeukError(f"{path}: row {row + 2}: {column} = {text.iloc[row][:50]!r} is no {kind} number; {advice}")
    return values


def _number(text: str) -> float:
    try:
        return parse_number(text)
    except ValueError:
        return np.nan


def check_complete(values: ArrayLike, what: str = "group") -> None:
    """Check that each cell has a group, label or the like: as a string a missing one would be a name like any other.

    Args:
        values: (N,).
        what: What each cell needs, for the message.

    Raises:
        LeukError: If a value is None or NaN.
    """
    array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)  # numpy's texts hold no NaN
    if array.dtype.kind in ("f", "O") and (missing := int(pd.isna(array).sum())):
        raise LeukError(f"{missing} of {array.size} cells have no {what}")


def names_of(values: ArrayLike, what: str = "group") -> NDArray[np.str_]:
    """Return groups or labels (N,) as strings, after ``check_complete``.

    >>> names_of([1, 2]).tolist()
    ['1', '2']
    """
    check_complete(values, what)
    return np.asarray(values).astype(str)
