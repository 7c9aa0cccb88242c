r"""Random masks that hide an exact share of the patches, and the visible sites of a feature map.

Of n patches, each image keeps

.. math:: k = \operatorname{round}\big((1 - \rho)\, n\big), \qquad 1 \le k \le n - 1,

at random, where :math:`\rho` is the mask ratio: every sample draws one uniform number per patch, and the k patches
with the smallest numbers stay visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leuk_lib.training.transfer import on_device


def n_visible(n_patches: int, mask_ratio: float) -> int:
    """Number k of patches that stay visible.

    Args:
        n_patches: At least 2.
        mask_ratio: In (0, 1).

    Raises:
        ValueError: An argument is out of range.

    >>> n_visible(16, 0.6), n_visible(4, 0.99)
    (6, 1)
    """
    if n_patches < 2:
        raise ValueError(f"a grid of {n_patches} patch cannot be masked: at least 2 patches are needed")
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio {mask_ratio} is outside (0, 1)")
    return min(max(round((1 - mask_ratio) * n_patches), 1), n_patches - 1)


def random_masks(
    batch: int,
    grid: tuple[int, int],
    mask_ratio: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw one random mask per sample.

    Args:
        batch: Number of samples B.
        grid: Patches along height and width (gh, gw).
        mask_ratio: Share of the patches to hide, in (0, 1).
        generator: On the CPU, so that the masks are the same on every device.

    Returns:
        bool (B, gh, gw), True where visible, with the same number of visible patches in every sample.

    References:
        He et al. 2022; Woo et al. 2023, section 3.1.
    """
    n = grid[0] * grid[1]
    keep = n_visible(n, mask_ratio)
    noise = torch.rand(batch, n, generator=generator)
    visible = torch.zeros(batch, n, dtype=torch.bool)
    visible.scatter_(1, noise.argsort(dim=1, stable=True)[:, :keep], True)
    return visible.view(batch, *grid)


def upsample_mask(visible: Tensor, factor: int) -> Tensor:
    """Repeat a patch mask on a finer grid: bool (B, gh, gw) -> bool (B, gh*factor, gw*factor)."""
    return visible.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


@dataclass(frozen=True)
class VisiblePatches:
    """Indices of the visible patches, and the visible part of a feature map.

    At a stage where one patch spans r x r sites, visible features have the shape (B, K, r, r, C), so that no hidden
    site is computed. A 2 x 2 downsampling never crosses the border of a patch, since r is a power of two that ends at
    1 in the last stage.

    Attributes:
        index: (B, K) positions among the gh*gw patches in raster order, ascending.
        grid: (gh, gw).
    """

    index: Tensor
    grid: tuple[int, int]

    @classmethod
    def from_mask(cls, visible: Tensor, device: torch.device | None = None) -> VisiblePatches:
        """Convert a mask, bool (B, gh, gw); the indices go to ``device``, by default to that of the mask.

        Raises:
            ValueError: It has another type or shape, or the number of visible patches differs between samples or is 0.
        """
        if visible.dim() != 3 or visible.dtype != torch.bool:
            raise ValueError(f"a mask is bool (B, gh, gw); got {visible.dtype} {tuple(visible.shape)}")
        flat = visible.flatten(1)
        counts = flat.sum(1)
        keep = int(counts[0])
        if keep < 1 or bool((counts != keep).any()):
            raise ValueError("every sample needs the same number (>= 1) of visible patches")
        # Stable descending sort of booleans: visible positions first, each group in raster order.
        index = flat.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :keep]
        return cls(index if device is None else on_device(index, device), (visible.shape[1], visible.shape[2]))

    def gather(self, x: Tensor) -> Tensor:
        """Select the visible part of a map: (B, C, gh*r, gw*r) -> (B, K, r, r, C)."""
        return _Gather.apply(x, self)

    def scatter(self, tokens: Tensor) -> Tensor:
        """Write it back into a map with zeros at hidden sites: (B, K, r, r, C) -> (B, C, gh*r, gw*r)."""
        return _Scatter.apply(tokens, self)

    def _positions(self) -> tuple[Tensor, Tensor, Tensor]:
        samples = torch.arange(len(self.index), device=self.index.device)[:, None]
        return samples, self.index // self.grid[1], self.index % self.grid[1]

    def _gather(self, x: Tensor) -> Tensor:
        batch, channels, height, _ = x.shape
        gh, gw = self.grid
        r = height // gh
        return x.reshape(batch, channels, gh, r, gw, r).permute(0, 2, 4, 3, 5, 1)[self._positions()]

    def _scatter(self, tokens: Tensor) -> Tensor:
        batch, _, r, _, channels = tokens.shape
        gh, gw = self.grid
        full = tokens.new_zeros(batch, gh, r, gw, r, channels)
        # Sites lie in raster order in memory (channels last), so the result needs no copy.
        full.permute(0, 1, 3, 2, 4, 5)[self._positions()] = tokens
        return full.view(batch, gh * r, gw * r, channels).permute(0, 3, 1, 2)


class _Gather(torch.autograd.Function):
    """No site is gathered twice, so the gradient is the scatter; autograd would accumulate site by site."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, patches: VisiblePatches) -> Tensor:
        ctx.patches = patches
        return patches._gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.patches.scatter(grad), None


class _Scatter(torch.autograd.Function):
    """The gradient of the scatter is the gather."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, patches: VisiblePatches) -> Tensor:
        ctx.patches = patches
        return patches._scatter(tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.patches.gather(grad), None
