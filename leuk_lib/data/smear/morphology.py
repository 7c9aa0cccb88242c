"""Morphology of each cell type, with a source per range. Set from cytology, before any classifier was trained.

The ``basis`` of a range is "stated" (the source gives the numbers) or "described" (the source describes the quantity
in words, such as "high nucleocytoplasmic ratio", and the numbers are ours). Between its limits a quantity follows a
symmetric beta distribution, so that cell types overlap where their ranges do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

BAIN = "Bain, Blood Cells, 5th ed., 2015"
FAB76 = "Bennett et al., Br J Haematol 33:451, 1976"
FAB89 = "Bennett et al., J Clin Pathol 42:567, 1989"
WHO17 = "Swerdlow et al. (eds), WHO Classification, rev. 4th ed., 2017"
IWCLL = "Hallek et al., Blood 131:2745, 2018"
EVANS = "Evans and Fung, Microvasc Res 4:335, 1972"


class Range(NamedTuple):
    """Limits of one quantity, their basis and their source."""

    low: float
    high: float
    basis: str
    source: str


def stated(low: float, high: float, source: str = BAIN) -> Range:
    """Return limits that the source states."""
    return Range(low, high, "stated", source)


def described(low: float, high: float, source: str = BAIN) -> Range:
    """Return our limits for a quantity that the source describes in words."""
    return Range(low, high, "described", source)


NONE = described(0, 0)

# Surroundings of the cells, the same in every class: quantity with unit -> range.
RED_CELL_DIAMETER, RED_CELL_RIM, PLATELET_DIAMETER = (
    "red cells: mean diameter, µm", "red cells: position of the greatest thickness / radius", "platelets: diameter, µm"
)  # fmt: skip
SURROUNDINGS = {
    RED_CELL_DIAMETER: stated(7.2, 7.2),
    RED_CELL_RIM: described(0.7, 0.8, EVANS),
    PLATELET_DIAMETER: stated(1.5, 3.0),
}

# Quantity of a cell type -> its name, with its unit unless it is 1.
QUANTITIES = {
    "diameter": "cell diameter, µm",
    "nc_ratio": "nucleus area / cell area",
    "irregularity": "roughness of the cell's outline",
    "indentation": "depth of the nuclear indentation / radius",
    "lobes": "nuclear lobes, count",
    "cleft": "probability of a fold or cleft",
    "density": "stain taken up by the chromatin, OD",
    "clumping": "contrast of the chromatin",
    "grain": "size of the chromatin's clumps, µm",
    "nucleoli": "nucleoli, count",
    "prominence": "prominence of the nucleoli",
    "basophilia": "azure in the cytoplasm, OD",
    "eosinophilia": "eosin in the cytoplasm, OD",
    "hof": "pale zone beside the nucleus",
    "azurophil": "azurophilic granules, 1/100 µm²",
    "specific": "specific granules, 1/100 µm²",
    "auer": "probability of Auer rods (AML only)",
    "vacuoles": "cytoplasmic vacuoles, count",
}


@dataclass(frozen=True)
class CellType:
    """Ranges of one cell type, in the units of :data:`QUANTITIES`.

    Attributes:
        nucleus: round, band, lobed or smudge.
        granule: kind of the specific granules: fine, orange or dark.
    """

    nucleus: str
    diameter: Range
    nc_ratio: Range
    irregularity: Range
    density: Range
    clumping: Range
    grain: Range
    basophilia: Range
    eosinophilia: Range
    indentation: Range = NONE
    lobes: Range = NONE
    cleft: Range = NONE
    nucleoli: Range = NONE
    prominence: Range = NONE
    hof: Range = NONE
    azurophil: Range = NONE
    specific: Range = NONE
    auer: Range = NONE
    vacuoles: Range = NONE
    granule: str = "fine"


# fmt: off
CELL_TYPES: dict[str, CellType] = {
    "lymphocyte": CellType(
        "round", stated(10, 12), described(0.72, 0.92), described(0.01, 0.05), described(1.25, 1.65), described(0.20, 0.40),
        described(0.9, 1.4), described(0.22, 0.42), described(0.02, 0.10), indentation=described(0.0, 0.16),
    ),
    "CLL lymphocyte": CellType(
        "round", described(10, 12.5), described(0.74, 0.93, IWCLL), described(0.01, 0.05), described(1.25, 1.65, IWCLL),
        described(0.30, 0.58, IWCLL), described(0.95, 1.5, IWCLL), described(0.18, 0.38), described(0.02, 0.10),
        indentation=described(0.0, 0.14), nucleoli=described(0, 0.7, IWCLL), prominence=described(0.05, 0.2, IWCLL),
    ),
    "prolymphocyte": CellType(
        "round", described(10, 15, FAB89), described(0.60, 0.80, FAB89), described(0.01, 0.06), described(1.1, 1.45, FAB89),
        described(0.18, 0.38, FAB89), described(0.7, 1.1, FAB89), described(0.25, 0.45, FAB89), described(0.03, 0.10),
        nucleoli=described(1, 1.4, FAB89), prominence=described(0.35, 0.65, FAB89),
    ),
    "smudge cell": CellType(
        "smudge", described(12, 19, IWCLL), described(1, 1, IWCLL), described(0.12, 0.28, IWCLL), described(0.5, 0.95, IWCLL),
        described(0.25, 0.5, IWCLL), described(1.0, 1.8, IWCLL), NONE, NONE,
    ),
    "lymphoblast L1": CellType(
        "round", described(10.5, 15, FAB76), described(0.78, 0.93, FAB76), described(0.01, 0.06, FAB76),
        described(1.05, 1.45, FAB76), described(0.12, 0.32, FAB76), described(0.5, 0.95, FAB76), described(0.28, 0.56, FAB76),
        described(0.03, 0.12), indentation=described(0.0, 0.18, FAB76), cleft=described(0.08, 0.08, FAB76),
        nucleoli=described(0, 1.2, FAB76), prominence=described(0.08, 0.28, FAB76), vacuoles=described(0, 0.8),
    ),
    "lymphoblast L2": CellType(
        "round", described(13, 18.5, FAB76), described(0.60, 0.84, FAB76), described(0.03, 0.10, FAB76),
        described(0.95, 1.35, FAB76), described(0.10, 0.30, FAB76), described(0.45, 0.9, FAB76), described(0.26, 0.58, FAB76),
        described(0.04, 0.14), indentation=described(0.05, 0.35, FAB76), cleft=described(0.4, 0.4, FAB76),
        nucleoli=described(0.6, 2.6, FAB76), prominence=described(0.2, 0.5, FAB76), azurophil=described(0, 1.2),
        vacuoles=described(0, 1.2),
    ),
    "myeloblast": CellType(
        "round", stated(12, 20), described(0.62, 0.86), described(0.02, 0.09), described(0.95, 1.35), described(0.08, 0.24),
        described(0.4, 0.75), described(0.28, 0.60), described(0.08, 0.22), indentation=described(0.0, 0.30),
        cleft=described(0.12, 0.12), nucleoli=described(0.8, 3.4, FAB76), prominence=described(0.2, 0.5, FAB76),
        hof=described(0.0, 0.35), azurophil=described(0, 5, FAB76), auer=described(0.18, 0.18, WHO17),
    ),
    "monoblast": CellType(
        "round", described(15, 21, FAB76), described(0.50, 0.74, FAB76), described(0.04, 0.13, FAB76), described(0.85, 1.2),
        described(0.08, 0.24), described(0.45, 0.8), described(0.22, 0.42), described(0.10, 0.22),
        indentation=described(0.1, 0.5, FAB76), cleft=described(0.35, 0.35, FAB76), nucleoli=described(0.5, 2.2),
        prominence=described(0.2, 0.5), azurophil=described(0, 6), vacuoles=described(0, 4),
    ),
    "promyelocyte": CellType(
        "round", stated(15, 25), described(0.45, 0.66), described(0.02, 0.08), described(1.0, 1.4), described(0.12, 0.30),
        described(0.5, 0.9), described(0.22, 0.42), described(0.12, 0.26), indentation=described(0.05, 0.3),
        nucleoli=described(0.4, 1.8), prominence=described(0.15, 0.4), hof=described(0.3, 0.7), azurophil=described(18, 60),
        auer=described(0.05, 0.05, WHO17),
    ),
    "myelocyte": CellType(
        "round", stated(10, 20), described(0.38, 0.58), described(0.02, 0.07), described(1.15, 1.5), described(0.22, 0.42),
        described(0.7, 1.1), described(0.10, 0.24), described(0.14, 0.28), indentation=described(0.05, 0.3),
        hof=described(0.1, 0.4), azurophil=described(3, 14), specific=described(50, 150),
    ),
    "metamyelocyte": CellType(
        "round", stated(10, 12), described(0.34, 0.50), described(0.02, 0.07), described(1.25, 1.6), described(0.28, 0.48),
        described(0.75, 1.15), described(0.04, 0.14), described(0.14, 0.28), indentation=described(0.45, 0.8),
        specific=described(70, 180),
    ),
    "band neutrophil": CellType(
        "band", described(12, 15), described(0.24, 0.34), described(0.02, 0.07), described(1.35, 1.75), described(0.25, 0.45),
        described(0.7, 1.1), described(0.03, 0.10), described(0.12, 0.26), specific=described(80, 200),
    ),
    "segmented neutrophil": CellType(
        "lobed", stated(12, 15), described(0.22, 0.34), described(0.02, 0.07), described(1.4, 1.8), described(0.25, 0.45),
        described(0.7, 1.1), described(0.02, 0.09), described(0.12, 0.26), lobes=stated(2, 5), specific=described(80, 200),
    ),
    "eosinophil": CellType(
        "lobed", stated(12, 17), described(0.20, 0.32), described(0.02, 0.06), described(1.3, 1.7), described(0.22, 0.42),
        described(0.7, 1.1), described(0.03, 0.10), described(0.15, 0.3), lobes=described(2, 3), specific=described(150, 260),
        granule="orange",
    ),
    "basophil": CellType(
        "lobed", stated(10, 14), described(0.28, 0.42), described(0.02, 0.07), described(1.0, 1.35), described(0.15, 0.3),
        described(0.8, 1.2), described(0.05, 0.14), described(0.12, 0.24), lobes=described(2, 3), specific=described(45, 110),
        granule="dark",
    ),
}

# Share of each cell type among the white cells of a film. Normal lymphocytes and granulocytes are among them, and look
# the same whatever the diagnosis. The sources bound the shares (CML in chronic phase: mostly neutrophils and myelocytes,
# few blasts and basophils; CLL: fewer than 55 % prolymphocytes); the numbers are ours.
MIXTURES: dict[str, tuple[dict[str, float], str]] = {
    "CML": (
        {"segmented neutrophil": 0.29, "band neutrophil": 0.16, "metamyelocyte": 0.13, "myelocyte": 0.18,
         "promyelocyte": 0.06, "myeloblast": 0.04, "basophil": 0.08, "eosinophil": 0.04, "lymphocyte": 0.02}, WHO17),
    "CLL": (
        {"CLL lymphocyte": 0.74, "prolymphocyte": 0.08, "smudge cell": 0.13, "segmented neutrophil": 0.05}, IWCLL),
    "AML": (
        {"myeloblast": 0.60, "monoblast": 0.16, "promyelocyte": 0.13, "myelocyte": 0.03,
         "segmented neutrophil": 0.04, "lymphocyte": 0.04}, WHO17),
    "ALL": (
        {"lymphoblast L1": 0.59, "lymphoblast L2": 0.30, "lymphocyte": 0.09, "segmented neutrophil": 0.02}, FAB76),
}
# fmt: on

CLASSES = tuple(MIXTURES)


def morphology_rows() -> Iterator[dict[str, object]]:
    """Yield one row per cell type and quantity: limits, basis and source."""
    for name, cell_type in CELL_TYPES.items():
        for field, quantity in QUANTITIES.items():
            if (limits := getattr(cell_type, field)) is not NONE:
                yield {"cell type": name, "quantity": quantity, **limits._asdict()}
