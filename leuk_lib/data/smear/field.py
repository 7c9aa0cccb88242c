"""Surroundings of the cell: red cells, platelets and stain precipitate."""

from __future__ import annotations

import math

import numpy as np

from leuk_lib.data.smear.individual import RED_CELL_UM, Patient
from leuk_lib.data.smear.morphology import PLATELET_DIAMETER, SURROUNDINGS
from leuk_lib.data.smear.shapes import Canvas, Map, Points, blob, in_disc

PLATELET = SURROUNDINGS[PLATELET_DIAMETER]
RED_CELL = (0.24, 0.18, 0.34)  # azure, eosin and haemoglobin per unit of thickness


def red_cells(rng: np.random.Generator, canvas: Canvas, patient: Patient, centre: Points, clearance: float) -> Map:
    """Draw red cells: discs with a pale centre and a soft rim, slightly oval or triangular; overlaps add up.

    Args:
        rng: source of the draws.
        canvas: where to draw.
        patient: sets number, size and pallor.
        centre: centre of the white cell, µm.
        clearance: free radius around ``centre``, µm; only the rim of a red cell reaches into it.

    Returns:
        Thickness, (side, side): about 1 at a rim, 0 on glass.
    """
    out = canvas.zeros()
    reach = canvas.field / 2 + 3
    number = min(int(rng.poisson(patient.red_cells * (2 * reach) ** 2 / 100)), 40)
    centres = rng.uniform(-reach, reach, (number, 2))
    radii = 0.5 * RED_CELL_UM * patient.red_size * np.exp(rng.normal(0, 0.05, number))
    shape = rng.normal(0, 1, (number, 4))
    drawn: list[tuple[float, float, float]] = []
    white_cell = (float(centre[0]), float(centre[1]))
    for i, ((x, y), radius) in enumerate(zip(centres.tolist(), radii.tolist(), strict=True)):
        if math.dist((x, y), white_cell) < clearance + 0.86 * radius:
            continue
        if any(math.hypot(x - a, y - b) < 0.76 * (radius + c) for a, b, c in drawn):
            continue
        drawn.append((x, y, radius))
        _red_cell(out, canvas, centres[i], radius, shape[i], patient.pallor)
    return out


def _red_cell(out: Map, canvas: Canvas, centre: Points, radius: float, shape: Points, pallor: float) -> None:
    """Add one red cell to ``out``, within its bounding box."""
    box = []
    for position in centre:
        low = int(np.clip(np.floor((position - 1.3 * radius + canvas.field / 2) * canvas.scale), 0, canvas.side))
        high = int(np.clip(np.ceil((position + 1.3 * radius + canvas.field / 2) * canvas.scale), 0, canvas.side))
        box.append(slice(low, high))
    x, y = canvas.axis[box[0]] - centre[0], canvas.axis[box[1]] - centre[1]
    if not len(x) or not len(y):
        return
    stretch, angle = 1 + 0.09 * abs(shape[0]), 1.5 * shape[1]
    c, s = np.cos(angle), np.sin(angle)
    u = (c * x[None, :] + s * y[:, None]) * np.float32(stretch)
    v = (c * y[:, None] - s * x[None, :]) / np.float32(stretch)
    corner = np.float32(0.05 * np.clip(shape[3], -2, 2) / radius**3)
    r2 = (u * u + v * v) / np.float32(radius**2) * (1 + np.clip(corner * u * (u * u - 3 * v * v), -0.2, 0.2))
    edge = np.clip((1 - r2) * np.float32(radius * canvas.scale / 2) + 0.5, 0, 1)
    dip = np.float32(np.clip(pallor * (1 + 0.3 * shape[2]), 0, 0.95))
    # A dried biconcave disc is thickest at about three quarters of its radius (SURROUNDINGS).
    rim = 1 - np.float32(0.3) * r2 * r2 * r2
    out[box[1], box[0]] += edge * rim * np.float32(1.12) * (1 - dip * np.exp(-((r2 / np.float32(0.25)) ** 1.7)))


def platelets(rng: np.random.Generator, canvas: Canvas, patient: Patient, centre: Points, clearance: float) -> Map:
    """Draw platelets, small granular purple bodies; arguments as for ``red_cells``."""
    number = int(rng.poisson(patient.platelets))
    outlines = []
    for _ in range(number):
        position = rng.uniform(-canvas.field / 2, canvas.field / 2, 2)
        outline = blob(rng, rng.uniform(PLATELET.low / 2, PLATELET.high / 2), 0.12, position, rng.uniform(1.0, 1.5))
        if np.hypot(*(position - centre)) > clearance + 1.2:
            outlines.append(outline)
    if not outlines:
        return canvas.zeros()
    body = canvas.smooth(canvas.fill(*outlines), 0.25)
    granules = np.clip(canvas.noise(rng, 0.45), 0, 2.2) * np.clip(2 * canvas.blur(body, 0.45) - 0.9, 0, 1)
    return body * (0.45 + 1.1 * granules)  # a granular centre with a pale margin


def precipitate(rng: np.random.Generator, canvas: Canvas) -> Map:
    """Draw specks of undissolved stain; most fields have none."""
    number = int(rng.poisson(0.35))
    if not number:
        return canvas.zeros()
    return canvas.scatter(in_disc(rng, number, 0.7 * canvas.field, np.zeros(2)), 0.18)
