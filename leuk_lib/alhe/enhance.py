"""ALHE for one image: CLAHE whose clip limit each tile earns, with a gain that spares the background."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe import colour, gain, lut, tiles
from leuk_lib.alhe.blend import Table
from leuk_lib.alhe.images import check_image, codes_of, colour_of, like
from leuk_lib.alhe.params import EnhanceParams

BAND = 1 << 15  # pixels between reading and writing at a time: they stay in a core's cache


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
    return _enhance(check_image(image), params or EnhanceParams(), None)[0]


def explain(image: NDArray[Any], params: EnhanceParams | None = None) -> tuple[NDArray[Any], AlheMaps]:
    """``alhe`` together with what it computed on its way."""
    image = check_image(image)
    kept = np.empty((2, *image.shape[:2]), np.float32)
    enhanced, maps = _enhance(image, params or EnhanceParams(), kept)
    return enhanced, AlheMaps(*maps, *kept)


def _enhance(
    image: NDArray[Any], params: EnhanceParams, kept: NDArray[np.float32] | None
) -> tuple[NDArray[Any], tuple[Any, ...]]:
    """The enhanced image, and the first fields of its maps; gain and shift are written to ``kept`` (2,H,W) if given.

    What is as large as the image is kept to a minimum: fresh memory costs more than most of the arithmetic.
    """
    size = height, width = image.shape[:2]
    step = max(1, BAND // width)
    bands = [slice(top, top + step) for top in range(0, height, step)]
    levels, density, light = carve((size, np.float32), (size, np.float32), ((*size, 3), colour.light_type(image.dtype)))
    for band in bands:
        light[band] = colour.light_of(colour_of(image[band]))
        levels[band] = colour.levels_of(light[band])
        density[band] = gain.optical_density(codes_of(image[band]))
    rows, columns = tiles.lay_tiles(height, width, params)
    stats = tiles.tile_stats(levels, rows, columns)
    active = tiles.activity(stats, params)
    kappa = 1 + (params.kappa_max - 1) * active
    curves = lut.shifts(stats.histogram, kappa, params.contrast_floor)
    density = gain.smoothed(density, params)
    low, high = gain.limits(density, params)
    table = Table(curves, rows, columns)
    enhanced = np.empty_like(image)
    for band in bands:
        weight = gain.smoothstep(density[band], low, high)
        shift = table.read(levels[band], band)
        shift *= weight
        if kept is not None:
            kept[:, band] = weight, shift
        enhanced[band] = like(image[band], colour.moved(light[band], shift), shift)
    return enhanced, (rows, columns, levels, stats, active, kappa, curves)


def carve(*wanted: tuple[tuple[int, ...], Any]) -> list[NDArray[Any]]:
    """Uninitialised arrays of these shapes and types, cut from one block of memory.

    The C library keeps as much free memory for the next call as twice the largest block that it has seen, and returns
    the rest; pages that it has to fetch anew cost more than what is computed on them.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in wanted]
    starts = list(accumulate((-(-size // 64) * 64 for size in sizes), initial=0))
    block = np.empty(starts[-1], np.uint8)
    return [
        block[start : start + size].view(dtype).reshape(shape)
        for (shape, dtype), size, start in zip(wanted, sizes, starts[:-1], strict=True)
    ]
