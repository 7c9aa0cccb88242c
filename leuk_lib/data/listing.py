"""List a data folder: which files are cells, with their class, group, mask and external test set. Reads no pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from leuk_lib.data.catalog import KNOWN_SETS, KnownSet, home, plain
from leuk_lib.data.file_names import NO_PATTERN, NamePattern, describe, parse_pattern, recognise, states
from leuk_lib.data.findings import Finding
from leuk_lib.data.image_files import IMAGES, is_inside
from leuk_lib.data.layouts import (
    COPY,
    FolderLevels,
    KnownFolders,
    Layout,
    infer_layout,
    part_of,
    spellings_of,
    variants_of,
)
from leuk_lib.data.readers import FOLDERS, choose
from leuk_lib.data.readers.reader import AnnotationReader, Annotations, CellReader, Options, Reader
from leuk_lib.data.readers.table import header_of
from leuk_lib.data.tables import (
    EXTRA,
    GROUP_COLUMNS,
    MANIFEST,
    METADATA,
    image_keys,
    is_plain,
    path_key,
    read_groups,
    read_manifest,
)
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.numbers import parse_number
from leuk_lib.runs.params import nearest
from leuk_lib.runs.paths import user_path

MASKS = "masks"
NOT_CELLS = {MASKS, "LICENSES", "licenses", "__MACOSX"}
NO_CLASS = "no class"  # how the finding about an image without one begins
MISSING = ("in the manifest but not in the folder", "restore the file or delete its row")  # finding, advice
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
        label2: Class according to a second expert, or "".
        label3: Class according to a third reading, or "".
        um_per_px: Micrometres per pixel, a positive number, or "".
        source: Where the image was cut out or taken from, or "".
    """

    path: str
    label: str
    group: str = ""
    mask: str = ""
    external: str = ""
    part: str = ""
    ambiguous: tuple[tuple[str, str], ...] = ()
    listed: bool = False
    label2: str = ""
    label3: str = ""
    um_per_px: str = ""
    source: str = ""


@dataclass(frozen=True)
class Listing:
    """The images of a data folder.

    Attributes:
        root: The folder, resolved.
        entries: Sorted by path.
        left_out: (path, finding, advice) of the files that are not used. These texts are part of the fingerprint.
        missing: Sorted paths in the manifest at which there is no file; ``MISSING`` says so of each.
        understood: How the folder was read, in lines for a person: the role of each level of folders, what was ignored.
        notices: (path, finding, advice) about files that are used.
        grouped_by: Where given groups come from: "manifest" (or ``metadata.csv``), "folder names", "file names", …
        name: Name of the data set; "" for that of the folder.
        findings: Of readers, tables and file names.
    """

    root: Path
    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str, str], ...]
    understood: tuple[str, ...] = ()
    notices: tuple[tuple[str, str, str], ...] = ()
    grouped_by: str = "manifest"
    name: str = ""
    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()


def list_folder(
    path: str | Path,
    class_map: Mapping[str, str] | None = None,
    layout: str = "",
    *,
    reader: str = "",
    reader_options: Mapping[str, str] | None = None,
    pattern: str = "",
) -> Listing:
    """List the images of a data set.

    Data that are not one image file per cell are converted into a folder once, and the folder is listed
    (``conversion``). Otherwise classes are folders (``layouts``), or what ``manifest.csv`` in or above the data folder,
    the table of a reader or the file names (``file_names``) state, in this order; each of them wins over folder names.
    Folders may also name published parts, patients and slides. A manifest may also name each image's mask, group and
    external test set, which is never trained on.
    ``metadata.csv`` may name patients or slides by file. Masks that no manifest names are ``masks/<same path>.png`` or
    ``masks/<same name>.png``. A bare name that several images have identifies neither mask nor group; such entries
    are marked ``ambiguous``.

    Args:
        path: A folder, a file that a reader recognises, or the name of a known set, which lies in ``data/<name>/``
            (``catalog.home``).
        class_map: Class -> new name. Several classes may get one name; "" drops the class.
        layout: The roles of the folder levels, such as "part/class/patient", or the number of the class level; "" to
            infer them (``layouts.infer_layout``). Known sets have their own.
        reader: Name of a reader (``readers``), "folders" for none, or "" for the one that recognises the data.
        reader_options: Options of the reader.
        pattern: Named pattern or expression for file names (``file_names``), or "" for an unmistakable one.

    Raises:
        LeukError: For a missing folder, a folder without images, an unreadable table, folders that can be read in two
            ways, several readers that fit, and a ``class_map`` with a class that does not exist.
    """
    if not str(path).strip():
        raise LeukError("data set '': is empty; name a known set or a folder of images", exit_code=2)
    known = KNOWN_SETS.get(str(path))
    root = _locate(path, known)
    if known:
        reader, pattern = reader or known.reader, pattern or known.pattern
    chosen = choose(root, reader, reader_options)
    defaults = known.class_map if known else {}
    if chosen and isinstance(chosen[0], CellReader):
        return _list_converted(root, chosen[0], chosen[1], class_map, layout, pattern, defaults)
    listing = _list_images(root, known, chosen, layout, pattern)
    if not listing.entries:
        levels = "; ".join(line for line in listing.understood if line.startswith("folder level"))
        if any(what.startswith(NO_CLASS) for _, what, _ in listing.left_out) and levels and not layout:
            raise LeukError(
                f"data set {root}: no folder level is the class ({levels}); say which one is, as in --layout 1",
                exit_code=2,
            )
        if any(what.startswith(COPY) for _, what, _ in listing.left_out):
            raise LeukError(
                f"data set {root}: all its images are processed copies ({levels}); add the originals, or say --layout with "
                "* for this level, as in */class, to use the copies",
                exit_code=2,
            )
        why = Counter(what for name, what, _ in listing.left_out if _is_image(name)).most_common(1)
        raise LeukError(
            f"data set {root}: no image in class folders ({', '.join(sorted(IMAGES))})"
            + (f", and {why[0][1]} left out ({why[0][0]})" if why else "")
            + "; see "
            + (f"`leuk data list {known.name}`" if known else "data/README.md"),
            exit_code=2,
        )
    return _with_classes(listing, class_map or {}, defaults, root)


def list_content(path: str | Path) -> Listing:
    """List the image files of a folder or known set whatever their classes are, for the fingerprint.

    The outermost folder stands for the class, whatever the layout; nothing is read from tables of readers and from file
    names. Images without a class are in ``left_out``, with a text that begins with ``NO_CLASS``.

    Raises:
        LeukError: For a missing folder and an unreadable manifest.
    """
    known = KNOWN_SETS.get(str(path))
    return _list_images(_locate(path, known), known, None, "1", NO_PATTERN)


def _list_images(
    root: Path, known: KnownSet | None, chosen: tuple[Reader, Options] | None, layout: str, pattern: str
) -> Listing:
    rows = read_manifest(root)
    entries: list[Entry] = []
    left_out: list[tuple[str, str, str]] = []
    listed: set[str] = set()
    sources: set[str] = set()
    notices: list[tuple[str, str, str]] = []
    files, bare = _walk(root, left_out)
    has_masks = (root / MASKS).is_dir()
    if os.path.lexists(root / MASKS) and not has_masks:
        raise LeukError(f"{root / MASKS}: is no folder; restore it, or remove it to do without masks", exit_code=2)
    key_counts = Counter(key for file in files if file.suffix.lower() in IMAGES for key in image_keys(file))
    groups, unused = read_groups(root, key_counts)
    if unused:
        what = f"{len(unused)} of its rows fit no image, such as {unused[0]!r}"
        notices.append((METADATA, what, "their patients or slides are unknown; give each image's path or file name"))
    images = [file for file in files if file.suffix.lower() in IMAGES and is_plain(file.as_posix())]
    stated = _stated(root, images, chosen, pattern, rows, known)
    unlisted = [file for file in images if not stated.row(file.as_posix()).get("label")]
    levels: Layout
    if known:
        levels = KnownFolders(known)
    elif unlisted or not stated.labels:
        levels = infer_layout(unlisted, str(root), layout)
    else:
        levels = _beside_classes(images, str(root), layout)
    if isinstance(levels, FolderLevels) and not layout and stated.only_by_names(levels):
        levels = infer_layout(images, str(root), needs_class=False)
    # A set that is not known to have folders of patients: a table is surer than a folder that looks like one.
    folders_first = known is None or known.patients_below
    for relative in files:
        name = relative.as_posix()
        if not is_plain(name):
            what = "file name has a line break or a control character" if _is_text(name) else "file name is not UTF-8"
            left_out.append((ascii(name), what, "rename it"))
            continue
        if relative.suffix.lower() not in IMAGES:
            if relative.name not in (MANIFEST, METADATA) and len(relative.parts) > 1 and name not in stated.tables:
                left_out.append((name, "not an image file", "nothing to do if this is meant; it is ignored"))
            continue
        if (root / relative).is_symlink() and not is_inside(root / relative, root):
            left_out.append((name, "symbolic link out of the folder", "copy the file into the folder"))
            continue
        in_manifest = path_key(name) in rows
        listed.add(path_key(name))
        row = stated.row(name)
        place = levels.place(relative)
        if name in stated.left_out and not in_manifest:
            left_out.append((name, stated.left_out[name], "nothing to do if this is meant; it is ignored"))
            continue
        if place.left_out and not in_manifest:
            left_out.append((name, place.left_out, "nothing to do if this is meant; it is ignored"))
            continue
        label, external = stated.label(name, place.label), row.get("external") or place.external
        if not label:
            allowed = f" of {known.name} ({', '.join(known.classes)})" if known else ""
            left_out.append((name, f"{NO_CLASS}{allowed}", "move it into a class folder or list it in manifest.csv"))
            continue
        ambiguous = []
        mask, group = _on_disk(root, row.get("mask", "")), row.get("group", "")
        if not mask and has_masks:
            mask, is_ambiguous = _look_up(relative, key_counts, lambda key: _masks(root, key))
            if is_ambiguous:
                own = f"{MASKS}/{relative.with_suffix('.png').as_posix()}"
                ambiguous.append((AMBIGUOUS_MASK, f"used without a mask; name it by the image's path: {own}"))
        if mask and not is_inside(root / mask, root):
            left_out.append((name, "its mask lies outside the folder", "copy the mask into the folder"))
            continue
        source = stated.source(name, "group") if group else "manifest"
        if not group and place.group and folders_first:
            group, source = place.group, "folder names"
        if not group:
            group, is_ambiguous = _look_up(relative, key_counts, lambda key: groups.get(key, ()))
            if is_ambiguous and not place.group:
                advice = f"used without a patient or slide; give its path and one group there: {name}"
                ambiguous.append((AMBIGUOUS_GROUP, advice))
        if not group and place.group:
            group, source = place.group, "folder names"
        if group:
            sources.add(source)
        part = part_of(row.get("part", "")) or row.get("part") or place.part
        extra = {column: row.get(column, "") for column in EXTRA}
        _check_scale(name, extra["um_per_px"])
        entries.append(Entry(name, label, group, mask, external, part, tuple(ambiguous), in_manifest, **extra))
    entries, respelled = _one_spelling(entries)
    if unlisted:
        notices += _without_images(bare, levels)
    notices += _unused_masks(root, {entry.mask for entry in entries})
    notices += _spellings(levels)
    if not layout or layout.isdecimal():
        notices += _unused_levels(levels, entries)
    described = levels.describe() if unlisted or stated.labels else []
    if not unlisted:
        described = [line.replace(": class (", ": class, as a check only (") for line in described]
    return Listing(
        root, tuple(entries), tuple(left_out), (*stated.notes, *described), tuple(notices), " and ".join(sorted(sources, reverse=True)) or "manifest",
        findings=(*stated.findings, *stated.contradictions(), *respelled, *_unread_tables(root, files, stated.tables)),
        missing=tuple(sorted(name for name in rows if name not in listed)),
    )  # fmt: skip


def _beside_classes(images: list[Path], where: str, layout: str) -> FolderLevels:
    """Infer the folder levels of images whose classes are known otherwise; a class level only serves as a check."""
    try:
        return infer_layout(images, where, layout)
    except LeukError:
        if layout:
            raise
        return infer_layout(images, where, needs_class=False)  # which level is the class does not matter


def _locate(path: str | Path, known: KnownSet | None) -> Path:
    root = home(known) if known else user_path(path)
    try:
        if root.exists():
            return root.resolve()
    except OSError as error:  # a name that is too long
        raise LeukError(f"data set {str(path)[:80]!r}…: {error.strerror}", exit_code=2) from error
    if known:
        raise LeukError(f"data set {known.name}: nothing in {root}; {known.advice}", exit_code=2)
    raise LeukError(
        f"data set {str(path)!r}: no such folder, and not a known name (smear, {', '.join(KNOWN_SETS)}); "
        "see data/README.md",
        exit_code=2,
    )


def _list_converted(
    source: Path,
    reader: CellReader,
    options: Options,
    class_map: Mapping[str, str] | None,
    layout: str,
    pattern: str,
    defaults: Mapping[str, str],
) -> Listing:
    """List the cells that a reader made of data that are not one image file per cell."""
    for name, value in (("layout", layout), ("pattern", pattern)):
        if value:
            raise LeukError(
                f"{source}: reader {reader.name} gives class, group and part, so {name} {value!r} means nothing "
                f"(--reader {FOLDERS} reads class folders)",
                exit_code=2,
            )
    from leuk_lib.data.conversion import about, converted, findings_of

    folder = converted(source, reader, options)
    listing = list_folder(folder, reader=FOLDERS, pattern=NO_PATTERN)
    content = about(folder)
    parts = Counter(entry.part or entry.external for entry in listing.entries)
    counts = ", ".join(f"{part} {n}" for part, n in sorted(parts.items()) if part)
    understood = [
        f"reader {reader.name} ({reader.title}): {content['cells']} cells of {source.name}"
        + (f" ({counts})" if counts else ""),
        f"converted once into {folder}",
        *content["notes"],
    ]
    found = findings_of(folder)
    if found:
        understood.append(f"findings of the reader: {len(found)}")
    read = replace(
        listing, understood=tuple(understood), name=source.stem if source.is_file() else source.name,
        grouped_by="the reader" if any(entry.group for entry in listing.entries) else listing.grouped_by,
        findings=(*found, *listing.findings),
    )  # fmt: skip
    return _with_classes(read, class_map or {}, defaults, source)


@dataclass
class _Stated:
    """What manifest, table and file names state about each image; an earlier one wins."""

    manifest: Mapping[str, Mapping[str, str]]
    table: Mapping[str, Mapping[str, str]]
    names: Mapping[str, Mapping[str, str]]
    automatic: bool  # the pattern of the names was not asked for: the folders decide on the class
    reader: str
    left_out: Mapping[str, str]
    tables: frozenset[str]
    notes: list[str]
    findings: list[Finding]
    _differ: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _first: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The set's own words for its classes, as they stand in the names; folders may use them too.
        self._words = {
            plain(row["raw"]): row["label"]
            for row in self.names.values()
            if row.get("raw", row.get("label")) != row.get("label")
        }
        self._classes = {
            plain(row["label"]) for rows in (self.table, self.names) for row in rows.values() if row.get("label")
        }

    @property
    def labels(self) -> bool:
        """Whether a table or the file names were asked for classes and state some."""
        rows = [*self.table.values(), *([] if self.automatic else self.names.values())]
        return any(row.get("label") for row in rows)

    def only_by_names(self, levels: FolderLevels) -> bool:
        """Return whether all images lie in one folder and unmistakable names give each of them its class."""
        place = levels.roles.index("class") if "class" in levels.roles else -1
        classes = {row.get("label", "") for row in self.names.values()}
        return (
            self.automatic and place >= 0 and len(levels.counts[place]) == 1 and len(classes) > 1 and "" not in classes
        )

    def row(self, name: str) -> dict[str, str]:
        """Return what is stated about an image, without a class that only unasked file names give."""
        out: dict[str, str] = {}
        for stated in (self.names.get(name, {}), self.table.get(name, {}), self.manifest.get(path_key(name), {})):
            out |= {key: value for key, value in stated.items() if value}
        if self.automatic and self.source(name, "label") == "file names":
            out.pop("label", None)
        return out

    def source(self, name: str, column: str) -> str:
        """Return where the value of a column comes from, in a word for a person."""
        if self.manifest.get(path_key(name), {}).get(column):
            return "manifest"
        return f"table ({self.reader})" if self.table.get(name, {}).get(column) else "file names"

    def label(self, name: str, folder: str) -> str:
        """Return the class of an image whose folders name ``folder``, or ""."""
        label = self.row(name).get("label", "")
        if self.manifest.get(path_key(name), {}).get("label"):
            return label
        folder = self._words.get(plain(folder), folder)
        asked = label
        label = label or self.names.get(name, {}).get("label", "")
        if not label or not folder or plain(label) == plain(folder):
            return label or folder
        if plain(folder) in self._classes:
            key = (self.source(name, "label"), label, folder)
            self._differ[key] += 1
            self._first.setdefault(key, name)
        return asked or folder

    def contradictions(self) -> list[Finding]:
        """Return a finding for each pair of classes in which folders and table or names contradict each other."""
        used = "the folder is used" if self.automatic else "the first is used"
        return [
            Finding(
                self._first[key],
                f"class {key[1]} in {key[0]}, folder {key[2]} ({n} files)",
                "warning",
                f"{used}; find out which is right",
            )
            for key, n in sorted(self._differ.items())
        ]


def _stated(
    root: Path,
    images: list[Path],
    chosen: tuple[Reader, Options] | None,
    pattern: str,
    manifest: Mapping[str, Mapping[str, str]],
    known: KnownSet | None,
) -> _Stated:
    """Read the manifest, the tables of an annotation reader, and the file names."""
    notes = [f"manifest: labels of {len(manifest)} files"] if manifest else []
    table, tables = Annotations({}), frozenset[str]()
    if chosen and isinstance(chosen[0], AnnotationReader):
        table = chosen[0].annotations(root, images, chosen[1])
        if known:  # the table may use the set's own words for its classes
            table = table._replace(rows={name: _in_words_of(known, row) for name, row in table.rows.items()})
        files = [file for file in chosen[0].sources(root, chosen[1]) if file.is_relative_to(root)]
        tables = frozenset(file.relative_to(root).as_posix() for file in files)
        labels = Counter(row["label"] for row in table.rows.values() if row.get("label"))
        counts = ", ".join(f"{name} {n}" for name, n in sorted(labels.items()))
        notes.append(
            f"reader {chosen[0].name} ({chosen[0].title}): {len(table.rows)} files" + (f": {counts}" if counts else "")
        )
        notes += table.notes
    asked = parse_pattern(pattern) if pattern and pattern != NO_PATTERN else None
    described = all({"label", "group"} <= _filled(manifest.get(path_key(image.as_posix()), {})) for image in images)
    by_table = {*table.rows, *table.left_out}
    others = [image for image in images if image.as_posix() not in by_table]
    names, found = _read_names(root, others, asked, described or pattern == NO_PATTERN, notes)
    return _Stated(
        manifest=manifest, table=table.rows, names=names, automatic=asked is None,
        reader=chosen[0].name if chosen else "", left_out=table.left_out, tables=tables, notes=notes,
        findings=[*table.findings, *found],
    )  # fmt: skip


def _in_words_of(known: KnownSet, row: Mapping[str, str]) -> dict[str, str]:
    labels = ("label", "label2", "label3")
    return {key: known.class_of(value) or value if key in labels else value for key, value in row.items()}


def _filled(row: Mapping[str, str]) -> set[str]:
    return {column for column, value in row.items() if value}


def _read_names(
    root: Path, images: list[Path], asked: NamePattern | None, off: bool, notes: list[str]
) -> tuple[dict[str, dict[str, str]], list[Finding]]:
    """Read the file names by the pattern that was asked for, or by one that is unmistakable."""
    found, offered = (asked, []) if asked or off else recognise(images)
    notes += [
        f"{n} of {len(images)} file names fit {pattern.name} ({pattern.title}); --pattern {pattern.name} reads them"
        for pattern, n in offered
    ]
    if found is None or not images:
        advice = "classes, patients or slides that they state are not used; say --pattern {0}, or --pattern none"
        return {}, [
            Finding(
                ".",
                f"{n} of {len(images)} file names fit the pattern {pattern.name}",
                "warning",
                advice.format(pattern.name),
            )
            for pattern, n in offered
            if pattern.unmistakable
        ]
    rows, others = states(found, images)
    if not rows:
        example = f"; it fits names such as {found.example}" if found.example else ""
        raise LeukError(f"{root}: pattern {found.name!r} fits none of {len(images)} image names{example}", exit_code=2)
    notes.append(describe(found, rows))
    advice = "used as its folders say; rename it, or change the pattern"
    return rows, [Finding(name, f"name does not fit the pattern {found.name}", "warning", advice) for name in others]


def _check_scale(name: str, text: str) -> None:
    try:
        good = not text or 0 < parse_number(text) < float("inf")
    except ValueError:
        good = False
    if not good:
        raise LeukError(f"{name}: um_per_px {text!r} must be a positive number", exit_code=2)


def _spellings(levels: Layout) -> list[tuple[str, str, str]]:
    variants = levels.variants if isinstance(levels, FolderLevels) else {}
    return [
        (
            f"{name}/",
            f"class folder also spelled {', '.join(map(repr, others))}",
            "read as one class; rename the folders",
        )
        for name, others in sorted(variants.items())
    ] + [
        (
            f"{name}/",
            f"patient or slide also spelled {', '.join(map(repr, others))}",
            "read as one group; rename the folders, or list their groups in manifest.csv if they are two",
        )
        for name, others in sorted((levels.people_variants if isinstance(levels, FolderLevels) else {}).items())
    ]


def _one_spelling(entries: list[Entry]) -> tuple[list[Entry], list[Finding]]:
    """Give classes, and patients or slides, one spelling each where tables or names spell them in several ways."""
    labels = Counter(name for entry in entries for name in (entry.label, entry.label2, entry.label3) if name)
    groups = Counter(entry.group for entry in entries if entry.group)
    findings = []
    spelled = []
    for counts, what in ((labels, "class"), (groups, "patient or slide")):
        spelled.append(spellings_of(counts))
        for best, others in sorted(variants_of(spelled[-1]).items()):
            also = f"{what} also spelled {', '.join(sorted(map(repr, others)))}"
            findings.append(Finding(best, also, "warning", "read as one; correct the table"))
    if findings:
        of, people = spelled
        entries = [
            replace(
                entry,
                label=of.get(entry.label, entry.label),
                label2=of.get(entry.label2, entry.label2),
                label3=of.get(entry.label3, entry.label3),
                group=people.get(entry.group, entry.group),
            )
            for entry in entries
        ]
    return entries, findings


def _unread_tables(root: Path, files: Iterable[Path], used: Collection[str]) -> list[Finding]:
    """Find tables in the data folder that are not read although they have a column for patients or slides."""
    findings = []
    for file in files:
        if (
            file.suffix.lower() in (".csv", ".tsv")
            and (root / file).is_file()
            and file.name not in (MANIFEST, METADATA)
            and is_plain(str(file))
        ):
            columns = {name.casefold().replace(" ", "_"): name for name in header_of(root / file)}
            if file.as_posix() not in used and (people := [columns[name] for name in GROUP_COLUMNS if name in columns]):
                advice = f"--reader table --option table={file.as_posix()} --option name=… --option group={people[0]} reads it"
                what = f"table with the column {people[0]} is not read"
                findings.append(Finding(file.as_posix(), what, "warning", advice))
    return findings


def _unused_levels(levels: Layout, entries: Iterable[Entry]) -> list[tuple[str, str, str]]:
    """Find levels of folders that may be patients and are not used, where cells have no patient or slide."""
    if not isinstance(levels, FolderLevels) or "class" not in levels.roles:
        return []
    if all(entry.group for entry in entries) and "slide" not in levels.roles:
        return []
    notices = []
    for level, (role, counts) in enumerate(zip(levels.roles, levels.counts, strict=True)):
        if role in ("ignored", "source") and len(counts) > 1:
            roles = ["*" if other == "ignored" else other for other in levels.roles]
            roles[level] = "patient"
            what = f"{len(counts)} folders of level {level + 1} are not used, such as {next(iter(counts))}"
            advice = "if they are patients or slides, cells of one come into several parts of a split"
            as_meant = "/".join(levels.roles).replace("ignored", "*")
            notices.append((".", what, f"{advice}: say --layout {'/'.join(roles)}, otherwise --layout {as_meant}"))
    return notices


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


def _with_classes(listing: Listing, class_map: Mapping[str, str], defaults: Mapping[str, str], root: Path) -> Listing:
    """Rename classes: as ``class_map`` says, and else as a known set merges them where they are present."""
    present = {entry.label for entry in listing.entries}
    merged = {old: new for old, new in defaults.items() if old in present and old not in class_map}
    entries = tuple(_rename_classes(listing.entries, {**merged, **class_map}, root))
    lines = tuple(
        f"class {old} counts as {new}; class_map with {old}: {old} keeps it, with {old}: '' leaves it out"
        for old, new in merged.items()
    )
    dropped = Counter(entry.label for entry in listing.entries if not class_map.get(entry.label, entry.label))
    lines += tuple(f"class {name} is left out by class_map: {n} cells" for name, n in sorted(dropped.items()))
    return replace(listing, entries=entries, understood=(*listing.understood, *lines))


def _rename_classes(entries: Iterable[Entry], class_map: Mapping[str, str], root: Path) -> list[Entry]:
    entries = list(entries)
    present = {entry.label for entry in entries}
    for name in class_map:
        if name not in present:
            raise LeukError(f"class_map: no class {name!r} in {root}; {nearest(name, present)}", exit_code=2)
        if not is_plain(class_map[name]):
            raise LeukError(
                f"class_map: class {class_map[name]!r} holds a line break or a control character; choose another name",
                exit_code=2,
            )
    renamed = [
        replace(
            entry,
            label=class_map.get(entry.label, entry.label),
            # A class that is dropped stays visible as another expert's opinion.
            label2=class_map.get(entry.label2) or entry.label2,
            label3=class_map.get(entry.label3) or entry.label3,
        )
        for entry in entries
    ]
    return [entry for entry in renamed if entry.label]


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
        below = here.relative_to(root)
        visited += [below / name for name in folders if not (here / name).is_symlink()]
        files += [below / name for name in names if not name.startswith(".")]
        hidden = [name for name in names if name.startswith(".") and not name.startswith("._") and _is_image(name)]
        if hidden and is_plain(shown := below.as_posix()):
            left_out.append((shown, f"{len(hidden)} hidden images (names that begin with a dot)", "rename them"))
    holding = {file.parent for file in files if _is_image(file.name)}
    full = holding.union(*(folder.parents for folder in holding))
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
