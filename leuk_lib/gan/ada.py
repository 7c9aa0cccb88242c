r"""Adaptive discriminator augmentation (ADA) per class, without changes of hue.

Flips, quarter turns, rotation, scaling, shifts and a mild change of stain strength, each applied with the probability
:math:`p_c` of the image's class. There are no hue, saturation or luma flips, because stain colour is diagnostic.
:math:`p_c` is adapted until

.. math:: r_c = \mathbb{E}\,\operatorname{sign}(D(x_r, c) - D(x_g, c))

reaches a target.

References:
    Karras et al. 2020 (ADA); Huang et al. 2024 (:math:`r` of relativistic pairs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leuk_lib.training.transfer import on_device

ROTATION = math.pi / 6  # rad, in both directions
SCALE = 0.15  # standard deviation of log2(scale)
SHIFT = 0.08  # of the side, in both directions
STAIN = 0.15  # standard deviation of log(stain strength)
UNIFORMS = 13  # uniform random numbers per image
P_MAX = 0.8  # nearer to 1 untouched images are so rare that the generator learns the augmentation


class _GridSample(torch.autograd.Function):
    """Bilinear grid sampling that can be differentiated twice with respect to the image (torch's only once).

    Sampling is linear in the image, so its derivative is the adjoint and the adjoint's is sampling again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _GridSampleAdjoint.apply(grads[0], grid, ctx.shape), None


class _GridSampleAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = shape
        with torch.enable_grad():
            blank = torch.zeros(shape, device=grad.device, dtype=grad.dtype, requires_grad=True)
            sampled = F.grid_sample(blank, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return torch.autograd.grad(sampled, blank, grad)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _GridSample.apply(grads[0], grid), None, None


@dataclass(frozen=True)
class Augmentation:
    """One sampled augmentation per image.

    ``theta`` (B,2,3): affine maps from output to input coordinates; ``stain`` (B,): exponents of intensity.
    """

    theta: Tensor
    stain: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Augment x (B,3,H,W) in about [-1,1]; twice differentiable in x, the identity to within 1e-6 at p = 0."""
        grid = F.affine_grid(self.theta.to(x), list(x.shape), align_corners=False)
        return stain_strength(_GridSample.apply(x, grid), self.stain.to(x))


def stain_strength(x: Tensor, exponent: Tensor) -> Tensor:
    r"""Scale the optical density of all channels by one factor per image: :math:`I \mapsto I^a`, hue unchanged.

    Outside of [0.02, 1], where a generator overshoots, the map continues as a straight line and keeps a gradient.

    Args:
        x: Images (B,3,H,W) in about [-1,1], intensity :math:`I = (x+1)/2`; 1 is unstained.
        exponent: :math:`a` (B,) > 0.

    Returns:
        Images (B,3,H,W) in about [-1,1].
    """
    power = exponent[:, None, None, None]
    intensity = (x + 1) / 2
    inside = intensity.clamp(0.02, 1.0)
    y = torch.exp(power * torch.log(inside))  # a power of tensors takes three times as long
    slope = power * y / inside
    return 2 * (y + slope * (intensity - inside)) - 1


def sample_augmentation(p: Tensor, generator: torch.Generator) -> Augmentation:
    """Sample one augmentation per image; the random numbers come from the CPU, the result is on the device of ``p``.

    Args:
        p: Probabilities (B,) in [0,1]; each kind of change is applied independently with the image's probability.
        generator: CPU generator. It yields the same numbers whatever ``p`` is, so the probability of one image changes
            no other image's augmentation.
    """
    u = on_device(torch.rand(len(p), UNIFORMS, generator=generator), p.device)
    applied = u[:, :6] < p[:, None]  # flip, quarter turn, rotation, scale, shift, stain
    flip = torch.where(applied[:, 0] & (u[:, 6] < 0.5), -1.0, 1.0)
    quarter = torch.where(applied[:, 1], (u[:, 7] * 4).floor() * (math.pi / 2), 0.0)
    angle = quarter + torch.where(applied[:, 2], (2 * u[:, 8] - 1) * ROTATION, 0.0)
    scale = torch.where(applied[:, 3], torch.exp2(-SCALE * _normal(u[:, 9])), 1.0)
    shift = torch.where(applied[:, 4, None], (2 * u[:, 10:12] - 1) * 2 * SHIFT, 0.0)  # grid runs from -1 to 1
    stain = torch.where(applied[:, 5], torch.exp(STAIN * _normal(u[:, 12])), 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)], 1
    )
    return Augmentation(theta, stain)


def _normal(u: Tensor) -> Tensor:
    """Map uniform to normal numbers, truncated at two standard deviations."""
    return torch.special.ndtri(u.clamp(0.0228, 0.9772))


class AdaController:
    r"""Per-class augmentation probability that drives :math:`r_c` to its target.

    An update moves :math:`p_c` by (pairs of the class)/``images``, up where :math:`r_c` exceeds the target and down
    where it is below. It thus takes ``images`` images to go from 0 to 1, and a rare class moves no faster than its
    evidence comes in. The state belongs to the checkpoint.

    Attributes:
        p: Probabilities (K,) in [0, 0.8], 0 at the start, on the device of the training, so that no step waits for them.
        r: Running means (K,) of the sign of the relativistic logits, in [-1,1].

    References:
        Karras et al. 2020, section 2.2.
    """

    def __init__(
        self, n_classes: int, target: float = 0.6, images: int = 8000, window: float = 500.0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.target, self.images, self.window = target, images, window
        self.p = torch.zeros(n_classes, device=device)
        self.r = torch.zeros(n_classes, device=device)
        self.seen = torch.zeros(n_classes, device=device)

    def update(self, signs: Tensor, counts: Tensor) -> None:
        """Take a step's evidence: per class the sum of sign(Delta) and the number of pairs, (K,) each."""
        # A running mean that is a plain mean until `window` pairs were seen.
        weight = counts / (self.seen + counts).clamp(max=self.window).clamp(min=1)
        mean = signs / counts.clamp(min=1)
        self.r = self.r + weight.clamp(max=1) * (mean - self.r)
        self.seen = self.seen + counts
        self.p = (self.p + torch.sign(self.r - self.target) * counts / self.images).clamp(0, P_MAX)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of p, r and the numbers of pairs seen."""
        return {"p": self.p.clone(), "r": self.r.clone(), "seen": self.seen.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict()``."""
        self.p, self.r, self.seen = (state[name].to(self.p.device, copy=True) for name in ("p", "r", "seen"))


def class_sums(values: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return the sum of ``values`` (B,) and the number of images per class, (n_classes,) each.

    >>> class_sums(torch.tensor([1.0, -1.0, 1.0]), torch.tensor([0, 0, 2]), 3)
    (tensor([0., 0., 1.]), tensor([2., 0., 1.]))
    """
    sums = torch.zeros(n_classes, device=values.device).index_add_(0, labels, values.float())
    # Not torch.bincount, which makes the host wait for a GPU.
    counts = torch.zeros(n_classes, device=values.device).index_add_(0, labels, torch.ones_like(values).float())
    return sums, counts
