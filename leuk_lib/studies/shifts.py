"""Other slides, other microscopes: images as another stain strength or an uneven, coloured light would have made them.

The shifts act on the image as the camera would have taken it, so that whatever enhances it comes after them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leuk_lib.data.augment import stain_jitter


def other_stain(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """(N,3,H,W) uint8: each cell's two stains scaled by factors of their own in [1-strength, 1+strength]."""
    return _eight_bit(stain_jitter(images.float() / 255, generator, strength))


def uneven_light(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """(N,3,H,W) uint8: the light falls off smoothly in a direction of each cell's own, and has a cast.

    Along the direction the light is multiplied by exp(-strength * x), x from -1 to 1 over the image's diagonal; the
    cast multiplies each channel by exp(u), u uniform in [-strength/4, strength/4]. Values over white are clipped, as a
    camera clips them. ``strength`` >= 0; 0 changes nothing.
    """
    n, _, height, width = images.shape
    draw = torch.rand(n, 4, generator=generator)
    angle = 2 * math.pi * draw[:, 0]
    y, x = (torch.linspace(-1, 1, side) * math.sqrt(0.5) for side in (height, width))
    slope = angle.cos()[:, None, None] * x[None, None, :] + angle.sin()[:, None, None] * y[None, :, None]
    cast = strength / 4 * (2 * draw[:, 1:] - 1)
    light = torch.exp(cast[:, :, None, None] - strength * slope[:, None])
    return _eight_bit((images.float() / 255 * light).clamp(0, 1))


def _eight_bit(images: Tensor) -> Tensor:
    return torch.round(images * 255).to(torch.uint8)


SHIFTS = {"stain": other_stain, "light": uneven_light}
