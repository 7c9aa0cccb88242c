r"""Mixup and CutMix: training images made of two cells, with the labels of both.

With :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` per image, mixup is
:math:`x = \lambda x_1 + (1 - \lambda) x_2`; CutMix replaces a box of a share :math:`1 - \lambda` of the area of
:math:`x_1` by :math:`x_2`. The label is :math:`\lambda y_1 + (1 - \lambda) y_2`, in CutMix with the box's true share.

Why not ``torchvision.transforms.v2``: its MixUp and CutMix draw one strength per batch from torch's global state and
pair across the whole batch, so that several processes or a resumed run would draw differently.

References:
    Zhang et al. 2018 (mixup); Yun et al. 2019 (CutMix).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leuk_lib.training.transfer import on_device


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
    """Mix each image with its neighbour: 0 with 1, 2 with 3, and so on.

    Batches are shuffled, so neighbours are random pairs; both are in one process if its part of the batch is even.

    Args:
        x: (B,3,H,W), B even.
        targets: (B,K), rows that sum to 1.
        rng: Source of the draws.
        mixup: Alpha of mixup; 0 switches it off.
        cutmix: Alpha of CutMix; 0 switches it off. With both, each image gets either with probability 1/2.
        rows: Positions of the samples in the global batch, for several processes.
        total: Size of the global batch.

    Returns:
        Mixed images and targets.

    Raises:
        ValueError: B is odd, only one of ``rows`` and ``total`` is given, or ``rows`` has another length than B.
    """
    if mixup <= 0 and cutmix <= 0:
        return x, targets
    n, _, height, width = x.shape
    if n % 2:
        raise ValueError(f"mixing needs an even number of images per process, got {n}")
    if (rows is None) != (total is None) or (rows is not None and len(rows) != n):
        raise ValueError(f"{n} images of a global batch: give rows and total together, one row per image")
    size = n if total is None else total
    draws = {
        "share": np.stack([rng.beta(a, a, size) if a > 0 else np.ones(size) for a in (mixup, cutmix)], axis=1),
        "position": rng.random((size, 3)),
    }
    own = slice(None) if rows is None else rows.cpu().numpy()
    share, position = draws["share"][own], draws["position"][own]
    cut = position[:, 0] < (0.5 if mixup > 0 and cutmix > 0 else float(cutmix > 0))
    side = np.sqrt(1 - share[:, 1])
    keep = torch.ones(n, height, width)
    for k in np.flatnonzero(cut):
        (top, bottom), (left, right) = (
            _span(position[k, 1 + axis], side[k], length) for axis, length in enumerate((height, width))
        )
        keep[k, top:bottom, left:right] = 0
    keep = torch.where(torch.from_numpy(cut)[:, None, None], keep, torch.from_numpy(share[:, :1, None]).float())
    keep = on_device(keep.to(x.dtype), x.device)
    partner = torch.arange(n, device=x.device) ^ 1
    mixed = keep[:, None] * x + (1 - keep[:, None]) * x[partner]
    part = keep.mean(dim=(1, 2))[:, None].to(targets.dtype)
    return mixed, part * targets + (1 - part) * targets[partner]


def _span(centre: float, share: float, length: int) -> tuple[int, int]:
    """First and last + 1 pixel of a span of ``share`` of ``length`` around ``centre`` in [0,1), cut at the edges."""
    middle, half = centre * length, share * length / 2
    return max(0, round(middle - half)), min(length, round(middle + half))
