"""What must hold of ``alhe``: identity, flat noise, seams, symmetry, sizes and types, refusals, a case by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alhe.toys import DIHEDRAL, cell, flat_noise
from leuk_lib.alhe import lut, tiles
from leuk_lib.alhe.blend import blend
from leuk_lib.alhe.enhance import alhe, explain
from leuk_lib.alhe.gain import stain_gain
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.peers import clahe_2
from leuk_lib.alhe.quality import lightness
from leuk_lib.runs.errors import LeukError

TYPES = [np.uint8, np.uint16, np.float32, np.float64]


def as_type(image: np.ndarray, dtype: type) -> np.ndarray:
    if dtype is np.uint8:
        return image
    return image.astype(np.uint16) * 257 if dtype is np.uint16 else (image / 255).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_kappa_one_returns_the_image_exactly(dtype, channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 33, 4)).astype(np.uint8)
    image = as_type(image[..., 0] if channels == 0 else image[..., :channels], dtype)
    out = alhe(image, EnhanceParams(kappa_max=1.0))
    assert out.dtype == image.dtype and out is not image
    np.testing.assert_array_equal(out, image)


def test_one_level_is_left_alone():
    for value in (0, 1, 128, 255):
        image = np.full((20, 24, 3), value, np.uint8)
        np.testing.assert_array_equal(alhe(image), image)


def test_a_cell_is_changed_where_it_is_stained_only():
    image, mask = cell(96, 96)
    out = alhe(image)
    old, new = lightness(image), lightness(out)
    assert new[mask == 255].std() > 1.15 * old[mask == 255].std()
    assert new[mask == 0].std() < 1.05 * old[mask == 0].std()
    assert abs(new[mask == 0].mean() - old[mask == 0].mean()) < 0.5


@pytest.mark.parametrize("deviation", [3.0, 6.0, 10.0])
def test_flat_noise_is_not_amplified(deviation):
    image = flat_noise(128, deviation)
    before = lightness(image).std()
    assert lightness(alhe(image)).std() <= 1.05 * before
    # What it is spared: CLAHE amplifies it, and so does our own curve at a fixed clip factor of 3.
    assert lightness(clahe_2(image)).std() > 1.3 * before
    maps = explain(image)[1]
    fixed = lut.shifts(maps.stats.histogram, np.full(maps.kappa.shape, 3.0), 0.0)
    assert (maps.levels + blend(fixed, maps.levels, maps.rows, maps.columns)).std() > 1.3 * maps.levels.std()


def test_no_seams_whatever_the_curves():
    """At one level, neighbouring pixels differ by no more than two tiles' difference over a tile's side."""
    rng = np.random.default_rng(0)
    rows, columns = tiles.lay_axis(70, 17), tiles.lay_axis(51, 17)
    curves = rng.uniform(-30, 30, (rows.count, columns.count, 257))
    shift = blend(curves, np.full((70, 51), 90.25, np.float32), rows, columns)
    at = curves[..., 90] * 0.75 + curves[..., 91] * 0.25
    assert np.abs(np.diff(shift, axis=0)).max() <= np.abs(np.diff(at, axis=0)).max() / rows.side + 1e-4
    assert np.abs(np.diff(shift, axis=1)).max() <= np.abs(np.diff(at, axis=1)).max() / columns.side + 1e-4


def test_gradients_at_tile_borders_are_like_those_inside():
    ratios = []
    for seed in range(12):
        image, _ = cell(96, 96, seed)
        _, maps = explain(image)
        jump = np.abs(np.diff(maps.levels + maps.shift, axis=1)).mean(0) / np.abs(np.diff(maps.levels, axis=1)).mean(0)
        border = np.arange(maps.columns.side, 96, maps.columns.side) - 1
        ratios.append(jump[border].mean() / np.delete(jump, border).mean())
    assert np.mean(ratios) < 1.05


@pytest.mark.parametrize("shape", [(64, 64), (65, 48), (33, 57), (8, 31), (17, 17)])
def test_flips_and_turns_commute_with_it(shape):
    image, _ = cell(*shape, seed=3)
    whole, real = alhe(image), alhe(as_type(image, np.float32))
    for move in DIHEDRAL:
        turned = alhe(np.ascontiguousarray(move(image)))
        assert np.abs(turned.astype(int) - move(whole)).max() <= 1
        turned = alhe(np.ascontiguousarray(move(as_type(image, np.float32))))
        assert np.abs(turned - move(real)).max() <= 1 / 255


@given(st.integers(8, 70), st.integers(8, 70), st.sampled_from(TYPES), st.sampled_from([0, 3, 4]), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_any_size_type_and_layout(height, width, dtype, channels, seed):
    colour, _ = cell(height, width, seed)
    alpha = np.random.default_rng(seed).integers(0, 256, (height, width, 1)).astype(np.uint8)
    image = colour[..., 0] if channels == 0 else np.concatenate([colour, alpha], axis=2)[..., :channels]
    image = as_type(np.ascontiguousarray(image), dtype)
    kept = image.copy()
    out = alhe(image)
    assert out.shape == image.shape and out.dtype == image.dtype and np.isfinite(out).all()
    np.testing.assert_array_equal(image, kept)
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


def test_grey_is_its_own_rgb():
    grey = cell(48, 48)[0][..., 1]
    colour = alhe(np.ascontiguousarray(np.repeat(grey[..., None], 3, 2)))
    assert np.abs(colour.astype(int) - alhe(grey)[..., None]).max() <= 1


def test_large_and_odd():
    image = np.resize(cell(97, 89)[0], (1501, 1203, 3))
    assert alhe(image).shape == image.shape


def test_deterministic():
    image, _ = cell(90, 70)
    np.testing.assert_array_equal(alhe(image), alhe(image.copy()))


@pytest.mark.parametrize(
    ("image", "said"),
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
def test_refused_in_one_line(image, said):
    with pytest.raises(LeukError, match=said) as caught:
        alhe(image)
    assert "\n" not in str(caught.value)


def test_gain_spares_glass_and_reaches_stain():
    image, mask = cell(96, 96)
    gain = stain_gain(image, EnhanceParams())
    assert gain.min() >= 0 and gain.max() <= 1
    assert gain[mask == 0].mean() < 0.05 < 0.5 < gain[mask == 255].mean()


def test_one_tile_worked_by_hand():
    """Two grey halves, one tile, clip factor 2: the shift follows from counting on paper."""
    image = np.full((8, 8), 0.3, np.float32)
    image[:, 4:] = 0.7
    params = EnhanceParams(kappa_max=2.0, contrast_floor=1.0, entropy_low=0.0, entropy_high=0.05)
    _, maps = explain(image, params)
    low, high = float(maps.levels[0, 0]), float(maps.levels[0, -1])
    a, b = int(low), int(high)
    assert maps.activity.item() == 1 and maps.kappa.item() == 2
    # Two full bins at slope 2, the b-a-1 levels between them held at 1, the rest shares what is left of 256.
    between = b - a - 1
    rest = (256 - 4 - between) / (254 - between)
    expected = a * (rest - 1) + (low - a)  # slopes below a are `rest`, within a 2
    expected_high = a * (rest - 1) + 1 + (high - b)
    np.testing.assert_allclose(maps.shift[:, 0], maps.gain[:, 0] * expected, atol=1e-4)
    np.testing.assert_allclose(maps.shift[:, -1], maps.gain[:, -1] * expected_high, atol=1e-4)
