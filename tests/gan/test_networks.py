"""Blocks start as the identity, the class enters through the ramp, images are compared within classes only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leuk_lib.gan.generate import latents, resize, to_uint8
from leuk_lib.gan.networks import (
    BiasedActivation,
    Discriminator,
    Generator,
    NetworkConfig,
    ResidualBlock,
    class_minibatch_std,
    downsample,
    group_variance,
    upsample,
)
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
    # Weights of zero pass no gradient to earlier layers, so move them away from zero first.
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


def test_batched_is_one_by_one_while_diversity_has_no_weight() -> None:
    d = Discriminator(CONFIGS[0])
    x, y = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(d(x, y), torch.cat([d(x[i : i + 1], y[i : i + 1]) for i in range(4)]))


def test_only_images_of_the_same_class_and_group_are_compared() -> None:
    d = Discriminator(CONFIGS[0])
    torch.nn.init.normal_(d.diversity.weight)
    x, y = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 0, 0, 1, 0])
    whole = d(x, y, 1.0, torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(whole, torch.cat([d(x[:3], y[:3]), d(x[3:], y[3:])]))
    torch.testing.assert_close(whole[1:2], d(x[1:2], y[1:2]))  # alone in its class and group
    assert not torch.allclose(whole[:1], d(x[:1], y[:1]))


def test_class_minibatch_std_by_hand_and_in_bfloat16() -> None:
    x = 5 + torch.randn(7, 3, 4, 4)
    y = torch.tensor([0, 1, 0, 1, 1, 1, 2])
    std = class_minibatch_std(x, y)
    for c in (0, 1):
        by_numpy = np.sqrt(np.var(x[y == c].double().numpy(), axis=0) + 1e-4).mean(axis=(1, 2))
        np.testing.assert_allclose(std[y == c], np.tile(by_numpy, (int((y == c).sum()), 1)), rtol=1e-4)
    torch.testing.assert_close(std[6], torch.full((3,), 0.01), atol=2e-3, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(class_minibatch_std(x, y), std)


def test_collapse_within_a_class_is_detected() -> None:
    """One gradient step on the diversity weights separates a collapsed from a diverse batch."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 3, 16, 16), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    d = Discriminator(CONFIGS[0])
    both, twice = torch.cat([x, x[[0, 0, 0, 0, 4, 4, 4, 4]]]), torch.cat([y, y])
    groups = torch.arange(16) // 8
    before = d(both, twice, 1.0, groups)
    (before[:8] - before[8:]).sum().backward()
    assert d.diversity.weight.grad is not None
    d.diversity.weight.data = d.diversity.weight.grad.clone()
    gained = d(both, twice, 1.0, groups) - before
    assert gained[:8].min() > 5 * gained[8:].abs().max()


def test_z_cannot_be_shrunk() -> None:
    torch.manual_seed(0)
    g = Generator(CONFIGS[0])
    z, y = torch.randn(2, 64), torch.zeros(2, dtype=torch.long)
    before = g(z, y)
    with torch.no_grad():
        g.project.weight *= 0.1
    torch.testing.assert_close(g(z, y), before, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(g(7 * z, y), g(z, y))


def test_resampling_keeps_constants_and_mirrors() -> None:
    assert torch.allclose(upsample(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 8, 8))
    assert torch.allclose(downsample(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 2, 2))
    x = torch.randn(1, 2, 8, 8)
    for f in (upsample, downsample):
        torch.testing.assert_close(f(x.flip(-1)), f(x).flip(-1))
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[0, 0, 1, 1] = 1
    torch.testing.assert_close(upsample(impulse)[0, 0, 2, :6], torch.tensor([0, 1, 3, 3, 1, 0]) * 3 / 16)


def test_samples_have_their_own_seeds() -> None:
    a, b = latents(5, 8, seed=1, label=2), latents(2, 8, seed=1, label=2, start=3)
    assert torch.equal(a[3:], b) and not torch.equal(a, latents(5, 8, seed=1, label=3))


def test_uint8_round_trip_and_resize() -> None:
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(to_uint8(x.float() / 127.5 - 1), x) and resize(x, 16) is x
    assert resize(x, 8).shape == (2, 3, 8, 8) and resize(x, 32).shape == (2, 3, 32, 32)
    flat = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    assert (resize(flat, 8) == 77).all() and (resize(flat, 32) == 77).all()


def test_both_forms_of_the_variance_agree_and_the_centred_one_survives_rounded_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(12) % 3
    share = (group[:, None] == group).float() / 4
    flat = 10 + 0.1 * torch.randn(12, 5, generator=generator)
    expected = torch.stack([flat[group == g].var(dim=0, unbiased=False) for g in group.tolist()])
    for centred in (False, True):
        torch.testing.assert_close(group_variance(share, flat, centred), expected, rtol=1e-2, atol=1e-5)
    # TF32 keeps 10 bits of a factor; here those of the mean are rounded.
    rounded = share * (1 + 2**-11)
    assert (group_variance(rounded, flat, True) - expected).abs().max() < 1e-4
    assert (group_variance(rounded, flat, False) - expected).abs().max() > 1e-2


def test_activations_keep_the_dtype_of_mixed_precision() -> None:
    g, d = Generator(CONFIGS[0]), Discriminator(CONFIGS[0])
    dtypes: list[torch.dtype] = []
    for network in (g, d):
        for module in (*network.levels, *(m for m in network.modules() if isinstance(m, BiasedActivation))):
            module.register_forward_hook(
                lambda m, inputs, out: dtypes.append(inputs[0].dtype) or dtypes.append(out.dtype)
            )
    with torch.autocast("cpu", torch.bfloat16):
        y = torch.arange(4) % 3
        z = torch.randn(4, CONFIGS[0].latent)
        x = g.levels[0](F.rms_norm(g.basis * g.project(z)[:, :, None, None], g.basis.shape).to(torch.bfloat16))
        d(torch.rand(4, 3, 16, 16), y)
    assert set(dtypes) == {torch.bfloat16} and x.dtype == torch.bfloat16
