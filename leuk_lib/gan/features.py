"""Frozen features for gate and fidelity: arrays out of any encoder, and a small calibrated head on top of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from leuk_lib.training.augment import normalise

Features = NDArray[np.float32]


class FrozenFeatures:
    """Images to features with an encoder that is not trained any more.

    ``encoder``: nn.Module; ``pool``: its function from standardised images (B,3,S,S) float to (B,D), by default the
    module itself. The four quarter turns' features are averaged (``turns``): a cell has no up.
    """

    def __init__(
        self, encoder: nn.Module, pool: Callable[[Tensor], Tensor] | None = None, batch: int = 128, turns: int = 1
    ) -> None:
        if turns not in (1, 2, 4):
            raise ValueError(f"turns {turns}: must be 1, 2 or 4")
        self.encoder = encoder.eval().requires_grad_(False)
        self.pool, self.batch, self.turns = pool or encoder, batch, turns

    @torch.no_grad()
    def embed(self, images: Tensor) -> Features:
        """(N,3,S,S) uint8 -> (N,D) float32; (0,D) for no images."""
        device = next((p.device for p in self.encoder.parameters()), torch.device("cpu"))
        if len(images) == 0:
            blank = torch.zeros(1, *images.shape[1:], dtype=torch.uint8)
            return self.embed(blank)[:0]
        out = []
        for part in images.split(self.batch):
            x = normalise(part.to(device))
            views = [self.pool(torch.rot90(x, k * 4 // self.turns, dims=(-2, -1))) for k in range(self.turns)]
            out.append(torch.stack(views).mean(dim=0).float().cpu())
        return torch.cat(out).numpy()


@dataclass(frozen=True)
class Whitening:
    """Standardised principal components: a space in which distances are comparable."""

    mean: NDArray[Any]
    basis: NDArray[Any]  # (D, d)

    @classmethod
    def fit(cls, features: NDArray[Any], components: int = 48, floor: float = 0.05) -> Whitening:
        """Of (N,D) features. Components weaker than ``floor`` of the strongest deviation are not blown up to 1."""
        x = np.asarray(features, dtype=np.float64)
        mean = x.mean(axis=0)
        _, s, vt = np.linalg.svd(x - mean, full_matrices=False)
        keep = min(components, int((s > 1e-8 * max(s[0], 1e-30)).sum()) or 1)
        deviation = np.maximum(s[:keep] / np.sqrt(max(len(x) - 1, 1)), floor * s[0] / np.sqrt(max(len(x) - 1, 1)))
        return cls(mean, (vt[:keep] / np.maximum(deviation, 1e-12)[:, None]).T)

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """(N,D) -> (N,d)."""
        return (np.asarray(features, dtype=np.float64) - self.mean) @ self.basis


@dataclass(frozen=True)
class Head:
    """Class probabilities from features: linear discriminant analysis, its temperature set on held-out cells.

    ``classes`` are the labels it knows, the columns of ``probabilities`` are all K labels (0 for unknown ones).
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    classes: NDArray[np.int64]
    n_classes: int
    temperature: float

    @classmethod
    def fit(
        cls,
        features: NDArray[Any],
        labels: NDArray[Any],
        held: NDArray[Any],
        held_labels: NDArray[Any],
        n_classes: int,
    ) -> Head:
        """Fit on (N,d) whitened features, classes equally likely; temperature by held-out likelihood.

        Covariances are shrunk. Source: Ledoit & Wolf 2004.
        """
        known = np.unique(labels).astype(np.int64)
        if len(known) < 2:
            return cls(np.zeros((features.shape[1], 1)), np.zeros(1), known, n_classes, 1.0)
        priors = np.full(len(known), 1 / len(known))
        model = LinearDiscriminantAnalysis("lsqr", shrinkage="auto", priors=priors)
        with warnings.catch_warnings():  # a class of one cell has no spread; it shares that of the others
            warnings.filterwarnings("ignore", message="Only one sample available")
            model.fit(features, labels)
        weight, bias = model.coef_.T, model.intercept_
        if len(known) == 2:  # sklearn keeps one column for two classes
            weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
        usable = np.isin(held_labels, known)
        column = np.searchsorted(known, held_labels[usable])
        temperature = calibrate(held[usable] @ weight + bias, column)
        return cls(weight, bias, known, n_classes, temperature)

    def probabilities(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """(N,d) whitened -> (N,K), rows sum to 1."""
        out = np.zeros((len(features), self.n_classes))
        out[:, self.classes] = softmax((features @ self.weight + self.bias) / self.temperature, axis=1)
        return out

    def logits(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """(N,d) whitened -> (N,K): logarithms of :meth:`probabilities`, at least ln 1e-9."""
        return np.log(np.maximum(self.probabilities(features), 1e-9))

    def recalled(self, features: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(hits, cells), both (K,): how many held-out cells of each class the head gets right."""
        right = self.probabilities(features).argmax(axis=1) == labels
        hits = np.bincount(labels[right], minlength=self.n_classes)
        return hits.astype(np.int64), np.bincount(labels, minlength=self.n_classes).astype(np.int64)


def calibrate(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """The temperature under which logits (N,K) give the labels (N,) the highest likelihood; 1 for no cells."""
    if not len(labels):
        return 1.0

    def nll(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(nll, bounds=(-3, 3), method="bounded").x))


def stack(first: NDArray[Any], second: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """Weights >= 0 of two sets of logits (N,K) whose sum gives the labels (N,) the highest likelihood; (1, 1) for no cells.

    A convex problem of two numbers: one temperature for each, and who is listened to. Source: Wolpert 1992 (stacking).
    """
    if not len(labels):
        return 1.0, 1.0
    rows = np.arange(len(labels))

    def nll(weights: NDArray[Any]) -> float:
        return -float(log_softmax(weights[0] * first + weights[1] * second, axis=1)[rows, labels].mean())

    found = minimize(nll, np.array([0.5, 0.5]), method="L-BFGS-B", bounds=[(0, None), (0, None)]).x
    return float(found[0]), float(found[1])
