"""Random patch masks with an exact ratio, and the bookkeeping of which sites of a feature map are visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def n_visible(n_patches: int, mask_ratio: float) -> int:
    """Number of patches that stay visible: round((1 - mask_ratio) n), at least one visible and one hidden.

    `n_patches` >= 2; `mask_ratio` in (0, 1). Raises ValueError otherwise.
    """
    if n_patches < 2:
        raise ValueError(f"a grid of {n_patches} patch cannot be masked: at least 2 patches are needed")
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio {mask_ratio} is outside (0, 1)")
    return min(max(round((1 - mask_ratio) * n_patches), 1), n_patches - 1)


def random_masks(batch: int, grid: tuple[int, int], mask_ratio: float, generator: torch.Generator) -> Tensor:
    """One random mask a sample: bool (B, gh, gw), True = visible, the same count of visible patches in each.

    A CPU `generator` makes it reproducible on every device. Source: Woo et al. 2023, section 3.1.
    """
    n = grid[0] * grid[1]
    keep = n_visible(n, mask_ratio)
    noise = torch.rand(batch, n, generator=generator)
    visible = torch.zeros(batch, n, dtype=torch.bool)
    visible.scatter_(1, noise.argsort(dim=1, stable=True)[:, :keep], True)
    return visible.view(batch, *grid)


def upsample_mask(visible: Tensor, factor: int) -> Tensor:
    """Repeat a patch mask to a finer grid: bool (B, gh, gw) -> bool (B, gh*factor, gw*factor)."""
    return visible.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


@dataclass(frozen=True)
class VisiblePatches:
    """Which patches of the grid are visible, as indices: (B, K) into the gh*gw patches, ascending.

    At a stage where one patch spans r x r sites, visible features are held as (B, K, r, r, C): no hidden
    site is computed, and a 2x2 downsampling never leaves its patch, since r is a power of two times the
    last stage's single site.
    """

    index: Tensor
    grid: tuple[int, int]

    @classmethod
    def from_mask(cls, visible: Tensor) -> VisiblePatches:
        """From bool (B, gh, gw). Raises ValueError unless every sample has the same count K >= 1."""
        if visible.dim() != 3 or visible.dtype != torch.bool:
            raise ValueError(f"a mask is bool (B, gh, gw); got {visible.dtype} {tuple(visible.shape)}")
        flat = visible.flatten(1)
        counts = flat.sum(1)
        keep = int(counts[0])
        if keep < 1 or bool((counts != keep).any()):
            raise ValueError("every sample needs the same number (>= 1) of visible patches")
        # Stable descending sort of booleans: visible positions first, each group in raster order.
        index = flat.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :keep]
        return cls(index, (visible.shape[1], visible.shape[2]))

    def gather(self, x: Tensor) -> Tensor:
        """Visible part of a map: (B, C, gh*r, gw*r) -> (B, K, r, r, C)."""
        return _Gather.apply(x, self)

    def scatter(self, tokens: Tensor) -> Tensor:
        """Back to the full map, zeros where hidden: (B, K, r, r, C) -> (B, C, gh*r, gw*r)."""
        return _Scatter.apply(tokens, self)

    def _where(self) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.arange(len(self.index), device=self.index.device)[:, None]
        return rows, self.index // self.grid[1], self.index % self.grid[1]

    def take(self, x: Tensor) -> Tensor:
        """`gather` outside autograd."""
        batch, channels, height, _ = x.shape
        gh, gw = self.grid
        r = height // gh
        return x.reshape(batch, channels, gh, r, gw, r).permute(0, 2, 4, 3, 5, 1)[self._where()]

    def put(self, tokens: Tensor) -> Tensor:
        """`scatter` outside autograd."""
        batch, _, r, _, channels = tokens.shape
        gh, gw = self.grid
        full = tokens.new_zeros(batch, gh, r, gw, r, channels)
        # Sites lie in raster order in memory (channels last), so the result needs no copy.
        full.permute(0, 1, 3, 2, 4, 5)[self._where()] = tokens
        return full.view(batch, gh * r, gw * r, channels).permute(0, 3, 1, 2)


class _Gather(torch.autograd.Function):
    """No site is taken twice, so the gradient is the scatter: autograd's own would accumulate, one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, patches: VisiblePatches) -> Tensor:
        ctx.patches = patches
        return patches.take(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.patches.scatter(grad), None


class _Scatter(torch.autograd.Function):
    """The other way round."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, patches: VisiblePatches) -> Tensor:
        ctx.patches = patches
        return patches.put(tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.patches.gather(grad), None
