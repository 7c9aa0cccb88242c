"""From a tile's histogram to its curve: clip above, hold below, redistribute, integrate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.tiles import quantile

TAIL = 0.005  # share of the image's pixels that may lie outside its occupied levels, on either side


def redistribute(
    slopes: NDArray[np.float64], floor: NDArray[np.float64], cap: NDArray[np.float64]
) -> NDArray[np.float64]:
    """min(max(slopes + t, floor), cap) with the one t per row for which every row sums to its number of bins.

    slopes (T,K) are counts over the mean count; floor (K,) or (T,K) with 0 <= floor <= 1; cap (T,1) >= 1. This is
    where Zuiderveld's redistribution ends when it is repeated until nothing exceeds the clip limit. The sum is
    piecewise linear in t, so that t is found exactly between two of its 2K corners.
    """
    tiles, bins = slopes.shape
    floor = np.broadcast_to(floor, slopes.shape)
    corners = np.concatenate([floor - slopes, cap - slopes], axis=1)
    turns = np.concatenate([np.ones_like(slopes), -np.ones_like(slopes)], axis=1)
    order = np.argsort(corners, axis=1, kind="stable")
    corners = np.take_along_axis(corners, order, 1)
    rising = np.cumsum(np.take_along_axis(turns, order, 1), axis=1)
    sums = np.cumsum(rising[:, :-1] * np.diff(corners, axis=1), axis=1)
    sums = np.concatenate([np.zeros((tiles, 1)), sums], axis=1) + floor.sum(axis=1, keepdims=True)
    # The last corner at or below the target; the sum rises linearly from there.
    place = np.maximum((sums <= bins).sum(axis=1, keepdims=True) - 1, 0)
    missing = bins - np.take_along_axis(sums, place, 1)
    slope = np.take_along_axis(rising, place, 1)
    t = np.take_along_axis(corners, place, 1) + np.where(slope > 0, missing / np.maximum(slope, 1), 0.0)
    return np.minimum(np.maximum(slopes + t, floor), cap)


def floor_of(histogram: NDArray[np.float64], contrast_floor: float) -> NDArray[np.float64]:
    """Least slopes (K,): ``contrast_floor`` over the levels that the whole image occupies, 0 outside.

    ``histogram`` (rows, columns, K) holds the tiles' fractions. Room for contrast is then taken from levels that no
    pixel has, never from the gap between nucleus and cytoplasm, which a plain equalisation closes.
    """
    whole = histogram.mean(axis=(0, 1))
    low, high = quantile(whole, TAIL), quantile(whole, 1 - TAIL)
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
