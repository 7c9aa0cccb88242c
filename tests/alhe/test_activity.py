"""Statistics of a tile, its activity, and its clip limit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alhe.toys import flat_noise
from leuk_lib.alhe import activity
from leuk_lib.alhe.enhance import explain
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.tiles import tile_axis


def test_statistics_of_two_halves_by_hand():
    levels = np.full((8, 8), 10.5, np.float32)
    levels[:, 4:] = 20.5
    axis = tile_axis(8, 16)
    stats = activity.tile_stats(levels, axis, axis)
    assert stats.entropy.item() == pytest.approx(1 / 8)  # one bit of eight
    # Half the pixels in bin 10, half in bin 20: q05 = 10.1, q95 = 20.9.
    assert stats.spread.item() == pytest.approx(10.8)
    # A straight edge has no second difference along itself: only quantisation is left.
    assert stats.noise.item() == pytest.approx((1 / 12) ** 0.5)


@pytest.mark.parametrize("deviation", [2.0, 5.0, 10.0])
def test_noise_estimate(deviation):
    levels = np.random.default_rng(1).normal(150, deviation, (64, 64)).astype(np.float32)
    axis = tile_axis(64, 64)
    assert activity.tile_stats(levels, axis, axis).noise.item() == pytest.approx(deviation, rel=0.08)


@given(st.floats(1, 12), st.integers(0, 5))
def test_noise_is_not_active(deviation, seed):
    maps = explain(flat_noise(64, deviation, seed))[1]
    assert maps.activity.max() < 0.1 and maps.clip_limits.max() < 1.1


def test_spread_limit_ends_activity_of_high_contrast_tiles():
    levels = np.random.default_rng(0).uniform(0, 255, (32, 32)).astype(np.float32)
    levels = np.sort(levels, axis=1)
    axis = tile_axis(32, 32)
    stats = activity.tile_stats(levels, axis, axis)
    assert activity.activity(stats, EnhanceParams()).item() > 0.5
    assert activity.activity(stats, EnhanceParams(spread_limit=90.0)).item() == 0
