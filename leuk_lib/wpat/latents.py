"""Global attention through latent tokens, as in Perceiver (Jaegle et al. 2021): read, self-attention, write back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leuk_lib.training.drop_path import drop_path
from leuk_lib.wpat.attention import CosineAttention


class Mlp(nn.Sequential):
    """Pre-norm MLP of a transformer block over the last dimension d: LayerNorm, linear, GELU, linear."""

    def __init__(self, dim: int, ratio: float) -> None:
        hidden = max(1, round(dim * ratio))
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class FourierPositionEmbedding(nn.Module):
    r"""Embedding of continuous 2-D positions, so that any image size can be used.

    .. math:: p \mapsto W\,[\sin(2^k \pi p), \cos(2^k \pi p)]_{k = 0 \dots 3} + b
    """

    frequencies: Tensor

    def __init__(self, dim: int, octaves: int = 4) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves), persistent=False)
        self.proj = nn.Linear(4 * octaves, dim)

    def forward(self, positions: Tensor) -> Tensor:
        """Positions (n, 2) in (0, 1) -> (n, d)."""
        phase = (positions[:, :, None] * self.frequencies).flatten(1)  # (n, 2 * octaves)
        return self.proj(torch.cat([phase.sin(), phase.cos()], dim=1))


class LatentBlock(nn.Module):
    """M latents read all region tokens by cross-attention, attend to each other, and write back to the region tokens.

    The cost is O(M R) for R region tokens, so linear in the pixels of the image.

    Args:
        dim: Width d of the tokens.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP in units of ``dim``.
        drop_path: Drop path rate of the residual branches.
        write_back: Whether the region tokens are updated; the last block of a network does not need it.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float = 0.0, write_back: bool = True) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.read_norm, self.region_norm, self.self_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.read_attention, self.self_attention = CosineAttention(dim, heads), CosineAttention(dim, heads)
        self.mlp = Mlp(dim, mlp_ratio)
        self.write_norm = nn.LayerNorm(dim) if write_back else None
        self.write_attention = CosineAttention(dim, heads) if write_back else None

    def residual(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add a residual branch to x; while training, drop path drops it for whole samples."""
        return x + drop_path(branch, self.drop_path, self.training)

    def forward(
        self,
        latents: Tensor,
        regions: Tensor,
        positions: Tensor,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Update latents and region tokens.

        Args:
            latents: (B, M, d).
            regions: Region tokens (B, R, d).
            positions: Position embedding of the region tokens (R, d).
            need_weights: Whether to return attention weights.

        Returns:
            Latents (B, M, d), region tokens (B, R, d), and the attention weights averaged over heads, of reading
            (B, M, R) and of self-attention (B, M, M), or None.
        """
        context = self.region_norm(regions) + positions
        x = self.read_norm(latents)
        out, read_weights = self.read_attention(x, context, need_weights=need_weights)
        latents = self.residual(latents, out)
        x = self.self_norm(latents)
        out, self_weights = self.self_attention(x, x, need_weights=need_weights)
        latents = self.residual(latents, out)
        latents = self.residual(latents, self.mlp(latents))
        if self.write_attention is not None and self.write_norm is not None:
            out, _ = self.write_attention(context, self.write_norm(latents))
            regions = self.residual(regions, out)
        if read_weights is None or self_weights is None:
            return latents, regions, None, None
        return latents, regions, read_weights.mean(dim=1), self_weights.mean(dim=1)
