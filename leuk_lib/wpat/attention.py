"""Cosine attention with a continuous position bias (Swin V2, Liu et al. 2022) over a region token and its window.

Fused path: one ``scaled_dot_product_attention`` call with one additive mask (bias plus padding). The naive path
computes the same with a plain softmax; it is what the fused path is tested against, and the one that returns weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_LOGIT_SCALE = math.log(100.0)  # Swin V2's bound: exp(logit_scale) <= 100


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T + bias) v by the fused kernel; q (…, Nq, e), k and v (…, Nk, e), bias broadcast to (…, Nq, Nk)."""
    if bias is not None and bias.requires_grad and not (q.requires_grad or k.requires_grad or v.requires_grad):
        # torch's memory-efficient CUDA kernel keeps what the backward pass needs only if q, k or v ask for a gradient,
        # so a trainable bias over frozen projections would get none, or a wrong one.
        return attend_naive(q, k, v, bias)[0]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def attend_naive(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same by a plain softmax, and its weights (…, Nq, Nk), rows summing to 1."""
    scores = q @ k.transpose(-2, -1)
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return weights @ v, weights


def cosine_scale(q: Tensor, k: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Unit q and k, q multiplied by exp(min(logit_scale, log 100)); logit_scale (heads, 1, 1), q and k (…, N, e).

    A plain dot product of the results is then the scaled cosine, so any dot-product kernel will do.
    """
    scale = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
    return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)


def log_spaced(offsets: Tensor, side: int) -> Tensor:
    """Offsets in tokens, log-spaced as Swin V2 does: sign(o) log2(1 + |8 o / (side-1)|) / log2(8)."""
    scaled = offsets * 8 / max(side - 1, 1)
    return torch.sign(scaled) * torch.log2(scaled.abs() + 1) / 3


def offset_index(side: int) -> Tensor:
    """For every pair of tokens, the position of its offset in the flattened (2s-1)^2 table: long (s*s, s*s)."""
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).view(-1, 2)
    offset = place[:, None] - place[None] + side - 1
    return offset[..., 0] * (2 * side - 1) + offset[..., 1]


def offset_table(side: int) -> tuple[Tensor, Tensor]:
    """Offsets that occur among [region; s*s tokens], the region at the window's centre, and where each pair finds its own.

    Offsets (T, 2) in tokens, float: (2s-1)^2 between tokens, s*s from region to token, s*s back, and 0 last.
    Index long (1+s*s, 1+s*s) into them.
    """
    steps = torch.arange(1 - side, side, dtype=torch.float32)
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).view(-1, 2).float()
    outward = (side - 1) / 2 - place
    offsets = torch.cat([torch.cartesian_prod(steps, steps), outward, -outward, torch.zeros(1, 2)])
    tokens, pairs = side * side, (2 * side - 1) ** 2
    index = torch.empty(1 + tokens, 1 + tokens, dtype=torch.long)
    index[0, 0] = len(offsets) - 1
    index[0, 1:] = pairs + torch.arange(tokens)
    index[1:, 0] = pairs + tokens + torch.arange(tokens)
    index[1:, 1:] = offset_index(side)
    return offsets, index


class PositionBias(nn.Module):
    """Log-spaced continuous position bias: a small MLP from offset to one bias a head, in (0, 16).

    Being continuous it also gives the region token a place, the centre of its window; a free scalar each sets its
    three kinds of pairs (with itself, to a token, from a token) apart from pairs of tokens.
    """

    coordinates: Tensor
    index: Tensor

    def __init__(self, side: int, heads: int, hidden: int = 64) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, heads, bias=False))
        self.region = nn.Parameter(torch.zeros(3, heads))
        offsets, index = offset_table(side)
        self.register_buffer("coordinates", log_spaced(offsets, side), persistent=False)
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Tensor:
        """Bias (heads, 1+s*s, 1+s*s); row and column 0 belong to the region token."""
        pairs = self.mlp(self.coordinates)[self.index].permute(2, 0, 1)
        itself, outward, inward = self.region.to(pairs.dtype)[:, :, None, None]
        first = torch.cat([pairs[:, :1, :1] + itself, pairs[:, :1, 1:] + outward], dim=2)
        rest = torch.cat([pairs[:, 1:, :1] + inward, pairs[:, 1:, 1:]], dim=2)
        return 16 * torch.sigmoid(torch.cat([first, rest], dim=1))


class CosineAttention(nn.Module):
    """Multi-head cosine attention with a learned ``logit_scale`` a head; queries may come from other tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.proj = nn.Linear(dim, dim)

    def split(self, tokens: Tensor) -> Tensor:
        """(…, N, d) -> (…, heads, N, d/heads)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(
        self, queries: Tensor, context: Tensor, bias: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Queries (B, …, Nq, d), context (B, …, Nk, d), bias broadcast to (…, heads, Nq, Nk) -> (B, …, Nq, d), weights.

        Weights (B, …, heads, Nq, Nk) come from the naive path, only when asked for.
        """
        q = self.split(self.q(queries))
        k, v = (self.split(part) for part in self.kv(context).chunk(2, dim=-1))
        q, k = cosine_scale(q, k, self.logit_scale)
        q, k = q.to(v.dtype), k.to(v.dtype)  # autocast normalises in float32
        weights: Tensor | None = None
        if need_weights:
            out, weights = attend_naive(q, k, v, None if bias is None else bias.to(v.dtype))
        else:
            # Windows and heads share one axis, so that the kernel sees four and the mask is broadcast over the batch.
            mask = None if bias is None else bias.to(v.dtype).reshape(1, -1, *bias.shape[-2:])
            flat = [part.flatten(1, -3) for part in (q, k, v)]
            out = attend(flat[0], flat[1], flat[2], mask).unflatten(1, tuple(q.shape[1:-2]))
        return self.proj(out.transpose(-3, -2).flatten(-2)), weights
