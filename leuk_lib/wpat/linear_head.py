"""A linear head on pooled encoder features, fitted by logistic regression before training (LP-FT, Kumar et al. 2022).

Blood cells look alike: the features that they share are many times larger than those that separate them, so gradient
descent from a blank head spends its first hundreds of steps on finding the difference, and distorts the encoder meanwhile.
Logistic regression on standardised features finds it in a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.training.backbones import Backbone
from leuk_lib.wpat.batch_norm import EPS, GlobalBatchNorm

RIDGE = 0.02  # L2 penalty of the logistic regression
MAX_ITERATIONS = 100


def pool(maps: Sequence[Tensor]) -> Tensor:
    """Mean, standard deviation and maximum of each channel over all sites.

    Args:
        maps: Feature maps, each (B, C_i, H_i, W_i).

    Returns:
        Pooled features (B, 3 * sum of C_i).
    """
    pooled = []
    for feature_map in maps:
        sites = feature_map.flatten(2)  # (B, C, H*W)
        mean = sites.mean(dim=2)
        std = ((sites - mean[:, :, None]).square().mean(dim=2) + EPS).sqrt()
        pooled += [mean, std, sites.amax(dim=2)]
    return torch.cat(pooled, dim=1)


def logistic_regression(x: Tensor, labels: Tensor, n_classes: int, weights: Tensor | None = None) -> Tensor:
    r"""Multinomial logistic regression with an L2 penalty, by L-BFGS.

    .. math::

        \min_{W, b}\ \frac{\sum_i w_{y_i} \operatorname{CE}(W x_i + b, y_i)}{\sum_i w_{y_i}}
            + \frac{\lambda}{2} \|W\|^2

    scikit-learn's cannot be used: x may be on a GPU, and a class may have no cells.

    Args:
        x: Features (n, d), float64.
        labels: Class of each row (n,), int64.
        n_classes: Number of classes K.
        weights: Weight of each class (K,), or None for 1.

    Returns:
        Coefficients (K, d + 1), the intercept last.
    """
    coefficients = torch.zeros(n_classes, x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    weights = None if weights is None else weights.to(x)
    solver = torch.optim.LBFGS(
        [coefficients], max_iter=MAX_ITERATIONS, tolerance_grad=1e-5, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        logits = x @ coefficients[:, :-1].T + coefficients[:, -1]
        loss = F.cross_entropy(logits, labels, weight=weights) + RIDGE / 2 * coefficients[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return coefficients.detach()


class LinearHead(nn.Module):
    """Pool feature maps, normalise, and map linearly to logits. All logits are 0 until :meth:`fit` is called.

    Args:
        channels: Channels C_i of each feature map.
        n_classes: Number of classes K.
    """

    def __init__(self, channels: Sequence[int], n_classes: int) -> None:
        super().__init__()
        features = 3 * sum(channels)
        self.batch_norm = GlobalBatchNorm(features)
        self.linear = nn.Linear(features, n_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps, each (B, C_i, H_i, W_i) -> logits (B, K)."""
        return self.classify(pool(maps))

    def classify(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, 3 * sum of C_i) -> logits (B, K)."""
        return self.linear(self.batch_norm(pooled))

    @torch.no_grad()
    def fit(self, encoder: nn.Module, batches: Iterable[Tensor], labels: Tensor, weights: Tensor | None = None) -> None:
        """Set statistics and weights by logistic regression; the encoder is not changed.

        Args:
            encoder: Maps images to feature maps.
            batches: Standardised images, n in total, each batch (b, 3, H, W).
            labels: Class of each image (n,).
            weights: Weight of each class in the loss (K,), or None.
        """
        was_training = encoder.training
        encoder.eval()
        features = torch.cat([pool(encoder(batch)).float() for batch in batches])
        encoder.train(was_training)
        self.batch_norm.set_statistics(features)
        x = ((features - self.batch_norm.running_mean) / self.batch_norm.running_std).double()
        coefficients = logistic_regression(x, labels.to(x.device), len(self.linear.weight), weights)
        self.linear.weight.copy_(coefficients[:, :-1])
        self.linear.bias.copy_(coefficients[:, -1])


class LinearClassifier(nn.Module):
    """An encoder and a :class:`LinearHead`: what WPAT is compared with on the same features."""

    def __init__(self, encoder: Backbone, n_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.freeze_unused()
        self.linear_head = LinearHead(encoder.channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Standardised images (B, 3, H, W) -> logits (B, K)."""
        return self.classify(self.image_features(x))

    def image_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features that do not depend on the other images of the batch, as `WPAT.image_features`."""
        return (pool(self.encoder(x)),)

    def classify(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K) from `image_features`."""
        return self.linear_head.classify(features[0])
