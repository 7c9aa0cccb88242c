"""Distribution shifts of test images: other stains, lamps, focus, sensors, compression and magnification.

A shift acts on the raw image, before any enhancement. It takes images (N,3,H,W) uint8, a strength >= 0 and a CPU
generator, draws independently per image, and returns uint8 of the same shape; strength 0 changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from leuk_lib.data.jpeg import recompress
from leuk_lib.training.augment import stain_jitter

Shift = Callable[[Tensor, float, torch.Generator], Tensor]


def other_stain(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Scale the two stains of each image by independent factors in [1 - strength, 1 + strength]."""
    return _eight_bit(stain_jitter(images.float() / 255, generator, strength))


def uneven_light(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    r"""Let the light fall off in a random direction of each image, with a colour cast.

    .. math:: I'_c = \min(1, I_c \, e^{u_c - s x})

    with s the strength, x from -1 to 1 along the image's diagonal in that direction, and :math:`u_c` uniform in
    [-s/4, s/4] per channel. Values above white are clipped, as in a camera.
    """
    n, _, height, width = images.shape
    draw = torch.rand(n, 4, generator=generator)
    angle = 2 * math.pi * draw[:, 0]
    y, x = (torch.linspace(-1, 1, side) * math.sqrt(0.5) for side in (height, width))
    slope = angle.cos()[:, None, None] * x[None, None, :] + angle.sin()[:, None, None] * y[None, :, None]
    cast = strength / 4 * (2 * draw[:, 1:] - 1)
    light = torch.exp(cast[:, :, None, None] - strength * slope[:, None])
    return _eight_bit((images.float() / 255 * light).clamp(0, 1))


def out_of_focus(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Blur with a Gaussian whose standard deviation is ``strength`` per cent of the image's side."""
    sigma = strength / 100 * images.shape[-1]
    if sigma == 0:
        return images
    radius = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    n, channels, height, width = images.shape
    x = F.pad((images.float() / 255).view(n * channels, 1, height, width), (radius,) * 4, mode="replicate")
    return _eight_bit(F.conv2d(F.conv2d(x, kernel), kernel.transpose(2, 3)).view(n, channels, height, width))


def sensor_noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Add independent Gaussian noise of standard deviation ``strength`` (white is 1) to each pixel and channel; clip."""
    x = images.float() / 255
    return _eight_bit((x + strength * torch.randn(x.shape, generator=generator)).clamp(0, 1))


def recompressed(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Compress as JPEG of quality 100 - ``strength`` and decode again; strengths in [0, 100], 0 changes nothing."""
    return images if strength == 0 else recompress(images, round(100 - strength))


def other_scale(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Magnify by 1 + strength or by 1 / (1 + strength), with probability 1/2 each; edges are mirrored."""
    larger = torch.rand(len(images), generator=generator) < 0.5
    side = torch.where(larger, torch.tensor(1 / (1 + strength)), torch.tensor(1 + strength))  # of the visible field
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    x = F.grid_sample(images.float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return _eight_bit(x.clamp(0, 1))


def _eight_bit(images: Tensor) -> Tensor:
    return torch.round(images * 255).to(torch.uint8)


SHIFTS: dict[str, Shift] = {
    "stain": other_stain, "light": uneven_light, "blur": out_of_focus, "noise": sensor_noise, "JPEG": recompressed,
    "scale": other_scale,
}  # fmt: skip

#: Five strengths per kind, from one that passes unnoticed to one that a person would reject.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "stain": (0.1, 0.2, 0.35, 0.5, 0.7), "light": (0.1, 0.2, 0.3, 0.45, 0.6), "blur": (0.5, 1.0, 1.5, 2.5, 4.0),
    "noise": (0.02, 0.04, 0.08, 0.12, 0.2), "JPEG": (30, 50, 70, 85, 95), "scale": (0.1, 0.2, 0.3, 0.5, 0.75),
}  # fmt: skip

#: Meaning of a strength, as an axis label.
UNITS = {
    "stain": "largest change of a stain", "light": "fall-off of the light", "blur": "std. deviation, % of the side",
    "noise": "std. deviation (white is 1)", "JPEG": "100 − quality", "scale": "magnification − 1",
}  # fmt: skip
