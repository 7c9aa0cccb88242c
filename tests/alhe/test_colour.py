"""The cube roots of CIELAB: against OpenCV's and scikit-image's Lab, and the tables against the computation."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from leuk_lib.alhe import colour

RNG = np.random.default_rng(0)


def test_srgb_round_trip():
    codes = np.linspace(0, 1, 1001, dtype=np.float32)[:, None]
    np.testing.assert_allclose(colour.encode(colour.decode(codes)), codes, atol=2e-6)


def test_lightness_equals_skimages():
    image = RNG.uniform(0, 1, (40, 30, 3)).astype(np.float32)
    expected = rgb2lab(image)[..., 0]
    np.testing.assert_allclose(colour.lightness_levels(colour.to_xyz(image)) / 2.56, expected, atol=0.01)
    eight = (image * 255).astype(np.uint8)
    np.testing.assert_allclose(colour.lightness_levels(colour.to_xyz(eight)) / 2.56, rgb2lab(eight)[..., 0], atol=0.02)


def test_shift_leaves_a_and_b():
    image = RNG.uniform(0.25, 0.75, (40, 30, 3)).astype(np.float32)
    shift = RNG.uniform(-20, 20, (40, 30)).astype(np.float32)
    lab = rgb2lab(image)
    lab[..., 0] += shift / 2.56
    expected = lab2rgb(lab)
    inside = ((expected > 0.001) & (expected < 0.999)).all(axis=-1)  # elsewhere the gamut ends
    shifted = colour.shift_lightness(colour.to_xyz(image), shift)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(shifted[inside], expected[inside], atol=1e-3)


@given(st.integers(0, 10_000), st.floats(0, 120))
@settings(deadline=None, max_examples=60)
def test_tables_agree_with_computation_to_one_code(seed, largest_shift):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    image[:16] = rng.choice(np.array([0, 1, 2, 5, 255], np.uint8), (16, 32, 3))  # the corners of the cube
    shift = rng.uniform(-largest_shift, largest_shift, (32, 32)).astype(np.float32)
    tables = colour.shift_lightness(colour.to_xyz(image), shift)
    computed = colour.shift_lightness(colour.to_xyz((image / 255).astype(np.float32)), shift)
    assert tables.dtype == np.uint8 and computed.dtype == np.float32
    assert np.abs(tables - computed * 255).max() <= 1


def test_shift_of_zero_changes_nothing():
    image = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    back = colour.shift_lightness(colour.to_xyz(image), np.zeros((64, 64), np.float32))
    assert np.abs(back.astype(int) - image).max() <= 1
