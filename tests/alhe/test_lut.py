"""Redistribution and curves: against a naive loop, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_lib.alhe import lut


def naive(slopes: np.ndarray, cap: float) -> np.ndarray:
    """Zuiderveld's clip and redistribute, repeated until nothing exceeds the limit."""
    slopes = slopes.copy()
    for _ in range(10000):
        excess = np.maximum(slopes - cap, 0).sum()
        slopes = np.minimum(slopes, cap)
        room = slopes < cap - 1e-12
        if excess < 1e-11 or not room.any():
            break
        slopes[room] += excess / room.sum()
    return slopes


def histograms(draw_bins: int = 32) -> st.SearchStrategy[np.ndarray]:
    counts = st.lists(st.integers(0, 50), min_size=draw_bins, max_size=draw_bins).filter(lambda c: sum(c) > 0)
    return counts.map(lambda c: np.array(c, float) * draw_bins / sum(c))


@given(histograms(), st.floats(1, 8))
@settings(deadline=None)
def test_redistribution_is_zuidervelds_limit(slopes, cap):
    ours = lut.redistribute(slopes[None], np.zeros(32), np.array([[cap]]))[0]
    np.testing.assert_allclose(ours, naive(slopes, cap), atol=1e-6)


@given(histograms(), st.floats(1, 8), st.floats(0, 1), st.integers(0, 31), st.integers(0, 31))
@settings(deadline=None)
def test_redistribution_keeps_sum_cap_and_floor(slopes, cap, least, one, other):
    floor = np.zeros(32)
    floor[min(one, other) : max(one, other) + 1] = least
    ours = lut.redistribute(slopes[None], floor, np.array([[cap]]))[0]
    assert ours.sum() == pytest.approx(32, abs=1e-8)
    assert (ours <= cap + 1e-12).all() and (ours >= floor - 1e-12).all()
    # More pixels never give a smaller slope, where neither bound is reached.
    free = (ours > floor + 1e-9) & (ours < cap - 1e-9)
    np.testing.assert_allclose((ours - slopes)[free], (ours - slopes)[free][:1].repeat(free.sum()), atol=1e-8)


def test_redistribution_by_hand():
    slopes = np.array([[4.0, 0, 0, 0]])
    cap = np.array([[2.0]])
    # Two too many, shared by the three others.
    np.testing.assert_allclose(lut.redistribute(slopes, np.zeros(4), cap), [[2, 2 / 3, 2 / 3, 2 / 3]])
    # The second level must keep its slope of 1: the last two pay.
    np.testing.assert_allclose(lut.redistribute(slopes, np.array([0, 1.0, 0, 0]), cap), [[2, 1, 0.5, 0.5]])


def test_curve_by_hand():
    histogram = np.array([0.5, 0.5, 0, 0]).reshape(1, 1, 4)
    # Slopes 2 2 0 0, clipped to 1.5, the rest to the empty levels: 1.5 1.5 .5 .5.
    curve = lut.shifts(histogram, np.array([[1.5]]), 1.0)
    np.testing.assert_allclose(curve[0, 0], [0, 0.5, 1.0, 0.5, 0], atol=1e-12)


def test_kappa_one_is_the_identity_exactly():
    histogram = np.random.default_rng(0).dirichlet(np.full(256, 0.05), (3, 2))
    kappa = np.ones((3, 2))
    kappa[1, 1] = 2.5
    curves = lut.shifts(histogram, kappa, 1.0)
    assert (curves[kappa == 1] == 0).all() and (curves[1, 1] != 0).any()


@given(st.integers(0, 50), st.floats(1, 10), st.floats(0, 1))
@settings(deadline=None)
def test_curves_fix_black_and_white_and_never_fall(seed, kappa, least):
    histogram = np.random.default_rng(seed).dirichlet(np.full(256, 0.1), (2, 2))
    curves = lut.shifts(histogram, np.full((2, 2), kappa), least)
    assert (curves[..., 0] == 0).all() and (curves[..., -1] == 0).all()
    slopes = np.diff(curves, axis=-1) + 1
    assert slopes.min() > -1e-9 and slopes.max() < kappa + 1e-9
    occupied = lut.floor_of(histogram, 1.0) > 0
    assert slopes[..., occupied].min() > least - 1e-9
