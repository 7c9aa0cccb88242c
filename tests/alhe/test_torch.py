"""The batched form: agrees with the NumPy form, and no image depends on its batch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alhe.toys import cell
from leuk_lib.alhe import colour, lut, torch_alhe
from leuk_lib.alhe.enhance import alhe
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.torch_alhe import ALHE, alhe_batch, enhance_cells
from leuk_lib.runs.errors import LeukError


def batch_of(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("shape", [(64, 64), (33, 57), (8, 12), (121, 100)])
@pytest.mark.parametrize(
    "params",
    [EnhanceParams(), EnhanceParams(clip_limit=4.0, contrast_floor=0.0, spread_limit=90.0, gain_box=15, tiles=6)],
)
def test_agrees_with_numpy(shape, params):
    images = [cell(*shape, seed)[0] for seed in range(6)]
    images.append(np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8))
    batched = alhe_batch(batch_of(images), params).permute(0, 2, 3, 1).numpy().astype(int)
    single = np.stack([alhe(image, params) for image in images])
    assert np.abs(batched - single).max() <= 1
    assert min(shape) < 32 or (batched != np.stack(images)).any()
    real = alhe_batch(batch_of(images).float() / 255, params).permute(0, 2, 3, 1).numpy()
    exact = np.stack([alhe(image.astype(np.float32) / 255, params) for image in images])
    assert np.abs(real - exact).max() <= 1 / 255


IMAGES = ["noise", "two levels", "few colours", "constant", "halves", "gradient", "flat noise", "gaussian", "cell"]


def any_image(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    """(H,W,3) uint8 of a kind; shares of two levels lie on the quantiles that the method reads."""
    rng = np.random.default_rng(seed)
    shape = (height, width, 3)
    share = rng.choice([0.005, 0.05, 0.3, 0.5, 0.95, 0.98, 0.995, rng.random()])
    few = rng.integers(0, 256, (int(rng.integers(2, 6)), 3))
    if kind == "noise":
        image = rng.integers(0, 256, shape)
    elif kind == "two levels":
        first = rng.permutation(height * width).reshape(height, width) < round(share * height * width)
        image = np.where(first[..., None], few[0], few[1])
    elif kind == "few colours":
        image = few[rng.integers(0, len(few), (height, width))]
    elif kind == "constant":
        image = np.broadcast_to(few[0], shape)
    elif kind == "halves":
        image = np.where((np.arange(width) < share * width)[None, :, None], few[0], few[1]).repeat(height, 0)
    elif kind == "gradient":
        image = np.broadcast_to(np.linspace(*few[:2], width).round(), shape)
    elif kind == "flat noise":
        image = few[0] + rng.integers(-3, 4, shape)
    elif kind == "gaussian":
        image = rng.normal(rng.integers(0, 256), rng.uniform(0, 80), shape)
    else:
        image = cell(height, width, seed)[0]
    return np.clip(image, 0, 255).astype(np.uint8)


SETTINGS = st.one_of(
    st.just(EnhanceParams()),
    st.builds(
        EnhanceParams,
        clip_limit=st.floats(1, 40),
        contrast_floor=st.sampled_from([0.0, 0.5, 1.0]),
        tiles=st.integers(1, 8),
        tile_min=st.just(8),
        entropy_low=st.just(0.0),
        entropy_high=st.floats(0.01, 1),
        gain_low=st.sampled_from([0.0, 10.0, 30.0, 50.0]),
        gain_high=st.sampled_from([60.0, 98.0, 100.0]),
        gain_box=st.sampled_from([1, 3, 5, 15]),
    ),
)


@given(st.sampled_from(IMAGES), st.integers(8, 72), st.integers(8, 72), st.integers(0, 2**32 - 1), SETTINGS)
@settings(deadline=None, max_examples=120)
@example("noise", 40, 40, 0, EnhanceParams())
@example("noise", 41, 76, 8, EnhanceParams())
def test_agrees_with_numpy_for_every_image(kind, height, width, seed, params):
    image = any_image(kind, height, width, seed)
    batched = alhe_batch(batch_of([image]), params)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(batched - alhe(image, params)).max() <= 1
    real = (image / 255).astype(np.float32)
    if seed % 2:  # not only multiples of 1/255
        real = np.clip(real + np.random.default_rng(seed).normal(0, 1e-3, real.shape), 0, 1).astype(np.float32)
    batched = alhe_batch(batch_of([real]), params)[0].permute(1, 2, 0).numpy()
    assert np.abs(batched - alhe(real, params)).max() <= 0.1 / 255


def test_agrees_on_noise_at_every_size():
    """A quantile on the edge of a bin made 177 of 250 such images differ by 2 codes and more."""
    for side in (24, 32, 40, 48):
        images = [any_image("noise", side, side, seed) for seed in range(60)]
        batched = alhe_batch(batch_of(images)).permute(0, 2, 3, 1).numpy().astype(int)
        assert np.abs(batched - np.stack([alhe(image) for image in images])).max() <= 1


def test_agrees_on_real_cells(real_data):
    files = sorted((real_data / "pbc_barcelona_128").glob("*/*.jpg"))[::120]
    files += sorted((real_data / "tecom_wbc").glob("*/tecom_*.png"))[::25]
    assert len(files) > 20
    for side in (64, 100):
        images = [
            cv2.resize(
                cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), (side, side), interpolation=cv2.INTER_AREA
            )
            for file in files
        ]
        batched = alhe_batch(batch_of(images)).permute(0, 2, 3, 1).numpy().astype(int)
        assert np.abs(batched - np.stack([alhe(image) for image in images])).max() <= 1


def test_batch_equals_one_by_one():
    images = batch_of([cell(48, 48, seed)[0] for seed in range(7)])
    whole = enhance_cells(images)
    for size in (1, 2, 5):
        assert torch.equal(enhance_cells(images, batch_size=size), whole)
    assert torch.equal(enhance_cells(images.flip(0)), whole.flip(0))
    real = images.float() / 255
    assert torch.equal(alhe_batch(real), torch.cat([alhe_batch(image[None]) for image in real]))


def test_chunks_do_not_matter(monkeypatch):
    images = batch_of([cell(40, 56, seed)[0] for seed in range(5)])
    whole = alhe_batch(images)
    for chunk in (1, 5000):
        monkeypatch.setattr(torch_alhe, "CHUNK_PIXELS", chunk)
        assert torch.equal(alhe_batch(images), whole)


@given(st.integers(0, 1000), st.floats(1, 10), st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_redistribution_agrees_with_numpy(seed, clip_limit, least):
    """Also for rows with one full bin."""
    rng = np.random.default_rng(seed)
    histogram = rng.dirichlet(np.full(256, 0.02), 5) * 256
    histogram[0] = 256 * np.eye(256)[seed % 256]
    floor = np.where(np.arange(256) < seed % 256, least, 0.0)
    limits = np.array([clip_limit, 1.0, 1 + clip_limit, 40.0, 2.0])[:, None]
    exact = lut.redistribute(histogram, floor, limits)
    rows = (torch.from_numpy(item).float() for item in (histogram, np.tile(floor, (5, 1)), limits))
    slopes = torch_alhe._redistribute(*rows).numpy()
    np.testing.assert_allclose(slopes.cumsum(1), exact.cumsum(1), atol=2e-3)


def test_clip_limit_one_is_the_identity():
    images = torch.rand(3, 3, 40, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    enhanced = ALHE(EnhanceParams(clip_limit=1.0))(images)
    assert torch.equal(enhanced, images) and not enhanced.requires_grad


def test_shift_of_zero_returns_every_8_bit_colour():
    """All 2^24 colours: both forms rely on this and do not copy unshifted pixels."""
    green, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    zero = np.zeros((256, 256), np.float32)
    for red in range(256):
        colours = np.dstack([np.full_like(green, red), green, blue])
        assert (colour.shift_lightness(colour.to_xyz(colours), zero) == colours).all()
        images = torch.from_numpy(colours).permute(2, 0, 1)[None].contiguous()
        words = torch_alhe._mix_words(torch_alhe._look_up(colour.WORD_OF_CODE, images.int()))
        np.testing.assert_array_equal(words[0].permute(1, 2, 0), colour.to_xyz(colours))
        roots = torch_alhe._look_up(colour.ROOT_OF_WORD, words)
        assert torch.equal(torch_alhe._codes_of_roots(roots), images)


def test_module_has_no_state_and_keeps_type_and_shape():
    module = ALHE()
    assert not list(module.parameters()) and not module.state_dict() and "clip_limit" in repr(module)
    for dtype in (torch.uint8, torch.float32, torch.float64, torch.float16):
        images = batch_of([cell(32, 40)[0]])
        images = images if dtype == torch.uint8 else (images / 255).to(dtype)
        out = module(images)
        assert out.dtype == dtype and out.shape == images.shape


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 16, 16), "expected a batch"),
        (torch.zeros(0, 3, 16, 16), "empty"),
        (torch.zeros(1, 3, 7, 16), "at least 8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), "int64"),
        (torch.full((1, 3, 16, 16), float("nan")), "NaN"),
        (torch.full((1, 3, 16, 16), -0.1), "must be in"),
        (torch.full((1, 3, 16, 16), 2.0), "must be in"),
    ],
)
def test_invalid_batch_raises(images, message):
    with pytest.raises(LeukError, match=message):
        alhe_batch(images)


def test_same_on_an_accelerator():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = batch_of([cell(64, 64, seed)[0] for seed in range(8)])
    on_gpu = alhe_batch(images.cuda()).cpu()
    assert (on_gpu.int() - alhe_batch(images).int()).abs().max() <= 1
