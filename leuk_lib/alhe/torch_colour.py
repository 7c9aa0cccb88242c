"""Colour for batches: `colour`'s curves and tables as tensors, from codes or light to the cube roots of CIELAB and back."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.alhe import colour
from leuk_lib.alhe.colour import CORNER, DELTA, SLOPE


def read(table: NDArray[Any], index: Tensor) -> Tensor:
    """``table[index]`` of a small NumPy table; ten times faster than indexing."""
    known = torch.as_tensor(table, device=index.device)
    return known.index_select(0, index.reshape(-1)).reshape(index.shape)


def mix(image: Tensor, matrix: NDArray[Any]) -> Tensor:
    """(B,3,H,W), its channels mixed by a 3x3 matrix: sums written out, whose last bit no batch size can alter."""
    red, green, blue = image.unbind(1)
    out = torch.empty_like(image)
    for k, (a, b, c) in enumerate(matrix.tolist()):
        torch.mul(red, a, out=out[:, k]).add_(green, alpha=b).add_(blue, alpha=c)
    return out


def roots_of_codes(codes: Tensor) -> Tensor:
    """Roots (B,3,H,W) of 8-bit codes held as int32."""
    # Sums of shares of light lie in [0,1]: as words they need no clipping.
    return read(colour.ROOT, mix(read(colour.LINEAR, codes), colour.TO_XYZ * 65535).add_(0.5).int())


def coded(f: Tensor) -> Tensor:
    """The 8-bit image (B,3,H,W) of these roots, which are overwritten."""
    words = mix(cubes(f), colour.FROM_XYZ * 65535).add_(0.5).clamp_(0, 65535)
    return read(colour.CODE, words.int())


# Each of these curves is a power above a corner and a line below it. A corner's clamp on either side of a sum
# chooses between them faster than ``torch.where`` does.


def decode(srgb: Tensor) -> Tensor:
    """sRGB in [0,1] to linear light."""
    power = ((srgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return power.add_((srgb - 0.04045).clamp_max_(0), alpha=1 / 12.92)


def roots(xyz: Tensor) -> Tensor:
    """f of X/Xn, Y/Yn, Z/Zn, clipped to [0,1]; overwritten."""
    xyz = xyz.clamp_(0, 1)
    return xyz.clamp_min(CORNER).pow_(1 / 3).add_((xyz - CORNER).clamp_max_(0), alpha=SLOPE)


def cubes(f: Tensor) -> Tensor:
    """Light of roots, which are overwritten."""
    dark = bool(f.amin() < DELTA)  # seldom so in a smear, and the line's share is two passes over the batch
    line = (f - DELTA).clamp_max_(0) if dark else None
    light = f.clamp_min_(DELTA).pow_(3)
    return light if line is None else light.add_(line, alpha=1 / SLOPE)


def encode(linear: Tensor) -> Tensor:
    """Linear light, clipped to [0,1] and overwritten, to sRGB in [0,1]."""
    linear = linear.clamp_(0, 1)
    power = linear.clamp_min(0.0031308).pow_(1 / 2.4).mul_(1.055).sub_(0.055)
    return power.add_((linear - 0.0031308).clamp_max_(0), alpha=12.92).clamp_(0, 1)
