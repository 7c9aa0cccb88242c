"""Batch normalisation: numbers and gradients of PyTorch's; in eval mode an image does not depend on its batch."""

import torch

from leuk_lib.wpat.batch_norm import MOMENTUM, GlobalBatchNorm


def test_training_equals_torch():
    torch.manual_seed(0)
    ours, theirs = GlobalBatchNorm(5), torch.nn.BatchNorm1d(5, affine=False, momentum=MOMENTUM)
    for scale in (1.0, 3.0):
        x = (torch.randn(16, 5) * scale + 4).requires_grad_()
        y = x.detach().clone().requires_grad_()
        torch.testing.assert_close(ours(x), theirs(y), atol=1e-5, rtol=1e-5)
        (ours(x) ** 3).sum().backward()
        (theirs(y) ** 3).sum().backward()
        torch.testing.assert_close(x.grad, y.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    ours.eval()
    assert torch.equal(ours(x)[:3], ours(x[:3]))


def test_a_batch_of_equal_images_gives_zeros_and_finite_gradients():
    x = torch.full((2, 3), 5.0, requires_grad=True)
    y = GlobalBatchNorm(3)(x)
    y.square().sum().backward()
    assert torch.equal(y, torch.zeros(2, 3)) and torch.isfinite(x.grad).all()
