"""Properties of ``alhe``: identity, flat noise, seams, symmetry, sizes and types, errors, one case by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alhe.toys import DIHEDRAL, cell, flat_noise
from leuk_lib.alhe import tiles
from leuk_lib.alhe.baselines import clahe_2
from leuk_lib.alhe.enhance import alhe, explain
from leuk_lib.alhe.lut import LutGrid, shift_luts
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.quality import lightness
from leuk_lib.runs.errors import LeukError

TYPES = [np.uint8, np.uint16, np.float32, np.float64]


def as_type(image: np.ndarray, dtype: type) -> np.ndarray:
    if dtype is np.uint8:
        return image
    return image.astype(np.uint16) * 257 if dtype is np.uint16 else (image / 255).astype(dtype)


SIDES = st.integers(8, 70)
LAYOUTS = st.sampled_from([0, 3, 4])


def toy_image(height: int, width: int, dtype: type, channels: int, seed: int, noise: bool = False) -> np.ndarray:
    """A toy cell, or colours at random, in a type and layout (0 channels: grey)."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, (height, width, 3)).astype(np.uint8) if noise else cell(height, width, seed)[0]
    alpha = rng.integers(0, 256, (height, width, 1)).astype(np.uint8)
    image = colour[..., 0] if channels == 0 else np.concatenate([colour, alpha], axis=2)[..., :channels]
    return as_type(np.ascontiguousarray(image), dtype)


@given(SIDES, SIDES, st.sampled_from(TYPES), LAYOUTS, st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_clip_limit_one_returns_the_image_exactly(height, width, dtype, channels, seed, noise):
    image = toy_image(height, width, dtype, channels, seed, noise)
    out = alhe(image, EnhanceParams(clip_limit=1.0))
    assert out.dtype == image.dtype and not np.shares_memory(out, image)
    np.testing.assert_array_equal(out, image)


def test_constant_image_is_unchanged():
    for value in (0, 1, 128, 255):
        image = np.full((20, 24, 3), value, np.uint8)
        np.testing.assert_array_equal(alhe(image), image)


def test_only_stained_parts_of_a_cell_change():
    image, mask = cell(96, 96)
    out = alhe(image)
    old, new = lightness(image), lightness(out)
    assert new[mask == 255].std() > 1.15 * old[mask == 255].std()
    assert new[mask == 0].std() < 1.05 * old[mask == 0].std()
    assert abs(new[mask == 0].mean() - old[mask == 0].mean()) < 0.5


@given(st.floats(2.5, 12), st.floats(120, 210), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_flat_noise_is_not_amplified(deviation, mean, seed):
    image = flat_noise(128, deviation, seed, mean)
    before = lightness(image).std()
    assert lightness(alhe(image)).std() <= 1.05 * before
    # CLAHE amplifies it, and so do the same tables with a clip limit of 3 in every tile.
    assert lightness(clahe_2(image)).std() > 1.3 * before
    maps = explain(image)[1]
    luts = shift_luts(maps.stats.histogram, np.full(maps.clip_limits.shape, 3.0), 0.0)
    shift = LutGrid(luts, maps.rows, maps.columns).interpolate(maps.levels, slice(None))
    assert (maps.levels + shift).std() > 1.3 * maps.levels.std()


@given(st.integers(16, 90), st.integers(16, 90), st.floats(8, 30), st.floats(0, 256), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_no_seams_whatever_the_tables(height, width, target_side, level, seed):
    """At one level, neighbouring pixels differ by no more than two tiles' difference over a tile's side."""
    rows, columns = tiles.tile_axis(height, target_side), tiles.tile_axis(width, target_side)
    luts = np.random.default_rng(seed).uniform(-30, 30, (rows.count, columns.count, 257))
    levels = np.full((height, width), level, np.float32)
    shift = LutGrid(luts, rows, columns).interpolate(levels, slice(None))
    whole = min(int(level), 255)
    at = luts[..., whole] * (whole + 1 - level) + luts[..., whole + 1] * (level - whole)
    for axis, grid in enumerate((rows, columns)):
        largest = np.abs(np.diff(at, axis=axis)).max(initial=0) / grid.side
        assert np.abs(np.diff(shift, axis=axis)).max() <= largest + 1e-3


def test_interpolation_equals_a_naive_loop():
    rng = np.random.default_rng(0)
    rows, columns = tiles.tile_axis(41, 12), tiles.tile_axis(30, 11)
    luts = rng.uniform(-30, 30, (rows.count, columns.count, 257))
    levels = rng.uniform(0, 256, (41, 30)).astype(np.float32)
    levels[0, :3] = 0, 255.999, 256
    shift = LutGrid(luts, rows, columns).interpolate(levels, slice(None))
    (upper, down), (left, across) = rows.neighbours(), columns.neighbours()
    for (y, x), level in np.ndenumerate(levels):
        near = [
            [np.interp(level, np.arange(257), luts[min(i, rows.count - 1), min(j, columns.count - 1)]) for j in (left[x], left[x] + 1)]
            for i in (upper[y], upper[y] + 1)
        ]  # fmt: skip
        above, below = (row[0] * (1 - across[x]) + row[1] * across[x] for row in near)
        assert shift[y, x] == pytest.approx(above * (1 - down[y]) + below * down[y], abs=1e-3)


def test_gradients_at_tile_borders_are_like_those_inside():
    ratios = []
    for seed in range(12):
        image, _ = cell(96, 96, seed)
        _, maps = explain(image)
        jump = np.abs(np.diff(maps.levels + maps.shift, axis=1)).mean(0) / np.abs(np.diff(maps.levels, axis=1)).mean(0)
        border = np.arange(maps.columns.side, 96, maps.columns.side) - 1
        ratios.append(jump[border].mean() / np.delete(jump, border).mean())
    assert np.mean(ratios) < 1.05


@given(SIDES, SIDES, st.sampled_from(TYPES), LAYOUTS, st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_commutes_with_flips_and_turns(height, width, dtype, channels, seed):
    image = toy_image(height, width, dtype, channels, seed)
    full = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    whole = alhe(image) / full
    for transform in DIHEDRAL:
        turned = alhe(np.ascontiguousarray(transform(image))) / full
        assert np.abs(turned - transform(whole)).max() <= 1 / 255 + 1e-9


@given(SIDES, SIDES, st.sampled_from(TYPES), LAYOUTS, st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_size_type_and_layout(height, width, dtype, channels, seed, noise):
    image = toy_image(height, width, dtype, channels, seed, noise)
    original = image.copy()
    out = alhe(image)
    assert out.shape == image.shape and out.dtype == image.dtype and np.isfinite(out).all()
    np.testing.assert_array_equal(image, original)
    if image.dtype.kind == "f":
        assert out.min() >= 0 and out.max() <= 1
    if channels == 4:
        np.testing.assert_array_equal(out[..., 3], image[..., 3])
        np.testing.assert_array_equal(out[..., :3], alhe(np.ascontiguousarray(image[..., :3])))


def test_types_agree():
    image, _ = cell(80, 72)
    whole = alhe(image)
    for dtype, full in ((np.uint16, 65535), (np.float32, 1), (np.float64, 1)):
        out = alhe(as_type(image, dtype)) / full
        assert np.abs(out - whole / 255).max() <= 1 / 255


@pytest.mark.parametrize("kind", ["u2", "f4", "f8"])
def test_byte_orders_agree(kind):
    image = as_type(cell(48, 40)[0], np.dtype(kind).type)
    swapped = image.astype(image.dtype.newbyteorder("S"))
    out = alhe(swapped)
    assert out.dtype == swapped.dtype
    np.testing.assert_array_equal(out, alhe(image))
    np.testing.assert_array_equal(explain(swapped)[0], out)


def test_grey_equals_rgb_of_equal_channels():
    grey = cell(48, 48)[0][..., 1]
    colour = alhe(np.ascontiguousarray(np.repeat(grey[..., None], 3, 2)))
    assert np.abs(colour.astype(int) - alhe(grey)[..., None]).max() <= 1


@pytest.mark.parametrize("shape", [(2048, 2048), (1501, 999), (8, 4000), (3999, 9), (8, 33001), (33001, 8)])
def test_large_and_odd(shape):
    image = np.resize(cell(97, 89)[0], (*shape, 3))
    out = alhe(image)
    assert out.shape == image.shape and (out != image).any()
    # The image turned by half a turn gives the same: no band and no strip is left out.
    turned = alhe(np.ascontiguousarray(image[::-1, ::-1]))
    assert np.abs(turned[::-1, ::-1].astype(np.int16) - out).max() <= 1


def test_deterministic():
    image, _ = cell(90, 70)
    np.testing.assert_array_equal(alhe(image), alhe(image.copy()))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (np.zeros((7, 9, 3), np.uint8), "at least 8"),
        (np.zeros((9, 9, 2), np.uint8), "expected"),
        (np.zeros((2, 9, 9, 3), np.uint8), "expected"),
        (np.zeros((9, 9, 3), np.int64), "int64"),
        (np.full((9, 9, 3), np.nan, np.float32), "NaN"),
        (np.full((9, 9, 3), np.inf, np.float32), "NaN or infinite"),
        (np.full((9, 9, 3), -0.1, np.float32), "negative"),
        (np.full((9, 9, 3), 200.0, np.float32), "divide"),
        ([[1, 2], [3, 4]], "NumPy"),
    ],
)
def test_invalid_image_raises_in_one_line(image, message):
    with pytest.raises(LeukError, match=message) as caught:
        alhe(image)
    assert "\n" not in str(caught.value)


def test_gain_is_low_on_background_and_high_on_stain():
    image, mask = cell(96, 96)
    gain = explain(image)[1].gain
    assert gain.min() >= 0 and gain.max() <= 1
    assert gain[mask == 0].mean() < 0.05 < 0.5 < gain[mask == 255].mean()


def test_one_tile_worked_by_hand():
    """Two grey halves, one tile, clip limit 2: every number can be counted on paper."""
    image = np.full((8, 8), 0.3, np.float32)
    image[:, 4:] = 0.7
    params = EnhanceParams(clip_limit=2.0, contrast_floor=1.0, entropy_low=0.0, entropy_high=0.05)
    out, maps = explain(image, params)
    # sRGB .3 is light .07324 and .7 is light .44799: L* = 116 * .07324^(1/3) - 16 = 32.53 and 72.75; times 2.56.
    low, high = float(maps.levels[0, 0]), float(maps.levels[0, -1])
    assert low == pytest.approx(83.28, abs=0.02) and high == pytest.approx(186.25, abs=0.02)
    # One bit of eight is an entropy of 1/8, over .05; both halves spread by 103 levels over a noise of .29: active.
    assert maps.activity.item() == 1 and maps.clip_limits.item() == 2
    # Bins 83 and 186 hold half the pixels each (slope 128), cut to 2; the 102 levels between them are held at 1; the
    # other 152 share 256 - 4 - 102 = 150, a slope of 150/152 each.
    rest = 150 / 152
    # Up to bin 83 the curve falls behind by 83 * 2/152, then gains 1 a level: .28 of bin 83.
    dark = 83 * (rest - 1) + (low - 83)
    bright = 83 * (rest - 1) + 1 + (high - 186)
    assert dark == pytest.approx(-0.81, abs=0.02) and bright == pytest.approx(0.16, abs=0.02)
    np.testing.assert_allclose(maps.shift[:, 0], maps.gain[:, 0] * dark, atol=1e-3)
    np.testing.assert_allclose(maps.shift[:, -1], maps.gain[:, -1] * bright, atol=1e-3)
    # The dark half is the densest, far from the edge its gain is 1: L* = 32.53 - .81/2.56 = 32.21, light .07184,
    # sRGB .2971. The bright half is the lightest: its gain is 0 and it stays as it is.
    assert maps.gain[4, 0] == pytest.approx(1, abs=1e-4) and maps.gain[4, -1] == 0
    assert out[4, 0] == pytest.approx(0.2971, abs=2e-4) and out[4, -1] == image[4, -1]
