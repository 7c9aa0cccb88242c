"""The tile grid and the histogram of each tile.

The grid is the same after a flip or a quarter turn of the image: padding is equal on both sides of an axis, for
which an odd side gets an odd number of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.params import EnhanceParams

BINS = 256
MAX_DENOMINATOR = 100_000  # of a share: five decimals are exact


@dataclass(frozen=True)
class TileAxis:
    """One axis of the tile grid.

    Attributes:
        size: pixels of the image along the axis.
        count: tiles along the axis.
        side: pixels of a tile along the axis.
        pad: pixels of reflected padding on either side; ``count * side == size + 2 * pad``.
    """

    size: int
    count: int
    side: int
    pad: int

    @property
    def borders(self) -> list[int]:
        """First pixel of every tile but the first."""
        return [k * self.side - self.pad for k in range(1, self.count)]

    def neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Bilinear interpolation along the axis.

        Returns:
            For each pixel (size,) the lower of its two neighbouring tile centres, and the weight in [0,1] of the
            upper one. Beyond the outer centres the outer tile counts alone.

        >>> TileAxis(size=4, count=2, side=2, pad=0).neighbours()[1].tolist()
        [0.0, 0.25, 0.75, 1.0]
        """
        position = (np.arange(self.size) + 0.5 + self.pad) / self.side - 0.5
        position = np.clip(position, 0, self.count - 1)
        lower = np.minimum(position.astype(np.int64), max(self.count - 2, 0))
        return lower, (position - lower).astype(np.float32)


def tile_axis(size: int, target_side: float) -> TileAxis:
    """Place tiles of about ``target_side`` pixels symmetrically over ``size`` pixels."""
    count = max(1, round(size / target_side))
    if size % 2 and count % 2 == 0:
        count -= 1
    side = -(-size // count)
    if (count * side - size) % 2:
        side += 1
    return TileAxis(size, count, side, (count * side - size) // 2)


def tile_grid(height: int, width: int, params: EnhanceParams) -> tuple[TileAxis, TileAxis]:
    """Rows and columns of an image's tile grid; the tile side is about max(tile_min, shorter side / tiles)."""
    target_side = max(params.tile_min, min(height, width) / params.tiles)
    return tile_axis(height, target_side), tile_axis(width, target_side)


def row_histograms(values: NDArray[Any], columns: TileAxis) -> NDArray[np.float64]:
    """Histograms of one row of tiles.

    Args:
        values: (side, columns.count * columns.side) uint8, padded.
        columns: the grid's columns.

    Returns:
        Counts (columns.count, 256).
    """
    counts = np.empty((columns.count, BINS))
    for j in range(columns.count):
        tile = values[:, j * columns.side : (j + 1) * columns.side]
        # Per tile this is an order of magnitude faster than one bincount over tile*256+value, which needs 64-bit ids.
        counts[j] = cv2.calcHist([tile], [0], None, [BINS], [0, BINS]).ravel()
    return counts


@cache
def ratio(share: float) -> tuple[int, int]:
    """A share as numerator and denominator, so that it can be compared with counts without rounding.

    >>> ratio(0.05), ratio(0.995)
    ((1, 20), (199, 200))
    """
    return Fraction(share).limit_denominator(MAX_DENOMINATOR).as_integer_ratio()


def histogram_quantiles(counts: NDArray[np.float64], *shares: float) -> list[NDArray[np.float64]]:
    """Quantiles of histograms, linear inside a bin.

    The bin is found by comparing whole numbers: where a quantile lies on the edge of a bin and empty bins follow,
    rounding would choose between the two ends of the gap.

    Args:
        counts: (..., K) counts of K bins, whole numbers.
        shares: quantiles to read, each in [0,1].

    Returns:
        For each share an array (...) in bins, from 0 to K.

    >>> histogram_quantiles(np.array([2.0, 0.0, 2.0]), 0.25, 0.75)
    [array(0.5), array(2.5)]
    """
    flat = counts.reshape(-1, counts.shape[-1])
    cdf = np.cumsum(flat, axis=1)
    rows = np.arange(len(flat))
    quantiles = []
    for share in shares:
        numerator, denominator = ratio(share)
        target = numerator * cdf[:, -1]
        bins = (denominator * cdf >= target[:, None]).argmax(axis=1)
        inside = flat[rows, bins]
        below = cdf[rows, bins] - inside
        part = (target - denominator * below) / (denominator * np.maximum(inside, 1e-12))
        quantiles.append((bins + part).reshape(counts.shape[:-1]))
    return quantiles
