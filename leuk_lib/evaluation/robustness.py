"""Other slides, microscopes and cameras: test images as they would have come from them, at strengths that grow.

The shifts act on the image as the camera would have taken it, so that whatever enhances it comes after them. Every one
takes (N,3,H,W) uint8, a strength >= 0 and a CPU generator, draws for each image on its own, and changes nothing at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from leuk_lib.training.augment import stain_jitter

Shift = Callable[[Tensor, float, torch.Generator], Tensor]


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


def out_of_focus(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Gaussian blur whose deviation is ``strength`` per cent of the image's side."""
    sigma = strength / 100 * images.shape[-1]
    if sigma == 0:
        return images
    reach = max(1, math.ceil(3 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * sigma**2))
    line = (line / line.sum()).view(1, 1, 1, -1)
    n, channels, height, width = images.shape
    x = F.pad((images.float() / 255).view(n * channels, 1, height, width), (reach,) * 4, mode="replicate")
    return _eight_bit(F.conv2d(F.conv2d(x, line), line.transpose(2, 3)).view(n, channels, height, width))


def sensor_noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of deviation ``strength`` (white is 1), of its own in every pixel and channel, clipped."""
    x = images.float() / 255
    return _eight_bit((x + strength * torch.randn(x.shape, generator=generator)).clamp(0, 1))


def recompressed(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Saved as JPEG of quality 100 - ``strength`` (0 < strength < 100) and read again; 0 leaves it as it is."""
    if strength == 0:
        return images
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(100 - strength)]
    out = []
    for image in images.permute(0, 2, 3, 1).numpy():
        written, code = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), quality)
        if not written:
            raise ValueError(f"JPEG of quality {quality[1]} cannot be written")
        read = cv2.imdecode(code, cv2.IMREAD_COLOR)
        if read is None:
            raise ValueError(f"JPEG of quality {quality[1]} cannot be read")
        out.append(read[..., ::-1])
    return torch.from_numpy(np.ascontiguousarray(np.stack(out).transpose(0, 3, 1, 2)))


def other_scale(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Another magnification: 1 + strength or 1 / (1 + strength) times as large, each with probability 1/2; edges mirrored."""
    larger = torch.rand(len(images), generator=generator) < 0.5
    seen = torch.where(larger, torch.tensor(1 / (1 + strength)), torch.tensor(1 + strength))  # side of what is seen
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = seen
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    x = F.grid_sample(images.float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return _eight_bit(x.clamp(0, 1))


def _eight_bit(images: Tensor) -> Tensor:
    return torch.round(images * 255).to(torch.uint8)


SHIFTS: dict[str, Shift] = {
    "stain": other_stain, "light": uneven_light, "blur": out_of_focus, "noise": sensor_noise, "JPEG": recompressed,
    "scale": other_scale,
}  # fmt: skip

#: Five strengths a kind, from what passes unnoticed to what a person would reject.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "stain": (0.1, 0.2, 0.35, 0.5, 0.7), "light": (0.1, 0.2, 0.3, 0.45, 0.6), "blur": (0.5, 1.0, 1.5, 2.5, 4.0),
    "noise": (0.02, 0.04, 0.08, 0.12, 0.2), "JPEG": (30, 50, 70, 85, 95), "scale": (0.1, 0.2, 0.3, 0.5, 0.75),
}  # fmt: skip

#: What a strength is.
UNITS = {
    "stain": "largest change of a stain", "light": "fall-off of the light", "blur": "deviation, % of the side",
    "noise": "deviation (white is 1)", "JPEG": "100 − quality", "scale": "magnification − 1",
}  # fmt: skip
