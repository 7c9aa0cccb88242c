"""How an image is cut into tiles, and how much enhancement each tile has earned.

The grid is the same after a flip or a quarter turn of the image: padding is equal on both sides of an axis, for
which an odd side gets an odd number of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.params import EnhanceParams

BINS = 256
GAUSS_SPREAD = 3.29  # q95 - q05 of a Gaussian, in standard deviations
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)  # Immerkaer 1996; norm 6
LAPLACIAN_NORM = 6.0
MAD_TO_SIGMA = 1.4826
NOISE_STEP = 4.0  # bins of |Laplacian| per unit: the median is read from a histogram, not by sorting
QUANTISATION = 1 / 12  # variance of rounding to one grey level


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: ``size`` pixels, ``pad`` more on either side, ``count`` tiles of ``side`` pixels."""

    size: int
    count: int
    side: int
    pad: int

    @property
    def borders(self) -> list[int]:
        """First pixel of every tile but the first."""
        return [k * self.side - self.pad for k in range(1, self.count)]

    def neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For each pixel the lower of its two neighbouring tile centres and the weight of the upper one."""
        place = (np.arange(self.size) + 0.5 + self.pad) / self.side - 0.5
        place = np.clip(place, 0, self.count - 1)
        lower = np.minimum(place.astype(np.int64), max(self.count - 2, 0))
        return lower, (place - lower).astype(np.float32)


def lay_axis(size: int, wanted: float) -> Axis:
    """Tiles of about ``wanted`` pixels over ``size`` pixels, placed symmetrically."""
    count = max(1, round(size / wanted))
    if size % 2 and count % 2 == 0:
        count -= 1
    side = -(-size // count)
    if (count * side - size) % 2:
        side += 1
    return Axis(size, count, side, (count * side - size) // 2)


def lay_tiles(height: int, width: int, params: EnhanceParams) -> tuple[Axis, Axis]:
    """The grid of an image: tile side max(tile_min, shorter side / tiles)."""
    wanted = max(params.tile_min, min(height, width) / params.tiles)
    return lay_axis(height, wanted), lay_axis(width, wanted)


def quantiles(counts: NDArray[np.float64], *shares: float) -> list[NDArray[np.float64]]:
    """For each share the quantile of every histogram (..., K), in bins, linear inside a bin: arrays (...)."""
    flat = counts.reshape(-1, counts.shape[-1])
    cdf = np.cumsum(flat, axis=1)
    rows = np.arange(len(flat))
    found = []
    for share in shares:
        target = share * cdf[:, -1]
        place = (cdf >= target[:, None]).argmax(axis=1)
        inside = flat[rows, place]
        before = cdf[rows, place] - inside
        found.append((place + (target - before) / np.maximum(inside, 1e-12)).reshape(counts.shape[:-1]))
    return found


def tile_histogram(values: NDArray[Any], columns: Axis) -> NDArray[np.float64]:
    """Counts (columns.count, 256) of one row of tiles: 8-bit values (side, columns.count*side), padded."""
    counts = np.empty((columns.count, BINS))
    for j in range(columns.count):
        tile = values[:, j * columns.side : (j + 1) * columns.side]
        # Per tile this is an order of magnitude faster than one bincount over tile*256+value, which needs 64-bit ids.
        counts[j] = cv2.calcHist([tile], [0], None, [BINS], [0, BINS]).ravel()
    return counts


@dataclass(frozen=True)
class TileStats:
    """Per tile (rows, columns): ``histogram`` of fractions (…,256), entropy in [0,1], spread and noise in grey levels."""

    histogram: NDArray[np.float64]
    entropy: NDArray[np.float64]
    spread: NDArray[np.float64]
    noise: NDArray[np.float64]


def tile_stats(levels: NDArray[np.float32], rows: Axis, columns: Axis) -> TileStats:
    """Statistics of lightness ``levels`` (H,W) in [0,256]."""
    padding = (rows.pad, rows.pad, columns.pad, columns.pad)
    padded = cv2.copyMakeBorder(levels, *padding, borderType=cv2.BORDER_REFLECT) if any(padding) else levels
    histogram, ripples = np.empty((2, rows.count, columns.count, BINS))
    for i in range(rows.count):
        band = slice(i * rows.side, (i + 1) * rows.side)
        # Whole part: half a level lower, rounded (and saturated to 0 … 255) in one pass.
        bins: NDArray[Any] = cv2.convertScaleAbs(padded[band], beta=-0.5)
        histogram[i] = tile_histogram(bins, columns)
        # One row more on either side, where there is one, for the second difference.
        above, below = min(i, 1), min(rows.count - 1 - i, 1)
        ripple = cv2.filter2D(
            padded[band.start - above : band.stop + below], -1, LAPLACIAN, borderType=cv2.BORDER_REFLECT_101
        )
        ripple = ripple[above : above + rows.side]
        bins = cv2.convertScaleAbs(ripple, alpha=NOISE_STEP)
        ripples[i] = tile_histogram(bins, columns)  # bin k is centred on k
    histogram /= rows.side * columns.side
    (median,) = quantiles(ripples, 0.5)
    median = np.maximum(median - 0.5, 0) / NOISE_STEP
    noise = np.sqrt((MAD_TO_SIGMA / LAPLACIAN_NORM * median) ** 2 + QUANTISATION)

    logs = np.log2(np.where(histogram > 0, histogram, 1.0))
    entropy = -(histogram * logs).sum(axis=-1) / np.log2(BINS)
    low, high = quantiles(histogram, 0.05, 0.95)
    return TileStats(histogram, entropy, high - low, noise)


def activity(stats: TileStats, params: EnhanceParams) -> NDArray[np.float64]:
    """What each tile has earned, in [0,1]: it must be varied (entropy), and varied by more than its noise.

    Smoothed 3x3 over the grid, edges repeated.
    """
    varied = np.clip((stats.entropy - params.entropy_low) / (params.entropy_high - params.entropy_low), 0, 1)
    structure = np.clip((stats.spread / (GAUSS_SPREAD * stats.noise) - 1) / 2, 0, 1)
    earned = varied * structure
    if params.spread_limit > 0:
        earned = earned * np.clip(1 - stats.spread / params.spread_limit, 0, 1)
    edged = cv2.copyMakeBorder(earned, 1, 1, 1, 1, borderType=cv2.BORDER_REPLICATE)
    down = edged[:-2] + edged[1:-1] + edged[2:]
    return np.clip((down[:, :-2] + down[:, 1:-1] + down[:, 2:]) / 9, 0, 1)
