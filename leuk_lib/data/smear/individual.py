"""Draw one patient (stain, slide, microscope, mixture of cells) and one cell from the morphology table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leuk_lib.data.smear.morphology import CELL_TYPES, MIXTURES, RED_CELL_DIAMETER, SURROUNDINGS, Range
from leuk_lib.runs.seeds import numpy_rng

FIELD_UM = 25.6  # side of the square field of view
RED_CELL_UM = SURROUNDINGS[RED_CELL_DIAMETER].low  # mean diameter


@dataclass(frozen=True)
class Patient:
    """What all cells of a patient share: nuisance of stain, slide and microscope, and a mixture of cell types."""

    name: str
    label: str
    mixture: tuple[float, ...]  # share of each type of MIXTURES[label]
    size: float  # factor on cell diameters
    azure: float  # factor on the azure stain
    eosin: float
    tint: tuple[float, float, float]  # added to the azure's optical density per channel: dye batch, pH
    white: tuple[float, float, float]  # RGB of clear glass, [0,1]
    slope: tuple[float, float]  # illumination gradient across the field, fractions of its brightness
    vignette: float
    blur_um: float  # standard deviation of the point spread
    sharpen: float  # camera's unsharp mask
    noise: float  # standard deviation of sensor noise at full brightness, [0,1]
    glare: float  # stray light, [0,1]
    quality: int  # JPEG
    red_cells: float  # expected number per 100 µm²
    red_size: float  # factor on the red cells' diameter
    pallor: float
    platelets: float  # expected number per field
    haze: float  # stained plasma, OD


@dataclass(frozen=True)
class Cell:
    """The morphology of one cell; lengths in µm, ratios in [0,1], stain in optical density."""

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


def _within(rng: np.random.Generator, limits: Range) -> float:
    return limits.low + (limits.high - limits.low) * float(rng.beta(2.5, 2.5))


def draw_patient(seed: int, label: str, number: int, effect: float = 1.0) -> Patient:
    """Patient ``number`` of class ``label``. ``effect`` scales how far patients differ; 0: all slides look alike."""
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
        quality=int(np.clip(spread(88, 6), 70, 98)),
        red_cells=max(0.1, spread(1.9, 0.65)),
        red_size=factor(0.045),
        pallor=float(np.clip(spread(0.66, 0.17), 0.05, 0.92)),
        platelets=max(0.0, spread(0.7, 0.5)),
        haze=max(0.0, spread(0.025, 0.018)),
    )


def draw_cell(rng: np.random.Generator, patient: Patient) -> Cell:
    """One cell of a patient's film."""
    kinds = list(MIXTURES[patient.label][0])
    kind = kinds[int(np.searchsorted(np.cumsum(patient.mixture)[:-1], rng.random()))]
    form = CELL_TYPES[kind]
    return Cell(
        kind=kind,
        nucleus=form.nucleus,
        granule=form.granule,
        diameter=float(np.clip(_within(rng, form.diameter) * patient.size, 7.0, 0.96 * FIELD_UM)),
        nc_ratio=_within(rng, form.nc_ratio),
        irregularity=_within(rng, form.irregularity),
        indentation=_within(rng, form.indentation),
        lobes=round(_within(rng, form.lobes)),
        cleft=bool(rng.random() < form.cleft.high),
        density=_within(rng, form.density),
        clumping=_within(rng, form.clumping),
        grain=_within(rng, form.grain),
        nucleoli=round(_within(rng, form.nucleoli)),
        prominence=_within(rng, form.prominence),
        basophilia=_within(rng, form.basophilia),
        eosinophilia=_within(rng, form.eosinophilia),
        hof=_within(rng, form.hof),
        azurophil=_within(rng, form.azurophil),
        specific=_within(rng, form.specific),
        auer=int(rng.random() < form.auer.high) * int(rng.integers(1, 3)) * (patient.label == "AML"),
        vacuoles=round(_within(rng, form.vacuoles)),
    )
