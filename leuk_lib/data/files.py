"""Which files of a folder are cells: class folders, an optional manifest, masks. Reads no pixels, imports nothing heavy."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from leuk_lib.runs.errors import LeukError

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MASKS, MANIFEST = "masks", "manifest.csv"
NOT_CELLS = {MASKS, "LICENSES", "licenses", "__MACOSX"}


@dataclass(frozen=True)
class Entry:
    """One image file: path relative to the data folder (POSIX), label, and what the manifest tells."""

    path: str
    label: str
    group: str = ""
    mask: str = ""  # path relative to the data folder, or ""


@dataclass(frozen=True)
class Listing:
    """A data folder's entries, sorted by path, and what was not taken: (path, finding, advice)."""

    root: Path
    entries: tuple[Entry, ...]
    left: tuple[tuple[str, str, str], ...]
    manifest: Path | None


def list_folder(path: str | Path) -> Listing:
    """Images under ``path``: class folders (any depth below), or the labels of ``manifest.csv`` in or above it.

    A manifest has the columns path (relative to its own folder) and label, and may have mask and group. Its rows win
    over folder names. Masks without a manifest are looked for in ``masks/<same name>.png``.
    Raises ``LeukError`` if there is no such folder, no image, or the manifest cannot be read.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise LeukError(
            f"data set {str(path)!r}: no such folder (and not a known name: smear); see data/README.md", exit_code=2
        )
    if not root.is_dir():
        raise LeukError(f"data set {str(path)!r} is a file; give the folder that holds the class folders", exit_code=2)
    root = root.resolve()
    manifest, told = _manifest(root)
    entries: list[Entry] = []
    left: list[tuple[str, str, str]] = []
    seen = set()
    for relative in _walk(root):
        name = relative.as_posix()
        if not _is_text(name):
            left.append((ascii(name), "file name is not UTF-8", "rename it"))
            continue
        if relative.suffix.lower() not in IMAGES:
            if relative.name != MANIFEST and len(relative.parts) > 1:
                left.append((name, "not an image file", "nothing to do if this is meant; it is ignored"))
            continue
        if not (root / relative).resolve().is_relative_to(root):
            left.append((name, "symbolic link out of the folder", "copy the file into the folder"))
            continue
        seen.add(name)
        row = told.get(name, {})
        label = row.get("label") or (relative.parts[0] if len(relative.parts) > 1 else "")
        if not label:
            left.append((name, "no class", "move it into a class folder or list it in manifest.csv"))
            continue
        mask = row.get("mask", "")
        if not mask and (root / MASKS / f"{relative.stem}.png").is_file():
            mask = f"{MASKS}/{relative.stem}.png"
        entries.append(Entry(name, label, row.get("group", ""), mask))
    for name in sorted(set(told) - seen):
        left.append((name, "in the manifest but not in the folder", "restore the file or delete its row"))
    if not entries:
        raise LeukError(
            f"data set {root}: no image in class folders ({', '.join(sorted(IMAGES))}); see data/README.md", exit_code=2
        )
    return Listing(root, tuple(entries), tuple(left), manifest)


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _walk(root: Path) -> list[Path]:
    """Files below ``root``, relative, sorted; masks, licences and hidden ones left out; folder links not followed."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(d for d in folders if d not in NOT_CELLS and not d.startswith("."))
        found += [(Path(folder) / name).relative_to(root) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda p: p.as_posix())


def _manifest(root: Path) -> tuple[Path | None, dict[str, dict[str, str]]]:
    """Rows of the manifest in ``root`` or the folder above, by path relative to ``root``."""
    for place in (root, root.parent):
        file = place / MANIFEST
        if not file.is_file():
            continue
        try:
            with file.open(newline="", encoding="utf-8-sig") as handle:
                rows = list(csv.DictReader(handle))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise LeukError(f"{file}: cannot be read as CSV ({error})", exit_code=2) from error
        if not rows or not {"path", "label"} <= set(rows[0]):
            if place == root:
                raise LeukError(f"{file}: needs the columns path and label (mask, group optional)", exit_code=2)
            continue  # a file of that name above the folder may be somebody else's
        prefix = "" if place == root else f"{root.name}/"
        told = {}
        for row in rows:
            name = (row.get("path") or "").replace("\\", "/")
            if not name.startswith(prefix):
                continue
            mask = (row.get("mask") or "").replace("\\", "/")
            told[name.removeprefix(prefix)] = {
                "label": (row.get("label") or "").strip(),
                "group": (row.get("group") or "").strip(),
                "mask": mask.removeprefix(prefix) if mask.startswith(prefix) else "",
            }
        if told or place == root:
            return file, told
    return None, {}
