"""Feature maps to windows and back: pad -> partition -> mask -> crop.

Shapes: a map is (B, h, w, d); its windows are (B, n, s*s, d) with n = ceil(h/s) * ceil(w/s) and window side s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def grid(height: int, width: int, side: int) -> tuple[int, int]:
    """Rows and columns of windows that cover a map of ``height`` x ``width`` tokens."""
    return math.ceil(height / side), math.ceil(width / side)


def partition(tokens: Tensor, side: int, value: float = 0.0) -> Tensor:
    """Cut (B, h, w, d) into windows (B, n, side*side, d); the lower and right rims are filled with ``value``."""
    batch, height, width, dim = tokens.shape
    rows, columns = grid(height, width, side)
    padded = F.pad(tokens, (0, 0, 0, columns * side - width, 0, rows * side - height), value=value)
    blocks = padded.view(batch, rows, side, columns, side, dim).transpose(2, 3)
    return blocks.reshape(batch, rows * columns, side * side, dim)


def merge(windows: Tensor, height: int, width: int, side: int) -> Tensor:
    """Inverse of :func:`partition`: (B, n, side*side, d) -> (B, height, width, d), the padding cut off."""
    batch, _, _, dim = windows.shape
    rows, columns = grid(height, width, side)
    blocks = windows.view(batch, rows, columns, side, side, dim).transpose(2, 3)
    return blocks.reshape(batch, rows * side, columns * side, dim)[:, :height, :width]


def is_real(height: int, width: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """True where a window's token lies in the map, False where it is padding: bool (n, side*side)."""
    ones = torch.ones(1, height, width, 1, device=device)
    return partition(ones, side)[0, :, :, 0] > 0


def pad_mask(real: Tensor) -> Tensor:
    """Additive mask (n, 1+t, 1+t) for windows of a region token and t tokens, from ``real`` (n, t).

    Padding has an id of its own: real tokens and the region token see each other, padding sees padding only. So
    no row is empty (no NaN), and padding can reach nothing that survives the crop.
    """
    ids = F.pad(real, (1, 0), value=True)
    same = ids[:, :, None] == ids[:, None, :]
    return torch.zeros(same.shape, device=real.device).masked_fill(~same, float("-inf"))


def centres(height: int, width: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Centre (y, x) of the real tokens of every window, in units of the map's size, each in (0, 1): (n, 2)."""
    rows, columns = grid(height, width, side)

    def middle(count: int, length: int) -> Tensor:
        start = torch.arange(count, device=device, dtype=torch.float32) * side
        return (start + (start + side).clamp(max=length)) / (2 * length)

    return torch.cartesian_prod(middle(rows, height), middle(columns, width)).view(-1, 2)
