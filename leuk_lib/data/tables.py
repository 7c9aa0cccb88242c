"""The tables of a data folder: ``manifest.csv`` with labels, masks and groups; ``metadata.csv`` with groups by file."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Collection
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
    return unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).as_posix())


def is_plain(text: str) -> bool:
    """Return whether a name can stand in a table and in a terminal: UTF-8, and neither line breaks nor control codes."""
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
    names = (image.as_posix(), image.with_suffix("").as_posix(), image.name, image.stem)
    return list(dict.fromkeys(unicodedata.normalize("NFC", name) for name in names))


def read_manifest(root: Path) -> dict[str, dict[str, str]]:
    """Read ``manifest.csv`` in ``root`` or in the folder above.

    Returns:
        The rows (label, group, mask, part, external and ``EXTRA``) by ``path_key`` of the image's path relative to ``root``; empty
        without a manifest.

    Raises:
        LeukError: If the file in ``root`` cannot be read or lacks the columns path and label, if two rows about one image
            contradict each other, or if a value holds a line break or a control character.
    """
    for folder in (root, root.parent):
        file = folder / MANIFEST
        if not file.is_file():
            continue
        rows = _read_csv(file)
        if not rows or not {"path", "label"} <= set(rows[0]):
            if folder == root:
                raise LeukError(
                    f"{file}: needs the columns path and label (mask, group, part, external optional)", exit_code=2
                )
            continue  # above the data folder, a file of that name may belong to something else
        prefix = "" if folder == root else f"{root.name}/"
        prefix = path_key(prefix) + "/" if prefix else ""
        by_path: dict[str, dict[str, str]] = {}
        for row in rows:
            name = path_key(row.get("path") or "")
            if not name.startswith(prefix):
                continue
            mask = path_key(row.get("mask") or "") if row.get("mask") else ""
            values = {
                "label": (row.get("label") or "").strip(),
                "group": (row.get("group") or "").strip(),
                "mask": mask.removeprefix(prefix) if mask.startswith(prefix) else "",
                "part": (row.get("part") or "").strip(),
                "external": (row.get("external") or row.get("foreign") or "").strip(),  # "foreign": the earlier name
                **{column: (row.get(column) or "").strip() for column in EXTRA},
            }
            for column, value in values.items():
                if not is_plain(value):
                    raise LeukError(
                        f"{file}: row {name!r}: {column} {value!r} holds a line break or a control character; remove it",
                        exit_code=2,
                    )
            name = name.removeprefix(prefix)
            other = by_path.setdefault(name, values)
            if differing := [column for column in values if values[column] != other[column]]:
                column = differing[0]
                raise LeukError(
                    f"{file}: two rows for {name!r} contradict each other ({column} {other[column]!r} and "
                    f"{values[column]!r}); keep the right one",
                    exit_code=2,
                )
        if by_path or folder == root:
            return by_path
    return {}


def read_groups(root: Path, images: Collection[str]) -> tuple[dict[str, set[str]], list[str]]:
    """Read the groups (patients, slides, …) in ``metadata.csv``.

    Args:
        root: The data folder.
        images: The keys of all images. A row whose path is among them concerns that image only.

    Returns:
        Groups by image key (``image_keys``), and the names in rows that fit no image; both empty without the file.

    Raises:
        LeukError: If the file cannot be read or lacks a column with the file or one with the group.
    """
    file = root / METADATA
    if not file.is_file():
        return {}, []
    rows = _read_csv(file)
    columns = {(name or "").strip().lower().replace(" ", "_"): name for name in (rows[0] if rows else {})}
    name_column = next((columns[c] for c in FILE_COLUMNS if c in columns), None)
    group_column = next((columns[c] for c in GROUP_COLUMNS if c in columns), None)
    if name_column is None or group_column is None:
        raise LeukError(
            f"{file}: needs a column with the file ({', '.join(FILE_COLUMNS)}) "
            f"and one with the group ({', '.join(GROUP_COLUMNS)})",
            exit_code=2,
        )
    groups: dict[str, set[str]] = {}
    unused = []
    for row in rows:
        if group := (row.get(group_column) or "").strip():
            if not is_plain(group):
                raise LeukError(f"{file}: group {group!r} holds a line break or a control character", exit_code=2)
            path = PurePosixPath(path_key((row.get(name_column) or "").strip()))
            exact = len(path.parts) > 1 and path.as_posix() in images
            keys = {path.as_posix()} if exact else {path.as_posix(), path.name, path.stem}
            if keys.isdisjoint(images):
                unused.append(path.as_posix())
            for key in keys:
                groups.setdefault(key, set()).add(group)
    return groups, unused


def _read_csv(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            return list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LeukError(f"{file}: cannot be read as CSV ({error})", exit_code=2) from error
