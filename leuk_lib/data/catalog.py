"""Catalogue of known data sets: classes, licence, citation, download. Data only; imports nothing heavy."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leuk_lib.runs import paths

WBC_TYPES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


def plain(name: str) -> str:
    """Reduce a folder's name to its letters and digits, in lower case and Unicode form C.

    Example:
        >>> plain("Test-A") == plain("test a")
        True
    """
    return "".join(letter for letter in unicodedata.normalize("NFC", name).casefold() if letter.isalnum())


@dataclass(frozen=True)
class Download:
    """An archive that can be downloaded.

    Attributes:
        url: Address.
        file: File name of the archive.
        sha256: Published hash. None: unknown; then the hash of the first download is saved, and later ones must match.
        images: Number of images in the published set, if known.
        layout: How the archive is laid out, a key of ``archives.LAYOUTS``.
    """

    url: str
    file: str
    sha256: str | None = None
    images: int | None = None
    layout: str = "folders"


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
        aliases: Further folder names of a class.
        tests: Folders that are external test sets.
        split: Split of a run that names none: by groups, or as published where the field compares figures on that split.
        download: The archive, if it can be downloaded.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    licence: str
    source: str
    access: str
    cite: str
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    split: Literal["grouped", "published"] = "grouped"
    download: Download | None = None

    @property
    def advice(self) -> str:
        """What to do if the set is missing."""
        if self.download:
            return f"`leuk data fetch {self.name}` downloads it"
        return f"no command downloads it ({self.access}); data/README.md says where it goes"

    def class_of(self, folder: str) -> str:
        """Return the class that a folder's name means, or ""."""
        for name in self.classes:
            if plain(folder) in {plain(name), plain(f"{name}s"), *map(plain, self.aliases.get(name, ()))}:
                return name
        return ""

    def test_of(self, folder: str) -> str:
        """Return the external test set that a folder's name means, or ""."""
        return next((name for name in self.tests if plain(name) == plain(folder)), "")


_RAABIN = (
    "Kouzehkanan ZM et al. A large dataset of white blood cells containing cell locations and types. "
    "Scientific Reports 12:1123, 2022. doi:10.1038/s41598-021-04426-x"
)
_KNOWN = (
    KnownSet(
        name="raabin-leukemia",
        title="Raabin leukemia images (the paper's)",
        classes=("CML", "CLL", "AML", "ALL"),
        aliases={
            "CML": ("chronic myeloid leukemia", "chronic myelogenous leukemia", "chronic myeloid leukaemia"),
            "CLL": ("chronic lymphocytic leukemia", "chronic lymphocytic leukaemia"),
            "AML": ("acute myeloid leukemia", "acute myelogenous leukemia", "acute myeloid leukaemia"),
            "ALL": ("acute lymphoblastic leukemia", "acute lymphocytic leukemia", "acute lymphoblastic leukaemia"),
        },
        licence="none stated that we know of; ask the providers",
        source="the Raabin data project, raabindata.com",
        access="write to the providers through the project's site and state the purpose",
        cite=_RAABIN,
    ),
    KnownSet(
        name="raabin-wbc",
        title="Raabin-WBC, double-labelled cropped cells",
        classes=WBC_TYPES,
        tests=("TestA", "TestB"),
        licence="no formal licence; the providers are reported to allow commercial and non-commercial use",
        source="the Raabin data project, raabindata.com, free data (RAR archives: unpack them yourself)",
        access="free on the project's site",
        cite=_RAABIN,
    ),
    KnownSet(
        name="segmentation-wbc",
        title="segmentation_WBC, Dataset 1, with masks",
        classes=WBC_TYPES,
        licence="GPL-3.0; please acknowledge Jiangxi Tecom Science Corporation",
        source="GitHub zxaoyou/segmentation_WBC",
        access="open",
        cite="Zheng X, Wang Y, Wang G, Liu J. Fast and robust segmentation of white blood cell images by "
        "self-supervised learning. Micron 107:55-71, 2018. doi:10.1016/j.micron.2018.01.010",
        download=Download(
            "https://github.com/zxaoyou/segmentation_WBC/archive/master.zip",
            "segmentation-wbc.zip",
            images=300,
            layout="segmentation_wbc",
        ),
    ),
    KnownSet(
        name="bccd",
        title="BCCD, cells cut out of fields of view",
        classes=("Platelets", "RBC", "WBC"),
        licence="MIT",
        source="GitHub Shenggan/BCCD_Dataset (originals by cosmicad and akshaylamba)",
        access="open",
        cite="Shenggan. BCCD Dataset, 2017. GitHub Shenggan/BCCD_Dataset",
        download=Download(
            "https://github.com/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip",
            "bccd.zip",
            layout="voc_boxes",
        ),
    ),
    KnownSet(
        name="pbc",
        title="PBC, normal peripheral blood cells (Barcelona)",
        classes=(*WBC_TYPES[:2], "erythroblast", "immature_granulocyte", *WBC_TYPES[2:], "platelet"),
        aliases={"immature_granulocyte": ("ig",)},
        licence="CC BY 4.0 (read in third-party descriptions; confirm at the DOI)",
        source="Mendeley Data, doi:10.17632/snkd93bnjr.1",
        access="open",
        cite="Acevedo A, Merino A, Alferez S, Molina A, Boldu L, Rodellar J. Data in Brief 30:105474, 2020. "
        "doi:10.1016/j.dib.2020.105474",
        download=Download(
            "https://data.mendeley.com/public-files/datasets/snkd93bnjr/files/"
            "2fc38728-2ae7-4a62-a857-032af82334c3/file_downloaded",
            "pbc.zip",
            images=17_092,
        ),
    ),
)
KNOWN_SETS: dict[str, KnownSet] = {known.name: known for known in _KNOWN}


def data_root() -> Path:
    """Return the folder of the known sets: ``LEUK_DATA``, or ``data/`` in the project's folder."""
    folder = os.environ.get("LEUK_DATA")
    return Path(folder).expanduser() if folder else paths.project_root() / "data"


def home(known: KnownSet) -> Path:
    """Return the folder of a known set."""
    return data_root() / known.name
