"""Images between uint8 and [-1,1], between sizes, and out of a generator; every sample has its own seed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leuk_lib.runs.seeds import torch_generator


def to_float(images: Tensor) -> Tensor:
    """uint8 (B,3,H,W) -> float in [-1,1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float in about [-1,1] -> uint8, clipped and rounded."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 (B,3,S,S) -> uint8 (B,3,size,size): antialiased bilinear down, bicubic up, unchanged if equal."""
    if images.shape[-1] == size:
        return images
    if size < images.shape[-1]:
        out = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    else:
        out = F.interpolate(images.float(), size=(size, size), mode="bicubic", align_corners=False)
    return out.clamp(0, 255).round().to(torch.uint8)


def latents(count: int, length: int, seed: int, label: int, start: int = 0) -> Tensor:
    """(count, length) normal; sample number i of a class is the same whatever else is drawn."""
    return torch.stack(
        [torch.randn(length, generator=torch_generator(seed, "sample", label, i)) for i in range(start, start + count)]
    )


@torch.no_grad()
def generate(
    generator: nn.Module, label: int, count: int, latent: int, seed: int, start: int = 0, batch: int = 64
) -> Tensor:
    """Samples number start … start+count-1 of class ``label``: (count,3,S,S) uint8 on the CPU."""
    device = next(generator.parameters()).device
    z = latents(count, latent, seed, label, start).to(device)
    y = torch.full((count,), label, device=device)
    out = [to_uint8(generator(a, b)).cpu() for a, b in zip(z.split(batch), y.split(batch), strict=True)]
    return torch.cat(out)
