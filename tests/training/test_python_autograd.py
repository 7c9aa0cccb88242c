"""The Python engine computes the gradients of PyTorch's own, first and second ones, and releases what was saved."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from leuk_lib.gan.ada import _GridSample
from training.python_autograd import python_autograd


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(4 * 16, 3), nn.LayerNorm(3)
    )  # fmt: skip


def gradients(x: torch.Tensor, penalty: bool) -> list[torch.Tensor]:
    model = network()
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3) * 0.9, list(x.shape), align_corners=False)
    both = x.clone().requires_grad_()
    logits = model(_GridSample.apply(both, grid))
    first, second = logits.chunk(2)
    loss = F.softplus(first - second).mean() + logits.square().mean()
    if penalty:
        (gradient,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
        loss = loss + gradient.square().flatten(1).sum(dim=1).mean()
    loss.backward()
    return [both.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("penalty", [False, True])
def test_gradients_are_those_of_the_engine(penalty: bool):
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = gradients(x, penalty)
    with python_autograd():
        found = gradients(x, penalty)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(theirs.abs().max() > 0 for theirs in expected[1:3])


def test_a_graph_is_used_once():
    with python_autograd():
        x = torch.ones(2, requires_grad=True)
        y = x.exp().sum()
        y.backward()
        with pytest.raises(RuntimeError, match="second time"):
            y.backward()


class Scaled(torch.autograd.Function):
    """The sum of two tensors times numbers that are given before and between them."""

    @staticmethod
    def forward(ctx, first: float, x: torch.Tensor, second: float, y: torch.Tensor) -> torch.Tensor:
        ctx.factors = first, second
        return first * x + second * y

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[None, torch.Tensor, None, torch.Tensor]:
        first, second = ctx.factors
        return None, first * grad, None, second * grad


def scaled_gradients(needed: tuple[bool, bool]) -> list[torch.Tensor | None]:
    x, y = (torch.arange(3.0).requires_grad_(flag) for flag in needed)
    Scaled.apply(2.0, x.exp() if needed[0] else x, 5.0, y).square().sum().backward()
    return [x.grad, y.grad]


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_gradients_of_a_custom_function_belong_to_its_tensors(needed: tuple[bool, bool]):
    expected = scaled_gradients(needed)
    with python_autograd():
        found = scaled_gradients(needed)
    assert [grad is not None for grad in expected] == list(needed)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)
