"""Cells as pixels: thumbnails that show a copy for what it is, however turned or moved, and how fine a texture is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

THUMB = 16  # side of the thumbnails that find copies in pixel space
UNMOVED = 32  # see moved_thumbnails


def distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Euclidean distances (len(a), len(b))."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))


def thumbnails(images: Tensor) -> NDArray[np.float32]:
    """(N,3,S,S) uint8 -> (N,3*16*16) float32, distances in [0,1].

    Small and blurred, so that noise, JPEG and a small shift change little.
    """
    x = F.avg_pool2d(F.interpolate(images.float(), size=(THUMB, THUMB), mode="area"), 3, 1, 1, count_include_pad=False)
    return (x.flatten(1) / (255 * 3**0.5 * THUMB)).numpy()


def moved_thumbnails(images: Tensor) -> Iterator[NDArray[np.float32]]:
    """Thumbnails of (N,3,S,S) moved by up to a pixel each way, under the eight turns and mirrors: 72 times (N,P).

    Number ``UNMOVED`` of them is the image's own.
    """
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            flat = torch.from_numpy(thumbnails(images.roll((dy, dx), (-2, -1))))
            # Making thumbnails commutes with turning and mirroring, so these come after it.
            grid = flat.reshape(len(images), 3, THUMB, THUMB)
            for turns in range(4):
                turned = grid.rot90(turns, (-2, -1))
                yield turned.flatten(1).numpy()
                yield turned.flip(-1).flatten(1).numpy()


def texture(images: Tensor) -> NDArray[np.float64]:
    """(N,3,S,S) uint8 -> (N,): logarithm of the mean absolute Laplacian of the grey image, in grey levels.

    Noise lies far above any cell, a blank far below.
    """
    grey = images.float().mean(dim=1, keepdim=True)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return torch.log(F.conv2d(grey, kernel).abs().mean(dim=(1, 2, 3)) + 1e-3).double().numpy()
