r"""Loss of ACDB-GAN: relativistic pairs with gradient penalties at real and at generated images.

A real image :math:`x_r` and a generated one :math:`x_g` of the same class :math:`y` form a pair. With the
relativistic logit of the pair,

.. math:: \Delta = D(x_r, y) - D(x_g, y),

discriminator and generator minimise

.. math::
    L_D &= \mathbb{E}\,\operatorname{softplus}(-\Delta) + \frac{\gamma}{2} (R_1 + R_2), &
    L_G &= \mathbb{E}\,\operatorname{softplus}(\Delta), \\
    R_1 &= \mathbb{E}\,\lVert \nabla_{x_r} D \rVert^2, &
    R_2 &= \mathbb{E}\,\lVert \nabla_{x_g} D \rVert^2 .

References:
    Jolicoeur-Martineau 2018 (relativistic loss); Mescheder et al. 2018 (:math:`R_1`, :math:`R_2`);
    Huang et al. 2024 (R3GAN: both together).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def relativistic_logits(real: Tensor, fake: Tensor) -> Tensor:
    r"""Return :math:`\Delta` (B,), the preference for the real image of each pair.

    Args:
        real: Logits (B,) of the real images.
        fake: Logits (B,) of the generated images, in the same order of classes.

    Raises:
        ValueError: If the shapes differ or are not (B,).
    """
    if real.shape != fake.shape or real.dim() != 1:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"pairs need logits of one shape (B,), got {shapes}")
    return real - fake


def discriminator_loss(delta: Tensor) -> Tensor:
    r"""Return the mean of :math:`\operatorname{softplus}(-\Delta)`, without penalties.

    >>> discriminator_loss(torch.zeros(3))  # ln 2: no preference
    tensor(0.6931)
    """
    return F.softplus(-delta).mean()


def generator_loss(delta: Tensor) -> Tensor:
    r"""Return the mean of :math:`\operatorname{softplus}(\Delta)`.

    >>> generator_loss(torch.tensor([-2.0]))  # the generated image is preferred
    tensor(0.1269)
    """
    return F.softplus(delta).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    r"""Return :math:`\lVert \nabla_x D \rVert^2` of each image, (B,).

    The gradient is that of the batch's sum. It thus includes the effect of an image on the logits of others where
    the discriminator compares images. The result can be differentiated once more.

    Args:
        logits: Logits (B,) computed from ``images``.
        images: Images (B,3,H,W) with ``requires_grad``, before augmentation.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)


def penalty(r1: Tensor, r2: Tensor, gamma: float) -> Tensor:
    r"""Return :math:`\frac{\gamma}{2} (R_1 + R_2)` from the squared gradient norms of each image, (B,) each."""
    return gamma / 2 * (r1.mean() + r2.mean())


def discriminator_terms(
    discriminator: Callable[..., Tensor],
    augment: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    penalise: bool,
    *context: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    r"""Compute :math:`\Delta` and the per-image penalties in one pass over real and generated images.

    The penalties are taken at the images before augmentation.

    Args:
        discriminator: Maps images (2B,3,H,W) and ``context`` to logits (2B,).
        augment: Augmentation of the 2B images, differentiable twice.
        real: Real images (B,3,H,W).
        fake: Generated images (B,3,H,W) of the same classes.
        penalise: Whether to compute the penalties.
        *context: Further arguments of the discriminator, each for 2B images.

    Returns:
        :math:`\Delta` (B,) and the squared gradient norms at real and at generated images, (B,) each or None.
    """
    both = torch.cat([real, fake]).detach().requires_grad_(penalise)
    logits = discriminator(augment(both), *context).float()
    delta = relativistic_logits(*logits.chunk(2))
    if not penalise:
        return delta, None, None
    r1, r2 = gradient_penalty(logits, both).chunk(2)
    return delta, r1, r2
