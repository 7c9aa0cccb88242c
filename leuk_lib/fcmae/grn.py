"""Global response normalisation (GRN) of ConvNeXt V2, per image, over visible sites."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-6


def global_response_norm(x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor | None = None) -> Tensor:
    """GRN per image, over visible sites: x -> gamma (x N) + beta + x.

    x (B, …, C), `mask` (B, …, 1) of 0/1 or None; gamma, beta (C).
    G = sqrt(sum over sites of (x mask)^2), (B, 1…, C); N = G / (mean_c G + 1e-6).
    Source: Woo et al. 2023, eq. 1–3. (The official sparse code takes the norm over the batch; here a batch
    mate changes nothing.)
    """
    sites = tuple(range(1, x.dim() - 1))
    norm = torch.linalg.vector_norm(x if mask is None else x * mask, dim=sites, keepdim=True)
    response = norm / (norm.mean(dim=-1, keepdim=True) + EPS)
    return gamma * (x * response) + beta + x


class _GRNFunction(torch.autograd.Function):
    """`global_response_norm` without a mask, with its gradient in closed form.

    With A_c = sum over sites of g x:  dN = gamma A,  dG = dN/(m+e) - mean_c(dN G)/(m+e)^2,
    dx = g (1 + gamma N) + x dG/G. One pass over x instead of autograd's four, and only x is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        flat = x.flatten(1, -2)
        # Not linalg.vector_norm: over a dimension that is not the last it takes 4 to 80 times as long on a CPU.
        whole = flat.to(torch.promote_types(x.dtype, torch.float32))
        norm = whole.square().sum(dim=1, keepdim=True).sqrt()
        ctx.save_for_backward(x, gamma, norm)
        scale = 1 + gamma * norm / (norm.mean(dim=-1, keepdim=True) + EPS)
        return torch.addcmul(beta.to(x.dtype), flat, scale.to(x.dtype)).view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma, norm = ctx.saved_tensors
        flat, g = x.flatten(1, -2), grad.flatten(1, -2)
        along = (g * flat).sum(dim=1, keepdim=True, dtype=norm.dtype)
        total = norm.mean(dim=-1, keepdim=True) + EPS
        d_response = gamma * along
        d_norm = d_response / total - (d_response * norm).mean(dim=-1, keepdim=True) / total.square()
        # A channel that is zero everywhere has norm 0: its subgradient is 0.
        through_norm = torch.where(norm > 0, d_norm / norm, 0)
        dx = torch.addcmul(g * (1 + gamma * norm / total).to(g.dtype), flat, through_norm.to(flat.dtype))
        d_gamma = (along * norm / total).sum(dim=(0, 1))
        d_beta = g.sum(dim=(0, 1), dtype=norm.dtype)
        return dx.view_as(x), d_gamma.to(gamma.dtype), d_beta.to(gamma.dtype)


class GRN(nn.Module):
    """Global response normalisation, channels last; gamma and beta start at 0 (the identity)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, …, C) -> same shape; `mask` (B, …, 1) of 0/1 leaves hidden sites out of the norm."""
        gamma, beta = self.gamma.flatten(), self.beta.flatten()
        if mask is not None:
            return global_response_norm(x, gamma, beta, mask)
        return _GRNFunction.apply(x, gamma, beta)
