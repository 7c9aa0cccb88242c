"""Features to mean 0 and deviation 1, by the batch while training: batch normalisation over all processes.

Blood cells look alike: the first updates of an encoder move what its features share by many of the deviations that tell
cells apart. A read-out that stands still under such moves answers at random until the learning rate has fallen (losses of
8 and more, where guessing gives 2); one that takes the batch's mean out does not notice (Ioffe & Szegedy 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

TINY = 1e-5  # variance below which a feature says nothing
MOMENTUM = 0.3  # share of a batch in the mean and deviation that are kept


def everywhere(mean: Tensor) -> Tensor:
    """A batch's mean, averaged over all processes (of equal batches) with its gradient; with one process as it is."""
    if not distributed.is_initialized():
        return mean
    return all_reduce(mean) / distributed.get_world_size()


class Standardise(nn.Module):
    """Features (B, n) to mean 0 and deviation 1: of the global batch while training, of what was seen before otherwise.

    ``torch.nn.BatchNorm1d`` without its affine part, but one batch over all processes, on CPUs too. Once trained, no
    image's answer depends on its batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    @torch.no_grad()
    def start_at(self, seen: Tensor) -> None:
        """Keep mean and deviation of features ``seen`` (n, features)."""
        self.mean.copy_(seen.mean(dim=0))
        self.std.copy_((seen.var(dim=0, correction=0) + TINY).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n) -> the same, float32."""
        x = x.float()
        if not self.training:
            return (x - self.mean) / self.std
        mean = everywhere(x.mean(dim=0))
        std = (everywhere((x - mean).square().mean(dim=0)) + TINY).sqrt()
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.std.lerp_(std, MOMENTUM)
        return (x - mean) / std
