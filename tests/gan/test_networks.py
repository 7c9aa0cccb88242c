"""Networks: start at the skip path, know the class only through the ramp, mix no images; schedules; average."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.gan.networks import Discriminator, Generator, NetworkConfig, ResidualBlock, downsample, upsample
from leuk_lib.gan.samples import latents, resize, to_float, to_uint8
from leuk_lib.gan.schedules import cosine, ema_decay, ramp
from leuk_lib.runs.average import WeightAverage
from leuk_lib.runs.errors import LeukError

CONFIGS = [
    NetworkConfig(16, 3, width=8, max_width=16),
    NetworkConfig(32, 2, width=8, max_width=16, patch=2),
    NetworkConfig(32, 1, width=16, max_width=32, groups=8, blocks=2),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_shapes_gradients_and_no_normalisation(config: NetworkConfig) -> None:
    g, d = Generator(config), Discriminator(config)
    y = torch.arange(4) % config.n_classes
    x = g(torch.randn(4, config.latent), y)
    assert x.shape == (4, 3, config.size, config.size)
    # What starts at zero lets no gradient through to what comes before it: move it away from zero first.
    for model in (g, d):
        for block in (m for m in model.modules() if isinstance(m, ResidualBlock)):
            torch.nn.init.normal_(block.convs[-1].weight, std=0.1)
            if block.modulate is not None:
                torch.nn.init.normal_(block.modulate.weight, std=0.1)
    d(g(torch.randn(4, config.latent), y), y).sum().backward()
    for model in (g, d):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        assert not any("norm" in type(m).__name__.lower() for m in model.modules())


@pytest.mark.parametrize("groups", [0, 4])
def test_block_starts_as_the_identity(groups: int) -> None:
    block = ResidualBlock(8, groups, depth=4, embedding=5)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x, torch.randn(2, 5)), x)
    assert len(block.convs) == (3 if groups else 2)
    if groups:
        assert block.convs[1].groups == 16 // 4


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(LeukError, match="groups of 3"):
        ResidualBlock(8, 3, depth=1)


def test_size_must_be_a_power_of_two() -> None:
    with pytest.raises(LeukError, match="power of two"):
        NetworkConfig(48, 2)


def test_the_class_enters_with_the_ramp_only() -> None:
    torch.manual_seed(0)
    g, d = Generator(CONFIGS[0]), Discriminator(CONFIGS[0])
    for p in g.parameters():
        torch.nn.init.normal_(p, std=0.2)
    z, a, b = torch.randn(2, 64), torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long)
    assert torch.equal(g(z, a, 0.0), g(z, b, 0.0))
    assert not torch.allclose(g(z, a, 1.0), g(z, b, 1.0))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(d(x, a, 0.0), d(x, b, 0.0))
    gap = d(x, a, 1.0) - d(x, b, 1.0)
    torch.testing.assert_close(d(x, a, 0.5) - d(x, b, 0.5), gap / 2)
    assert g.levels[0].blocks[0].modulate is None  # the coarsest level never sees the class


def test_batched_is_one_by_one() -> None:
    d = Discriminator(CONFIGS[0])
    x, y = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(d(x, y), torch.cat([d(x[i : i + 1], y[i : i + 1]) for i in range(4)]))


def test_resampling_keeps_constants_and_mirrors() -> None:
    assert torch.allclose(upsample(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 8, 8))
    assert torch.allclose(downsample(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 2, 2))
    x = torch.randn(1, 2, 8, 8)
    for f in (upsample, downsample):
        torch.testing.assert_close(f(x.flip(-1)), f(x).flip(-1))
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[0, 0, 1, 1] = 1
    torch.testing.assert_close(upsample(impulse)[0, 0, 2, :6], torch.tensor([0, 1, 3, 3, 1, 0]) * 3 / 16)


@given(st.floats(0, 1), st.floats(0, 1))
def test_schedules(progress: float, other: float) -> None:
    low, high = sorted((progress, other))
    assert 0.25 <= cosine(high, 1.0, 0.25) <= cosine(low, 1.0, 0.25) <= 1.0
    assert 0 <= ramp(low, 0.1, 0.4) <= ramp(high, 0.1, 0.4) <= 1
    assert ramp(0.1, 0.1, 0.4) == 0 and ramp(0.4, 0.1, 0.4) == 1 and ramp(0.25, 0.1, 0.4) == pytest.approx(0.5)


def test_average_of_weights() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = WeightAverage(model)
    torch.nn.init.ones_(model.weight)
    decay = ema_decay(batch_size=10, halflife=40)
    for _ in range(4):
        ema.update(model, decay)
    assert ema.model.weight.item() == pytest.approx(0.5)  # 40 images: half is remembered
    assert ema_decay(10, 0) == 0 and not ema.model.weight.requires_grad


def test_samples_have_their_own_seeds() -> None:
    a, b = latents(5, 8, seed=1, label=2), latents(2, 8, seed=1, label=2, start=3)
    assert torch.equal(a[3:], b) and not torch.equal(a, latents(5, 8, seed=1, label=3))


def test_uint8_round_trip_and_resize() -> None:
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(x)), x) and resize(x, 16) is x
    assert resize(x, 8).shape == (2, 3, 8, 8) and resize(x, 32).shape == (2, 3, 32, 32)
    flat = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    assert (resize(flat, 8) == 77).all() and (resize(flat, 32) == 77).all()
