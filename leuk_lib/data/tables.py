"""The tables of a data folder: ``manifest.csv`` with labels, masks and groups; ``metadata.csv`` with groups by file."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from leuk_lib.runs.errors import LeukError

MANIFEST, METADATA = "manifest.csv", "metadata.csv"
# Columns of a metadata table: which image a row is about, and the group (patient, slide, …) of the image.
FILE_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_name", "name", "id")
GROUP_COLUMNS = ("patient", "patient_id", "subject", "subject_id", "case", "slide", "slide_id", "group")


def image_keys(image: Path) -> list[str]:
    """List the names of an image in ``metadata.csv`` and ``masks/``: its path, then its bare name, also without suffix.

    Example:
        >>> image_keys(Path("AML/0001.png"))
        ['AML/0001.png', 'AML/0001', '0001.png', '0001']
    """
    return list(dict.fromkeys([image.as_posix(), image.with_suffix("").as_posix(), image.name, image.stem]))


def read_manifest(root: Path) -> dict[str, dict[str, str]]:
    """Read ``manifest.csv`` in ``root`` or in the folder above.

    Returns:
        The rows (label, group, mask, part, external) by image path relative to ``root``; empty without a manifest.

    Raises:
        LeukError: If the file in ``root`` cannot be read or lacks the columns path and label.
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
        by_path = {}
        for row in rows:
            name = (row.get("path") or "").replace("\\", "/")
            if not name.startswith(prefix):
                continue
            mask = (row.get("mask") or "").replace("\\", "/")
            by_path[name.removeprefix(prefix)] = {
                "label": (row.get("label") or "").strip(),
                "group": (row.get("group") or "").strip(),
                "mask": mask.removeprefix(prefix) if mask.startswith(prefix) else "",
                "part": (row.get("part") or "").strip(),
                "external": (row.get("external") or row.get("foreign") or "").strip(),  # "foreign": the earlier name
            }
        if by_path or folder == root:
            return by_path
    return {}


def read_groups(root: Path, images: Collection[str]) -> dict[str, set[str]]:
    """Read the groups (patients, slides, …) in ``metadata.csv``.

    Args:
        root: The data folder.
        images: The keys of all images. A row whose path is among them concerns that image only.

    Returns:
        Groups by image key (``image_keys``); empty without the file.

    Raises:
        LeukError: If the file cannot be read or lacks a column with the file or one with the group.
    """
    file = root / METADATA
    if not file.is_file():
        return {}
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
    for row in rows:
        if group := (row.get(group_column) or "").strip():
            path = Path((row.get(name_column) or "").strip().replace("\\", "/"))
            exact = len(path.parts) > 1 and path.as_posix() in images
            for key in {path.as_posix()} if exact else {path.as_posix(), path.name, path.stem}:
                groups.setdefault(key, set()).add(group)
    return groups


def _read_csv(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            return list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LeukError(f"{file}: cannot be read as CSV ({error})", exit_code=2) from error
