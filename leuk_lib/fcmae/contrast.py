r"""Contrastive term: two masked views of one cell should be alike, and unlike other cells.

For 2N embeddings of which i and p(i) are views of one image, with the temperature :math:`\tau`,

.. math::

    L = -\frac{1}{2N} \sum_i \log
        \frac{\exp(\cos(z_i, z_{p(i)}) / \tau)}{\sum_{j \ne i} \exp(\cos(z_i, z_j) / \tau)} .

References:
    Mishra et al. 2022 (CAN, contrastive masked autoencoders), with the loss of Chen et al. 2020 (SimCLR).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.2


def info_nce(embeddings: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Contrastive loss of the module's formula, a scalar.

    Args:
        embeddings: (2N, E), the first views of N >= 2 images and then their second views in the same order.
        temperature: > 0.

    >>> info_nce(torch.ones(4, 3))  # all alike: a guess among three others, log 3
    tensor(1.0986)
    """
    n = len(embeddings) // 2
    z = F.normalize(embeddings.float(), dim=1)
    similarity = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarity, partner)


class Projector(nn.Sequential):
    """Pooled features (2N, C) to embeddings (2N, width): linear, batch norm, ReLU, linear; unused after pretraining."""

    def __init__(self, channels: int, width: int = 512) -> None:
        super().__init__(
            nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, width)
        )
