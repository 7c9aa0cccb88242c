"""List a data folder: which files are cells, with their class, group, mask and external test set. Reads no pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from leuk_lib.data.catalog import KNOWN_SETS, home
from leuk_lib.data.layouts import FolderLevels, KnownFolders, Layout, infer_layout
from leuk_lib.data.tables import MANIFEST, METADATA, image_keys, read_groups, read_manifest
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MASKS = "masks"
NOT_CELLS = {MASKS, "LICENSES", "licenses", "__MACOSX"}
AMBIGUOUS_MASK = "its mask's name fits several images"
AMBIGUOUS_GROUP = "its name in metadata.csv fits several images or groups"


@dataclass(frozen=True)
class Entry:
    """One image file of a data folder.

    Attributes:
        path: Relative to the data folder, POSIX.
        label: Class.
        group: Patient, slide or subject, or "".
        mask: Path of the mask relative to the data folder, or "".
        external: Name of the external test set that the image belongs to, or "".
        part: Published part or fold that the image belongs to, or "".
        ambiguous: (finding, advice) about a mask or a group that may belong to another image.
    """

    path: str
    label: str
    group: str = ""
    mask: str = ""
    external: str = ""
    part: str = ""
    ambiguous: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Listing:
    """The images of a data folder.

    Attributes:
        root: The folder, resolved.
        entries: Sorted by path.
        left_out: (path, finding, advice) of the files that are not used. These texts are part of the fingerprint.
        understood: How the folder was read, in lines for a person: the role of each level of folders, what was ignored.
        notices: (path, finding, advice) about files that are used.
        grouped_by: Where given groups come from: "manifest" (or ``metadata.csv``), "folder names", or both.
    """

    root: Path
    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str, str], ...]
    understood: tuple[str, ...] = ()
    notices: tuple[tuple[str, str, str], ...] = ()
    grouped_by: str = "manifest"


def list_folder(path: str | Path, class_map: Mapping[str, str] | None = None, layout: str = "") -> Listing:
    """List the images of a data set.

    Classes are folders (``layouts``) or the labels of ``manifest.csv`` in or above the data folder, which win over
    folder names. Folders may also name published parts, patients and slides. A manifest may also name each image's mask, group and external test set, which is never trained on.
    ``metadata.csv`` may name patients or slides by file. Masks that no manifest names are ``masks/<same path>.png`` or
    ``masks/<same name>.png``. A bare name that several images have identifies neither mask nor group; such entries
    are marked ``ambiguous``.

    Args:
        path: A folder, or the name of a known set, which lies in ``data/<name>/`` (``catalog.home``).
        class_map: Class -> new name. Several classes may get one name; "" drops the class.
        layout: The roles of the folder levels, such as "part/class/patient", or the number of the class level; "" to
            infer them (``layouts.infer_layout``). Known sets have their own.

    Raises:
        LeukError: For a missing folder, a folder without images, an unreadable table, folders that can be read in two
            ways, and a ``class_map`` with a class that does not exist.
    """
    known = KNOWN_SETS.get(str(path))
    root = home(known) if known else Path(path).expanduser()
    if not root.exists():
        if known:
            raise LeukError(f"data set {known.name}: nothing in {root}; {known.advice}", exit_code=2)
        raise LeukError(
            f"data set {str(path)!r}: no such folder, and not a known name (smear, {', '.join(KNOWN_SETS)}); "
            "see data/README.md",
            exit_code=2,
        )
    if not root.is_dir():
        raise LeukError(f"data set {str(path)!r} is a file; give the folder that holds the class folders", exit_code=2)
    root = root.resolve()
    rows = read_manifest(root)
    entries: list[Entry] = []
    left_out: list[tuple[str, str, str]] = []
    listed: set[str] = set()
    sources: set[str] = set()
    files = _walk(root, left_out)
    key_counts = Counter(key for file in files if file.suffix.lower() in IMAGES for key in image_keys(file))
    groups = read_groups(root, key_counts)
    images = [file for file in files if file.suffix.lower() in IMAGES and _is_text(file.as_posix())]
    unlisted = [file for file in images if not rows.get(file.as_posix(), {}).get("label")]
    levels: Layout = KnownFolders(known) if known else infer_layout(unlisted, str(root), layout)
    for relative in files:
        name = relative.as_posix()
        if not _is_text(name):
            left_out.append((ascii(name), "file name is not UTF-8", "rename it"))
            continue
        if relative.suffix.lower() not in IMAGES:
            if relative.name not in (MANIFEST, METADATA) and len(relative.parts) > 1:
                left_out.append((name, "not an image file", "nothing to do if this is meant; it is ignored"))
            continue
        if not _is_inside(root / relative, root):
            left_out.append((name, "symbolic link out of the folder", "copy the file into the folder"))
            continue
        listed.add(name)
        row = rows.get(name, {})
        place = levels.place(relative)
        if place.left_out and not row:
            left_out.append((name, place.left_out, "nothing to do if this is meant; it is ignored"))
            continue
        label, external = row.get("label") or place.label, row.get("external") or place.external
        if not label:
            allowed = f" of {known.name} ({', '.join(known.classes)})" if known else ""
            left_out.append((name, f"no class{allowed}", "move it into a class folder or list it in manifest.csv"))
            continue
        ambiguous = []
        mask, group = row.get("mask", ""), row.get("group", "")
        if not mask:
            mask, is_ambiguous = _look_up(relative, key_counts, lambda key: _masks(root, key))
            if is_ambiguous:
                own = f"{MASKS}/{relative.with_suffix('.png').as_posix()}"
                ambiguous.append((AMBIGUOUS_MASK, f"used without a mask; name it by the image's path: {own}"))
        if mask and not _is_inside(root / mask, root):
            left_out.append((name, "its mask lies outside the folder", "copy the mask into the folder"))
            continue
        in_folders = not group and bool(place.group)
        group = group or place.group
        if not group:
            group, is_ambiguous = _look_up(relative, key_counts, lambda key: groups.get(key, ()))
            if is_ambiguous:
                advice = f"used without a patient or slide; give its path and one group there: {name}"
                ambiguous.append((AMBIGUOUS_GROUP, advice))
        if group:
            sources.add("folder names" if in_folders else "manifest")
        part = row.get("part") or place.part
        entries.append(Entry(name, label, group, mask, external, part, tuple(ambiguous)))
    for name in sorted(set(rows) - listed):
        left_out.append((name, "in the manifest but not in the folder", "restore the file or delete its row"))
    if not entries:
        raise LeukError(
            f"data set {root}: no image in class folders ({', '.join(sorted(IMAGES))}); see data/README.md", exit_code=2
        )
    entries = _rename_classes(entries, class_map or {}, root)
    return Listing(
        root, tuple(entries), tuple(left_out), tuple(_understood(levels, rows, unlisted)), tuple(_spellings(levels)),
        " and ".join(sorted(sources, reverse=True)) or "manifest",
    )  # fmt: skip


def _understood(levels: Layout, rows: Collection[str], unlisted: Collection[Path]) -> list[str]:
    listed = [f"manifest: labels of {len(rows)} files"] if rows else []
    return [*listed, *(levels.describe() if unlisted else [])]


def _spellings(levels: Layout) -> list[tuple[str, str, str]]:
    variants = levels.variants if isinstance(levels, FolderLevels) else {}
    return [
        (
            f"{name}/",
            f"class folder also spelled {', '.join(map(repr, others))}",
            "read as one class; rename the folders",
        )
        for name, others in sorted(variants.items())
    ]


def _look_up(image: Path, counts: Counter[str], values_of: Callable[[str], Collection[str]]) -> tuple[str, bool]:
    """Return the value of the first key of an image that has one, and whether it is ambiguous (then "").

    It is ambiguous if several images have the key, or if the key has several values.
    """
    for key in image_keys(image):
        if values := values_of(key):
            ambiguous = counts[key] > 1 or len(values) > 1
            return "" if ambiguous else next(iter(values)), ambiguous
    return "", False


def _masks(root: Path, key: str) -> list[str]:
    mask = f"{MASKS}/{key}.png"
    return [mask] if (root / mask).is_file() else []


def _rename_classes(entries: list[Entry], class_map: Mapping[str, str], root: Path) -> list[Entry]:
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


def _walk(root: Path, left_out: list[tuple[str, str, str]]) -> list[Path]:
    """List the files below ``root``, relative and sorted, without masks, licences, hidden files and linked folders."""
    files = []

    def unlisted(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        left_out.append((name, f"folder cannot be listed ({error.strerror})", "check its rights"))

    for folder, folders, names in os.walk(root, onerror=unlisted, followlinks=False):
        folders[:] = sorted(d for d in folders if d not in NOT_CELLS and not d.startswith("."))
        for name in folders:
            if (link := Path(folder) / name).is_symlink() and _is_text(name):
                what, advice = "symbolic link to a folder", "not followed; copy the folder here"
                left_out.append((link.relative_to(root).as_posix(), what, advice))
        files += [(Path(folder) / name).relative_to(root) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda p: p.as_posix())
