"""The grid and what is read off each tile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alhe.toys import flat_noise
from leuk_lib.alhe import tiles
from leuk_lib.alhe.enhance import explain
from leuk_lib.alhe.params import EnhanceParams


@given(st.integers(8, 4000), st.floats(8, 1000))
def test_axis_covers_the_image_symmetrically(size, wanted):
    axis = tiles.lay_axis(size, wanted)
    assert axis.count * axis.side == size + 2 * axis.pad
    assert 0 <= axis.pad < size
    lower, weight = axis.neighbours()
    assert lower.min() >= 0 and lower.max() <= max(axis.count - 2, 0)
    assert weight.min() >= 0 and weight.max() <= 1
    # Mirrored pixels have mirrored places on the grid.
    place = lower + weight
    np.testing.assert_allclose(place + place[::-1], axis.count - 1, atol=1e-4)


def test_a_square_of_64_has_four_by_four_tiles_of_16():
    assert tiles.lay_tiles(64, 64, EnhanceParams()) == (tiles.Axis(64, 4, 16, 0),) * 2
    assert tiles.lay_tiles(8, 40, EnhanceParams()) == (tiles.Axis(8, 1, 8, 0), tiles.Axis(40, 2, 20, 0))


def test_quantile_by_hand():
    counts = np.array([2.0, 0.0, 2.0, 4.0])
    assert tiles.quantiles(counts, 0.125) == [0.5]  # the first of eight: half of the first bin
    assert tiles.quantiles(counts, 0.5) == [3.0]  # four of eight are below bin 3
    assert tiles.quantiles(counts, 0.75) == [3.5]
    assert tiles.quantiles(counts, 1.0) == [4.0]


def test_histogram_equals_a_naive_loop():
    values = np.random.default_rng(0).integers(0, 256, (12, 20)).astype(np.uint8)
    columns = tiles.Axis(20, 4, 5, 0)
    naive = np.zeros((2, 4, 256))
    for (y, x), value in np.ndenumerate(values):
        naive[y // 6, x // 5, value] += 1
    for row in range(2):
        np.testing.assert_array_equal(tiles.tile_histogram(values[row * 6 : row * 6 + 6], columns), naive[row])


def test_statistics_of_two_halves_by_hand():
    levels = np.full((8, 8), 10.5, np.float32)
    levels[:, 4:] = 20.5
    axis = tiles.lay_axis(8, 16)
    stats = tiles.tile_stats(levels, axis, axis)
    assert stats.entropy.item() == pytest.approx(1 / 8)  # one bit of eight
    # Half the pixels in bin 10, half in bin 20: q05 = 10.1, q95 = 20.9.
    assert stats.spread.item() == pytest.approx(10.8)
    # A straight edge has no second difference along itself: only quantisation is left.
    assert stats.noise.item() == pytest.approx((1 / 12) ** 0.5)


@pytest.mark.parametrize("deviation", [2.0, 5.0, 10.0])
def test_noise_is_measured(deviation):
    levels = np.random.default_rng(1).normal(150, deviation, (64, 64)).astype(np.float32)
    axis = tiles.lay_axis(64, 64)
    assert tiles.tile_stats(levels, axis, axis).noise.item() == pytest.approx(deviation, rel=0.08)


@given(st.floats(1, 12), st.integers(0, 5))
def test_noise_earns_nothing(deviation, seed):
    maps = explain(flat_noise(64, deviation, seed))[1]
    assert maps.activity.max() < 0.1


def test_spread_limit_silences_high_contrast_tiles():
    levels = np.random.default_rng(0).uniform(0, 255, (32, 32)).astype(np.float32)
    levels = np.sort(levels, axis=1)
    axis = tiles.lay_axis(32, 32)
    stats = tiles.tile_stats(levels, axis, axis)
    assert tiles.activity(stats, EnhanceParams()).item() > 0.5
    assert tiles.activity(stats, EnhanceParams(spread_limit=90.0)).item() == 0
