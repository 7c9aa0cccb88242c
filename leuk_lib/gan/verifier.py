"""Class verifier of the gate: the calibrated probability that a cell belongs to a class.

It combines a linear discriminant on encoder features with a small network on images. Neither is the classifier under
evaluation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from leuk_lib.gan.features import shared_settings
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.runs.seeds import derive
from leuk_lib.statistics.temperature import fit_temperature

#: Label of the network's training. It names the random streams, so another word would change every number.
TRAINING_LABEL = "judge"


def verifier_settings(params: AcdbGanParams) -> dict[str, Any]:
    """Return the parameters (``WpatParams``) of the verifier network's training.

    Classes are drawn equally often. The weights are evaluated only at the end, so no held-out cell selects among them.
    """
    return shared_settings(params) | {
        "steps": params.verifier_steps, "batch_size": 48, "lr": 3e-3, "evaluations": 1,
        "balance": "sampling", "muon": 0.0, "crop_min": 0.7,
    }  # fmt: skip


def verifier_network(params: AcdbGanParams, n_classes: int) -> nn.Module:
    """Return timm's ResNet-10-T with random weights that depend on the seed only."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(params.seed, "gate", TRAINING_LABEL))
        return timm.create_model("resnet10t", num_classes=n_classes)


@dataclass(frozen=True)
class LinearDiscriminant:
    r"""Linear discriminant with temperature, :math:`p = \operatorname{softmax}((Wx + b) / T)`.

    Attributes:
        weight: (d,k) for the k classes that have training cells.
        bias: (k,).
        classes: Their numbers (k,); the other columns of the probabilities are 0.
        n_classes: K, the number of all classes.
        temperature: T > 0.
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
        holdout: NDArray[Any],
        holdout_labels: NDArray[Any],
        n_classes: int,
    ) -> LinearDiscriminant:
        """Fit on whitened features (N,d) with equal priors; the temperature maximises the held-out likelihood.

        Args:
            features: Whitened features (N,d) of training cells.
            labels: Their labels (N,).
            holdout: Whitened features (H,d) of held-out cells.
            holdout_labels: Their labels (H,).
            n_classes: Number K of all classes.

        References:
            Ledoit & Wolf 2004 (shrinkage of the covariance).
        """
        known = np.unique(labels).astype(np.int64)
        if len(known) < 2:
            return cls(np.zeros((features.shape[1], 1)), np.zeros(1), known, n_classes, 1.0)
        priors = np.full(len(known), 1 / len(known))
        model = LinearDiscriminantAnalysis("lsqr", shrinkage="auto", priors=priors)
        with warnings.catch_warnings():  # a class of one cell takes its covariance from the others
            warnings.filterwarnings("ignore", message="Only one sample available")
            model.fit(features, labels)
        weight, bias = model.coef_.T, model.intercept_
        if len(known) == 2:  # sklearn keeps one column for two classes
            weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
        usable = np.isin(holdout_labels, known)
        column = np.searchsorted(known, holdout_labels[usable])
        temperature = fit_temperature(holdout[usable] @ weight + bias, column) if usable.any() else 1.0
        return cls(weight, bias, known, n_classes, temperature)

    def probabilities(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Map whitened features (N,d) to probabilities (N,K), whose rows sum to 1."""
        out = np.zeros((len(features), self.n_classes))
        out[:, self.classes] = softmax((features @ self.weight + self.bias) / self.temperature, axis=1)
        return out

    def log_probabilities(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Map whitened features (N,d) to log probabilities (N,K), at least ln 1e-9."""
        return np.log(np.maximum(self.probabilities(features), 1e-9))

    def recalled(self, features: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the cells recognised and the cells of each class, (K,) each."""
        correct = self.probabilities(features).argmax(axis=1) == labels
        hits = np.bincount(labels[correct], minlength=self.n_classes)
        return hits.astype(np.int64), np.bincount(labels, minlength=self.n_classes).astype(np.int64)


def stacking_weights(first: NDArray[Any], second: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    r"""Return the weights :math:`w \ge 0` with the highest likelihood under :math:`\operatorname{softmax}(w_1 z_1 + w_2 z_2)`.

    Args:
        first: Logits :math:`z_1` (N,K).
        second: Logits :math:`z_2` (N,K).
        labels: Columns (N,); (1, 1) is returned if there are none.

    References:
        Wolpert 1992 (stacking).
    """
    if not len(labels):
        return 1.0, 1.0
    rows = np.arange(len(labels))

    def nll(weights: NDArray[Any]) -> float:
        return -float(log_softmax(weights[0] * first + weights[1] * second, axis=1)[rows, labels].mean())

    best = minimize(nll, np.array([0.5, 0.5]), method="L-BFGS-B", bounds=[(0, None), (0, None)]).x
    return float(best[0]), float(best[1])
