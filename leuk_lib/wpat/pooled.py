"""A linear read-out of an encoder's mean features, standardised: what a classifier knows before it looks anywhere.

Blood cells look alike: what their mean features share is many times what tells them apart, and gradient descent on
features with a large common part is slow. Subtracting the training cells' mean and dividing by their deviation, taken
once before the first step, is what batch normalisation would do, without one image's answer depending on its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from leuk_lib.fcmae.encoder import Encoder

TINY = 1e-5  # deviation of a channel that says nothing


class PooledHead(nn.Module):
    """Spatial means of all maps, standardised by fixed mean and deviation, to logits; starts at 0 for every class."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(sum(channels)))
        self.register_buffer("std", torch.ones(sum(channels)))
        self.head = nn.Linear(sum(channels), n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps [(B, C_i, H_i, W_i)] -> logits (B, K)."""
        return self.head((means(maps) - self.mean) / self.std)

    @torch.no_grad()
    def start_at(self, encoder: nn.Module, batches: Iterable[Tensor]) -> None:
        """Take mean and deviation from the maps of standardised images (n, 3, H, W); the encoder's mode is left as it was."""
        was_training = encoder.training
        encoder.eval()
        seen = torch.cat([means(encoder(batch)).float() for batch in batches])
        encoder.train(was_training)
        self.mean.copy_(seen.mean(dim=0))
        self.std.copy_(seen.std(dim=0, correction=0) + TINY)


def means(maps: Sequence[Tensor]) -> Tensor:
    """Spatial means of maps [(B, C_i, H_i, W_i)], side by side: (B, sum of C_i)."""
    return torch.cat([each.mean(dim=(2, 3)) for each in maps], dim=1)


class PooledClassifier(nn.Module):
    """An encoder and a :class:`PooledHead`: the ladder's step below WPAT."""

    def __init__(self, encoder: Encoder, n_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.norm.requires_grad_(False)  # belongs to the unstandardised features, which nobody reads here
        self.pooled = PooledHead(encoder.channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) float, standardised -> logits (B, K)."""
        return self.pooled(self.encoder(x))
