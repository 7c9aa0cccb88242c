r"""From the tiles' histograms to look-up tables, and from those to a shift of lightness per pixel.

The histogram :math:`h_k` of a tile, in mean bin counts, is clipped at the tile's clip limit :math:`\kappa`, held above a
floor :math:`\phi_k`, and what was cut off is redistributed evenly over the other bins:

.. math:: s_k = \min(\max(h_k + t, \phi_k), \kappa), \qquad \sum_{k=0}^{K-1} s_k = K .

The cumulative sum of :math:`s` is the tile's tone curve, so that :math:`s_k` is its slope. The look-up table holds the
curve minus the identity, :math:`\sum_{j<k} (s_j - 1)`: by how many grey levels a level is shifted.

References:
    Zuiderveld, K. (1994). Contrast limited adaptive histogram equalization. Graphics Gems IV, 474-485.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.tiles import BINS, TileAxis, ratio

Floats = NDArray[np.float64]

NEWTON_ROUNDS = 8
TOLERANCE = 1e-13  # relative error of a redistributed histogram's sum
TAIL = 0.005  # share of the image's pixels outside its occupied levels, on either side
REMAP_LIMIT = 30000  # pixels along a side that OpenCV's remap can address


def redistribute(histogram: Floats, floor: Floats, clip_limit: Floats) -> Floats:
    r"""Clip histograms and redistribute the excess: min(max(histogram + t, floor), clip_limit), sum preserved.

    There is one t per row. Zuiderveld's redistribution ends here when it is repeated until no bin exceeds the limit.
    The sum rises with t in straight pieces, on which Newton's step is exact; three to five steps are the rule, but some
    histograms let them cycle. The steps after ``NEWTON_ROUNDS`` end after K rounds at the latest.

    Args:
        histogram: (T,K) counts of T tiles over the mean count, each row with sum K.
        floor: (K,) or (T,K) least values, in [0,1].
        clip_limit: (T,1) greatest values, at least 1.

    Returns:
        Slopes (T,K) of the tone curves, each row with sum K.

    References:
        Bitran, G. R., Hax, A. C. (1981). Disaggregation and resource allocation using convex knapsack problems with
        bounded variables. Management Science 27, 431-441.

    >>> redistribute(np.array([[4.0, 0, 0, 0]]), np.array([0, 1.0, 0, 0]), np.array([[2.0]])).tolist()
    [[2.0, 1.0, 0.5, 0.5]]
    """
    bins = histogram.shape[1]
    low = (floor - histogram).min(axis=1, keepdims=True)  # here the sum is too small
    high = (clip_limit - histogram).max(axis=1, keepdims=True)  # and here too large
    t = np.zeros_like(low)
    for n in range(NEWTON_ROUNDS + bins + 1):
        raised = histogram + t
        slopes = np.minimum(np.maximum(raised, floor), clip_limit)
        missing = bins - slopes.sum(axis=1, keepdims=True)
        if (np.abs(missing) <= TOLERANCE * bins).all():
            break
        low, high = np.where(missing > 0, t, low), np.where(missing < 0, t, high)
        if n < NEWTON_ROUNDS:
            free = np.count_nonzero(slopes == raised, axis=1)[:, None]
            step = t + missing / np.maximum(free, 1)  # bins at a bound do not move
            step = np.where((step > low) & (step < high), step, (low + high) / 2)
        else:
            step, free = _solve(histogram, floor, clip_limit, low, high)
        t = np.where(free > 0, step, (low + high) / 2)
    return slopes


def _solve(
    histogram: Floats, floor: Floats, clip_limit: Floats, low: Floats, high: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """Solve for t with the bins that are known to lie at a bound for a t in [low, high]; at least one more every time.

    Returns:
        t (T,1), and the number (T,1) of the other bins; where it is 0, t is arbitrary.
    """
    bins = histogram.shape[1]
    at_limit, at_floor = histogram + low >= clip_limit, histogram + high <= floor
    free = bins - np.count_nonzero(at_limit | at_floor, axis=1)[:, None]
    held = np.where(at_limit, clip_limit, np.where(at_floor, floor, histogram))
    return (bins - held.sum(axis=1, keepdims=True)) / np.maximum(free, 1), free


def slope_floor(histogram: NDArray[np.float64], contrast_floor: float) -> NDArray[np.float64]:
    """Least slopes of the tone curves: ``contrast_floor`` over the levels that the whole image occupies, 0 outside.

    The slope that texture needs is then taken from levels that no pixel has, never from the gap between nucleus and
    cytoplasm, which a plain equalisation narrows. The occupied levels lie between two quantiles of the image; whole
    numbers decide where.

    Args:
        histogram: (rows, columns, K) pixels of the tiles per level.
        contrast_floor: least slope, in [0,1].

    Returns:
        (K,) least slope of each level.
    """
    whole = histogram.sum(axis=(0, 1))
    upto = np.cumsum(whole)
    below, total = upto - whole, upto[-1]
    numerator, denominator = ratio(TAIL)
    tail = numerator * total
    begun = (denominator * upto > tail) | (denominator * below >= tail)
    ended = denominator * below >= denominator * total - tail
    return np.where(begun & ~ended, contrast_floor, 0.0)


def shift_luts(
    histogram: NDArray[np.float64], clip_limit: NDArray[np.float64], contrast_floor: float
) -> NDArray[np.float64]:
    """Look-up table of each tile: by how many grey levels it shifts each level.

    A table holds the shift at the edges of the bins and is linear between them, so that in the middle of a bin the
    curve is the mid-bin CDF. It is 0 at both ends, and exactly 0 everywhere for a clip limit of 1.

    Args:
        histogram: (rows, columns, K) pixels of the tiles per level.
        clip_limit: (rows, columns) mean bin counts, at least 1.
        contrast_floor: least slope of a curve over the image's occupied levels, in [0,1].

    Returns:
        (rows, columns, K+1) grey levels.
    """
    rows, columns, bins = histogram.shape
    flat = histogram.reshape(-1, bins)
    flat = flat * (bins / flat.sum(axis=1, keepdims=True))
    limit = clip_limit.reshape(-1, 1)
    slopes = redistribute(flat, slope_floor(histogram, contrast_floor), limit)
    shifts = np.zeros((len(flat), bins + 1))
    np.cumsum(slopes - 1, axis=1, out=shifts[:, 1:])
    shifts[:, -1] = 0.0
    shifts[limit[:, 0] <= 1] = 0.0
    return shifts.reshape(rows, columns, bins + 1)


class LutGrid:
    """Look-up tables of a tile grid, interpolated bilinearly between the four nearest tiles.

    Args:
        luts: (rows.count, columns.count, 257) grey levels.
        rows: the grid's rows.
        columns: the grid's columns.
    """

    def __init__(self, luts: NDArray[np.float64], rows: TileAxis, columns: TileAxis) -> None:
        self.luts = luts.astype(np.float32).transpose(1, 0, 2)
        self.upper, self.down = rows.neighbours()
        self.left, self.across = columns.neighbours()

    def interpolate(self, levels: NDArray[np.float32], band: slice) -> NDArray[np.float32]:
        """Shift of each pixel of a band of the image.

        Args:
            levels: (h,W) lightness of the band in [0,256].
            band: the band's rows in the image, at most 30000.

        Returns:
            (h,W) grey levels.
        """
        width = levels.shape[1]
        if width > REMAP_LIMIT:
            parts = [slice(start, start + REMAP_LIMIT) for start in range(0, width, REMAP_LIMIT)]
            return np.concatenate([self._read(np.ascontiguousarray(levels[:, p]), band, p) for p in parts], axis=1)
        return self._read(levels, band, slice(None))

    def _read(self, levels: NDArray[np.float32], band: slice, part: slice) -> NDArray[np.float32]:
        upper, down, left, across = self.upper[band], self.down[band], self.left[part], self.across[part]
        columns, rows = (slice(int(near[0]), int(near[-1]) + 2) for near in (left, upper))
        luts = self.luts[columns, rows]
        count = luts.shape[1]
        # One long table: the tiles of a grid column below one another, column after column. A bilinear look-up in it
        # (OpenCV's remap) interpolates between levels and between two grid rows at once; what is left is to interpolate
        # between two grid columns.
        stacked = luts.reshape(-1, BINS + 1)
        row = (upper - rows.start + down).astype(np.float32)[:, None]
        row = row + ((left - columns.start) * count).astype(np.float32)
        shift: NDArray[Any] = cv2.remap(stacked, levels, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if len(luts) == 1:
            return shift
        row += np.float32(count)
        right: NDArray[Any] = cv2.remap(stacked, levels, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        right -= shift
        right *= across
        shift += right
        return shift
