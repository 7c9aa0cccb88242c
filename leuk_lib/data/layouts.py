"""Folder layouts: which level of folders is the class, the published part, the patient; and those of known sets."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal, NamedTuple, Protocol, cast, get_args

from leuk_lib.data.catalog import KnownSet, plain
from leuk_lib.runs.errors import LeukError

Role = Literal["class", "part", "fold", "patient", "slide", "magnification", "version", "source", "ignored"]
ROLES: tuple[str, ...] = get_args(Role)

_PARTS = {
    "train": "train", "training": "train", "tr": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test", "holdout": "test",
}  # fmt: skip
_PATTERNS: tuple[tuple[Role, str], ...] = (
    ("fold", r"(fold|split|cv)[ _-]?\d+"),
    ("patient", r"(patient|pat|subject|subj|case|donor|individual|person|uid)[ _-]?[a-z]?\d+|p\d{1,5}"),
    ("slide", r"(slide|smear|film)[ _-]?\d+|s\d{2,5}"),
    ("magnification", r"[hl]_(100|40|10)x_c[12]|(10|20|40|50|60|63|100)x"),
)
COPY = "processed copy of an original image"  # how the finding about one begins
_ORIGINAL = frozenset({"original", "originals", "raw", "unsegmented"})
_DERIVED = frozenset({"segmented", "segmentation", "segmentations", "augmented", "augmentation", "masked", "binary"})
# Words of a diagnosis or of a cell type: a level that holds them is the class where two readings are possible.
_CLASS_WORDS = frozenset(
    [
        "all",
        "aml",
        "apl",
        "apml",
        "cll",
        "cml",
        "mds",
        "mpn",
        "mm",
        "normal",
        "healthy",
        "control",
        "benign",
        "malignant",
        "early",
        "pre",
        "pro",
        "hem",
        "blast",
        "basophil",
        "eosinophil",
        "erythroblast",
        "ig",
        "immaturegranulocyte",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
        "lymphoblast",
        "myeloblast",
        "monoblast",
        "promyelocyte",
        "myelocyte",
        "metamyelocyte",
        "rbc",
        "wbc",
    ]
)


def part_of(name: str) -> str:
    """Return the published part that a folder's name means: "train", "validation", "test" (with its letter), or "".

    Example:
        >>> part_of("TRAIN"), part_of("Test-A"), part_of("C-NMC_training_data"), part_of("AML")
        ('train', 'test a', 'train', '')
    """
    words = re.findall(
        r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name)).casefold()
    )
    hits = [position for position, word in enumerate(words) if word in _PARTS]
    if not hits:
        fused = re.fullmatch(r"(train|test|val|valid)(ing|idation)?(set|data)?([a-d]|\d)?", plain(name))
        if not fused:
            return ""
        part = _PARTS[fused[1]]
        return f"{part} {fused[4]}" if fused[4] else part
    part, rest = _PARTS[words[hits[0]]], words[hits[0] + 1 :]
    return f"{part} {rest[0]}" if len(rest) == 1 and re.fullmatch(r"[a-d]|\d", rest[0]) else part


def role_of(name: str) -> Role | None:
    """Return the role that a folder's name states; None where it could be a class."""
    if part_of(name):
        return "part"
    text = unicodedata.normalize("NFC", name).strip().casefold()
    for role, pattern in _PATTERNS:
        if re.fullmatch(pattern, text):
            return role
    return "version" if text in _ORIGINAL | _DERIVED else None


class Place(NamedTuple):
    """What the folders of an image state; "" for what they do not.

    Attributes:
        label: Class.
        part: Published part or fold: "train", "validation", "test", "test a", "fold0".
        group: Patient, or slide where no level is the patient.
        external: External test set.
        left_out: Why the image is not used.
    """

    label: str = ""
    part: str = ""
    group: str = ""
    external: str = ""
    left_out: str = ""


class Layout(Protocol):
    """Maps an image's relative path to its place, and describes itself in lines for a person."""

    def place(self, relative: PurePath) -> Place:
        """Return what the folders of an image state."""

    def describe(self) -> list[str]:
        """Return one line per level of folders."""


@dataclass(frozen=True)
class KnownFolders:
    """The layout of a known set: its class names, in any spelling and at any depth, its parts and its test sets."""

    known: KnownSet

    def place(self, relative: PurePath) -> Place:
        """Return class, published part or fold, patient and external test set."""
        folders = relative.parts[:-1]
        levels = [(level, label) for level, folder in enumerate(folders) if (label := self.known.class_of(folder))]
        level, label = levels[-1] if levels else (len(folders), "")
        copies = [folder for folder in folders if folder.strip().casefold() in _DERIVED]
        if copies:
            return Place(left_out=f"{COPY} (folder {copies[0]})")
        below = folders[level + 1 : level + 2] if self.known.patients_below else ()
        if not below:  # people whom folders name by themselves
            roles = {role: folder for folder in reversed(folders) if (role := role_of(folder))}
            below = tuple(roles[role] for role in ("patient", "slide") if role in roles)[:1]
        if self.known.tests:
            tests = [test for folder in folders if (test := self.known.test_of(folder))]
            return Place(label=label, group="".join(below), external=tests[0] if tests else "")
        parts = [part for folder in folders if (part := part_of(folder))]
        folds = [plain(folder) for folder in folders if role_of(folder) == "fold"]
        return Place(label=label, part="".join(folds[:1] or parts[:1]), group="".join(below))

    def describe(self) -> list[str]:
        """Return how the set's folders are read, in lines for a person."""
        names = f"classes {', '.join(self.known.classes)} at any level"
        tests = f"; external test sets {', '.join(self.known.tests)}" if self.known.tests else ""
        people = "; the folders below a class are patients" if self.known.patients_below else ""
        return [f"folders of the known set {self.known.name}: {names}{tests}{people}"]


@dataclass(frozen=True)
class FolderLevels:
    """The roles of the folder levels below the data folder, and one spelling per class.

    Attributes:
        roles: The role of each level, outermost first. A file may lie less deep.
        spellings: Folder name of a class -> the name that is used, the commonest spelling.
        counts: Level -> folder name (as used) -> images.
        people: Folder name of a patient or slide -> the name that is used.
    """

    roles: tuple[Role, ...]
    spellings: Mapping[str, str]
    counts: tuple[Mapping[str, int], ...]
    people: Mapping[str, str] = field(default_factory=dict)

    def place(self, relative: PurePath) -> Place:
        """Return what the folders of an image state."""
        label = part = group = ""
        for role, name in zip(self.roles, relative.parts[:-1], strict=False):
            if role == "class":
                label = self.spellings.get(name, name)
            elif role == "part":
                part = part_of(name) or part or name  # fold_0 inside of a training folder
            elif role == "fold":
                part = part or plain(name)
            elif role == "patient" or (role == "slide" and "patient" not in self.roles):
                name = self.people.get(name, name)
                group = f"{group}/{name}" if group else name  # all slides of a patient are one group
            elif role == "version" and name.strip().casefold() in _DERIVED:
                return Place(left_out=f"{COPY} (folder {name})")
        return Place(label, part, group)

    @property
    def variants(self) -> dict[str, list[str]]:
        """Classes whose folders are spelled in several ways: name -> the other spellings."""
        return variants_of(self.spellings)

    @property
    def people_variants(self) -> dict[str, list[str]]:
        """Patients and slides whose folders are spelled in several ways: name -> the other spellings."""
        return variants_of(self.people)

    def describe(self) -> list[str]:
        """Return one line per level: its role, and its names with their numbers of images."""
        lines = []
        for level, (role, counts) in enumerate(zip(self.roles, self.counts, strict=True), start=1):
            shown = ", ".join(f"{name} {n}" for name, n in list(counts.items())[:12])
            more = f", … {len(counts)} in all" if len(counts) > 12 else ""
            meaning = {
                "class": "class", "part": "published part", "fold": "published fold", "patient": "patient",
                "slide": "slide", "magnification": "magnification", "version": "version of the image",
                "source": "source", "ignored": "not used",
            }[role]  # fmt: skip
            lines.append(f"folder level {level}: {meaning} ({shown}{more})")
        return lines


def parse_layout(text: str) -> tuple[Role, ...]:
    """Read roles from "part/class/patient"; "*" is a level that is not used.

    Raises:
        LeukError: For an unknown role, and where "class" does not stand exactly once.

    Example:
        >>> parse_layout("part/class/*")
        ('part', 'class', 'ignored')
    """
    names = ["ignored" if name in ("*", "") else name for name in text.strip("/").split("/")]
    for name in names:
        if name not in ROLES:
            raise LeukError(f"layout {text!r}: unknown level {name!r}; allowed: {', '.join(ROLES)}, *", exit_code=2)
    if names.count("class") != 1:
        raise LeukError(f"layout {text!r}: 'class' must stand in it exactly once, as in part/class", exit_code=2)
    return cast(tuple[Role, ...], tuple(names))


def infer_layout(images: Iterable[PurePath], where: str, layout: str = "", needs_class: bool = True) -> FolderLevels:
    """Find out which level of folders is the class, the part, the patient.

    A level whose names all name parts (train, Test-A, fold_0), patients (Patient_01), slides, magnifications or versions
    of an image (Original, Segmented) has that role. Of the other levels with several names the class is the one above
    where each inner folder lies in one outer folder (subtypes of a disease), else the one that holds known class names.

    Args:
        images: Paths of the image files, relative to the data folder.
        where: The data folder, for messages.
        layout: Roles that decide, such as "part/class/patient", or the number of the class level, 1 the outermost; "" to
            infer all.
        needs_class: Whether a level must be the class; otherwise only parts, patients and so on are found.

    Raises:
        LeukError: Where two readings are possible (the message names both and the option that decides), and for a layout
            that the folder does not have.
    """
    class_level = int(layout) if layout.isdecimal() else 0
    layout = "" if layout.isdecimal() else layout
    folders = [path.parts[:-1] for path in images]
    depth = max((len(parts) for parts in folders), default=0)
    names = [Counter(parts[level] for parts in folders if len(parts) > level) for level in range(depth)]
    if layout:
        given = parse_layout(layout)
        if len(given) > depth:
            raise LeukError(f"{where}: layout {layout!r} has {len(given)} levels, the folder has {depth}", exit_code=2)
        roles = [*given, *(["ignored"] * (depth - len(given)))]
    else:
        roles = [_role_of_level(counts) for counts in names]
        level = _class_level(roles, names, folders, where, class_level) if needs_class else None
        if level is not None and not class_level:
            _refuse_mixture(level, names[level], where)
        roles = [
            "class" if position == level else _other_role(role, position, level, names)
            for position, role in enumerate(roles)
        ]
    spellings = spellings_of(names[roles.index("class")]) if "class" in roles else {}
    people: dict[str, str] = {}
    for role, tally in zip(roles, names, strict=True):
        people |= spellings_of(tally) if role in ("patient", "slide") else {}
    counts = []
    for role, tally in zip(roles, names, strict=True):
        used = spellings if role == "class" else people if role in ("patient", "slide") else {}
        merged: Counter[str] = Counter()
        for name, n in tally.items():
            merged[used.get(name, name)] += n
        counts.append(dict(sorted(merged.items())))
    return FolderLevels(cast(tuple[Role, ...], tuple(roles)), spellings, tuple(counts), people)


def _role_of_level(counts: Mapping[str, int]) -> str:
    """Return the role that all names of a level share; "wrapper" for a single name, "" for a possible class level."""
    roles = {role_of(name) for name in counts}
    if len(roles) == 1 and (role := next(iter(roles))):
        return role
    if None not in roles and roles <= {"part", "fold"}:
        return "part"
    return "wrapper" if len(counts) == 1 else ""


def _class_level(
    roles: Sequence[str], names: Sequence[Mapping[str, int]], folders: Sequence[tuple[str, ...]], where: str, given: int
) -> int | None:
    if given:
        if given > max(1, len(roles)):
            raise LeukError(
                f"{where}: layout {given}, but the folder has {len(roles)} level(s) of folders", exit_code=2
            )
        return given - 1 if roles else None
    candidates = [level for level, role in enumerate(roles) if role == ""]
    if not candidates:  # one class, or names that all mean something else
        candidates = [level for level, role in enumerate(roles) if role == "wrapper"][-1:]
    while len(candidates) > 1:
        upper, lower = candidates[0], candidates[1]
        parents: dict[str, set[str]] = defaultdict(set)
        for parts in folders:
            if len(parts) > lower:
                parents[plain(parts[lower])].add(plain(parts[upper]))
        shared = sum(len(above) > 1 for above in parents.values())
        known = [_has_class_words(names[level]) for level in (upper, lower)]
        if not shared and (known[0] or not known[1]):  # each inner folder in one outer: subtypes or people of a class
            candidates.remove(lower)
            continue
        if not shared or known[0] == known[1]:
            first, second = (", ".join(sorted(names[level])[:4]) for level in (upper, lower))
            raise LeukError(
                f"{where}: the class can be folder level {upper + 1} ({first}) or level {lower + 1} ({second}); say which: "
                f"--layout {upper + 1} or --layout {lower + 1}",
                exit_code=2,
            )
        candidates.remove(lower if known[0] else upper)
    return candidates[0] if candidates else None


def _refuse_mixture(level: int, counts: Mapping[str, int], where: str) -> None:
    """Refuse a class level that also holds parts or patients, as in ``train/AML``, ``test/AML`` and ``CML``."""
    # "Segmented" may also be a neutrophil's type.
    strange = sorted(name for name in counts if role_of(name) not in (None, "version"))
    if strange:
        classes = ", ".join(sorted(set(counts) - set(strange))[:4])
        raise LeukError(
            f"{where}: folder level {level + 1} holds classes ({classes}) and names that mean {role_of(strange[0])}s "
            f"({', '.join(strange[:4])}); move the images so that each level means one thing, or say --layout {level + 1} "
            "if all of these are classes",
            exit_code=2,
        )


def _has_class_words(names: Iterable[str]) -> bool:
    return any(not {plain(name), plain(name).rstrip("s")}.isdisjoint(_CLASS_WORDS) for name in names)


def _other_role(role: str, position: int, level: int | None, names: Sequence[Mapping[str, int]]) -> str:
    if role in ROLES:
        return role
    if position != level and (stated := Counter(filter(None, map(role_of, names[position])))):
        commonest, n = stated.most_common(1)[0]
        if 2 * n >= len(names[position]):  # train, test, unlabeled: parts all the same
            return commonest
    if role == "" and level is not None and position < level and len(names[position]) > 1:
        return "source"
    return "ignored"


def same_name(name: str) -> str:
    """Return what names of classes, patients and slides are compared by: no case, blanks, "_", Unicode form, and no ".0".

    Example:
        >>> same_name(" Acute_myeloid "), same_name("1.0"), same_name("CD3+")
        ('acute myeloid', '1', 'cd3+')
    """
    text = " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split()).casefold()
    return re.sub(r"^(\d+)\.0+$", r"\1", text)  # a number that a table program wrote


def spellings_of(counts: Mapping[str, int], key: Callable[[str], str] = same_name) -> dict[str, str]:
    """Map names to the commonest spelling of those with the same key, without blanks at its ends and in Unicode form C."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        groups[key(name)].append(name)
    spellings = {}
    for same in groups.values():
        best = min(same, key=lambda name: (-counts[name], name))
        for name in same:
            spellings[name] = unicodedata.normalize("NFC", best).strip()
    return spellings


def variants_of(spellings: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the other spellings of each name that has several; ``spellings`` is that of ``spellings_of``."""
    others: dict[str, list[str]] = defaultdict(list)
    for spelling, name in spellings.items():
        if spelling != name:
            others[name].append(spelling)
    return dict(others)
