"""Which files of a folder are cells: class folders, an optional manifest, masks. Reads no pixels, imports nothing heavy."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from leuk_lib.data.catalog import SETS, KnownSet, home
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MASKS, MANIFEST, METADATA = "masks", "manifest.csv", "metadata.csv"
NOT_CELLS = {MASKS, "LICENSES", "licenses", "__MACOSX"}
# Columns of a metadata table: which image a row is about, and whose it is.
NAMES = ("path", "file", "filename", "file_name", "image", "image_name", "name", "id")
OWNERS = ("patient", "patient_id", "subject", "subject_id", "case", "slide", "slide_id", "group")
# What is said of an image whose mask or owner was told by a name that is not its alone: finding and advice.
WHICH_MASK = "its mask's name fits several images"
WHOSE = "its name in metadata.csv fits several images or owners"


@dataclass(frozen=True)
class Entry:
    """One image file: path relative to the data folder (POSIX), label, and what the manifest or a name tells."""

    path: str
    label: str
    group: str = ""
    mask: str = ""  # path relative to the data folder, or ""
    foreign: str = ""  # name of the foreign test set that it belongs to, or ""
    unclear: tuple[tuple[str, str], ...] = ()  # (finding, advice) of a mask or an owner that may be another image's


@dataclass(frozen=True)
class Listing:
    """A data folder's entries, sorted by path, and what was not taken: (path, finding, advice)."""

    root: Path
    entries: tuple[Entry, ...]
    left: tuple[tuple[str, str, str], ...]
    manifest: Path | None
    name: str


def list_folder(path: str | Path, class_map: Mapping[str, str] | None = None) -> Listing:
    """Images of a data set: a folder, or the name of a known set, which lies in ``data/<name>/`` (``sets.home``).

    A folder has class folders (any depth below), or the labels of ``manifest.csv`` in or above it. A manifest has the
    columns path (relative to its own folder) and label, and may have mask, group and foreign (the name of a test set
    that is never trained on). Its rows win over folder names. ``metadata.csv`` in the folder may tell patient or slide
    by file. Masks without a manifest are looked for in ``masks/<same path>.png``, then ``masks/<same name>.png``. A bare
    name that several images have tells neither mask nor owner; ``Entry.unclear`` says so. A known set's own class folders
    and test sets are found by their names, at any depth.

    ``class_map``: class name -> new name; several old names may share a new one, and "" drops the class.
    Raises ``LeukError`` if there is no such folder, no image, a table that cannot be read, or a ``class_map`` that names
    a class which is not there.
    """
    known = SETS.get(str(path))
    root = home(known) if known else Path(path).expanduser()
    if not root.exists():
        if known:
            raise LeukError(f"data set {known.name}: nothing in {root}; {known.advice}", exit_code=2)
        raise LeukError(
            f"data set {str(path)!r}: no such folder, and not a known name (smear, {', '.join(SETS)}); see data/README.md",
            exit_code=2,
        )
    if not root.is_dir():
        raise LeukError(f"data set {str(path)!r} is a file; give the folder that holds the class folders", exit_code=2)
    root = root.resolve()
    manifest, told = _manifest(root)
    entries: list[Entry] = []
    left: list[tuple[str, str, str]] = []
    seen = set()
    files = _walk(root, left)
    shared = Counter(key for file in files if file.suffix.lower() in IMAGES for key in _keys(file))
    owners = _owners(root, shared)
    for relative in files:
        name = relative.as_posix()
        if not _is_text(name):
            left.append((ascii(name), "file name is not UTF-8", "rename it"))
            continue
        if relative.suffix.lower() not in IMAGES:
            if relative.name not in (MANIFEST, METADATA) and len(relative.parts) > 1:
                left.append((name, "not an image file", "nothing to do if this is meant; it is ignored"))
            continue
        if not _is_inside(root / relative, root):
            left.append((name, "symbolic link out of the folder", "copy the file into the folder"))
            continue
        seen.add(name)
        row = told.get(name, {})
        label, foreign = _place(relative, known)
        label, foreign = row.get("label") or label, row.get("foreign") or foreign
        if not label:
            allowed = f" of {known.name} ({', '.join(known.classes)})" if known else ""
            left.append((name, f"no class{allowed}", "move it into a class folder or list it in manifest.csv"))
            continue
        unclear = []
        mask, group = row.get("mask", ""), row.get("group", "")
        if not mask:
            mask, doubt = _told(relative, shared, lambda key: _masks(root, key))
            if doubt:
                own = f"{MASKS}/{relative.with_suffix('.png').as_posix()}"
                unclear.append((WHICH_MASK, f"used without a mask; name it by the image's path: {own}"))
        if mask and not _is_inside(root / mask, root):
            left.append((name, "its mask lies outside the folder", "copy the mask into the folder"))
            continue
        if not group:
            group, doubt = _told(relative, shared, lambda key: owners.get(key, ()))
            if doubt:
                unclear.append((WHOSE, f"used without an owner; write its path and one owner there: {name}"))
        entries.append(Entry(name, label, group, mask, foreign, tuple(unclear)))
    for name in sorted(set(told) - seen):
        left.append((name, "in the manifest but not in the folder", "restore the file or delete its row"))
    if not entries:
        raise LeukError(
            f"data set {root}: no image in class folders ({', '.join(sorted(IMAGES))}); see data/README.md", exit_code=2
        )
    entries = _mapped(entries, class_map or {}, root)
    return Listing(root, tuple(entries), tuple(left), manifest, known.name if known else root.name)


def _place(relative: Path, known: KnownSet | None) -> tuple[str, str]:
    """Class and foreign test set by the folders that a file lies in; "" for none."""
    folders = relative.parts[:-1]
    if known is None:
        return (folders[0] if folders else ""), ""
    labels = [label for folder in folders if (label := known.class_of(folder))]
    tests = [test for folder in folders if (test := known.test_of(folder))]
    return (labels[-1] if labels else ""), (tests[0] if tests else "")


def _keys(image: Path) -> list[str]:
    """What ``masks/`` and ``metadata.csv`` may call an image: first its path, then its bare name, each also without suffix."""
    return list(dict.fromkeys([image.as_posix(), image.with_suffix("").as_posix(), image.name, image.stem]))


def _told(image: Path, shared: Counter[str], tell: Callable[[str], Collection[str]]) -> tuple[str, bool]:
    """What is told of an image by the first of its keys that tells anything, and whether that is in doubt (then "").

    It is where several images have that key (``shared`` counts them), or where it tells several things.
    """
    for key in _keys(image):
        if found := tell(key):
            doubt = shared[key] > 1 or len(found) > 1
            return "" if doubt else next(iter(found)), doubt
    return "", False


def _masks(root: Path, key: str) -> list[str]:
    mask = f"{MASKS}/{key}.png"
    return [mask] if (root / mask).is_file() else []


def _mapped(entries: list[Entry], class_map: Mapping[str, str], root: Path) -> list[Entry]:
    present = {entry.label for entry in entries}
    for name in class_map:
        if name not in present:
            raise LeukError(f"class_map: no class {name!r} in {root}; {nearest(name, present)}", exit_code=2)
    renamed = [replace(entry, label=class_map.get(entry.label, entry.label)) for entry in entries]
    return [entry for entry in renamed if entry.label]


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _walk(root: Path, left: list[tuple[str, str, str]]) -> list[Path]:
    """Files below ``root``, relative, sorted; masks, licences and hidden ones left out; folder links not followed."""
    found = []

    def unlisted(error: OSError) -> None:
        where = Path(error.filename).relative_to(root).as_posix()
        left.append((where, f"folder cannot be listed ({error.strerror})", "check its rights"))

    for folder, folders, names in os.walk(root, onerror=unlisted, followlinks=False):
        folders[:] = sorted(d for d in folders if d not in NOT_CELLS and not d.startswith("."))
        for name in folders:
            if (link := Path(folder) / name).is_symlink() and _is_text(name):
                where = "symbolic link to a folder"
                left.append((link.relative_to(root).as_posix(), where, "not followed; copy the folder here"))
        found += [(Path(folder) / name).relative_to(root) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda p: p.as_posix())


def _rows(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file. Raises ``LeukError`` if it cannot be read as one."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            return list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LeukError(f"{file}: cannot be read as CSV ({error})", exit_code=2) from error


def _owners(root: Path, images: Collection[str]) -> dict[str, set[str]]:
    """Patients or slides by path, file name or stem, from ``metadata.csv`` in ``root``; empty without one.

    A row whose path is among ``images`` (keys) is about that image only. Raises ``LeukError`` for a table without
    usable columns.
    """
    file = root / METADATA
    if not file.is_file():
        return {}
    rows = _rows(file)
    columns = {(name or "").strip().lower().replace(" ", "_"): name for name in (rows[0] if rows else {})}
    name = next((columns[c] for c in NAMES if c in columns), None)
    owner = next((columns[c] for c in OWNERS if c in columns), None)
    if name is None or owner is None:
        raise LeukError(
            f"{file}: needs a column with the file ({', '.join(NAMES)}) and one with the owner ({', '.join(OWNERS)})",
            exit_code=2,
        )
    told: dict[str, set[str]] = {}
    for row in rows:
        if value := (row.get(owner) or "").strip():
            path = Path((row.get(name) or "").strip().replace("\\", "/"))
            exact = len(path.parts) > 1 and path.as_posix() in images
            for key in {path.as_posix()} if exact else {path.as_posix(), path.name, path.stem}:
                told.setdefault(key, set()).add(value)
    return told


def _manifest(root: Path) -> tuple[Path | None, dict[str, dict[str, str]]]:
    """Rows of the manifest in ``root`` or the folder above, by path relative to ``root``."""
    for place in (root, root.parent):
        file = place / MANIFEST
        if not file.is_file():
            continue
        rows = _rows(file)
        if not rows or not {"path", "label"} <= set(rows[0]):
            if place == root:
                raise LeukError(
                    f"{file}: needs the columns path and label (mask, group, foreign optional)", exit_code=2
                )
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
                "foreign": (row.get("foreign") or "").strip(),
            }
        if told or place == root:
            return file, told
    return None, {}
