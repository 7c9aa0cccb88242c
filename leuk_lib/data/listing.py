"""List a data folder: which files are cells, with their class, group, mask and external test set. Reads no pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from leuk_lib.data.catalog import KNOWN_SETS, home
from leuk_lib.data.layouts import FolderLevels, KnownFolders, Layout, infer_layout
from leuk_lib.data.tables import MANIFEST, METADATA, image_keys, is_plain, path_key, read_groups, read_manifest
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
        listed: Whether the manifest lists the file.
    """

    path: str
    label: str
    group: str = ""
    mask: str = ""
    external: str = ""
    part: str = ""
    ambiguous: tuple[tuple[str, str], ...] = ()
    listed: bool = False


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
    notices: list[tuple[str, str, str]] = []
    files, bare = _walk(root, left_out)
    key_counts = Counter(key for file in files if file.suffix.lower() in IMAGES for key in image_keys(file))
    groups, unused = read_groups(root, key_counts)
    if unused:
        what = f"{len(unused)} of its rows fit no image, such as {unused[0]!r}"
        notices.append((METADATA, what, "their patients or slides are unknown; give each image's path or file name"))
    images = [file for file in files if file.suffix.lower() in IMAGES and is_plain(file.as_posix())]
    unlisted = [file for file in images if not rows.get(path_key(file.as_posix()), {}).get("label")]
    levels: Layout = KnownFolders(known) if known else infer_layout(unlisted, str(root), layout)
    for relative in files:
        name = relative.as_posix()
        if not is_plain(name):
            what = "file name has a line break or a control character" if _is_text(name) else "file name is not UTF-8"
            left_out.append((ascii(name), what, "rename it"))
            continue
        if relative.suffix.lower() not in IMAGES:
            if relative.name not in (MANIFEST, METADATA) and len(relative.parts) > 1:
                left_out.append((name, "not an image file", "nothing to do if this is meant; it is ignored"))
            continue
        if not _is_inside(root / relative, root):
            left_out.append((name, "symbolic link out of the folder", "copy the file into the folder"))
            continue
        listed.add(path_key(name))
        row = rows.get(path_key(name), {})
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
        mask, group = _on_disk(root, row.get("mask", "")), row.get("group", "")
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
        entries.append(Entry(name, label, group, mask, external, part, tuple(ambiguous), bool(row)))
    for name in sorted(set(rows) - listed):
        left_out.append((name, "in the manifest but not in the folder", "restore the file or delete its row"))
    if not entries:
        raise LeukError(
            f"data set {root}: no image in class folders ({', '.join(sorted(IMAGES))}); see data/README.md", exit_code=2
        )
    if unlisted:
        notices += _without_images(bare, levels)
    notices += _unused_masks(root, {entry.mask for entry in entries})
    notices += _spellings(levels)
    entries = _rename_classes(entries, class_map or {}, root)
    return Listing(
        root, tuple(entries), tuple(left_out), tuple(_understood(levels, rows, unlisted)), tuple(notices),
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
    mask = _on_disk(root, f"{MASKS}/{key}.png")
    return [mask] if (root / mask).is_file() else []


def _on_disk(root: Path, name: str) -> str:
    """Return a relative path as the disk spells it, which may be in another Unicode form; unchanged if there is none."""
    if name.isascii() or (root / name).exists():
        return name
    found = root
    for part in Path(name).parts:
        same = [path for path in found.iterdir() if path_key(path.name) == path_key(part)] if found.is_dir() else []
        if not same:
            return name
        found = same[0]
    return found.relative_to(root).as_posix()


def _unused_masks(root: Path, used: set[str]) -> list[tuple[str, str, str]]:
    """Find folders in ``masks/`` with images that are no cell's mask: perhaps a class with the name "masks"."""
    unused: Counter[str] = Counter()
    for folder, _, names in os.walk(root / MASKS):
        where = Path(folder).relative_to(root)
        unused[where.as_posix()] += sum(
            Path(name).suffix.lower() in IMAGES and (where / name).as_posix() not in used for name in names
        )
    return [
        (
            f"{name}/",
            f"{count} images that are no cell's mask",
            "masks have the path of their image; cells lie elsewhere",
        )
        for name, count in sorted(unused.items())
        if count and is_plain(name)
    ]


def _without_images(bare: Collection[Path], levels: Layout) -> list[tuple[str, str, str]]:
    """Find folders without images in the place of a class."""
    if isinstance(levels, FolderLevels):
        depth = levels.roles.index("class") + 1 if "class" in levels.roles else 0
        classes = [folder for folder in bare if len(folder.parts) == depth]
    else:
        classes = [folder for folder in bare if levels.place(folder / "x.png").label]
    advice = "no class comes from it; delete it, or put its images there"
    return [(f"{folder.as_posix()}/", "folder without images", advice) for folder in classes]


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


def _walk(root: Path, left_out: list[tuple[str, str, str]]) -> tuple[list[Path], list[Path]]:
    """List the files below ``root``, relative and sorted, without masks, licences, hidden files and linked folders.

    Returns:
        The files, and the folders without any image in them.
    """
    files = []
    visited: list[Path] = []

    def unlisted(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        left_out.append((name, f"folder cannot be listed ({error.strerror})", "check its rights"))
        closed.add(Path(name))

    closed: set[Path] = set()
    for folder, folders, names in os.walk(root, onerror=unlisted, followlinks=False):
        here = Path(folder)
        for name in sorted(folders):
            path = here / name
            if path.is_symlink() and is_plain(name) and not name.startswith("."):
                what, advice = "symbolic link to a folder", "not followed; copy the folder here"
                left_out.append((path.relative_to(root).as_posix(), what, advice))
            elif (name in NOT_CELLS or name.startswith(".")) and not (name == MASKS and here == root):
                left_out += _ignored_images(root, path)
        folders[:] = sorted(d for d in folders if d not in NOT_CELLS and not d.startswith("."))
        visited += [(here / name).relative_to(root) for name in folders if not (here / name).is_symlink()]
        files += [(here / name).relative_to(root) for name in names if not name.startswith(".")]
        hidden = [name for name in names if name.startswith(".") and not name.startswith("._") and _is_image(name)]
        if hidden and is_plain(shown := here.relative_to(root).as_posix()):
            left_out.append((shown, f"{len(hidden)} hidden images (names that begin with a dot)", "rename them"))
    full = {parent for file in files if _is_image(file.name) for parent in file.parents}
    bare = [f for f in visited if f not in full and f not in closed and is_plain(f.as_posix())]
    return sorted(files, key=lambda p: p.as_posix()), bare


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGES


def _ignored_images(root: Path, folder: Path) -> list[tuple[str, str, str]]:
    """Return a finding about a folder whose name keeps it from being read although it holds images."""
    if folder.name == "__MACOSX":  # the Finder's notes on files, under the files' names
        return []
    images = sum(_is_image(name) and not name.startswith("._") for _, _, names in os.walk(folder) for name in names)
    if not images or not is_plain(name := folder.relative_to(root).as_posix()):
        return []
    return [(f"{name}/", f"folder of {images} images is not read because of its name", "rename it if it holds cells")]
