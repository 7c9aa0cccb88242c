"""A contrastive term beside the reconstruction: two masked views of one cell should look alike, and unlike others.

Source: Mishra et al. 2022 (CAN: contrastive masked autoencoders), the loss of Chen et al. 2020 (SimCLR).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.2


def info_nce(embeddings: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of finding each image's other view among all other embeddings, by cosine similarity: a scalar.

    embeddings (2N, E): the first views of N images, then their second views in the same order. N >= 2.
    """
    n = len(embeddings) // 2
    z = F.normalize(embeddings.float(), dim=1)
    similarity = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarity, partner)


class Projector(nn.Sequential):
    """Pooled features (2N, C) to embeddings (2N, E): linear, batch norm, ReLU, linear. Thrown away after pretraining."""

    def __init__(self, channels: int, width: int = 512) -> None:
        super().__init__(
            nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, width)
        )
