"""What is known about a published data set: classes, licence, archives, how its files are read, what it can answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Fact = Literal["licence", "images", "patients", "classes", "layout", "address"]


def plain(name: str) -> str:
    """Reduce a folder's name to its letters and digits, in lower case and Unicode form C.

    Example:
        >>> plain("Test-A") == plain("test a")
        True
    """
    return "".join(letter for letter in unicodedata.normalize("NFC", name).casefold() if letter.isalnum())


@dataclass(frozen=True)
class Download:
    """An archive or a file that can be downloaded.

    Attributes:
        url: Address.
        file: File name under which it is kept.
        sha256: Published SHA-256. Without it and ``md5``, the hash of the first download is saved, and later ones must
            match it.
        md5: Published MD5.
        layout: How the archive is laid out, a key of ``archives.LAYOUTS``.
    """

    url: str
    file: str
    sha256: str | None = None
    md5: str | None = None
    layout: str = "folders"


@dataclass(frozen=True)
class Option:
    """A choice that a set offers, such as what the classes are.

    Attributes:
        choices: Allowed values, the default first.
        meaning: One line.
    """

    choices: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class KnownSet:
    """A published data set.

    Attributes:
        name: Its name in commands and its folder in ``data/``.
        title: Description.
        classes: Names of the classes.
        licence: As far as it is known.
        source: Where it comes from.
        access: How to get it.
        cite: Citation.
        images: Number of images, or of boxed cells, in the published set; None: not known.
        patients: Number of people to whom the published files assign images; None: they assign none.
        unconfirmed: Facts that were read in descriptions by others only, or that are not known.
        answers: What can be asked of it.
        limits: What it cannot answer.
        traps: How it is easily misread.
        aliases: Further folder names of a class.
        tests: Folders that are external test sets.
        patients_below: The folders below a class folder are patients.
        reader: Reader of its files (``readers``), or "" for class folders at any depth.
        pattern: Pattern of its file names (``file_names``), or "".
        options: Choices that the reader offers, by the name of its option.
        class_map: Classes that are merged unless ``class_map`` says otherwise.
        split: The split that is used unless another one is asked for.
        downloads: Its archives, if they can be downloaded.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    licence: str
    source: str
    access: str
    cite: str
    images: int | None = None
    patients: int | None = None
    unconfirmed: tuple[Fact, ...] = ()
    answers: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    traps: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    patients_below: bool = False
    reader: str = ""
    pattern: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    class_map: Mapping[str, str] = field(default_factory=dict)
    split: Literal["grouped", "published"] = "grouped"
    downloads: tuple[Download, ...] = ()

    @property
    def advice(self) -> str:
        """What to do if the set is missing."""
        if self.downloads:
            return f"`leuk data fetch {self.name}` downloads it"
        return f"no command downloads it ({self.access}); `leuk data list {self.name}` says where it goes"

    def class_of(self, folder: str) -> str:
        """Return the class that a folder's name means, or ""."""
        for name in self.classes:
            if plain(folder) in {plain(name), plain(f"{name}s"), *map(plain, self.aliases.get(name, ()))}:
                return name
        return ""

    def test_of(self, folder: str) -> str:
        """Return the external test set that a folder's name means, or ""."""
        return next((name for name in self.tests if plain(name) == plain(folder)), "")
