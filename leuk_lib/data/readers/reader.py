"""What a reader of a published layout is: it turns files that are no class folders into cells, or labels image files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from leuk_lib.data.findings import Finding
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.numbers import parse_number
from leuk_lib.runs.params import nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Box(NamedTuple):
    """A rectangle in an image, in pixels from its upper left corner; ``right`` and ``bottom`` are outside of it."""

    left: int
    top: int
    right: int
    bottom: int


class Note(NamedTuple):
    """A line that says how the data were understood, for a person."""

    text: str


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of a data set: its pixels, or where they are, and what is known about it.

    Attributes:
        name: Unique in the data set, POSIX, without a suffix: "train/00017".
        label: Class.
        image: (H,W,3) RGB or (H,W) grey, uint8. None: ``source`` is cut out at ``box``.
        source: Where the cell comes from: without ``image`` an image file relative to the data folder, otherwise any
            text, such as "bloodmnist.npz train 17".
        box: Part of ``source`` that is the cell; None: all of it.
        group: Patient, slide or subject, or "".
        part: Published part ("train", "validation", "test", "test a"), or "".
        external: Name of the external test set, or "".
        label2: Class according to a second expert, or "".
        um_per_px: Micrometres per pixel of the image, if known.
        attributes: What else is known, by name; further columns of the converted folder's manifest.
    """

    name: str
    label: str
    image: NDArray[np.uint8] | None = None
    source: str = ""
    box: Box | None = None
    group: str = ""
    part: str = ""
    external: str = ""
    label2: str = ""
    um_per_px: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


class Annotations(NamedTuple):
    """What tables or file names state about the images of a folder.

    Attributes:
        rows: Image path relative to the data folder -> any of label, group, part, external, label2, label3,
            um_per_px, source. A missing or empty entry states nothing.
        left_out: Image path -> why the image is not used.
        findings: About tables and images, with counts.
        notes: How the tables were understood, in lines for a person.
    """

    rows: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str] = {}
    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Options:
    """The options of a reader as they were given; each is text."""

    reader: str
    allowed: Mapping[str, str]
    values: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.values:
            if name not in self.allowed:
                advice = nearest(name, self.allowed) if self.allowed else "it has none"
                raise LeukError(f"reader {self.reader}: no option {name!r}; {advice}", exit_code=2)

    def text(self, name: str, default: str = "") -> str:
        """Return an option's text, without blanks around it."""
        return str(self.values.get(name, default)).strip()

    def names(self, name: str) -> list[str]:
        """Return an option that lists names, separated by commas."""
        return [part.strip() for part in self.text(name).split(",") if part.strip()]

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return an option that is a number from ``low`` to ``high``.

        Raises:
            LeukError: For anything else.
        """
        try:
            value = parse_number(self.text(name, str(default)))
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise LeukError(
                f"reader {self.reader}: option {name}={self.text(name)} must be a number from {low:g} to {high:g}",
                exit_code=2,
            )
        return value

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        """Return an option that is one of several words; the first is the default.

        Raises:
            LeukError: For another word.
        """
        value = self.text(name, choices[0])
        if value not in choices:
            raise LeukError(
                f"reader {self.reader}: option {name}={value} must be one of {', '.join(filter(None, choices))}",
                exit_code=2,
            )
        return value


class Reader(ABC):
    """A reader of one published layout. A module of this package with an instance in ``READER`` registers it.

    Attributes:
        name: Word for ``--reader``.
        title: What it reads, in a few words.
        options: Option -> its meaning, for ``--option NAME=VALUE``.
        version: Raise it when the same files would give other cells or labels.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    options: ClassVar[Mapping[str, str]] = {}
    version: ClassVar[int] = 1

    def recognises(self, path: Path) -> bool:
        """Return whether the files in ``path`` are unmistakably of this layout.

        Decide by names and headers, quickly, and raise nothing: this is called for every folder of images. The default is
        False, so that only ``--reader`` chooses it.

        Args:
            path: A folder or a file, resolved.
        """
        return False

    def sources(self, path: Path, options: Options) -> list[Path]:
        """List the tables and annotation files that are read, whose changes must be noticed."""
        return []


class CellReader(Reader):
    """A reader of data that are not one image file per cell. ``conversion`` writes its cells once, as a folder."""

    @abstractmethod
    def cells(self, path: Path, options: Options) -> Iterator[Cell | Finding | Note]:
        """Yield the cells in a fixed order, and findings and notes among them.

        Yield cells one at a time, so that memory stays bounded. A cell that cannot be used is a ``Finding`` of severity
        "error" in its place, with the cell's name as its path.

        Args:
            path: A folder or a file, resolved.
            options: As given by the user; their names are known to be among ``options``.

        Raises:
            LeukError: With exit code 2 for files that cannot be read as this layout.
        """

    def count(self, path: Path, options: Options) -> int | None:
        """Return the number of cells for the progress bar, if it is quickly known."""
        return None


class AnnotationReader(Reader):
    """A reader of tables that state labels, groups or parts of image files, which stay where they are."""

    @abstractmethod
    def annotations(self, root: Path, images: Sequence[PurePath], options: Options) -> Annotations:
        """Return what the tables state.

        Args:
            root: The data folder, resolved.
            images: Its image files, relative, sorted.
            options: As given by the user; their names are known to be among ``options``.

        Raises:
            LeukError: With exit code 2 for tables that cannot be read, are empty, or contradict themselves.
        """
