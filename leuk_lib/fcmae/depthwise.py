"""Depthwise convolution with a faster gradient on CPUs (``tests/benchmarks/bench_fcmae.py`` times the whole step)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """Depthwise k x k convolution, stride 1, same size; parameters and results are those of ``nn.Conv2d``.

    PyTorch's backward pass on a CPU takes ten times as long as its forward pass. Here both gradients are forward
    passes: that of the input with the kernels rotated by 180 degrees; that of the kernels with the input as image and
    the incoming gradient as kernel, per image and channel. Other devices, mixed precision and compiled networks use
    ``nn.Conv2d``.

    Args:
        dim: Number of channels.
        kernel_size: Odd side of the kernel.
    """

    def __init__(self, dim: int, kernel_size: int = 7) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, H, W); the shape stays."""
        slow = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        if slow and not torch.compiler.is_compiling():
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
            images = x.reshape(1, batch * channels, height, width)
            kernels = grad.reshape(batch * channels, 1, height, width)
            per_image = F.conv2d(images, kernels, padding=pad, groups=batch * channels)
            dw = per_image.view(batch, channels, *weight.shape[2:]).sum(0)[:, None]
        if ctx.needs_input_grad[2]:
            db = grad.sum((0, 2, 3))
        return dx, dw, db
