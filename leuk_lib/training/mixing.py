"""Mixup and CutMix: training images of two cells with the labels of both.

Why not ``torchvision.transforms.v2``: its MixUp and CutMix draw from torch's global state, one strength a batch, and
pair across the whole batch, so that neither several processes nor a resumed run would draw what one does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mix(
    x: Tensor,
    targets: Tensor,
    rng: np.random.Generator,
    mixup: float,
    cutmix: float,
    *,
    rows: Tensor | None = None,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour in the batch: x (B,3,H,W), targets (B,K), rows summing to 1 -> both, mixed.

    ``mixup``, ``cutmix``: alpha >= 0 of Beta(alpha, alpha), from which each image's own share comes; 0 switches one off,
    and with both an image takes either with probability 1/2. Neighbours are 0 and 1, 2 and 3, and so on: batches are
    shuffled, and partners stay in one process if its part is even. ``rows`` and ``total`` as in ``augment``: draws are
    the global batch's. Raises ValueError for an odd batch.
    Source: Zhang et al. 2018 (mixup); Yun et al. 2019 (CutMix: a box of 1 - share of the area, labels by its true area).
    """
    if mixup <= 0 and cutmix <= 0:
        return x, targets
    n, _, height, width = x.shape
    if n % 2:
        raise ValueError(f"mixing needs an even number of images a process, got {n}")
    size = n if total is None else total
    draws = {
        "share": np.stack([rng.beta(a, a, size) if a > 0 else np.ones(size) for a in (mixup, cutmix)], axis=1),
        "place": rng.random((size, 3)),
    }
    chosen = slice(None) if rows is None else rows.cpu().numpy()
    share, place = draws["share"][chosen], draws["place"][chosen]
    if len(share) != n:
        raise ValueError(f"{len(share)} draws for {n} images: give rows and total together")
    cut = place[:, 0] < (0.5 if mixup > 0 and cutmix > 0 else float(cutmix > 0))
    side = np.sqrt(1 - share[:, 1])
    keep = torch.ones(n, height, width)
    for k in np.flatnonzero(cut):
        (top, bottom), (left, right) = (
            _span(place[k, 1 + axis], side[k], length) for axis, length in enumerate((height, width))
        )
        keep[k, top:bottom, left:right] = 0
    keep = torch.where(torch.from_numpy(cut)[:, None, None], keep, torch.from_numpy(share[:, :1, None]).float())
    keep = keep.to(x.device, x.dtype)
    partner = torch.arange(n, device=x.device) ^ 1
    mixed = keep[:, None] * x + (1 - keep[:, None]) * x[partner]
    part = keep.mean(dim=(1, 2))[:, None].to(targets.dtype)
    return mixed, part * targets + (1 - part) * targets[partner]


def _span(centre: float, share: float, length: int) -> tuple[int, int]:
    """First and last+1 pixel of a box of ``share`` of ``length`` about ``centre`` in [0,1), cut at the image's edge."""
    middle, half = centre * length, share * length / 2
    return max(0, round(middle - half)), min(length, round(middle + half))
