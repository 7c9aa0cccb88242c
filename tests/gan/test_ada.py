"""Augmentation keeps hue, is twice differentiable and the identity at p = 0; its controller reaches its target."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from leuk_lib.gan.ada import P_MAX, AdaController, class_sums, sample_augmentation, stain_strength
from leuk_lib.runs.seeds import torch_generator


def test_identity_at_p_zero() -> None:
    x = torch.rand(4, 3, 16, 16) * 1.9 - 0.95
    torch.testing.assert_close(sample_augmentation(torch.zeros(4), torch_generator(0))(x), x, atol=1e-5, rtol=0)


def test_changes_at_p_one_and_keeps_the_range() -> None:
    x = torch.rand(16, 3, 16, 16) * 1.9 - 0.95
    y = sample_augmentation(torch.ones(16), torch_generator(0))(x)
    assert y.shape == x.shape and y.min() >= -1.001 and y.max() <= 1.001
    assert ((y - x).abs().amax(dim=(1, 2, 3)) > 0.05).all()


def test_the_probability_of_one_image_does_not_affect_another() -> None:
    p = torch.full((6,), 0.5)
    q = p.clone()
    q[2] = 1.0
    a, b = sample_augmentation(p, torch_generator(3)), sample_augmentation(q, torch_generator(3))
    others = torch.arange(6) != 2
    assert torch.equal(a.theta[others], b.theta[others]) and torch.equal(a.stain[others], b.stain[others])


def test_twice_differentiable_in_the_image() -> None:
    x = (torch.rand(2, 3, 6, 6, dtype=torch.float64) * 1.2 - 0.6).requires_grad_()
    augment = sample_augmentation(torch.ones(2), torch_generator(1))
    assert torch.autograd.gradcheck(augment, x) and torch.autograd.gradgradcheck(augment, x)


def test_hue_is_kept() -> None:
    """Whatever the stain strength, hue changes by less than 8 degrees."""
    colours = np.array([[0.45, 0.25, 0.60], [0.75, 0.70, 0.90], [0.90, 0.70, 0.75], [0.35, 0.20, 0.55]])
    x = torch.tensor(colours, dtype=torch.float32).reshape(4, 3, 1, 1).expand(4, 3, 8, 8) * 2 - 1
    for seed in range(20):
        y = (sample_augmentation(torch.ones(4), torch_generator(seed))(x)[:, :, 4, 4] + 1) / 2
        for before, after in zip(colours, y.double().numpy(), strict=True):
            turn = abs(colorsys.rgb_to_hsv(*before)[0] - colorsys.rgb_to_hsv(*after)[0]) * 360
            assert min(turn, 360 - turn) < 8
            assert np.array_equal(np.argsort(before), np.argsort(after))


def test_stain_strength_is_a_power_and_has_a_slope_everywhere() -> None:
    x = torch.tensor([-0.5, 0.2, 0.9]).reshape(1, 3, 1, 1)
    y = stain_strength(x, torch.tensor([1.3]))
    torch.testing.assert_close((y + 1) / 2, ((x + 1) / 2) ** 1.3)
    outside = torch.full((1, 3, 1, 1), -1.7, requires_grad=True)
    stain_strength(outside, torch.tensor([1.3])).sum().backward()
    assert outside.grad is not None and (outside.grad > 0).all()


@pytest.mark.parametrize("classes", [1, 3])
def test_controller_reaches_its_target(classes: int) -> None:
    """A toy in which augmentation lowers r: r = 0.95 - 0.5 p, so the target 0.6 is reached at p = 0.7."""
    ada = AdaController(classes, target=0.6, images=4000, window=300)
    generator = torch_generator(0)
    labels = torch.arange(60) % classes
    trace = []
    for step in range(1500):
        won = (1 + 0.95 - 0.5 * ada.p[labels]) / 2
        signs = torch.where(torch.rand(60, generator=generator) < won, 1.0, -1.0)
        ada.update(*class_sums(signs, labels, classes))
        if step >= 750:
            trace.append(torch.stack([ada.p, ada.r]))
    p, r = torch.stack(trace).mean(dim=0)
    assert (p - 0.7).abs().max() < 0.1 and (r - 0.6).abs().max() < 0.05


def test_p_stays_below_its_maximum() -> None:
    ada = AdaController(1, target=0.6, images=100)
    for _ in range(40):  # 400 won pairs would take p to 4
        ada.update(torch.tensor([10.0]), torch.tensor([10.0]))
    assert ada.p.item() == pytest.approx(P_MAX)


def test_controller_moves_only_with_evidence_and_survives_a_checkpoint() -> None:
    ada = AdaController(2, target=0.6, images=100)
    ada.update(torch.tensor([5.0, 0.0]), torch.tensor([5.0, 0.0]))
    assert ada.p[0] == pytest.approx(0.05) and ada.p[1] == 0
    other = AdaController(2, target=0.6, images=100)
    other.load_state_dict(ada.state_dict())
    for controller in (ada, other):
        controller.update(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0]))
    assert torch.equal(ada.p, other.p) and torch.equal(ada.r, other.r)
