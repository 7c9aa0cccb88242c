r"""Cosine attention with a log-spaced continuous position bias, as in Swin V2 (Liu et al. 2022).

.. math::

    \operatorname{Attention}(Q, K, V)
        = \operatorname{softmax}\left(\frac{\cos(Q, K)}{\tau} + B\right) V,

    B = 16\, \sigma\bigl(\operatorname{MLP}(\widehat{\Delta y}, \widehat{\Delta x})\bigr)

with a learned temperature :math:`\tau \ge 0.01` per head (``logit_scale`` is :math:`\log 1/\tau`) and log-spaced
offsets :math:`\widehat{\Delta}` (:func:`log_spaced`). Swin V2 has tokens only; here a region token stands in front of the
tokens of each window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_LOGIT_SCALE = math.log(100.0)  # tau >= 0.01, as in Swin V2


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Attention :math:`\operatorname{softmax}(QK^\top + B)V` by PyTorch's fused kernel.

    Args:
        q: Queries (..., Nq, e), already scaled.
        k: Keys (..., Nk, e).
        v: Values (..., Nk, e).
        bias: Additive bias or mask that broadcasts to (..., Nq, Nk); ``-inf`` hides a key.

    Returns:
        Output (..., Nq, e).
    """
    if bias is not None and bias.requires_grad and not (q.requires_grad or k.requires_grad or v.requires_grad):
        # PyTorch's memory-efficient CUDA kernel saves what the backward pass needs only if q, k or v require a
        # gradient, so a trainable bias over frozen projections would get no gradient, or a wrong one.
        return naive_attention(q, k, v, bias)[0]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def naive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`fused_attention` written out, which also returns the attention weights (..., Nq, Nk); rows sum to 1."""
    scores = q @ k.transpose(-2, -1)
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return weights @ v, weights


def cosine_qk(q: Tensor, k: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Normalise q and k, and scale q, so that :math:`q \cdot k = \cos(q, k) / \tau`.

    Any dot-product attention kernel can then compute cosine attention.

    Args:
        q: Queries (..., heads, Nq, e).
        k: Keys (..., heads, Nk, e).
        logit_scale: :math:`\log 1/\tau` (heads, 1, 1), clamped to at most log 100.
    """
    scale = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
    # In float16 the least norm, 1e-12, is 0.
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(wide), k.to(wide)
    return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)


def log_spaced(offsets: Tensor, window_size: int) -> Tensor:
    r"""Log-spaced offsets of Swin V2 (its equation 4, normalised to the window).

    .. math::

        \widehat{\Delta} = \operatorname{sign}(\Delta)\,
            \log_8\left(1 + \left|\frac{8 \Delta}{s - 1}\right|\right)

    Args:
        offsets: Offsets :math:`\Delta` in tokens, any shape.
        window_size: Side s of the window in tokens.

    Example:
        >>> log_spaced(torch.tensor([-3.0, 0.0, 3.0]), window_size=4)
        tensor([-1.0566,  0.0000,  1.0566])
    """
    scaled = offsets * 8 / max(window_size - 1, 1)
    return torch.sign(scaled) * torch.log2(scaled.abs() + 1) / 3


def relative_position_index(window_size: int) -> Tensor:
    """Row of each token pair's offset in a flattened table of all (2s-1)^2 offsets: long (s*s, s*s)."""
    position = torch.cartesian_prod(torch.arange(window_size), torch.arange(window_size)).view(-1, 2)
    offset = position[:, None] - position[None] + window_size - 1
    return offset[..., 0] * (2 * window_size - 1) + offset[..., 1]


def relative_coords(window_size: int) -> tuple[Tensor, Tensor]:
    """All offsets among [region token; s*s tokens], the region token at the centre of the window.

    Returns:
        The offsets (T, 2) in tokens, (y, x) of query minus key: (2s-1)^2 between tokens, s*s from the region token to
        tokens, s*s back, and 0 last; and for each pair the row of its offset, long (1+s*s, 1+s*s).
    """
    steps = torch.arange(1 - window_size, window_size, dtype=torch.float32)
    position = torch.cartesian_prod(torch.arange(window_size), torch.arange(window_size)).view(-1, 2).float()
    from_centre = (window_size - 1) / 2 - position
    offsets = torch.cat([torch.cartesian_prod(steps, steps), from_centre, -from_centre, torch.zeros(1, 2)])
    tokens, token_offsets = window_size * window_size, (2 * window_size - 1) ** 2
    index = torch.empty(1 + tokens, 1 + tokens, dtype=torch.long)
    index[0, 0] = len(offsets) - 1
    index[0, 1:] = token_offsets + torch.arange(tokens)
    index[1:, 0] = token_offsets + tokens + torch.arange(tokens)
    index[1:, 1:] = relative_position_index(window_size)
    return offsets, index


class PositionBias(nn.Module):
    r"""Continuous position bias: an MLP from log-spaced offset to one bias per head.

    .. math:: B = 16\, \sigma\bigl(\operatorname{MLP}(\widehat{\Delta y}, \widehat{\Delta x}) + r\bigr)

    Because the bias is continuous in the offset, it also covers the region token at the centre of the window. The
    scalars r per head distinguish pairs with the region token: with itself, from it to a token, from a token to it.
    r is 0 for pairs of tokens, for which the bias is that of Swin V2.
    """

    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(self, window_size: int, heads: int, hidden: int = 64) -> None:
        super().__init__()
        self.cpb_mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, heads, bias=False))
        self.region_bias = nn.Parameter(torch.zeros(3, heads))
        offsets, index = relative_coords(window_size)
        self.register_buffer("relative_coords_table", log_spaced(offsets, window_size), persistent=False)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self) -> Tensor:
        """Bias (heads, 1+s*s, 1+s*s) in (0, 16); row and column 0 belong to the region token."""
        table = self.cpb_mlp(self.relative_coords_table)  # (T, heads)
        bias = table[self.relative_position_index].permute(2, 0, 1)  # (heads, 1+s*s, 1+s*s)
        to_itself, to_token, to_region = self.region_bias.to(bias.dtype)[:, :, None, None]
        first = torch.cat([bias[:, :1, :1] + to_itself, bias[:, :1, 1:] + to_token], dim=2)
        rest = torch.cat([bias[:, 1:, :1] + to_region, bias[:, 1:, 1:]], dim=2)
        return 16 * torch.sigmoid(torch.cat([first, rest], dim=1))


class CosineAttention(nn.Module):
    """Multi-head cosine attention; self-attention if queries and context are the same tokens, else cross-attention.

    Args:
        dim: Width d of the tokens.
        heads: Number of heads; must divide ``dim``.

    Raises:
        ValueError: If ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.proj = nn.Linear(dim, dim)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(..., N, d) -> (..., heads, N, d/heads)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(
        self, queries: Tensor, context: Tensor, bias: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from queries to context.

        Args:
            queries: (B, ..., Nq, d).
            context: (B, ..., Nk, d), source of keys and values.
            bias: Additive bias or mask that broadcasts to (..., heads, Nq, Nk).
            need_weights: Whether to return the attention weights (by :func:`naive_attention`).

        Returns:
            Output (B, ..., Nq, d), and weights (B, ..., heads, Nq, Nk) or None.
        """
        q = self.split_heads(self.q(queries))  # (B, ..., heads, Nq, e)
        k, v = (self.split_heads(part) for part in self.kv(context).chunk(2, dim=-1))  # (B, ..., heads, Nk, e)
        q, k = cosine_qk(q, k, self.logit_scale)
        q, k = q.to(v.dtype), k.to(v.dtype)  # they are normalised in float32
        weights: Tensor | None = None
        if need_weights:
            out, weights = naive_attention(q, k, v, None if bias is None else bias.to(v.dtype))
        else:
            # Windows and heads are folded into one axis: the kernel takes four, and broadcasts the mask over the batch.
            mask = None if bias is None else bias.to(v.dtype).reshape(1, -1, *bias.shape[-2:])
            folded = [part.flatten(1, -3) for part in (q, k, v)]
            out = fused_attention(folded[0], folded[1], folded[2], mask).unflatten(1, tuple(q.shape[1:-2]))
        return self.proj(out.transpose(-3, -2).flatten(-2)), weights
