"""The depthwise convolution of a ConvNeXt block, with a gradient that takes a third of the usual time on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """k x k convolution of every channel by itself, stride 1, same size: (B, C, H, W) -> same shape.

    Parameters and results are those of nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim), whose backward pass on a
    CPU is ten times slower than its forward pass. The gradient of the input is a forward pass with the kernels
    turned by 180 degrees; that of the kernels is one with the images as inputs and the gradients as kernels, every
    image and channel by itself. On other devices it is nn.Conv2d.
    """

    def __init__(self, dim: int, kernel_size: int = 7) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> same shape."""
        if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
            return _DepthwiseFunction.apply(x, self.weight, self.bias)
        return super().forward(x)


class _DepthwiseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        batch, channels, height, width = x.shape
        pad = weight.shape[-1] // 2
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = F.conv2d(grad, weight.flip(2, 3), padding=pad, groups=channels)
        if ctx.needs_input_grad[1]:
            pictures = x.reshape(1, batch * channels, height, width)
            kernels = grad.reshape(batch * channels, 1, height, width)
            each = F.conv2d(pictures, kernels, padding=pad, groups=batch * channels)
            dw = each.view(batch, channels, *weight.shape[2:]).sum(0)[:, None]
        if ctx.needs_input_grad[2]:
            db = grad.sum((0, 2, 3))
        return dx, dw, db
