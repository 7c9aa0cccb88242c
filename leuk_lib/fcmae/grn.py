r"""Global response normalisation (GRN) of ConvNeXt V2, per image and over the visible sites only.

With the mask :math:`v_i` (1: site i is visible, 0: hidden) and learned :math:`\gamma, \beta` per channel c,

.. math::

    G_c = \Big(\sum_i (v_i\, x_{ic})^2\Big)^{1/2},

    N_c = \frac{G_c}{\frac1C \sum_{c'} G_{c'} + 10^{-6}},

    y_{ic} = \gamma_c\, x_{ic} N_c + \beta_c + x_{ic} .

References:
    Woo et al. 2023, equations 1 to 3. The official sparse code takes the norm over the batch; here it is taken per
    image, so that the other images of a batch have no influence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-6


def global_response_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """GRN of the module's formula.

    Args:
        x: Features (B, ..., C), channels last.
        gamma: (C,).
        beta: (C,).
        mask: (B, ..., 1) of 0 and 1, or None where all sites are visible.

    Returns:
        (B, ..., C).

    >>> x = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])  # one image, two sites, two channels: G = (5, 0), N = (2, 0)
    >>> global_response_norm(x, torch.ones(2), torch.zeros(2))
    tensor([[[ 9.0000,  0.0000],
             [12.0000,  0.0000]]])
    """
    sites = tuple(range(1, x.dim() - 1))
    visible = x if mask is None else x * mask
    norm = torch.linalg.vector_norm(visible, dim=sites, keepdim=True)
    response = norm / (norm.mean(dim=-1, keepdim=True) + EPS)
    return gamma * (x * response) + beta + x


class GRN(nn.Module):
    """`global_response_norm` with parameters ``gamma`` and ``beta`` that start at 0, where it is the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise x (B, ..., C); ``mask`` (B, ..., 1) of 0 and 1 excludes hidden sites from the norm."""
        gamma, beta = self.gamma.flatten(), self.beta.flatten()
        if mask is not None:
            return global_response_norm(x, gamma, beta, mask)
        return _GRNFunction.apply(x, gamma, beta)


class _GRNFunction(torch.autograd.Function):
    r"""`global_response_norm` without a mask, with its gradient in closed form.

    With the incoming gradient g, :math:`A_c = \sum_i g_{ic} x_{ic}`, m the mean of G and :math:`\epsilon = 10^{-6}`:

    .. math::

        \frac{\partial L}{\partial N_c} = \gamma_c A_c,

        \frac{\partial L}{\partial G_c} = \frac{\gamma_c A_c}{m + \epsilon}
            - \frac{\frac1C \sum_{c'} \gamma_{c'} A_{c'} G_{c'}}{(m + \epsilon)^2},

        \frac{\partial L}{\partial x_{ic}} = g_{ic} (1 + \gamma_c N_c)
            + \frac{x_{ic}}{G_c} \frac{\partial L}{\partial G_c} .

    This takes one pass over x instead of autograd's four, and keeps only x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        flat = x.flatten(1, -2)
        # Not linalg.vector_norm: over a dimension other than the last it takes 4 to 80 times as long on a CPU.
        wide = flat.to(torch.promote_types(x.dtype, torch.float32))
        norm = wide.square().sum(dim=1, keepdim=True).sqrt()
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
