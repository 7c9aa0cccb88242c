"""Batch normalisation over all processes, on CPUs too.

Blood cells look alike: the first updates of an encoder shift the features that all cells share by many of the deviations
that separate cells. A head with fixed statistics then predicts at chance until the learning rate has fallen (losses of 8
and more, where guessing gives 2); a head that subtracts the batch's mean is not affected (Ioffe & Szegedy 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

EPS = 1e-5  # added to the variance
MOMENTUM = 0.3  # weight of a batch in the running statistics


def global_mean(mean: Tensor) -> Tensor:
    """Average a batch's mean over all processes (of equal batches), with its gradient."""
    if not distributed.is_initialized():
        return mean
    return all_reduce(mean) / distributed.get_world_size()


class GlobalBatchNorm(nn.Module):
    r"""Batch normalisation without affine parameters, over the global batch of all processes.

    .. math:: y = \frac{x - \mu}{\sqrt{\operatorname{var} + \varepsilon}}

    with the statistics of the batch while training, and with running averages of mean and deviation otherwise, so that
    a prediction never depends on the other images of its batch. :class:`torch.nn.SyncBatchNorm` needs GPUs.

    Args:
        features: Number n of features.
    """

    running_mean: Tensor
    running_std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_std", torch.ones(features))

    @torch.no_grad()
    def set_statistics(self, x: Tensor) -> None:
        """Set the running statistics to mean and deviation of features (B, n)."""
        self.running_mean.copy_(x.mean(dim=0))
        self.running_std.copy_((x.var(dim=0, correction=0) + EPS).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, n) -> normalised features (B, n), float32."""
        x = x.float()
        if not self.training:
            return (x - self.running_mean) / self.running_std
        mean = global_mean(x.mean(dim=0))
        std = (global_mean((x - mean).square().mean(dim=0)) + EPS).sqrt()
        with torch.no_grad():
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_std.lerp_(std, MOMENTUM)
        return (x - mean) / std
