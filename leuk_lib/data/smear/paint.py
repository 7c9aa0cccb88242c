"""Stain of a white cell: outline, nucleus, chromatin, nucleoli, cytoplasm, granules, Auer rods."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from leuk_lib.data.smear.individual import Cell
from leuk_lib.data.smear.shapes import SHIFT, Canvas, Map, Points, blob, in_disc

# Amounts of (azure, eosin, orange) per unit of each structure.
NUCLEUS = (1.08, 1.15, 0.0)
NUCLEOLUS_LOSS = (0.55, 1.0)  # azure, eosin: nucleoli hold RNA and lose the purple complex, eosin first
AZUROPHIL = (0.55, 0.75, 0.0)
FINE = (0.15, 0.25, 0.0)
ORANGE = (0.10, 0.62, 0.80)
DARK = (1.5, 1.05, 0.0)


@dataclass(frozen=True)
class Stain:
    """Amounts of stain, and the true coverage of nucleus and cell in [0,1]; all (side, side)."""

    azure: Map
    eosin: Map
    orange: Map
    nucleus: Map
    cell: Map


def paint_cell(rng: np.random.Generator, canvas: Canvas, cell: Cell, centre: Points) -> Stain:
    """Draw the stain of one cell at ``centre`` (µm); only the cell's surroundings are computed."""
    reach = 0.75 * cell.diameter + 3 if cell.nucleus == "smudge" else 0.66 * cell.diameter + 2
    half = round(int(np.ceil(reach)) * canvas.scale)
    local = Canvas(2 * half, 2 * half / canvas.scale)
    shift = np.round(centre * canvas.scale).astype(int)  # whole pixels, so that the local canvas fits the full one
    stain = _paint(rng, local, cell, centre - shift / canvas.scale)
    corner = canvas.side // 2 + shift - half  # of the local canvas on the full one, (x, y)
    target = [slice(max(0, int(a)), min(canvas.side, int(a) + 2 * half)) for a in corner]
    source = [slice(s.start - int(a), s.stop - int(a)) for s, a in zip(target, corner, strict=True)]
    maps = []
    for part in (stain.azure, stain.eosin, stain.orange, stain.nucleus, stain.cell):
        full = canvas.zeros()
        full[target[1], target[0]] = part[source[1], source[0]]
        maps.append(full)
    return Stain(*maps)


def _paint(rng: np.random.Generator, canvas: Canvas, cell: Cell, centre: Points) -> Stain:
    radius = cell.diameter / 2
    if cell.nucleus == "smudge":
        return _smudge(rng, canvas, cell, centre)
    outline = blob(rng, radius, 1.3 * cell.irregularity, centre, 1 + abs(0.09 * rng.standard_normal()))
    # The membrane frays where the cytoplasm is drawn out in drying.
    fray = (0.05 + 0.9 * cell.irregularity) * canvas.noise(rng, 0.7)
    body = np.clip((canvas.blur(canvas.fill(outline), 0.24) + fray - 0.5) * 2.2 + 0.5, 0, 1)
    body = body * (canvas.blur(body, 0.8) > 0.1)  # no fragments away from the cell
    facing = rng.uniform(0, 2 * np.pi)
    nucleus, middle = _nucleus(rng, canvas, cell, centre, facing)
    nucleus = np.minimum(nucleus, body)

    azure, eosin = _cytoplasm(rng, canvas, cell, body, nucleus, middle, facing)
    orange = canvas.zeros()
    cytoplasm = body * (1 - nucleus)
    azure, eosin = azure * cytoplasm, eosin * cytoplasm
    chromatin, nucleolar = _chromatin(rng, canvas, cell, nucleus, middle)
    azure += chromatin * (NUCLEUS[0] * (1 - NUCLEOLUS_LOSS[0] * nucleolar))
    eosin += chromatin * (NUCLEUS[1] * (1 - NUCLEOLUS_LOSS[1] * nucleolar))

    area = np.pi * radius**2 / 100
    if cell.azurophil > 0:
        spots = canvas.scatter(in_disc(rng, rng.poisson(cell.azurophil * area), radius, centre), 0.17, body)
        spots = (1 - np.exp(-spots)) * (cytoplasm + 0.25 * nucleus)
        azure, eosin = azure + AZUROPHIL[0] * spots, eosin + AZUROPHIL[1] * spots
    if cell.specific > 0:
        number = rng.poisson(cell.specific * area)
        azure, eosin, orange = _specific(rng, canvas, cell, body, cytoplasm, number, centre, (azure, eosin, orange))
    if cell.auer:
        rods = _auer(rng, canvas, cell, centre, middle) * cytoplasm
        azure, eosin = azure + 0.75 * rods, eosin + 0.95 * rods
    return Stain(azure, eosin, orange, nucleus, body)


def _nucleus(rng: np.random.Generator, canvas: Canvas, cell: Cell, centre: Points, facing: float) -> tuple[Map, Points]:
    """Return the coverage of the nucleus and its centre; ``facing`` is the direction of the wider cytoplasm."""
    cell_radius = cell.diameter / 2
    radius = cell_radius * np.sqrt(cell.nc_ratio)
    away = np.array([np.cos(facing), np.sin(facing)])
    if cell.nucleus == "round":
        slack = cell_radius - radius
        middle = centre - away * slack * rng.uniform(0.25, 0.85)
        rough = 0.018 + 0.35 * cell.irregularity
        outline = blob(rng, radius, rough, middle, 1 + abs(0.08 * rng.standard_normal()), cell.indentation, facing)
        return canvas.smooth(canvas.fill(outline), 0.2), middle
    # A curved rod (band) or a string of lobes: circles along an arc around the centre of the cell.
    band = cell.nucleus == "band"
    lobes = max(cell.lobes, 2)
    sweep = rng.uniform(2.6, 4.4) if band else min(0.95 * lobes + rng.uniform(0.1, 0.9), 4.6)
    arc = cell_radius * (rng.uniform(0.42, 0.52) if band else rng.uniform(0.40, 0.52))
    t = np.linspace(-0.5, 0.5, 26 if band else lobes)
    angles = facing + np.pi + sweep * t + (0 if band else rng.normal(0, 0.12, lobes))
    wobble = (
        rng.normal(0, 0.10 * cell_radius, len(t)) if not band else 0.12 * cell_radius * np.sin(2 * np.pi * t + facing)
    )
    ring = arc + wobble
    beads = centre + np.stack([ring * np.cos(angles), ring * np.sin(angles)], axis=1)
    if band:
        width = np.pi * radius**2 / (arc * sweep + 0.6 * radius)
        radii = 0.5 * width * (1 + 0.22 * np.cos(4 * np.pi * t + rng.uniform(0, 6)) * rng.uniform(0.2, 1))
        return canvas.smooth(canvas.discs(beads, np.clip(radii, 0.6, None)), 0.28), beads.mean(axis=0)
    sizes = radius / np.sqrt(lobes) * np.exp(rng.normal(0, 0.13, lobes))
    outlines = [
        blob(rng, float(size), 0.05, bead, 1 + abs(0.22 * rng.standard_normal()))
        for size, bead in zip(sizes, beads, strict=True)
    ]
    steps = np.linspace(0, 1, 9)[:, None]
    thread = np.concatenate([a + (b - a) * steps for a, b in itertools.pairwise(beads)])
    thin = np.full(len(thread), rng.uniform(0.3, 0.75))
    mask = np.maximum(canvas.fill(*outlines), canvas.discs(thread, thin))
    return canvas.smooth(mask, 0.22), beads.mean(axis=0)


def _chromatin(rng: np.random.Generator, canvas: Canvas, cell: Cell, nucleus: Map, middle: Points) -> tuple[Map, Map]:
    """Return the density of the nucleus, and the prominence of nucleoli in [0,1]."""
    coarse = np.tanh(2.2 * canvas.noise(rng, cell.grain))
    fine = canvas.noise(rng, 0.42)
    stipple = np.tanh(1.5 * canvas.noise(rng, 0.3))  # sieve-like fine structure, which dominates in blasts
    depth = np.clip(canvas.blur(nucleus, 0.9) * 1.8 - 0.8, 0, 1)  # 0 at the edge, 1 inside
    membrane = np.clip(2.2 * (1 - canvas.blur(nucleus, 0.3)), 0, 1)  # 1 on the innermost third of a micrometre
    texture = 1 + cell.clumping * (0.62 * coarse + 0.30 * fine) + 0.10 * stipple
    texture += (0.06 + 0.12 * cell.clumping) * (1 - depth) + 0.16 * membrane
    density = cell.density * nucleus * np.clip(texture, 0.3, 1.8)
    radius = cell.diameter / 2 * np.sqrt(cell.nc_ratio)
    spots = canvas.zeros()
    if cell.nucleoli:
        centres = in_disc(rng, cell.nucleoli, 0.6 * radius, middle)
        sizes = radius * rng.uniform(0.14, 0.27, cell.nucleoli)
        outlines = [
            blob(rng, float(size), 0.09, at, rng.uniform(1, 1.35)) for size, at in zip(sizes, centres, strict=True)
        ]
        spots = cell.prominence * canvas.blur(canvas.fill(*outlines), 0.14)
        density = density * (1 + 0.45 * (canvas.blur(spots, 0.35) - spots))  # condensed chromatin around them
    if cell.cleft:
        bend, angle = rng.normal(0, 0.2 * radius), rng.uniform(0, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)])
        aside = np.array([-along[1], along[0]])
        start = middle + radius * (1.05 * along + rng.uniform(-0.3, 0.3) * aside)
        end = middle - radius * (rng.uniform(-0.1, 0.9) * along - rng.uniform(-0.3, 0.3) * aside)
        t = np.linspace(0, 1, 14)[:, None]
        line = start + (end - start) * t + aside * bend * np.sin(np.pi * t)
        crease = canvas.blur(canvas.discs(line, np.full(14, 0.22)), 0.14)
        density = density * (1 - 0.42 * crease + 0.3 * canvas.blur(crease, 0.4))
    return density, np.clip(spots, 0, 1)


def _cytoplasm(
    rng: np.random.Generator, canvas: Canvas, cell: Cell, body: Map, nucleus: Map, middle: Points, facing: float
) -> tuple[Map, Map]:
    """Return azure and eosin of the cytoplasm, not yet restricted to the cell."""
    cloud = 1 + 0.16 * canvas.noise(rng, 1.3) + 0.14 * canvas.noise(rng, 0.45)
    inner = np.clip(canvas.blur(body, 1.0) * 1.9 - 0.9, 0, 1)
    patchy = np.clip(1 + 0.5 * canvas.noise(rng, 2.4), 0.2, 2)
    rim = 1 + 0.45 * patchy * (1 - inner)  # blasts and lymphocytes stain deepest at the border, unevenly
    near = canvas.blur(nucleus, 0.9)
    azure = cell.basophilia * cloud * rim * (1 - 0.35 * near)
    if cell.hof:
        toward = np.array([np.cos(facing), np.sin(facing)])
        spot = middle + toward * 0.5 * cell.diameter * np.sqrt(cell.nc_ratio) * 1.1
        x, y = canvas.axis - spot[0], canvas.axis - spot[1]
        width = 0.16 * cell.diameter
        pale = np.exp(-0.5 * (y**2 / width**2))[:, None] * np.exp(-0.5 * (x**2 / width**2))[None, :]
        azure = azure * (1 - cell.hof * pale)
    eosin = cell.eosinophilia * cloud
    if cell.vacuoles:
        centres = in_disc(rng, cell.vacuoles, 0.46 * cell.diameter, middle)
        holes = canvas.blur(canvas.discs(centres, rng.uniform(0.3, 0.75, cell.vacuoles)), 0.12)
        azure, eosin = azure * (1 - 0.85 * holes), eosin * (1 - 0.8 * holes)
    return azure, eosin


def _specific(
    rng: np.random.Generator,
    canvas: Canvas,
    cell: Cell,
    body: Map,
    cytoplasm: Map,
    number: int,
    centre: Points,
    stain: tuple[Map, Map, Map],
) -> tuple[Map, Map, Map]:
    """Add specific granules: neutrophil (fine), eosinophil (orange), basophil (dark, over the nucleus too)."""
    azure, eosin, orange = stain
    points = in_disc(rng, number, 0.49 * cell.diameter, centre)
    if cell.granule == "fine":
        spots = canvas.scatter(points, 0.15, body) * cytoplasm
        return azure + FINE[0] * spots, eosin + FINE[1] * spots, orange
    sigma, depth, amounts = (0.21, 0.9, ORANGE) if cell.granule == "orange" else (0.29, 1.4, DARK)
    spots = 1 - np.exp(-depth * canvas.scatter(points, sigma, body))
    spots = spots * (cytoplasm if cell.granule == "orange" else cytoplasm + 0.55 * (body - cytoplasm))
    return azure + amounts[0] * spots, eosin + amounts[1] * spots, orange + amounts[2] * spots


def _auer(rng: np.random.Generator, canvas: Canvas, cell: Cell, centre: Points, middle: Points) -> Map:
    """Draw thin rods, 2-5 µm long, in the wider cytoplasm."""
    out = np.zeros((canvas.side, canvas.side), np.uint8)
    side = (centre - middle) / max(float(np.linalg.norm(centre - middle)), 1e-6)
    base = np.arctan2(side[1], side[0])
    for _ in range(cell.auer):
        reach = cell.diameter / 2 * rng.uniform(0.62, 0.8)
        at = base + rng.normal(0, 0.5)
        spot = centre + reach * np.array([np.cos(at), np.sin(at)])
        turn, length = at + np.pi / 2 + rng.normal(0, 0.35), rng.uniform(2.0, 5.0)
        half = 0.5 * length * np.array([np.cos(turn), np.sin(turn)])
        a, b = canvas.pixels(np.stack([spot - half, spot + half]))
        cv2.line(out, a.tolist(), b.tolist(), 1, max(1, round(0.28 * canvas.scale)), cv2.LINE_8, SHIFT)
    return canvas.blur(out.astype(np.float32), 0.1)


def _smudge(rng: np.random.Generator, canvas: Canvas, cell: Cell, centre: Points) -> Stain:
    """Draw a crushed nucleus: pale, streaky, ragged, without cytoplasm."""
    angle = rng.uniform(0, np.pi)
    outline = blob(rng, cell.diameter / 2 * 0.85, cell.irregularity, centre, rng.uniform(1.0, 1.5))
    mask = canvas.blur(canvas.fill(outline), rng.uniform(0.7, 1.3))
    ragged = mask + 0.16 * canvas.noise(rng, 1.9, 1.6, angle) * (mask > 0.05)
    nucleus = np.clip((ragged - 0.45) * 1.7 + 0.5, 0, 1)
    streak = canvas.noise(rng, cell.grain, rng.uniform(1.5, 3.0), angle)
    texture = np.clip(1 + cell.clumping * (0.5 * streak + 0.35 * canvas.noise(rng, 0.6)), 0.25, 1.7)
    density = cell.density * nucleus * texture
    empty = canvas.zeros()
    return Stain(NUCLEUS[0] * density, NUCLEUS[1] * density, empty, nucleus, nucleus)
