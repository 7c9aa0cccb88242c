"""A linear read-out of an encoder's pooled features, fitted before the first step: linear probing, then fine-tuning.

Blood cells look alike: what their features share is many times what tells them apart, so gradient descent from a blank
head spends its first hundreds of steps on finding the difference, and meanwhile pulls the encoder about. Logistic
regression on standardised features finds it in a second (Kumar et al. 2022: a fitted head also spares the encoder).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.wpat.standardise import TINY, Standardise

RIDGE = 0.02  # weight of the squared length of the fitted head
ITERATIONS = 100


class PooledHead(nn.Module):
    """Pooled maps, standardised, to logits; 0 for every class until it is fitted."""

    def __init__(self, channels: Sequence[int], n_classes: int) -> None:
        super().__init__()
        features = 3 * sum(channels)
        self.standardise = Standardise(features)
        self.head = nn.Linear(features, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps [(B, C_i, H_i, W_i)] -> logits (B, K)."""
        return self.head(self.standardise(pool(maps)))

    @torch.no_grad()
    def start_at(
        self, encoder: nn.Module, batches: Iterable[Tensor], labels: Tensor, weights: Tensor | None = None
    ) -> None:
        """Standardise by, and fit to, standardised images (n, 3, H, W) and their labels; the encoder is left as it was.

        weights (K,): of the classes in the loss, or None.
        """
        was_training = encoder.training
        encoder.eval()
        seen = torch.cat([pool(encoder(batch)).float() for batch in batches])
        encoder.train(was_training)
        self.standardise.start_at(seen)
        x = ((seen - self.standardise.mean) / self.standardise.std).double()
        fitted = logistic(x, labels.to(x.device), len(self.head.weight), weights)
        self.head.weight.copy_(fitted[:, :-1])
        self.head.bias.copy_(fitted[:, -1])


def pool(maps: Sequence[Tensor]) -> Tensor:
    """Mean, deviation and maximum over the sites of maps [(B, C_i, H_i, W_i)], side by side: (B, 3 sum of C_i)."""
    parts = []
    for each in maps:
        sites = each.flatten(2)
        mean = sites.mean(dim=2)
        spread = ((sites - mean[:, :, None]).square().mean(dim=2) + TINY).sqrt()
        parts += [mean, spread, sites.amax(dim=2)]
    return torch.cat(parts, dim=1)


def logistic(x: Tensor, labels: Tensor, n_classes: int, weights: Tensor | None = None) -> Tensor:
    """Multinomial logistic regression with a ridge by L-BFGS: x (n, d) float64, labels (n,) -> (K, d + 1), bias last.

    Not scikit-learn's, since x may live on a GPU and a class may have no cell.
    """
    whole = torch.zeros(n_classes, x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    weights = None if weights is None else weights.to(x)
    solver = torch.optim.LBFGS(
        [whole], max_iter=ITERATIONS, tolerance_grad=1e-5, history_size=10, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        solver.zero_grad()
        logits = x @ whole[:, :-1].T + whole[:, -1]
        loss = F.cross_entropy(logits, labels, weight=weights) + RIDGE / 2 * whole[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return whole.detach()


class PooledClassifier(nn.Module):
    """An encoder and a :class:`PooledHead`: the ladder's step below WPAT."""

    def __init__(self, encoder: Encoder, n_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.norm.requires_grad_(False)  # belongs to other features, which nobody reads here
        self.pooled = PooledHead(encoder.channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) float, standardised -> logits (B, K)."""
        return self.pooled(self.encoder(x))
