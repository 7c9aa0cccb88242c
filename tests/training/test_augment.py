"""Augmentation: identity limits, ranges, per-sample draws, the same draws however the batch is sharded."""

import pytest
import torch

from leuk_lib.training.augment import dihedral, normalise, random_resized_crop, stain_jitter

OPERATIONS = (dihedral, random_resized_crop, stain_jitter)


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


def test_crop_of_a_ramp_is_a_part_of_it():
    ramp = torch.linspace(0, 1, 32).repeat(4, 3, 32, 1)
    y = random_resized_crop(ramp, generator(), scale=(0.25, 0.25), ratio=(1, 1))
    spread = y[:, 0, 0].amax(dim=1) - y[:, 0, 0].amin(dim=1)
    assert torch.allclose(spread, torch.full((4,), 0.5), atol=0.05)


def test_normalise_takes_bytes_and_floats():
    x = (batch() * 255).to(torch.uint8)
    assert torch.allclose(normalise(x), normalise(x.float() / 255))
    assert torch.allclose(normalise(torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]), torch.zeros(1, 3, 1, 1))
