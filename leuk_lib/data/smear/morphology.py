"""What the cells of each class look like: every range with its source. Set from cytology, before any classifier.

``basis`` tells what the source gives: "stated" (the number), "quality" (the source describes it in words, such as
"high nucleocytoplasmic ratio"; the number is ours) or "ours". Between its limits a quantity is drawn from a
symmetric beta distribution, so the types overlap where their ranges do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

BAIN = "Bain, Blood Cells, 5th ed., 2015"
FAB76 = "Bennett et al., Br J Haematol 33:451, 1976"
FAB89 = "Bennett et al., J Clin Pathol 42:567, 1989"
WHO17 = "Swerdlow et al. (eds), WHO Classification, rev. 4th ed., 2017"
IWCLL = "Hallek et al., Blood 131:2745, 2018"
OURS = "our choice"
EVANS = "Evans and Fung, Microvasc Res 4:335, 1972"


class Range(NamedTuple):
    """Limits of one quantity, what they rest on, and the source."""

    low: float
    high: float
    basis: str
    source: str


def stated(low: float, high: float, source: str = BAIN) -> Range:
    """Limits as the source gives them."""
    return Range(low, high, "stated", source)


def quality(low: float, high: float, source: str = BAIN) -> Range:
    """Our numbers for what the source says in words."""
    return Range(low, high, "quality", source)


NONE = Range(0, 0, "quality", BAIN)

# What lies around the cells, the same in every class: quantity with unit -> range.
RED_CELL_DIAMETER, RED_CELL_RIM, PLATELET_DIAMETER = (
    "red cells: mean diameter, µm", "red cells: thickest at this part of the radius", "platelets: diameter, µm"
)  # fmt: skip
SURROUNDINGS = {
    RED_CELL_DIAMETER: stated(7.2, 7.2),
    RED_CELL_RIM: quality(0.7, 0.8, EVANS),
    PLATELET_DIAMETER: stated(1.5, 3.0),
}

UNITS = {
    "diameter": ("cell diameter", "µm"),
    "nc_ratio": ("nucleus area / cell area", "1"),
    "irregularity": ("roughness of the cell's outline", "1"),
    "indentation": ("depth of the nuclear indentation / radius", "1"),
    "lobes": ("nuclear lobes", "count"),
    "cleft": ("probability of a fold or cleft", "1"),
    "density": ("stain taken up by the chromatin", "OD"),
    "clumping": ("contrast of the chromatin", "1"),
    "grain": ("size of the chromatin's clumps", "µm"),
    "nucleoli": ("nucleoli", "count"),
    "prominence": ("prominence of the nucleoli", "1"),
    "basophilia": ("azure in the cytoplasm", "OD"),
    "eosinophilia": ("eosin in the cytoplasm", "OD"),
    "hof": ("pale zone beside the nucleus", "1"),
    "azurophil": ("azurophilic granules", "1/100 µm²"),
    "specific": ("specific granules", "1/100 µm²"),
    "auer": ("probability of Auer rods (AML only)", "1"),
    "vacuoles": ("cytoplasmic vacuoles", "count"),
}


@dataclass(frozen=True)
class CellType:
    """One cell type. ``nucleus``: round | band | lobed | smudge; ``granule``: fine | orange | dark (specific ones)."""

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
        "round", stated(10, 12), quality(0.72, 0.92), quality(0.01, 0.05), quality(1.25, 1.65), quality(0.20, 0.40),
        quality(0.9, 1.4), quality(0.22, 0.42), quality(0.02, 0.10), indentation=quality(0.0, 0.16),
    ),
    "CLL lymphocyte": CellType(
        "round", quality(10, 12.5), quality(0.74, 0.93, IWCLL), quality(0.01, 0.05), quality(1.25, 1.65, IWCLL),
        quality(0.30, 0.58, IWCLL), quality(0.95, 1.5, IWCLL), quality(0.18, 0.38), quality(0.02, 0.10),
        indentation=quality(0.0, 0.14), nucleoli=quality(0, 0.7, IWCLL), prominence=quality(0.05, 0.2, IWCLL),
    ),
    "prolymphocyte": CellType(
        "round", quality(10, 15, FAB89), quality(0.60, 0.80, FAB89), quality(0.01, 0.06), quality(1.1, 1.45, FAB89),
        quality(0.18, 0.38, FAB89), quality(0.7, 1.1, FAB89), quality(0.25, 0.45, FAB89), quality(0.03, 0.10),
        nucleoli=quality(1, 1.4, FAB89), prominence=quality(0.35, 0.65, FAB89),
    ),
    "smudge cell": CellType(
        "smudge", quality(12, 19, IWCLL), quality(1, 1, IWCLL), quality(0.12, 0.28, IWCLL), quality(0.5, 0.95, IWCLL),
        quality(0.25, 0.5, IWCLL), quality(1.0, 1.8, IWCLL), NONE, NONE,
    ),
    "lymphoblast L1": CellType(
        "round", quality(10.5, 15, FAB76), quality(0.78, 0.93, FAB76), quality(0.01, 0.06, FAB76),
        quality(1.05, 1.45, FAB76), quality(0.12, 0.32, FAB76), quality(0.5, 0.95, FAB76), quality(0.28, 0.56, FAB76),
        quality(0.03, 0.12), indentation=quality(0.0, 0.18, FAB76), cleft=quality(0.08, 0.08, FAB76),
        nucleoli=quality(0, 1.2, FAB76), prominence=quality(0.08, 0.28, FAB76), vacuoles=quality(0, 0.8),
    ),
    "lymphoblast L2": CellType(
        "round", quality(13, 18.5, FAB76), quality(0.60, 0.84, FAB76), quality(0.03, 0.10, FAB76),
        quality(0.95, 1.35, FAB76), quality(0.10, 0.30, FAB76), quality(0.45, 0.9, FAB76), quality(0.26, 0.58, FAB76),
        quality(0.04, 0.14), indentation=quality(0.05, 0.35, FAB76), cleft=quality(0.4, 0.4, FAB76),
        nucleoli=quality(0.6, 2.6, FAB76), prominence=quality(0.2, 0.5, FAB76), azurophil=quality(0, 1.2),
        vacuoles=quality(0, 1.2),
    ),
    "myeloblast": CellType(
        "round", stated(12, 20), quality(0.62, 0.86), quality(0.02, 0.09), quality(0.95, 1.35), quality(0.08, 0.24),
        quality(0.4, 0.75), quality(0.28, 0.60), quality(0.08, 0.22), indentation=quality(0.0, 0.30),
        cleft=quality(0.12, 0.12), nucleoli=quality(0.8, 3.4, FAB76), prominence=quality(0.2, 0.5, FAB76),
        hof=quality(0.0, 0.35), azurophil=quality(0, 5, FAB76), auer=quality(0.18, 0.18, WHO17),
    ),
    "monoblast": CellType(
        "round", quality(15, 21, FAB76), quality(0.50, 0.74, FAB76), quality(0.04, 0.13, FAB76), quality(0.85, 1.2),
        quality(0.08, 0.24), quality(0.45, 0.8), quality(0.22, 0.42), quality(0.10, 0.22),
        indentation=quality(0.1, 0.5, FAB76), cleft=quality(0.35, 0.35, FAB76), nucleoli=quality(0.5, 2.2),
        prominence=quality(0.2, 0.5), azurophil=quality(0, 6), vacuoles=quality(0, 4),
    ),
    "promyelocyte": CellType(
        "round", stated(15, 25), quality(0.45, 0.66), quality(0.02, 0.08), quality(1.0, 1.4), quality(0.12, 0.30),
        quality(0.5, 0.9), quality(0.22, 0.42), quality(0.12, 0.26), indentation=quality(0.05, 0.3),
        nucleoli=quality(0.4, 1.8), prominence=quality(0.15, 0.4), hof=quality(0.3, 0.7), azurophil=quality(18, 60),
        auer=quality(0.05, 0.05, WHO17),
    ),
    "myelocyte": CellType(
        "round", stated(10, 20), quality(0.38, 0.58), quality(0.02, 0.07), quality(1.15, 1.5), quality(0.22, 0.42),
        quality(0.7, 1.1), quality(0.10, 0.24), quality(0.14, 0.28), indentation=quality(0.05, 0.3),
        hof=quality(0.1, 0.4), azurophil=quality(3, 14), specific=quality(50, 150),
    ),
    "metamyelocyte": CellType(
        "round", stated(10, 12), quality(0.34, 0.50), quality(0.02, 0.07), quality(1.25, 1.6), quality(0.28, 0.48),
        quality(0.75, 1.15), quality(0.04, 0.14), quality(0.14, 0.28), indentation=quality(0.45, 0.8),
        specific=quality(70, 180),
    ),
    "band neutrophil": CellType(
        "band", quality(12, 15), quality(0.24, 0.34), quality(0.02, 0.07), quality(1.35, 1.75), quality(0.25, 0.45),
        quality(0.7, 1.1), quality(0.03, 0.10), quality(0.12, 0.26), specific=quality(80, 200),
    ),
    "segmented neutrophil": CellType(
        "lobed", stated(12, 15), quality(0.22, 0.34), quality(0.02, 0.07), quality(1.4, 1.8), quality(0.25, 0.45),
        quality(0.7, 1.1), quality(0.02, 0.09), quality(0.12, 0.26), lobes=stated(2, 5), specific=quality(80, 200),
    ),
    "eosinophil": CellType(
        "lobed", stated(12, 17), quality(0.20, 0.32), quality(0.02, 0.06), quality(1.3, 1.7), quality(0.22, 0.42),
        quality(0.7, 1.1), quality(0.03, 0.10), quality(0.15, 0.3), lobes=quality(2, 3), specific=quality(150, 260),
        granule="orange",
    ),
    "basophil": CellType(
        "lobed", stated(10, 14), quality(0.28, 0.42), quality(0.02, 0.07), quality(1.0, 1.35), quality(0.15, 0.3),
        quality(0.8, 1.2), quality(0.05, 0.14), quality(0.12, 0.24), lobes=quality(2, 3), specific=quality(45, 110),
        granule="dark",
    ),
}

# Share of each type among the photographed white cells of a film, with the patient's remaining normal lymphocytes and
# granulocytes: they are photographed, too, and look the same whatever the diagnosis. Sources bound them (CML in chronic phase: blasts
# and basophils a minority, neutrophils and myelocytes lead; CLL: fewer than 55 % prolymphocytes); the numbers are ours.
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


def rows() -> Iterator[dict[str, object]]:
    """The table of the chapter: one row a cell type and quantity."""
    for name, cell in CELL_TYPES.items():
        for item in fields(cell):
            value = getattr(cell, item.name)
            if isinstance(value, Range) and value is not NONE:
                quantity, unit = UNITS[item.name]
                yield {
                    "cell type": name,
                    "quantity": quantity,
                    "low": value.low,
                    "high": value.high,
                    "unit": unit,
                    "basis": value.basis,
                    "source": value.source,
                }


def mixture_rows() -> Iterator[dict[str, object]]:
    """Which cell types a class is made of."""
    for label, (shares, source) in MIXTURES.items():
        for name, share in shares.items():
            yield {"class": label, "cell type": name, "mean share": share, "source": source}
