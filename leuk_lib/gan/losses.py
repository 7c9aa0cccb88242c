"""The relativistic pair loss and the two gradient penalties.

With class-matched pairs, Delta = D(x_r, y) - D(x_f, y):
    L_D = mean softplus(-Delta) + gamma/2 (mean |grad_{x_r} D|^2 + mean |grad_{x_f} D|^2)
    L_G = mean softplus(Delta)
Source: Jolicoeur-Martineau 2018 (relativistic loss); Mescheder et al. 2018 (R1, R2); Huang et al. 2024 (both).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_difference(real: Tensor, fake: Tensor) -> Tensor:
    """Delta (B,): the discriminator's preference for the real image of each pair."""
    if real.shape != fake.shape or real.dim() != 1:
        raise ValueError(f"pairs need logits of one shape (B,), got {tuple(real.shape)} and {tuple(fake.shape)}")
    return real - fake


def discriminator_loss(delta: Tensor) -> Tensor:
    """mean softplus(-Delta); ln 2 at Delta = 0, small where the real image wins."""
    return F.softplus(-delta).mean()


def generator_loss(delta: Tensor) -> Tensor:
    """mean softplus(Delta); ln 2 at Delta = 0, small where the generated image wins."""
    return F.softplus(delta).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """(B,) squared norms |grad_x D|^2 at ``images``, which must be what the augmenter was given, not its output.

    ``logits`` (B,) from ``images`` (B,3,H,W) with requires_grad; differentiable once more. The gradient is that of the
    batch's sum: each image's own, plus what it does to others where the critic compares images.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)


def critic_terms(
    critic: Callable[..., Tensor],
    augment: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    penalise: bool,
    *context: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Delta (B,), and R1 and R2 (B,) or None.

    ``critic`` sees augment([real; fake]) in one pass (2B), then ``context`` (labels, ramp, sets); the
    penalties are taken at the un-augmented images, so the augmenter is part of what is made flat. Real and fake at the same position must share their class.
    """
    both = torch.cat([real, fake]).detach().requires_grad_(penalise)
    logits = critic(augment(both), *context).float()
    delta = pair_difference(*logits.chunk(2))
    if not penalise:
        return delta, None, None
    r1, r2 = gradient_penalty(logits, both).chunk(2)
    return delta, r1, r2
