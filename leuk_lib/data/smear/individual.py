"""Draws of a patient (stain, slide, microscope, mixture of cell types) and of a cell from the morphology table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leuk_lib.data.smear.morphology import CELL_TYPES, MIXTURES, RED_CELL_DIAMETER, SURROUNDINGS, Range
from leuk_lib.runs.seeds import numpy_rng

FIELD_UM = 25.6  # side of the square field of view
RED_CELL_UM = SURROUNDINGS[RED_CELL_DIAMETER].low  # mean diameter


@dataclass(frozen=True)
class Patient:
    """Properties shared by all cells of a patient: stain, slide, microscope, and the mixture of cell types."""

    name: str
    label: str
    mixture: tuple[float, ...]  # share of each cell type of MIXTURES[label]
    size: float  # factor on cell diameters
    azure: float  # factor on the azure stain
    eosin: float
    tint: tuple[float, float, float]  # relative change of azure's optical density per channel: dye batch, pH
    white: tuple[float, float, float]  # RGB of clear glass, [0,1]
    slope: tuple[float, float]  # illumination gradient across the field, relative to its brightness
    vignette: float
    blur_um: float  # standard deviation of the point spread function
    sharpen: float  # strength of the camera's unsharp mask
    noise: float  # standard deviation of sensor noise at full brightness, [0,1]
    glare: float  # stray light, [0,1]
    jpeg_quality: int
    red_cells: float  # expected number per 100 µm²
    red_size: float  # factor on the diameter of red cells
    pallor: float  # depth of the pale centre of red cells, [0,1]
    platelets: float  # expected number per field
    haze: float  # stained plasma, optical density


@dataclass(frozen=True)
class Cell:
    """Morphology of one cell; lengths in µm, ratios in [0,1], stain in optical density (see ``QUANTITIES``)."""

    kind: str
    nucleus: str
    granule: str
    diameter: float
    nc_ratio: float
    irregularity: float
    indentation: float
    lobes: int
    cleft: bool
    density: float
    clumping: float
    grain: float
    nucleoli: int
    prominence: float
    basophilia: float
    eosinophilia: float
    hof: float
    azurophil: float
    specific: float
    auer: int
    vacuoles: int


def _draw(rng: np.random.Generator, limits: Range) -> float:
    return limits.low + (limits.high - limits.low) * float(rng.beta(2.5, 2.5))


def draw_patient(seed: int, label: str, number: int, effect: float = 1.0) -> Patient:
    """Draw a patient.

    Args:
        seed: seed of the cohort.
        label: class of the patient.
        number: number of the patient within the class.
        effect: how much patients differ; 0: all slides look alike.
    """
    rng = numpy_rng(seed, "patient", label, number)

    def spread(centre: float, deviation: float) -> float:
        return centre + effect * deviation * float(np.clip(rng.standard_normal(), -2.2, 2.2))

    def factor(deviation: float) -> float:
        return float(np.exp(spread(0.0, deviation)))

    shares = np.array(list(MIXTURES[label][0].values()))
    mixture = rng.dirichlet(shares * 25)
    warm = spread(0.0, 0.035)
    return Patient(
        name=f"{label}-P{number:02d}",
        label=label,
        mixture=tuple(mixture.tolist()),
        size=factor(0.035),
        azure=factor(0.13),
        eosin=factor(0.16),
        tint=(spread(0.0, 0.05), spread(0.0, 0.04), spread(0.0, 0.05)),
        white=(
            min(1.0, spread(0.955, 0.016) + max(warm, 0) / 3),
            min(1.0, spread(0.925, 0.02)),
            float(np.clip(spread(0.905, 0.02) - warm, 0.7, 1.0)),
        ),
        slope=(spread(0.0, 0.018), spread(0.0, 0.018)),
        vignette=abs(spread(0.015, 0.015)),
        blur_um=max(0.08, spread(0.15, 0.045)),
        sharpen=max(0.0, spread(0.25, 0.25)),
        noise=max(0.002, spread(0.008, 0.004)),
        glare=max(0.0, spread(0.02, 0.01)),
        jpeg_quality=int(np.clip(spread(88, 6), 70, 98)),
        red_cells=max(0.1, spread(1.9, 0.65)),
        red_size=factor(0.045),
        pallor=float(np.clip(spread(0.66, 0.17), 0.05, 0.92)),
        platelets=max(0.0, spread(0.7, 0.5)),
        haze=max(0.0, spread(0.025, 0.018)),
    )


def draw_cell(rng: np.random.Generator, patient: Patient) -> Cell:
    """Draw one cell of a patient."""
    kinds = list(MIXTURES[patient.label][0])
    kind = kinds[int(np.searchsorted(np.cumsum(patient.mixture)[:-1], rng.random()))]
    cell_type = CELL_TYPES[kind]
    return Cell(
        kind=kind,
        nucleus=cell_type.nucleus,
        granule=cell_type.granule,
        diameter=float(np.clip(_draw(rng, cell_type.diameter) * patient.size, 7.0, 0.96 * FIELD_UM)),
        nc_ratio=_draw(rng, cell_type.nc_ratio),
        irregularity=_draw(rng, cell_type.irregularity),
        indentation=_draw(rng, cell_type.indentation),
        lobes=round(_draw(rng, cell_type.lobes)),
        cleft=bool(rng.random() < cell_type.cleft.high),
        density=_draw(rng, cell_type.density),
        clumping=_draw(rng, cell_type.clumping),
        grain=_draw(rng, cell_type.grain),
        nucleoli=round(_draw(rng, cell_type.nucleoli)),
        prominence=_draw(rng, cell_type.prominence),
        basophilia=_draw(rng, cell_type.basophilia),
        eosinophilia=_draw(rng, cell_type.eosinophilia),
        hof=_draw(rng, cell_type.hof),
        azurophil=_draw(rng, cell_type.azurophil),
        specific=_draw(rng, cell_type.specific),
        auer=int(rng.random() < cell_type.auer.high) * int(rng.integers(1, 3)) * (patient.label == "AML"),
        vacuoles=round(_draw(rng, cell_type.vacuoles)),
    )
