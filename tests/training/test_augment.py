"""Augmentation: identity limits, ranges, per-sample draws, the same draws however the batch is sharded."""

import pytest
import torch

from leuk_lib.training.augment import dihedral, light_jitter, normalise, random_resized_crop, stain_jitter


def light_and_gamma(x, generator, **kwargs):
    return light_jitter(x, generator, 0.2, 0.1, **kwargs)


OPERATIONS = (dihedral, random_resized_crop, stain_jitter, light_jitter, light_and_gamma)


def batch(n=8, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_shape_range_and_seed(operation):
    x = batch()
    y = operation(x, generator())
    assert y.shape == x.shape and y.dtype == x.dtype and y.min() >= 0 and y.max() <= 1
    assert torch.equal(y, operation(x, generator()))
    assert not torch.equal(y, operation(x, generator(6)))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_sample_has_its_own_draw(operation):
    y = operation(batch(1).repeat(16, 1, 1, 1), generator())
    assert any(not torch.equal(y[0], other) for other in y[1:])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_shard_sees_the_draws_of_the_global_batch(operation):
    x = batch()
    whole = operation(x, generator())
    for rank in range(2):
        rows = torch.arange(rank, 8, 2)
        assert torch.allclose(operation(x[rows], generator(), rows=rows, total=8), whole[rows], atol=1e-6)
    for alone in ({"total": 8}, {"rows": torch.arange(4)}, {"rows": torch.arange(3), "total": 8}):
        with pytest.raises(ValueError, match="rows and total"):
            operation(x[:4], generator(), **alone)


def test_dihedral_keeps_every_pixel_value_and_reaches_all_eight():
    x = batch(1, 4).repeat(200, 1, 1, 1)
    y = dihedral(x, generator())
    assert torch.equal(y.flatten(2).sort(dim=-1).values, x.flatten(2).sort(dim=-1).values)
    assert len({tuple(image.flatten().tolist()) for image in y}) == 8
    with pytest.raises(ValueError, match="square"):
        dihedral(torch.zeros(1, 3, 4, 5), generator())


def test_identity_limits():
    x = batch()
    assert torch.allclose(random_resized_crop(x, generator(), scale=(1, 1), ratio=(1, 1)), x, atol=1e-5)
    assert torch.allclose(stain_jitter(x.clamp(min=0.01), generator(), strength=0), x.clamp(min=0.01), atol=1e-4)


def test_stain_jitter_leaves_white_alone_and_checks_its_strength():
    assert torch.allclose(stain_jitter(torch.ones(4, 3, 8, 8), generator(), 0.5), torch.ones(4, 3, 8, 8))
    with pytest.raises(ValueError, match="strength"):
        stain_jitter(batch(), generator(), 1.5)


def test_light_jitter_of_strength_0_is_the_identity_to_the_bit():
    x = batch()
    assert torch.equal(light_jitter(x, generator(), 0.0), x)
    assert torch.equal(light_jitter(x, generator(), 0.0, 0.0), light_jitter(x, generator(6), 0.0))


def test_light_jitter_draws_one_gain_per_image_and_channel_with_mean_1():
    x = torch.full((4000, 3, 1, 2), 0.5)
    gain = light_jitter(x, generator(), 0.3) / x
    assert torch.equal(gain[..., 0], gain[..., 1])
    gain = gain[:, :, 0, 0]
    assert 0.7 - 1e-6 <= gain.min() < 0.71 and 1.29 < gain.max() <= 1.3 + 1e-6
    # The standard error of a mean of 4000 draws is 0.3 / sqrt(3 * 4000) = 0.0027.
    assert (gain.mean(dim=0) - 1).abs().max() < 4 * 0.0027
    assert torch.corrcoef(gain.T).fill_diagonal_(0).abs().max() < 0.08


def test_light_jitter_keeps_black_and_cuts_off_above_white():
    x = torch.cat([torch.zeros(64, 3, 2, 2), torch.ones(64, 3, 2, 2)])
    y = light_jitter(x, generator(), 0.5, 0.5)
    assert (y[:64] == 0).all() and y[64:].max() == 1 and y[64:].min() < 0.6


def test_gamma_bends_the_tone_curve_and_keeps_its_ends():
    ramp = torch.linspace(0, 1, 9).repeat(200, 3, 1, 1)
    y = light_jitter(ramp, generator(), 0.0, 0.4)
    assert (y[..., 0] == 0).all() and (y[..., -1] == 1).all() and (y.diff(dim=-1) > 0).all()
    exponent = y[:, 0, 0, 4].log() / ramp[:, 0, 0, 4].log()
    assert 0.6 - 1e-5 <= exponent.min() < 0.62 and 1.38 < exponent.max() <= 1.4 + 1e-5


@pytest.mark.parametrize("values", [(1.0,), (-0.1,), (0.1, 1.0)])
def test_light_jitter_checks_its_ranges(values):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        light_jitter(batch(), generator(), *values)


def test_crop_of_a_ramp_is_a_part_of_it():
    ramp = torch.linspace(0, 1, 32).repeat(4, 3, 32, 1)
    y = random_resized_crop(ramp, generator(), scale=(0.25, 0.25), ratio=(1, 1))
    spread = y[:, 0, 0].amax(dim=1) - y[:, 0, 0].amin(dim=1)
    assert torch.allclose(spread, torch.full((4,), 0.5), atol=0.05)


def test_normalise_takes_bytes_and_floats():
    x = (batch() * 255).to(torch.uint8)
    assert torch.allclose(normalise(x), normalise(x.float() / 255))
    assert torch.allclose(normalise(torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]), torch.zeros(1, 3, 1, 1))
