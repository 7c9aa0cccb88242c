r"""How much enhancement each tile gets: its activity, and the clip limit that follows.

With :math:`e` the normalised entropy of the tile's lightness histogram, :math:`c` the spread between its 5th and 95th
percentiles, and :math:`\sigma` the tile's noise,

.. math::

    a = \Big[\frac{e - e_{low}}{e_{high} - e_{low}}\Big]_0^1
        \Big[\frac{1}{2} \Big(\frac{c}{3.29\,\sigma} - 1\Big)\Big]_0^1,
    \qquad \kappa = 1 + (\kappa_{max} - 1)\, a,

where :math:`[\cdot]_0^1` clips to [0,1]. Gaussian noise has :math:`c = 3.29\,\sigma`, hence no activity and a clip
limit of 1, which leaves the tile as it is.

References:
    Immerkaer, J. (1996). Fast noise variance estimation. Comput. Vis. Image Underst. 64, 300-302.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.colour import LEVEL_STEP
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.tiles import BINS, TileAxis, histogram_quantiles, row_histograms

SPREAD_TAILS = (0.05, 0.95)  # quantiles of lightness between which the spread is read
GAUSS_SPREAD = 3.29  # q95 - q05 of a Gaussian, in standard deviations
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)  # Immerkaer 1996
LAPLACIAN_NORM = 6.0  # root of the sum of its squared weights
MAD_TO_SIGMA = 1.4826
NOISE_STEP = 4.0  # bins of |Laplacian| per grey level: the median is read from a histogram, not by sorting
QUANTISATION = 1 / 12  # variance of rounding to one grey level


@dataclass(frozen=True)
class TileStats:
    """Statistics per tile of a grid (rows, columns).

    Attributes:
        histogram: (rows, columns, 256) pixels of the tile per level.
        entropy: (rows, columns) normalised entropy in [0,1].
        spread: (rows, columns) 5th to 95th percentile of lightness, grey levels.
        noise: (rows, columns) standard deviation of the noise, grey levels.
    """

    histogram: NDArray[np.float64]
    entropy: NDArray[np.float64]
    spread: NDArray[np.float64]
    noise: NDArray[np.float64]


def tile_stats(levels: NDArray[np.float32], rows: TileAxis, columns: TileAxis) -> TileStats:
    """Compute histogram, entropy, spread and noise of each tile.

    Args:
        levels: (H,W) lightness in [0,256], in whole multiples of ``colour.LEVEL_STEP``.
        rows: The grid's rows.
        columns: The grid's columns.
    """
    padding = (rows.pad, rows.pad, columns.pad, columns.pad)
    padded = cv2.copyMakeBorder(levels, *padding, borderType=cv2.BORDER_REFLECT) if any(padding) else levels
    histogram, laplacian_counts = np.empty((2, rows.count, columns.count, BINS))
    for i in range(rows.count):
        band = slice(i * rows.side, (i + 1) * rows.side)
        # Whole part: half a level lower, rounded (and saturated to 0 … 255) in one pass. Half a step more than that,
        # so that a whole level is no tie.
        bins: NDArray[Any] = cv2.convertScaleAbs(padded[band], beta=LEVEL_STEP / 2 - 0.5)
        histogram[i] = row_histograms(bins, columns)
        # One row more on either side, where there is one, for the second difference.
        above, below = min(i, 1), min(rows.count - 1 - i, 1)
        laplacian = cv2.filter2D(
            padded[band.start - above : band.stop + below], -1, LAPLACIAN, borderType=cv2.BORDER_REFLECT_101
        )
        laplacian = laplacian[above : above + rows.side]
        bins = cv2.convertScaleAbs(laplacian, alpha=NOISE_STEP)
        laplacian_counts[i] = row_histograms(bins, columns)  # bin k is centred on k
    (median,) = histogram_quantiles(laplacian_counts, 0.5)
    median = np.maximum(median - 0.5, 0) / NOISE_STEP
    noise = np.sqrt((MAD_TO_SIGMA / LAPLACIAN_NORM * median) ** 2 + QUANTISATION)

    shares = histogram / (rows.side * columns.side)
    logs = np.log2(np.where(shares > 0, shares, 1.0))
    entropy = -(shares * logs).sum(axis=-1) / np.log2(BINS)
    low, high = histogram_quantiles(histogram, *SPREAD_TAILS)
    return TileStats(histogram, entropy, high - low, noise)


def tile_activity(entropy: Any, spread: Any, noise: Any, params: EnhanceParams) -> Any:
    """Activity of each tile by the module's formula, before it is smoothed over the grid.

    Args:
        entropy: Normalised entropies in [0,1], an array or a tensor.
        spread: 5th to 95th percentile of lightness in grey levels, of the same shape.
        noise: Standard deviation of the noise in grey levels, > 0, of the same shape.
        params: Uses entropy_low, entropy_high and spread_limit; with a limit above 0 the activity falls linearly to 0
            as the spread nears it.

    Returns:
        Activities in [0,1], of the same shape and type.

    >>> tile_activity(np.array([0.55]), np.array([20.0]), np.array([2.0]), EnhanceParams()).round(3).tolist()
    [0.5]
    """
    varied = ((entropy - params.entropy_low) / (params.entropy_high - params.entropy_low)).clip(0, 1)
    active = varied * ((spread / (GAUSS_SPREAD * noise) - 1) / 2).clip(0, 1)
    if params.spread_limit > 0:
        active = active * (1 - spread / params.spread_limit).clip(0, 1)
    return active


def activity(stats: TileStats, params: EnhanceParams) -> NDArray[np.float64]:
    """Activity of each tile, (rows, columns) in [0,1], smoothed 3x3 over the grid with its edges repeated."""
    active = tile_activity(stats.entropy, stats.spread, stats.noise, params)
    padded = cv2.copyMakeBorder(active, 1, 1, 1, 1, borderType=cv2.BORDER_REPLICATE)
    down = padded[:-2] + padded[1:-1] + padded[2:]
    return np.clip((down[:, :-2] + down[:, 1:-1] + down[:, 2:]) / 9, 0, 1)


def clip_limits(active: Any, params: EnhanceParams) -> Any:
    """Clip limit of each tile, from 1 to ``params.clip_limit`` mean bin counts, of its activity in [0,1]."""
    return 1 + (params.clip_limit - 1) * active
