"""Sampling from the generator, and images as uint8, as floats and at other sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leuk_lib.runs.seeds import torch_generator


def to_uint8(images: Tensor) -> Tensor:
    """Convert floats in about [-1,1] to uint8, clipped and rounded.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 1.2]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (B,3,S,S) to (B,3,size,size): antialiased bilinear down, bicubic up, unchanged if equal."""
    if images.shape[-1] == size:
        return images
    if size < images.shape[-1]:
        out = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    else:
        out = F.interpolate(images.float(), size=(size, size), mode="bicubic", align_corners=False)
    return out.clamp(0, 255).round().to(torch.uint8)


def latents(count: int, length: int, seed: int, label: int, start: int = 0) -> Tensor:
    """Draw normal latent vectors (count, length), numbers ``start`` to ``start + count - 1`` of class ``label``.

    Each number has its own seed, so a vector does not depend on what else is drawn.
    """
    return torch.stack(
        [torch.randn(length, generator=torch_generator(seed, "sample", label, i)) for i in range(start, start + count)]
    )


@torch.no_grad()
def generate(
    generator: nn.Module, label: int, count: int, latent: int, seed: int, start: int = 0, batch: int = 64
) -> Tensor:
    """Generate samples of one class.

    Args:
        generator: Maps latents (B,latent) and labels (B,) to images (B,3,S,S) in about [-1,1].
        label: Class number.
        count: Number of samples.
        latent: Length of the latent vector.
        seed: Seed of the latents, see :func:`latents`.
        start: Number of the first sample.
        batch: Samples per forward pass.

    Returns:
        Images (count,3,S,S) uint8 on the CPU.
    """
    device = next(generator.parameters()).device
    z = latents(count, latent, seed, label, start).to(device)
    y = torch.full((count,), label, device=device)
    out = [to_uint8(generator(a, b)).cpu() for a, b in zip(z.split(batch), y.split(batch), strict=True)]
    return torch.cat(out)
