"""Adaptive discriminator augmentation that leaves the stain's hue alone.

Flips, quarter turns, rotation, scale, shift, and a mild change of stain strength; each is applied to an image with
the probability p of its class. No hue, saturation or luma flips: stain colour is diagnostic.
p follows r_t = E[sign(D(real) - D(fake))], per class, to a target.
Source: Karras et al. 2020 (ADA); Huang et al. 2024 (r_t of a relativistic pair).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROTATION = math.pi / 6  # rad, either way
SCALE = 0.15  # deviation of log2(scale)
SHIFT = 0.08  # of the side, either way
STAIN = 0.15  # deviation of log(stain strength)
DRAWS = 13  # uniform numbers an image
HIGHEST = 0.8  # of p: nearer to 1 the generator learns the augmentation, since untouched images are too rare


class _Sample(torch.autograd.Function):
    """Bilinear grid sampling that can be differentiated twice in the image (torch's own only once).

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
        return _SampleAdjoint.apply(grads[0], grid, ctx.shape), None


class _SampleAdjoint(torch.autograd.Function):
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
        return _Sample.apply(grads[0], grid), None, None


@dataclass(frozen=True)
class Augmentation:
    """One drawn augmentation an image: affine maps (B,2,3) from output to input, stain exponents (B,)."""

    theta: Tensor
    stain: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x (B,3,H,W) in about [-1,1] -> same; twice differentiable in x. Images left alone are exact to 1e-6."""
        grid = F.affine_grid(self.theta.to(x), list(x.shape), align_corners=False)
        return stain_strength(_Sample.apply(x, grid), self.stain.to(x))


def stain_strength(x: Tensor, exponent: Tensor) -> Tensor:
    """Multiply the optical density of all three channels by one factor an image: more or less stain, same hue.

    x (B,3,H,W) in about [-1,1], 1 = no stain; exponent (B,) > 0. Intensity (x+1)/2 is raised to the exponent;
    where a generator overshoots [0.02,1] the map continues as a straight line, so it keeps a gradient.
    """
    power = exponent[:, None, None, None]
    intensity = (x + 1) / 2
    inside = intensity.clamp(0.02, 1.0)
    y = inside**power
    slope = power * y / inside
    return 2 * (y + slope * (intensity - inside)) - 1


def draw(p: Tensor, generator: torch.Generator) -> Augmentation:
    """Augmentations for images whose probabilities are ``p`` (B,) in [0,1]; all on the CPU, from ``generator``.

    The same numbers are consumed whatever p is, so one image's p changes no other image's augmentation.
    """
    u = torch.rand(len(p), DRAWS, generator=generator)
    chosen = u[:, :6] < p[:, None]  # flip, quarter turn, rotation, scale, shift, stain
    flip = torch.where(chosen[:, 0] & (u[:, 6] < 0.5), -1.0, 1.0)
    quarter = torch.where(chosen[:, 1], (u[:, 7] * 4).floor() * (math.pi / 2), 0.0)
    angle = quarter + torch.where(chosen[:, 2], (2 * u[:, 8] - 1) * ROTATION, 0.0)
    scale = torch.where(chosen[:, 3], torch.exp2(-SCALE * _normal(u[:, 9])), 1.0)
    shift = torch.where(chosen[:, 4, None], (2 * u[:, 10:12] - 1) * 2 * SHIFT, 0.0)  # grid runs from -1 to 1
    stain = torch.where(chosen[:, 5], torch.exp(STAIN * _normal(u[:, 12])), 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)], 1
    )
    return Augmentation(theta, stain)


def _normal(u: Tensor) -> Tensor:
    """Uniform to normal, cut at two deviations."""
    return torch.special.ndtri(u.clamp(0.0228, 0.9772))


class AdaController:
    """p of each class, moved towards the target of r_t by what was seen of that class.

    ``p`` (K,) in [0, .8], starts at 0. A class's p moves by (images seen)/``images`` a look, up if r_t > target,
    down if below; so p would need ``images`` images to go from 0 to 1 and a rare class moves no faster than its
    evidence comes in. State is part of the checkpoint. Source of the limit: Karras et al. 2020, section 2.2.
    """

    def __init__(self, n_classes: int, target: float = 0.6, images: int = 8000, window: float = 500.0) -> None:
        self.target, self.images, self.window = target, images, window
        self.p = torch.zeros(n_classes)
        self.r = torch.zeros(n_classes)
        self.seen = torch.zeros(n_classes)

    def update(self, signs: Tensor, counts: Tensor) -> None:
        """``signs`` (K,): sum of sign(Delta) a class in this step; ``counts`` (K,): its pairs. CPU tensors."""
        # A running mean that is a plain mean until `window` pairs were seen.
        weight = counts / torch.minimum(self.seen + counts, torch.tensor(self.window)).clamp(min=1)
        mean = signs / counts.clamp(min=1)
        self.r = self.r + weight.clamp(max=1) * (mean - self.r)
        self.seen = self.seen + counts
        self.p = (self.p + torch.sign(self.r - self.target) * counts / self.images).clamp(0, HIGHEST)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of p, r_t and the pairs seen."""
        return {"p": self.p.clone(), "r": self.r.clone(), "seen": self.seen.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict()``."""
        self.p, self.r, self.seen = state["p"].clone(), state["r"].clone(), state["seen"].clone()


def class_sums(values: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of ``values`` (B,) and count a class, both (n_classes,)."""
    sums = torch.zeros(n_classes, device=values.device).index_add_(0, labels, values.float())
    counts = torch.bincount(labels, minlength=n_classes).float()
    return sums, counts
