r"""ALHE for one image: CLAHE with an adaptive clip limit per tile, and a gain that spares the background.

.. math:: L' = L + g \, (T(L) - L), \qquad a' = a, \quad b' = b,

with :math:`T` the tone curves of the four nearest tiles, interpolated bilinearly (`lut`), each clipped at its tile's own
limit (`activity`), and :math:`g` the gain (`gain`).

References:
    Zuiderveld, K. (1994). Contrast limited adaptive histogram equalization. Graphics Gems IV, 474-485. The clip limit
    per tile, the contrast floor and the gain are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe import colour, gain, lut
from leuk_lib.alhe.activity import TileStats, activity, clip_limits, tile_stats
from leuk_lib.alhe.images import check_image, restore_layout, to_rgb, to_rgb8
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.tiles import TileAxis, tile_grid

BAND_PIXELS = 1 << 15  # pixels between reading and writing at a time: they stay in a core's cache


@dataclass(frozen=True)
class AlheMaps:
    """Intermediate results of ALHE, for figures and tests.

    Attributes:
        rows: rows of the tile grid.
        columns: columns of the tile grid.
        levels: (H,W) lightness in grey levels [0,256].
        stats: statistics per tile.
        activity: (rows, columns) in [0,1].
        clip_limits: (rows, columns) mean bin counts, at least 1.
        luts: (rows, columns, 257) shift of each level, grey levels.
        gain: (H,W) in [0,1].
        shift: (H,W) shift of lightness, gain applied, grey levels.
    """

    rows: TileAxis
    columns: TileAxis
    levels: NDArray[np.float32]
    stats: TileStats
    activity: NDArray[np.float64]
    clip_limits: NDArray[np.float64]
    luts: NDArray[np.float64]
    gain: NDArray[np.float32]
    shift: NDArray[np.float32]


def alhe(image: NDArray[Any], params: EnhanceParams | None = None) -> NDArray[Any]:
    """Enhance one image. Deterministic; the cost is proportional to the pixels.

    Args:
        image: (H,W) grey, (H,W,3) RGB or (H,W,4) RGBA, both sides at least 8; uint8, uint16, or float in [0,1].
        params: settings; a ``clip_limit`` of 1 returns the image exactly.

    Returns:
        An image of the same shape and type. Only CIELAB lightness changes; alpha is passed on.

    Raises:
        LeukError: another shape or type, NaN, or values out of range.

    >>> alhe(np.full((16, 16, 3), 200, np.uint8)).mean()
    np.float64(200.0)
    """
    native = check_image(image)
    return _enhance(native, params or EnhanceParams(), None)[0].astype(image.dtype, copy=False)


def explain(image: NDArray[Any], params: EnhanceParams | None = None) -> tuple[NDArray[Any], AlheMaps]:
    """Enhance one image as ``alhe`` does, and return its intermediate results with it."""
    native = check_image(image)
    maps = np.empty((2, *image.shape[:2]), np.float32)
    enhanced, of_tiles = _enhance(native, params or EnhanceParams(), maps)
    return enhanced.astype(image.dtype, copy=False), AlheMaps(*of_tiles, *maps)


def _enhance(
    image: NDArray[Any], params: EnhanceParams, maps: NDArray[np.float32] | None
) -> tuple[NDArray[Any], tuple[Any, ...]]:
    """The enhanced image, and the first fields of its maps; gain and shift are written to ``maps`` (2,H,W) if given."""
    size = height, width = image.shape[:2]
    step = max(1, BAND_PIXELS // width)
    bands = [slice(top, top + step) for top in range(0, height, step)]
    levels, density = np.empty(size, np.float32), np.empty(size, np.uint16)
    xyz = np.empty((*size, 3), colour.xyz_type(image.dtype))
    for band in bands:
        rgb = to_rgb(image[band])
        xyz[band] = colour.to_xyz(rgb)
        levels[band] = colour.exact_levels(rgb, xyz[band])
        density[band] = gain.optical_density(to_rgb8(image[band]))
    rows, columns = tile_grid(height, width, params)
    stats = tile_stats(levels, rows, columns)
    active = activity(stats, params)
    limits = clip_limits(active, params)
    luts = lut.shift_luts(stats.histogram, limits, params.contrast_floor)
    smooth = gain.box_smooth(density, params)
    low, high = gain.gain_limits(smooth, params)
    grid = lut.LutGrid(luts, rows, columns)
    enhanced = np.empty_like(image)
    for band in bands:
        weight = gain.smoothstep(smooth[band], low, high)
        exact = xyz.dtype == np.uint16  # 8 bits: no finer levels than these
        shift = grid.interpolate(levels[band] if exact else colour.lightness_levels(xyz[band]), band)
        shift *= weight
        if maps is not None:
            maps[:, band] = weight, shift
        enhanced[band] = restore_layout(image[band], colour.shift_lightness(xyz[band], shift), shift)
    return enhanced, (
        rows,
        columns,
        levels if maps is None else colour.lightness_levels(xyz),
        stats,
        active,
        limits,
        luts,
    )
