"""ALHE for one image: CLAHE whose clip limit each tile earns, with a gain that spares the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe import gain, lut, tiles
from leuk_lib.alhe.images import check_image, codes_of, like, linear_of
from leuk_lib.alhe.params import EnhanceParams

LEVELS = 2.56  # grey levels per unit of L*


@dataclass(frozen=True)
class AlheMaps:
    """Everything ALHE computes on its way, for figures and tests.

    levels (H,W) lightness in grey levels [0,256]; stats and activity per tile (rows, columns); kappa per tile;
    curves (rows, columns, 257) shifts at the bins' edges; gain (H,W) in [0,1]; shift (H,W) grey levels, gain applied.
    """

    rows: tiles.Axis
    columns: tiles.Axis
    levels: NDArray[np.float32]
    stats: tiles.TileStats
    activity: NDArray[np.float64]
    kappa: NDArray[np.float64]
    curves: NDArray[np.float64]
    gain: NDArray[np.float32]
    shift: NDArray[np.float32]


def alhe(image: NDArray[Any], params: EnhanceParams | None = None) -> NDArray[Any]:
    """Enhance one image.

    image: (H,W) grey, (H,W,3) RGB or (H,W,4) RGBA, both sides >= 8; uint8, uint16, or float in [0,1]. Returns the same
    shape and type; only CIELAB lightness changes, alpha is passed on. kappa_max = 1 returns the image, exactly.
    Raises ``LeukError`` in one line for anything else. Deterministic; cost proportional to the pixels.
    Source: Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV (1994); the clip limit per
    tile, the contrast floor and the stain gain are this project's.

    >>> alhe(np.full((16, 16, 3), 200, np.uint8)).mean()
    np.float64(200.0)
    """
    return explain(image, params)[0]


def explain(image: NDArray[Any], params: EnhanceParams | None = None) -> tuple[NDArray[Any], AlheMaps]:
    """``alhe`` together with what it computed on its way."""
    params = params or EnhanceParams()
    image = check_image(image)
    lab: NDArray[Any] = cv2.cvtColor(linear_of(image), cv2.COLOR_LRGB2LAB)
    levels = np.clip(lab[..., 0] * np.float32(LEVELS), 0, tiles.BINS)
    rows, columns = tiles.lay_tiles(levels.shape[0], levels.shape[1], params)
    stats = tiles.tile_stats(levels, rows, columns)
    active = tiles.activity(stats, params)
    kappa = 1 + (params.kappa_max - 1) * active
    curves = lut.shifts(stats.histogram, kappa, params.contrast_floor)
    weight = gain.stain_gain(codes_of(image), params)
    shift = weight * blend(curves, levels, rows, columns)
    lab[..., 0] += shift * np.float32(1 / LEVELS)
    enhanced = like(image, cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), shift != 0)
    return enhanced, AlheMaps(rows, columns, levels, stats, active, kappa, curves, weight, shift)


def blend(
    curves: NDArray[np.float64], levels: NDArray[np.float32], rows: tiles.Axis, columns: tiles.Axis
) -> NDArray[np.float32]:
    """Shift of every pixel (H,W): the four neighbouring tiles' curves at its level, blended bilinearly."""
    table = curves.astype(np.float32)
    upper, weight = rows.neighbours()
    lower = np.minimum(upper + 1, rows.count - 1)
    # Rows first: one blended set of curves per pixel row, (H, columns, 257).
    by_row = table[upper] * (1 - weight)[:, None, None] + table[lower] * weight[:, None, None]
    left, across = columns.neighbours()
    edges = tiles.BINS + 1
    index = np.minimum(levels, tiles.BINS - 1).astype(np.int64)
    fraction = levels - index.astype(np.float32)
    index += left * edges
    index += np.arange(rows.size)[:, None] * (columns.count * edges)
    flat = by_row.ravel()

    def read() -> NDArray[np.float32]:
        low = flat.take(index)
        np.add(index, 1, out=index)
        step = flat.take(index)
        step -= low
        step *= fraction
        low += step
        return low

    here = read()
    if columns.count == 1:
        return here
    np.add(index, edges - 1, out=index)  # the tile to the right
    there = read()
    there -= here
    there *= across
    here += there
    return here
