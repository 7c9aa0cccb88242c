"""The tile grid, and the histogram of each tile."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.alhe import tiles
from leuk_lib.alhe.params import EnhanceParams


@given(st.integers(8, 4000), st.floats(8, 1000))
def test_axis_covers_the_image_symmetrically(size, target_side):
    axis = tiles.tile_axis(size, target_side)
    assert axis.count * axis.side == size + 2 * axis.pad
    assert 0 <= axis.pad < size
    lower, weight = axis.neighbours()
    assert lower.min() >= 0 and lower.max() <= max(axis.count - 2, 0)
    assert weight.min() >= 0 and weight.max() <= 1
    # Mirrored pixels have mirrored positions on the grid.
    position = lower + weight
    np.testing.assert_allclose(position + position[::-1], axis.count - 1, atol=1e-4)


def test_a_square_of_64_has_four_by_four_tiles_of_16():
    assert tiles.tile_grid(64, 64, EnhanceParams()) == (tiles.TileAxis(64, 4, 16, 0),) * 2
    assert tiles.tile_grid(8, 40, EnhanceParams()) == (tiles.TileAxis(8, 1, 8, 0), tiles.TileAxis(40, 2, 20, 0))


def test_quantile_by_hand():
    counts = np.array([2.0, 0.0, 2.0, 4.0])
    assert tiles.histogram_quantiles(counts, 0.125) == [0.5]  # the first of eight: half of the first bin
    assert tiles.histogram_quantiles(counts, 0.5) == [3.0]  # four of eight are below bin 3
    assert tiles.histogram_quantiles(counts, 0.75) == [3.5]
    assert tiles.histogram_quantiles(counts, 1.0) == [4.0]


@given(st.integers(1, 400), st.sampled_from([0.05, 0.3, 0.5, 0.95, 0.995]))
def test_quantile_on_the_edge_of_a_gap_is_its_lower_end(scale, share):
    """Two levels far apart, the lower one with exactly this share of the pixels: no rounding decides."""
    numerator, denominator = tiles.ratio(share)
    counts = np.zeros(256)
    counts[[3, 200]] = numerator * scale, (denominator - numerator) * scale
    assert tiles.histogram_quantiles(counts, share) == [4.0]


def test_histogram_equals_a_naive_loop():
    values = np.random.default_rng(0).integers(0, 256, (12, 20)).astype(np.uint8)
    columns = tiles.TileAxis(20, 4, 5, 0)
    naive = np.zeros((2, 4, 256))
    for (y, x), value in np.ndenumerate(values):
        naive[y // 6, x // 5, value] += 1
    for row in range(2):
        np.testing.assert_array_equal(tiles.row_histograms(values[row * 6 : row * 6 + 6], columns), naive[row])
