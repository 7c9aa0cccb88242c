"""Redistribution and look-up tables: against a naive loop, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leuk_lib.alhe import lut
from leuk_lib.alhe.enhance import explain
from leuk_lib.alhe.params import EnhanceParams


def naive_redistribution(slopes: np.ndarray, clip_limit: float) -> np.ndarray:
    """Zuiderveld's clip and redistribute, repeated until no bin exceeds the limit."""
    slopes = slopes.copy()
    for _ in range(10000):
        excess = np.maximum(slopes - clip_limit, 0).sum()
        slopes = np.minimum(slopes, clip_limit)
        below = slopes < clip_limit - 1e-12
        if excess < 1e-11 or not below.any():
            break
        slopes[below] += excess / below.sum()
    return slopes


def histograms(bins: int = 32) -> st.SearchStrategy[np.ndarray]:
    counts = st.lists(st.integers(0, 50), min_size=bins, max_size=bins).filter(lambda c: sum(c) > 0)
    return counts.map(lambda c: np.array(c, float) * bins / sum(c))


@given(histograms(), st.floats(1, 8))
@settings(deadline=None)
def test_redistribution_is_the_limit_of_zuidervelds(histogram, clip_limit):
    slopes = lut.redistribute(histogram[None], np.zeros(32), np.array([[clip_limit]]))[0]
    np.testing.assert_allclose(slopes, naive_redistribution(histogram, clip_limit), atol=1e-6)


@given(histograms(), st.floats(1, 8), st.floats(0, 1), st.integers(0, 31), st.integers(0, 31))
@settings(deadline=None)
def test_redistribution_keeps_sum_limit_and_floor(histogram, clip_limit, least, start, stop):
    floor = np.zeros(32)
    floor[min(start, stop) : max(start, stop) + 1] = least
    slopes = lut.redistribute(histogram[None], floor, np.array([[clip_limit]]))[0]
    assert slopes.sum() == pytest.approx(32, abs=1e-8)
    assert (slopes <= clip_limit + 1e-12).all() and (slopes >= floor - 1e-12).all()
    # Where neither bound is reached, every bin is raised by the same amount.
    raised = (slopes - histogram)[(slopes > floor + 1e-9) & (slopes < clip_limit - 1e-9)]
    np.testing.assert_allclose(raised, raised[:1].repeat(len(raised)), atol=1e-8)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 2), st.floats(1, 8), st.floats(0, 1))
@settings(deadline=None)
@example(0, 0.1, 1.0, 1.0)
def test_redistribution_ends_without_newton(seed, concentration, clip_limit, least):
    """Held bin by held bin it gives the same, and after at most as many rounds as there are bins."""
    rng = np.random.default_rng(seed)
    histogram = rng.dirichlet(np.full(64, concentration), 3) * 64
    floor = np.where(np.arange(64) < rng.integers(0, 64), least, 0.0)
    limits = np.array([[clip_limit], [1.0], [40.0]])
    slopes = lut.redistribute(histogram, floor, limits)
    np.testing.assert_allclose(slopes.sum(axis=1), 64, atol=1e-9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lut, "NEWTON_ROUNDS", 0)
        np.testing.assert_allclose(lut.redistribute(histogram, floor, limits), slopes, atol=1e-9)


def test_histogram_that_lets_newtons_steps_cycle():
    """Tiles of this image ended with slopes that sum to 235.5 of 256."""
    image = np.random.default_rng(8).integers(0, 256, (41, 76, 3)).astype(np.uint8)
    maps = explain(image, EnhanceParams())[1]
    np.testing.assert_allclose((np.diff(maps.luts, axis=-1) + 1).sum(axis=-1), 256, atol=1e-9)
    counts = maps.stats.histogram.reshape(-1, 256)
    histogram = counts * (256 / counts.sum(axis=1, keepdims=True))
    slopes = lut.redistribute(histogram, lut.slope_floor(maps.stats.histogram, 1.0), np.full((len(counts), 1), 1.01))
    np.testing.assert_allclose(slopes.sum(axis=1), 256, atol=1e-9)


def test_floor_by_hand():
    """Occupied are the levels between the quantiles .005 and .995, whole numbers deciding."""
    counts = np.zeros((1, 1, 8))
    # 1 of 200 below level 2 is the tail, exactly: the levels after it count, the gap included. So does the upper end.
    counts[0, 0, [1, 4, 5, 7]] = 1, 100, 98, 1
    assert lut.slope_floor(counts, 1.0).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    counts[0, 0, 1] = 2  # more than the tail: level 1 is occupied
    assert lut.slope_floor(counts, 0.5).tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0]


def test_redistribution_by_hand():
    histogram = np.array([[4.0, 0, 0, 0]])
    clip_limit = np.array([[2.0]])
    # Two too many, shared by the three others.
    np.testing.assert_allclose(lut.redistribute(histogram, np.zeros(4), clip_limit), [[2, 2 / 3, 2 / 3, 2 / 3]])
    # The second level keeps its slope of 1, at the cost of the last two.
    np.testing.assert_allclose(lut.redistribute(histogram, np.array([0, 1.0, 0, 0]), clip_limit), [[2, 1, 0.5, 0.5]])


def test_table_by_hand():
    histogram = np.array([0.5, 0.5, 0, 0]).reshape(1, 1, 4)
    # Slopes 2 2 0 0, clipped to 1.5, the rest to the empty levels: 1.5 1.5 .5 .5.
    luts = lut.shift_luts(histogram, np.array([[1.5]]), 1.0)
    np.testing.assert_allclose(luts[0, 0], [0, 0.5, 1.0, 0.5, 0], atol=1e-12)


def test_clip_limit_one_is_the_identity_exactly():
    histogram = np.random.default_rng(0).dirichlet(np.full(256, 0.05), (3, 2))
    limits = np.ones((3, 2))
    limits[1, 1] = 2.5
    luts = lut.shift_luts(histogram, limits, 1.0)
    assert (luts[limits == 1] == 0).all() and (luts[1, 1] != 0).any()


@given(st.integers(0, 50), st.floats(1, 10), st.floats(0, 1))
@settings(deadline=None)
def test_curves_fix_black_and_white_and_never_fall(seed, clip_limit, least):
    histogram = np.random.default_rng(seed).dirichlet(np.full(256, 0.1), (2, 2))
    luts = lut.shift_luts(histogram, np.full((2, 2), clip_limit), least)
    assert (luts[..., 0] == 0).all() and (luts[..., -1] == 0).all()
    slopes = np.diff(luts, axis=-1) + 1
    assert slopes.min() > -1e-9 and slopes.max() < clip_limit + 1e-9
    occupied = lut.slope_floor(histogram, 1.0) > 0
    assert slopes[..., occupied].min() > least - 1e-9
