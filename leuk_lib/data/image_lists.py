"""Lists of image files that a person names on the command line: files, folders, patterns of names, tables."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from leuk_lib.data.image_files import IMAGES
from leuk_lib.data.tables import FILE_COLUMNS
from leuk_lib.runs.errors import LeukError

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
        The files, which need not be readable, and the names that stand for no file.

    Raises:
        LeukError: For a table that cannot be read or has no such column, with exit code 2.
    """
    files: dict[Path, None] = {}
    unusable: list[Unusable] = []
    for name in map(str, names):
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(_images_below(path))
            if not found:
                unusable.append(Unusable(name, f"no image in this folder ({', '.join(sorted(IMAGES))})"))
        elif path.suffix.lower() in TABLES and path.is_file():
            found = _listed(path)
        elif path.exists() or path.is_symlink():
            found = [path]
        elif WILD & set(name):
            matching = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207  absolute patterns
            found = sorted(match for match in matching if match.suffix.lower() in IMAGES and match.is_file())
            if not found:
                unusable.append(Unusable(name, "no image file fits this pattern"))
        else:
            found = []
            unusable.append(Unusable(name, "no such file or folder"))
        files |= dict.fromkeys(found)
    return list(files), unusable


def _images_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGES and not hidden and path.is_file():
            yield path


def _listed(table: Path) -> list[Path]:
    """Paths in the first column of a table that names files."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            dialect = csv.excel_tab if table.suffix.lower() == ".tsv" else csv.excel
            rows = csv.DictReader(file, dialect=dialect)
            columns = {column.strip().casefold(): column for column in rows.fieldnames or () if column}
            column = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
            if column is None:
                raise LeukError(
                    f"{table}: no column with files ({', '.join(FILE_COLUMNS)}); it has {', '.join(columns) or 'none'}",
                    exit_code=2,
                )
            values = [(row[column] or "").strip() for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LeukError(f"{table}: cannot be read as a table ({error}); save it as UTF-8", exit_code=2) from error
    return [table.parent / Path(value).expanduser() for value in values if value]
