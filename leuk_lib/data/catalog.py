"""The data sets that are known by name: where each lies, its classes, licence, citation. Data only; nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from leuk_lib.runs import paths

FIVE = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


def plain(name: str) -> str:
    """A folder's name without case, spaces and signs: "Test-A" and "test a" are one name."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@dataclass(frozen=True)
class Download:
    """An archive that may be fetched. ``sha256`` is None where nobody has told it: then the first download's hash is
    written down, and every later download must have it. ``images``: how many the published set has, or None."""

    url: str
    file: str
    sha256: str | None = None
    images: int | None = None
    layout: str = "folders"  # how the archive is laid out: a function of ``arrange``


@dataclass(frozen=True)
class KnownSet:
    """A published set. ``aliases``: further folder names of a class; ``tests``: folders of foreign test sets."""

    name: str
    title: str
    classes: tuple[str, ...]
    licence: str
    source: str
    ask: str
    cite: str
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    download: Download | None = None

    @property
    def advice(self) -> str:
        """What to do where the set is missing."""
        if self.download:
            return f"`leuk data fetch {self.name}` brings it"
        return f"it has to be asked for ({self.ask}); data/README.md says where it goes"

    def class_of(self, folder: str) -> str:
        """The class that a folder's name means, or ""."""
        for name in self.classes:
            if plain(folder) in {plain(name), plain(f"{name}s"), *map(plain, self.aliases.get(name, ()))}:
                return name
        return ""

    def test_of(self, folder: str) -> str:
        """The foreign test set that a folder's name means, or ""."""
        return next((name for name in self.tests if plain(name) == plain(folder)), "")


_RAABIN = (
    "Kouzehkanan ZM et al. A large dataset of white blood cells containing cell locations and types. "
    "Scientific Reports 12:1123, 2022. doi:10.1038/s41598-021-04426-x"
)
_SETS = (
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
        ask="write to the providers through the project's site and say what for",
        cite=_RAABIN,
    ),
    KnownSet(
        name="raabin-wbc",
        title="Raabin-WBC, double-labelled cropped cells",
        classes=FIVE,
        tests=("TestA", "TestB"),
        licence="no formal licence; the providers are reported to allow commercial and non-commercial use",
        source="the Raabin data project, raabindata.com, free data (RAR archives: unpack them yourself)",
        ask="free on the project's site",
        cite=_RAABIN,
    ),
    KnownSet(
        name="segmentation-wbc",
        title="segmentation_WBC, Dataset 1, with masks",
        classes=FIVE,
        licence="GPL-3.0; please acknowledge Jiangxi Tecom Science Corporation",
        source="GitHub zxaoyou/segmentation_WBC",
        ask="open",
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
        ask="open",
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
        classes=(*FIVE[:2], "erythroblast", "immature_granulocyte", *FIVE[2:], "platelet"),
        aliases={"immature_granulocyte": ("ig",)},
        licence="CC BY 4.0 (read in third-party descriptions; confirm at the DOI)",
        source="Mendeley Data, doi:10.17632/snkd93bnjr.1",
        ask="open",
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
SETS: dict[str, KnownSet] = {known.name: known for known in _SETS}


def data_root() -> Path:
    """Where named sets lie: ``LEUK_DATA``, else ``data/`` in the project's folder."""
    told = os.environ.get("LEUK_DATA")
    return Path(told).expanduser() if told else paths.project_root() / "data"


def home(known: KnownSet) -> Path:
    """The folder of a known set."""
    return data_root() / known.name
