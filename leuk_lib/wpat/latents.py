"""How windows speak: region tokens -> M latents cross-attend them, self-attend, and write back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leuk_lib.training.drop_path import drop_path
from leuk_lib.wpat.attention import CosineAttention


class Mlp(nn.Sequential):
    """LN, linear, GELU, linear over the last dimension d."""

    def __init__(self, dim: int, ratio: float) -> None:
        hidden = max(1, round(dim * ratio))
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class PlaceEmbedding(nn.Module):
    """Continuous 2-D position to d: sines and cosines at octaves, then a linear map; any image size."""

    frequencies: Tensor

    def __init__(self, dim: int, octaves: int = 4) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves), persistent=False)
        self.proj = nn.Linear(4 * octaves, dim)

    def forward(self, places: Tensor) -> Tensor:
        """places (n, 2) in (0, 1) -> (n, d)."""
        phase = (places[:, :, None] * self.frequencies).flatten(1)
        return self.proj(torch.cat([phase.sin(), phase.cos()], dim=1))


class LatentStep(nn.Module):
    """M latents read all region tokens, talk among themselves, and (unless it is the last pair) write back.

    Cost: O(M * regions), linear in pixels. ``drop`` is the drop path rate of its residual branches.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop: float = 0.0, write_back: bool = True) -> None:
        super().__init__()
        self.drop = drop
        self.read_norm, self.region_norm, self.self_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.read, self.talk = CosineAttention(dim, heads), CosineAttention(dim, heads)
        self.mlp = Mlp(dim, mlp_ratio)
        self.write_norm = nn.LayerNorm(dim) if write_back else None
        self.write = CosineAttention(dim, heads) if write_back else None

    def forward(
        self, latents: Tensor, regions: Tensor, places: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """latents (B, M, d), regions (B, R, d), places (R, d) -> both anew, and the weights of reading and talking.

        Weights are means over heads: reading (B, M, R), talking (B, M, M).
        """
        context = self.region_norm(regions) + places
        seen, reading = self.read(self.read_norm(latents), context, need_weights=need_weights)
        latents = latents + drop_path(seen, self.drop, self.training)
        normed = self.self_norm(latents)
        heard, talking = self.talk(normed, normed, need_weights=need_weights)
        latents = latents + drop_path(heard, self.drop, self.training)
        latents = latents + drop_path(self.mlp(latents), self.drop, self.training)
        if self.write is not None and self.write_norm is not None:
            told, _ = self.write(context, self.write_norm(latents))
            regions = regions + drop_path(told, self.drop, self.training)
        if reading is None or talking is None:
            return latents, regions, None
        return latents, regions, (reading.mean(dim=1), talking.mean(dim=1))
