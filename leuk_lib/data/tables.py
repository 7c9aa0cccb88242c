"""The tables of a data folder: ``manifest.csv`` with labels, masks and groups; ``metadata.csv`` with groups by file."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from pathlib import Path, PurePosixPath

from leuk_lib.runs.errors import LeukError

MANIFEST, METADATA = "manifest.csv", "metadata.csv"
# What a manifest or a reader may state beside class, group, mask, part and external test set; carried into cells.csv.
EXTRA = ("label2", "label3", "um_per_px", "source")
# Columns of a metadata table: which image a row is about, and the group (patient, slide, …) of the image.
FILE_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_name", "name", "id")
GROUP_COLUMNS = ("patient", "patient_id", "subject", "subject_id", "case", "slide", "slide_id", "group")


def path_key(name: str) -> str:
    r"""Return the form in which paths are compared: "/" between folders, no "./", Unicode form NFC.

    macOS writes file names in the decomposed form NFD, tables usually hold NFC.

    Example:
        >>> path_key(".\\AML\\0.png"), path_key("Bla\u0308st/0.png") == "Bl\u00e4st/0.png"
        ('AML/0.png', True)
    """
    framed = f"/{name}/"
    if "\\" in framed or "//" in framed or "/./" in framed:  # PurePosixPath takes ten times as long as these
        name = PurePosixPath(name.replace("\\", "/")).as_posix()
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_plain(text: str) -> bool:
    """Return whether a name can stand in a table and in a terminal: UTF-8, and neither line breaks nor control codes."""
    if text.isascii():
        return text.isprintable()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)


def image_keys(image: Path) -> list[str]:
    """List the names of an image in ``metadata.csv`` and ``masks/``: its path, then its bare name, also without suffix.

    Example:
        >>> image_keys(Path("AML/0001.png"))
        ['AML/0001.png', 'AML/0001', '0001.png', '0001']
    """
    path = image.as_posix()
    names = dict.fromkeys((path, path.removesuffix(image.suffix), image.name, image.stem))
    return list(names if path.isascii() else dict.fromkeys(unicodedata.normalize("NFC", name) for name in names))


class Row(Mapping[str, str]):
    """A manifest's row: values that many rows share, and the mask, which each has of its own."""

    __slots__ = ("mask", "shared")

    def __init__(self, shared: Mapping[str, str], mask: str) -> None:
        self.shared, self.mask = shared, mask

    def __getitem__(self, column: str) -> str:
        return self.mask if column == "mask" else self.shared[column]

    def __iter__(self) -> Iterator[str]:
        yield from self.shared
        yield "mask"

    def __len__(self) -> int:
        return len(self.shared) + 1


def read_manifest(root: Path) -> Mapping[str, Mapping[str, str]]:
    """Read ``manifest.csv`` in ``root`` or in the folder above; a million rows take seconds and 300 MB.

    Returns:
        The rows (label, group, mask, part, external and ``EXTRA``) by ``path_key`` of the image's path relative to
        ``root``; empty without a manifest.

    Raises:
        LeukError: If the file in ``root`` is no file, cannot be read, lacks the columns path and label or has one twice, if
            a row has more values than there are columns, if two rows about one image contradict each other, or if a value
            holds a line break or a control character.
    """
    _check_file(root / MANIFEST)
    for folder in (root, root.parent):
        file = folder / MANIFEST
        if not file.is_file():
            continue
        rows = _read_rows(file)
        header = next(rows, [])
        first = next(rows, None)
        if first is None or not {"path", "label"} <= set(header):
            if folder == root:
                if {"path", "label"} <= set(header):
                    raise LeukError(f"{file}: has no row; fill it, or remove it to do without", exit_code=2)
                raise LeukError(
                    f"{file}: needs the columns path and label, separated by a comma (mask, group, part, external "
                    f"optional); it has {', '.join(map(repr, header)) or 'none'}",
                    exit_code=2,
                )
            continue  # above the data folder, a file of that name may belong to something else
        prefix = "" if folder == root else f"{root.name}/"
        prefix = path_key(prefix) + "/" if prefix else ""
        by_path = _manifest_rows(file, chain([first], rows), header, prefix)
        if by_path or folder == root:
            return by_path
    return {}


def _manifest_rows(file: Path, rows: Iterable[list[str]], header: list[str], prefix: str) -> dict[str, Row]:
    own = ("label", "group", "part", "external", *EXTRA)
    columns = {name: k for k, name in enumerate(header)}
    _check_columns(file, header, ("path", "mask", *own, *GROUP_COLUMNS))
    if "group" not in columns and (people := [name for name in GROUP_COLUMNS if name in columns]):
        columns = {**columns, "group": columns[people[0]]}
    present = [name for name in (*own, "foreign") if name in columns]  # "foreign": external's earlier name
    values_of = itemgetter(*(columns[name] for name in present))
    path_place, mask_place = columns["path"], columns.get("mask", -1)
    by_path: dict[str, Row] = {}
    without_mask: dict[str | tuple[str, ...], Row] = {}
    for row in rows:
        row += [""] * (len(header) - len(row))
        name = path_key(row[path_place])
        if not name.startswith(prefix):
            continue
        if len(row) > len(header):
            _check_width(file, header, row)
        name = name[len(prefix) :]
        values = values_of(row)
        made = without_mask.get(values)
        if made is None:
            shared = dict.fromkeys(own, "") | {column: row[columns[column]].strip() for column in present}
            foreign = shared.pop("foreign", "")
            shared["external"] = shared["external"] or foreign
            made = without_mask[values] = Row(shared, "")
            for column, value in shared.items():
                _check_plain(file, name, column, value)
        if mask_place >= 0 and row[mask_place]:
            mask = path_key(row[mask_place])
            if mask.startswith(prefix):
                made = Row(made.shared, mask[len(prefix) :])
                _check_plain(file, name, "mask", made.mask)
        other = by_path.setdefault(name, made)
        if other is made or other == made:
            continue
        column = next(column for column in (*own, "mask") if other[column] != made[column])
        raise LeukError(
            f"{file}: two rows for {name!r} contradict each other ({column} {other[column]!r} and "
            f"{made[column]!r}); keep the right one",
            exit_code=2,
        )
    return by_path


def _check_file(file: Path) -> None:
    """Refuse what has the name of a table and is none, such as a link to a disk that is not there."""
    if os.path.lexists(file) and not file.is_file():
        raise LeukError(f"{file}: is no file; restore it, or remove it to do without", exit_code=2)


def _check_columns(file: Path, header: list[str], used: Iterable[str]) -> None:
    for name in used:
        if header.count(name) > 1:
            raise LeukError(
                f"{file}: has the column {name} {header.count(name)} times; keep the right one", exit_code=2
            )


def _check_width(file: Path, header: list[str], row: list[str]) -> None:
    """Refuse values beyond the columns: a comma that no quotes enclose has moved those before them."""
    if any(row[len(header) :]):
        raise LeukError(
            f"{file}: row {row[0]!r} has {len(row)} values for {len(header)} columns; put a value with a comma in quotes",
            exit_code=2,
        )


def _check_plain(file: Path, name: str, column: str, value: str) -> None:
    if not is_plain(value):
        raise LeukError(
            f"{file}: row {name!r}: {column} {value!r} holds a line break or a control character; remove it",
            exit_code=2,
        )


def read_groups(root: Path, images: Collection[str]) -> tuple[dict[str, set[str]], list[str]]:
    """Read the groups (patients, slides, …) in ``metadata.csv``.

    Args:
        root: The data folder.
        images: The keys of all images. A row whose path is among them concerns that image only.

    Returns:
        Groups by image key (``image_keys``), and the names in rows that fit no image; both empty without the file.

    Raises:
        LeukError: If the file is none or cannot be read, lacks a column with the file or one with the group or has it
            twice, or if a row has more values than there are columns.
    """
    file = root / METADATA
    _check_file(file)
    if not file.is_file():
        return {}, []
    rows = _read_rows(file)
    header = [name.strip().lower().replace(" ", "_") for name in next(rows, [])]
    columns = {name: k for k, name in enumerate(header)}
    _check_columns(file, header, (*FILE_COLUMNS, *GROUP_COLUMNS))
    name_column = next((columns[c] for c in FILE_COLUMNS if c in columns), None)
    group_column = next((columns[c] for c in GROUP_COLUMNS if c in columns), None)
    if name_column is None and group_column is not None:
        people = {row[group_column].strip() for row in rows if group_column < len(row)}
        if any(not people.isdisjoint(PurePosixPath(key).parts[:-1]) for key in images):
            return {}, []  # a table about patients, whose folders have their names
    if name_column is None or group_column is None:
        raise LeukError(
            f"{file}: needs a column with the file ({', '.join(FILE_COLUMNS)}) "
            f"and one with the group ({', '.join(GROUP_COLUMNS)})",
            exit_code=2,
        )
    groups: dict[str, set[str]] = {}
    unused = []
    for row in rows:
        _check_width(file, header, row)
        name, group = (row[k].strip() if k < len(row) else "" for k in (name_column, group_column))
        if group:
            if not is_plain(group):
                raise LeukError(f"{file}: group {group!r} holds a line break or a control character", exit_code=2)
            path = PurePosixPath(path_key(name))
            exact = len(path.parts) > 1 and path.as_posix() in images
            keys = {path.as_posix()} if exact else {path.as_posix(), path.name, path.stem}
            if keys.isdisjoint(images):
                unused.append(path.as_posix())
            for key in keys:
                if key in images:
                    groups.setdefault(key, set()).add(group)
    return groups, unused


def _read_rows(file: Path) -> Iterator[list[str]]:
    """Yield the lines of a CSV file that are not empty."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            yield from filter(None, csv.reader(handle, strict=True))  # a quote without end would hold all further rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LeukError(f"{file}: cannot be read as CSV ({error})", exit_code=2) from error
