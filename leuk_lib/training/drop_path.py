"""Stochastic depth: residual branches that are skipped at random while training."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """A residual branch (B, …), zero for whole samples with probability ``rate`` while training (Huang et al. 2016).

    Drawn for the global batch from torch's generator, which all processes seed alike, and then sharded: any number of
    processes skips what one would. What is kept is divided by 1 - rate.
    """
    if rate == 0 or not training:
        return branch
    n, rank, processes = len(branch), 0, 1
    if distributed.is_initialized():
        rank, processes = distributed.get_rank(), distributed.get_world_size()
    drawn = torch.rand(processes * n, *[1] * (branch.ndim - 1), device=branch.device)[rank * n : (rank + 1) * n]
    return branch * (drawn >= rate).to(branch.dtype) / (1 - rate)
