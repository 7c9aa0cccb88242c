"""Drop path (stochastic depth).

Why not timm's ``drop_path``: it draws per process, so that two processes would not drop what one does.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Zero a residual branch for whole samples at random while training, and divide it by 1 - rate elsewhere.

    The draws come from torch's global generator, which all processes seed alike, and are made for the global batch, so
    that they do not depend on the number of processes.

    Args:
        branch: (B, ...).
        rate: Probability in [0, 1) that a sample's branch is dropped.
        training: False returns `branch`.

    References:
        Huang et al. 2016.
    """
    if rate == 0 or not training:
        return branch
    return branch * kept_samples(branch, rate) / (1 - rate)


def kept_samples(branch: Tensor, rate: float) -> Tensor:
    """Draw which samples of a branch (B, ...) are kept: 1 with probability 1 - ``rate``, else 0, as (B, 1, ...)."""
    n, rank, processes = len(branch), 0, 1
    if distributed.is_initialized():
        rank, processes = distributed.get_rank(), distributed.get_world_size()
    drawn = torch.rand(processes * n, *[1] * (branch.ndim - 1), device=branch.device)[rank * n : (rank + 1) * n]
    return (drawn >= rate).to(branch.dtype)
