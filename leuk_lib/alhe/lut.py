"""From a tile's histogram to its curve: clip above, hold below, redistribute, integrate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.tiles import quantiles

ROUNDS = 100  # of redistribution, at most: halving alone would then be exact; three or four are the rule
EXACT = 1e-13  # what a row's sum may miss its number of bins by, as a share of it
TAIL = 0.005  # share of the image's pixels that may lie outside its occupied levels, on either side


def redistribute(
    slopes: NDArray[np.float64], floor: NDArray[np.float64], cap: NDArray[np.float64]
) -> NDArray[np.float64]:
    """min(max(slopes + t, floor), cap) with the one t per row for which every row sums to its number of bins.

    slopes (T,K) are counts over the mean count; floor (K,) or (T,K) with 0 <= floor <= 1; cap (T,1) >= 1. This is
    where Zuiderveld's redistribution ends when it is repeated until nothing exceeds the clip limit. The sum rises with
    t in straight pieces, on which Newton's step is exact; a step that leaves the bracket is replaced by halving it.
    """
    bins = slopes.shape[1]
    low, high = (floor - slopes).min(axis=1, keepdims=True), (cap - slopes).max(axis=1, keepdims=True)
    t = np.zeros_like(low)
    for _ in range(ROUNDS):
        wanted = slopes + t
        given = np.minimum(np.maximum(wanted, floor), cap)
        missing = bins - given.sum(axis=1, keepdims=True)
        if (np.abs(missing) <= EXACT * bins).all():
            break
        free = np.count_nonzero(given == wanted, axis=1)[:, None]
        low, high = np.where(missing > 0, t, low), np.where(missing < 0, t, high)
        step = t + missing / np.maximum(free, 1)
        t = np.where((free > 0) & (step >= low) & (step <= high), step, (low + high) / 2)
    return given


def floor_of(histogram: NDArray[np.float64], contrast_floor: float) -> NDArray[np.float64]:
    """Least slopes (K,): ``contrast_floor`` over the levels that the whole image occupies, 0 outside.

    ``histogram`` (rows, columns, K) holds the tiles' fractions. Room for contrast is then taken from levels that no
    pixel has, never from the gap between nucleus and cytoplasm, which a plain equalisation closes.
    """
    whole = histogram.mean(axis=(0, 1))
    low, high = quantiles(whole, TAIL, 1 - TAIL)
    levels = np.arange(len(whole))
    return np.where((levels + 1 > low) & (levels < high), contrast_floor, 0.0)


def shifts(histogram: NDArray[np.float64], kappa: NDArray[np.float64], contrast_floor: float) -> NDArray[np.float64]:
    """By how many grey levels each tile moves each level: (rows, columns, K+1), at the K bins' edges.

    The curve is the cumulative sum of the redistributed histogram; between edges it is linear, so that at a bin's
    middle it is the mid-bin CDF. Zero at both ends, and zero everywhere, exactly, where kappa is 1.
    """
    rows, columns, bins = histogram.shape
    flat = histogram.reshape(-1, bins) * bins
    cap = kappa.reshape(-1, 1)
    slopes = redistribute(flat, floor_of(histogram, contrast_floor), cap)
    moved = np.zeros((len(flat), bins + 1))
    np.cumsum(slopes - 1, axis=1, out=moved[:, 1:])
    moved[:, -1] = 0.0
    moved[cap[:, 0] <= 1] = 0.0
    return moved.reshape(rows, columns, bins + 1)
