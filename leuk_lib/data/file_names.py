"""What file names of published sets state: class, patient, slide, part; by a named pattern or by one of the user's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from leuk_lib.data.layouts import part_of
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest

NO_PATTERN = "none"  # as --pattern: read nothing from file names
OFFERED = 0.9  # fraction of names that must fit a pattern before it is offered
NOTICED = 0.1  # the same for an unmistakable pattern
FIELDS = ("label", "patient", "slide", "part", "external", "label2")


@dataclass(frozen=True)
class NamePattern:
    """What the names of a set's image files state.

    Attributes:
        name: Word for ``--pattern``, or the expression itself.
        title: What it states, in a few words.
        expression: Regular expression for a whole file name, with or without its suffix, whose groups are named by
            ``FIELDS``. With a "/" in it, it is for the path from the data folder.
        classes: Label in the name, in lower case -> class; other labels are classes as they are.
        unmistakable: Whether a folder in which all names fit is read by it without being asked.
        example: A name that fits.
    """

    name: str
    title: str
    expression: str
    classes: Mapping[str, str] = field(default_factory=dict)
    unmistakable: bool = False
    example: str = ""

    def read(self, relative: PurePath) -> dict[str, str] | None:
        """Return what the name of an image states; None if the pattern does not fit.

        Returns:
            Any of label (the class), raw (the label as it stands in the name), group (the patient, else the slide),
            part, external and label2.
        """
        name = relative.as_posix() if "/" in self.expression else relative.name
        texts = (name, name[: len(name) - len(relative.suffix)])
        found = next((hit for text in texts if (hit := re.fullmatch(self.expression, text))), None)
        if found is None:
            return None
        stated = {key: value.strip() for key, value in found.groupdict().items() if value}
        out: dict[str, str] = {key: stated[key] for key in ("external", "label2") if key in stated}
        if raw := stated.get("label", ""):
            out |= {"raw": raw, "label": self.classes.get(raw.casefold(), raw)}
        if group := stated.get("patient") or stated.get("slide"):
            out["group"] = group
        if part := stated.get("part"):
            out["part"] = part_of(part) or part
        return out


_PBC = {
    "ba": "basophil", "eo": "eosinophil", "erb": "erythroblast", "ig": "immature granulocyte", "mmy": "metamyelocyte",
    "my": "myelocyte", "pmy": "promyelocyte", "ly": "lymphocyte", "mo": "monocyte", "neutrophil": "neutrophil",
    "bne": "band neutrophil", "sne": "segmented neutrophil", "platelet": "platelet",
}  # fmt: skip
_KNOWN = (
    NamePattern(
        "cnmc", "C-NMC 2019: subject and class", r"UID_(?P<patient>H?\d+)_\d+_\d+_(?P<label>all|hem)\.\w+",
        {"all": "ALL", "hem": "normal"}, True, "UID_11_10_1_all.bmp",
    ),
    NamePattern(
        "leukemia-attri", "LeukemiaAttri: slide and diagnosis",
        r"(?i)(?P<slide>[^_]+)_[^_]+_(?:10{1,3}|400?)x?_(?P<label>ALL|AML|APML|CLL|CML)\.\w+",
        {name.casefold(): name for name in ("ALL", "AML", "APML", "CLL", "CML")}, True, "12_3_100X_AML.png",
    ),
    NamePattern(
        "pbc", "PBC: the finer cell types, such as band and segmented neutrophils",
        rf"(?i)(?P<label>{'|'.join(_PBC)})_\d+\.\w+", _PBC, False, "BNE_495078.jpg",
    ),
    NamePattern(
        "mp-idb", "MP-IDB: the patient, a number before the first -", r"(?P<patient>\d+)-.+", {}, False,
        "1305121398-0001-R.jpg",
    ),
    NamePattern(
        "all-idb2", "ALL-IDB2: blast or normal", r"(?i)Im\d{3}_(?P<label>[01])\.\w+",
        {"1": "blast", "0": "normal"}, True, "Im001_1.tif",
    ),
)  # fmt: skip
PATTERNS: dict[str, NamePattern] = {pattern.name: pattern for pattern in _KNOWN}


def parse_pattern(text: str) -> NamePattern:
    r"""Return a named pattern, or that of a regular expression with named groups.

    Raises:
        LeukError: For an unknown name, an expression that is none, and groups that mean nothing.

    Example:
        >>> parse_pattern(r"(?P<label>[A-Z]+)_p(?P<patient>\d+)_.*").read(PurePath("x/AML_p7_0001.png"))["group"]
        '7'
    """
    if text in PATTERNS:
        return PATTERNS[text]
    try:
        groups = list(re.compile(text).groupindex)
    except re.error as error:
        raise LeukError(f"pattern {text!r}: no regular expression ({error})", exit_code=2) from error
    for group in groups:
        if group not in FIELDS:
            raise LeukError(f"pattern {text!r}: no group {group!r}; {nearest(group, FIELDS)}", exit_code=2)
    if not groups:
        raise LeukError(
            f"pattern {text!r}: neither a named pattern ({', '.join(PATTERNS)}) nor an expression with a named group "
            f"such as (?P<label>…); groups: {', '.join(FIELDS)}",
            exit_code=2,
        )
    return NamePattern(text, "file names", text)


def states(pattern: NamePattern, images: Iterable[PurePath]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return what the names of images state, by path, and the paths that the pattern does not fit."""
    rows, others = {}, []
    for image in images:
        stated = pattern.read(image)
        if stated is None:
            others.append(image.as_posix())
        else:
            rows[image.as_posix()] = stated
    return rows, others


def recognise(images: Sequence[PurePath]) -> tuple[NamePattern | None, list[tuple[NamePattern, int]]]:
    """Find the named patterns that the names of images fit.

    Returns:
        The one unmistakable pattern that all names fit, or None; and the others that at least nine in ten names fit, one
        in ten of unmistakable patterns, with the number of these names, which have to be asked for.
    """
    counts = [(pattern, sum(pattern.read(image) is not None for image in images)) for pattern in PATTERNS.values()]
    fitting = [
        (pattern, n)
        for pattern, n in counts
        if images and n >= (NOTICED if pattern.unmistakable else OFFERED) * len(images)
    ]
    taken = [pattern for pattern, n in fitting if pattern.unmistakable and n == len(images)]
    if len(taken) == 1:
        return taken[0], [(pattern, n) for pattern, n in fitting if not pattern.unmistakable]
    return None, fitting


def describe(pattern: NamePattern, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return a line that says what the names were found to state, with counts."""
    parts = []
    labels = Counter(row["label"] for row in rows.values() if row.get("label"))
    if labels:
        parts.append(", ".join(f"{name} {n}" for name, n in sorted(labels.items())))
    for column, meaning in (("group", "patients or slides"), ("part", "parts")):
        if values := {row[column] for row in rows.values() if row.get(column)}:
            parts.append(f"{len(values)} {meaning}")
    return f"file names ({pattern.name}: {pattern.title}): {len(rows)} files; {'; '.join(parts)}"
