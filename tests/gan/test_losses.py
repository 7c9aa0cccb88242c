"""The relativistic loss and its penalties against values by hand and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leuk_lib.gan import losses


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_losses_are_mirror_images(values: list[float]) -> None:
    delta = torch.tensor(values, dtype=torch.float64)
    by_hand = sum(math.log1p(math.exp(-abs(v))) + max(-v, 0) for v in values) / len(values)
    assert losses.discriminator_loss(delta).item() == pytest.approx(
        by_hand, abs=1e-8
    )  # torch: linear above 20, off by 2e-9
    assert losses.generator_loss(-delta).item() == pytest.approx(losses.discriminator_loss(delta).item(), abs=1e-8)


def test_hand_values() -> None:
    assert losses.discriminator_loss(torch.zeros(3)).item() == pytest.approx(math.log(2))
    assert losses.generator_loss(torch.tensor([1.0])).item() == pytest.approx(math.log(1 + math.e))
    assert losses.relativistic_logits(torch.tensor([2.0]), torch.tensor([0.5])).item() == 1.5


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="one shape"):
        losses.relativistic_logits(torch.zeros(2), torch.zeros(3))


def test_penalty_of_a_linear_discriminator_is_its_squared_weight() -> None:
    weight = torch.randn(3, 4, 4, dtype=torch.float64)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = losses.gradient_penalty((x * weight).sum(dim=(1, 2, 3)), x)
    torch.testing.assert_close(penalty, weight.square().sum().expand(5))


def test_penalty_and_its_gradient_by_finite_differences() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 12, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def discriminator(w: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y.flatten(1) @ w.T).square().sum(dim=1)

    penalty = losses.gradient_penalty(discriminator(weight, x), x)
    h, numeric = 1e-6, torch.zeros(2, dtype=torch.float64)
    for place in range(12):
        step = torch.zeros(12, dtype=torch.float64)
        step[place] = h
        moved = step.reshape(1, 3, 2, 2)
        numeric += ((discriminator(weight, x + moved) - discriminator(weight, x - moved)) / (2 * h)).detach().square()
    torch.testing.assert_close(penalty.detach(), numeric, rtol=1e-6, atol=1e-8)
    assert torch.autograd.gradcheck(lambda w: losses.gradient_penalty(discriminator(w, x), x), weight)


def test_penalties_are_taken_before_augmentation() -> None:
    """An augmentation that triples the image triples the gradient at the image before augmentation."""
    weight = torch.randn(3, 4, 4)
    real, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    delta, r1, r2 = losses.discriminator_terms(
        lambda x: (x * weight).sum(dim=(1, 2, 3)), lambda x: 3 * x, real, fake, penalise=True
    )
    assert r1 is not None and r2 is not None
    torch.testing.assert_close(r1, 9 * weight.square().sum().expand(2))
    torch.testing.assert_close(r2, r1)
    torch.testing.assert_close(losses.penalty(r1, r2, 0.5), 0.25 * 18 * weight.square().sum())
    torch.testing.assert_close(delta, 3 * ((real - fake) * weight).sum(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_no_penalty_unless_requested() -> None:
    _, r1, r2 = losses.discriminator_terms(
        lambda x: x.mean(dim=(1, 2, 3)), lambda x: x, *torch.randn(2, 2, 3, 4, 4), False
    )
    assert r1 is None and r2 is None


def test_pairs_share_their_class() -> None:
    """If the logit is the class number, matched pairs have no difference."""
    y = torch.tensor([0, 3, 1, 2])
    both = torch.cat([y, y])
    delta, _, _ = losses.discriminator_terms(
        lambda x, labels: labels.float(), lambda x: x, *torch.randn(2, 4, 3, 4, 4), False, both
    )
    assert torch.equal(delta, torch.zeros(4))
