"""Drop path (stochastic depth).

Why not timm's ``drop_path``: it draws per process, so that two processes would not drop what one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, distributed

_PART: ContextVar[tuple[int, int] | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(start: int, total: int) -> Iterator[None]:
    """Draw for a part of a batch, from its sample ``start`` on, what a pass of all ``total`` samples would draw for it.

    The global generator must have the same state before each part.
    """
    token = _PART.set((start, total))
    try:
        yield
    finally:
        _PART.reset(token)


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
    """Draw which samples of a branch (B, ...) are kept: 1 with probability 1 - ``rate``, else 0, as (B, 1, ...).

    Inside `part_of_batch` they are those of the part.
    """
    rank, processes = 0, 1
    if distributed.is_initialized():
        rank, processes = distributed.get_rank(), distributed.get_world_size()
    start, total = _PART.get() or (0, len(branch))
    first = rank * total + start
    drawn = torch.rand(processes * total, *[1] * (branch.ndim - 1), device=branch.device)[first : first + len(branch)]
    return (drawn >= rate).to(branch.dtype)
