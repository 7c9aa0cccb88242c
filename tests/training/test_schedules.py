"""Schedules: ends, monotonicity, limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.training.schedules import cosine, ema_decay, ramp, warming_decay, warmup_cosine

shares = st.floats(0, 1)


@given(shares, shares)
def test_cosine_stays_between_its_ends_and_never_rises(a, b):
    low, high = sorted((a, b))
    assert 0.25 <= cosine(high, 1.0, 0.25) <= cosine(low, 1.0, 0.25) <= 1.0
    assert cosine(high * 40, 1.0, 0.25, length=40) == pytest.approx(cosine(high, 1.0, 0.25))


def test_cosine_is_constant_outside():
    assert cosine(-1.0, 3.0, 1.0) == cosine(0.0, 3.0, 1.0) == 3.0
    assert cosine(2.0, 3.0, 1.0) == cosine(1.0, 3.0, 1.0) == 1.0


@pytest.mark.parametrize("decay_from", [9, 10])
def test_rate_rises_to_its_peak_then_falls_towards_zero(decay_from):
    rates = [warmup_cosine(step, 100, 2.0, 10, decay_from) for step in range(100)]
    assert rates[9] == max(rates) == pytest.approx(2.0) and rates[0] == pytest.approx(0.2)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[decay_from:]))
    assert 0 < rates[-1] < 2e-2


def test_without_warmup_the_first_step_has_the_peak():
    assert warmup_cosine(0, 50, 1.0, 1, 0) == warmup_cosine(0, 1, 1.0, 1, 1) == 1.0


@given(shares, shares)
def test_ramp_rises_from_0_to_1(a, b):
    low, high = sorted((a, b))
    assert 0 <= ramp(low, 0.1, 0.4) <= ramp(high, 0.1, 0.4) <= 1
    assert ramp(high, 0.5, 0.5) == float(high >= 0.5)


def test_ema_decay_halves_at_its_half_life():
    assert ema_decay(10, 40) ** 4 == pytest.approx(0.5)
    assert ema_decay(10, 0) == 0


def test_a_warming_decay_rises_to_its_limit():
    assert warming_decay(0.99, 0) == 0.1
    assert warming_decay(0.99, 10**6) == 0.99
    assert all(warming_decay(0.99, step) <= warming_decay(0.99, step + 1) for step in range(2000))
