"""Window partition of feature maps of any size: pad, partition, mask the padding, reverse, crop.

Shapes: a map is (B, h, w, d), its windows (B, n, s*s, d), with n = ceil(h/s) * ceil(w/s) windows of side s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def window_grid(height: int, width: int, window_size: int) -> tuple[int, int]:
    """Rows and columns of windows that cover a map of ``height`` x ``width`` tokens."""
    return math.ceil(height / window_size), math.ceil(width / window_size)


def window_partition(tokens: Tensor, window_size: int, value: float = 0.0) -> Tensor:
    """Cut a map into windows, after padding it at the bottom and right.

    Args:
        tokens: Map (B, h, w, d).
        window_size: Side s of a window in tokens.
        value: Value of the padding.

    Returns:
        Windows (B, n, s*s, d), row by row.
    """
    batch, height, width, dim = tokens.shape
    rows, columns = window_grid(height, width, window_size)
    padded = F.pad(tokens, (0, 0, 0, columns * window_size - width, 0, rows * window_size - height), value=value)
    blocks = padded.view(batch, rows, window_size, columns, window_size, dim).transpose(2, 3)
    return blocks.reshape(batch, rows * columns, window_size * window_size, dim)


def window_reverse(windows: Tensor, height: int, width: int, window_size: int) -> Tensor:
    """Inverse of :func:`window_partition`: (B, n, s*s, d) -> (B, height, width, d), without the padding."""
    batch, _, _, dim = windows.shape
    rows, columns = window_grid(height, width, window_size)
    blocks = windows.view(batch, rows, columns, window_size, window_size, dim).transpose(2, 3)
    return blocks.reshape(batch, rows * window_size, columns * window_size, dim)[:, :height, :width]


def valid_tokens(height: int, width: int, window_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Bool (n, s*s): True where a token of a window lies in the map, False where it is padding."""
    ones = torch.ones(1, height, width, 1, device=device)
    return window_partition(ones, window_size)[0, :, :, 0] > 0


def padding_mask(valid: Tensor) -> Tensor:
    """Additive attention mask for windows of one region token and t tokens.

    Valid tokens and the region token attend to each other, padding attends to padding only. So no row is empty (which
    would give NaN), and padding influences nothing that is kept after the crop.

    Args:
        valid: Bool (n, t), as :func:`valid_tokens` gives it.

    Returns:
        Mask (n, 1+t, 1+t) of 0 and ``-inf``.
    """
    valid = F.pad(valid, (1, 0), value=True)
    allowed = valid[:, :, None] == valid[:, None, :]
    return torch.zeros(allowed.shape, device=valid.device).masked_fill(~allowed, float("-inf"))


def window_centres(height: int, width: int, window_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Centre (y, x) of each window's valid tokens as a fraction of the map's size, in (0, 1): (n, 2)."""
    rows, columns = window_grid(height, width, window_size)

    def centres(count: int, length: int) -> Tensor:
        start = torch.arange(count, device=device, dtype=torch.float32) * window_size
        return (start + (start + window_size).clamp(max=length)) / (2 * length)

    return torch.cartesian_prod(centres(rows, height), centres(columns, width)).view(-1, 2)
