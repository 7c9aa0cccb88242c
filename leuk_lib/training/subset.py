"""Subsets that are not drawn at random, so that they need no seed."""

from __future__ import annotations

import torch
from torch import Tensor


def evenly_spaced(count: int, limit: int) -> Tensor:
    """At most ``limit`` positions, evenly spaced from 0 to ``count`` - 1: (min(count, limit),), int64.

    >>> evenly_spaced(10, 4)
    tensor([0, 3, 6, 9])
    """
    return torch.linspace(0, count - 1, min(count, limit)).round().long()
