"""Lists of image files that a person names on the command line: files, folders, patterns of names, tables."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from leuk_lib.data.image_files import IMAGES
from leuk_lib.data.tables import FILE_COLUMNS, is_plain
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.paths import user_path

TABLES = frozenset({".csv", ".tsv"})
WILD = frozenset("*?[")


class Unusable(NamedTuple):
    """Something that gives no image, and why."""

    file: str
    reason: str


def find_images(names: Iterable[str | Path]) -> tuple[list[Path], list[Unusable]]:
    """List the image files that names stand for, each once, in their order.

    Args:
        names: Each an image file; a folder, of which all images are taken, also in folders below it, but no hidden ones;
            a pattern such as ``slides/*/*.png``, in which ``**`` stands for any folders; or a table (.csv, .tsv) with a
            column such as ``path`` or ``file`` (``tables.FILE_COLUMNS``) whose paths are relative to the table's folder.

    Returns:
        The files, which need not be readable, and what gives no file: names that stand for none, folders that cannot be
        read, and files whose names cannot stand in a table (``tables.is_plain``).

    Raises:
        LeukError: For a table that cannot be read or has no such column, with exit code 2.
    """
    files: dict[Path, None] = {}
    unusable: list[Unusable] = []
    for name in map(str, names):
        try:
            found, problems = _found(name)
        except OSError as error:
            found, problems = [], [Unusable(name, f"cannot be looked up ({error.strerror})")]
        unusable += problems
        for path in found:
            if is_plain(str(path)):
                files[path] = None
            else:
                unusable.append(Unusable(str(path), "its name has control characters or is not UTF-8; rename it"))
    return list(files), [Unusable(_shown(name), reason) for name, reason in unusable]


def _shown(name: str) -> str:
    """A name as UTF-8; other bytes become visible."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _found(name: str) -> tuple[list[Path], list[Unusable]]:
    """The files that a name stands for, and what gives none."""
    if not name.strip():  # otherwise an unset variable of a shell would mean the current folder
        return [], [Unusable(name, "an empty name; name a file or a folder")]
    path = user_path(name)
    if path.is_dir():
        files, problems = _images_below(path)
        if not files:
            problems.append(Unusable(name, f"no image in this folder ({', '.join(sorted(IMAGES))})"))
        return files, problems
    if path.suffix.lower() in TABLES and path.is_file():
        return _listed(path)
    if path.exists() or path.is_symlink():
        return [path], []
    if WILD & set(name):
        matching = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207  absolute patterns
        files = sorted(match for match in matching if match.suffix.lower() in IMAGES and match.is_file())
        return files, [] if files else [Unusable(name, "no image file fits this pattern")]
    return [], [Unusable(name, "no such file or folder")]


def _images_below(folder: Path) -> tuple[list[Path], list[Unusable]]:
    """Images in a folder and below, sorted, and the folders that cannot be read; nothing hidden."""
    unusable: list[Unusable] = []

    def skipped(error: OSError) -> None:
        unusable.append(Unusable(str(error.filename), f"cannot be read ({error.strerror})"))

    files: list[Path] = []
    for at, folders, names in os.walk(folder, onerror=skipped):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(at, name) for name in names if not name.startswith(".")]
        files += [path for path in paths if path.suffix.lower() in IMAGES and path.is_file()]
    return sorted(files), unusable


def _listed(table: Path) -> tuple[list[Path], list[Unusable]]:
    """Paths in the first column of a table that names files, and how many of its rows name none."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            dialect = csv.excel_tab if table.suffix.lower() == ".tsv" else csv.excel
            rows = csv.DictReader(file, dialect=dialect, strict=True)  # a quote without end would hold all further rows
            columns = {column.strip().casefold(): column for column in rows.fieldnames or () if column}
            column = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
            if column is None:
                raise LeukError(
                    f"{table}: no column with files ({', '.join(FILE_COLUMNS)}); it has {', '.join(columns) or 'none'}",
                    exit_code=2,
                )
            listed = [((row[column] or "").strip(), any(row.values())) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LeukError(f"{table}: cannot be read as a table ({error}); save it as UTF-8", exit_code=2) from error
    empty = sum(not value and stated for value, stated in listed)
    problems = [Unusable(str(table), f"{empty} of its rows have no name in column {column}")] if empty else []
    return [table.parent / user_path(value) for value, _ in listed if value], problems
