"""Probes of a frozen encoder: k-NN, k-NN on whitened features and logistic regression, compared with baselines.

The baselines are the encoder at its random start, a colour histogram, and principal components of the raw pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.intervals import difference_interval, korn_graubard, paired_shares
from leuk_lib.training.augment import normalise
from leuk_lib.training.subset import evenly_spaced

ENCODER = "FCMAE encoder"
RANDOM_START = "random initialisation"
GIVEN_START = "given weights"
PROBES = ("k-NN", "k-NN, whitened", "linear")


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor, batch_size: int = 64) -> NDArray[np.float32]:
    """Pooled features (N, C_4) of images (N, 3, S, S) uint8; the encoder's mode is restored."""
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    parts = [encoder.pool(normalise(part.to(device))).float().cpu() for part in images.split(batch_size)]
    encoder.train(training)
    return torch.cat(parts).numpy()


def colour_histogram(images: Tensor, bins: int = 8) -> NDArray[np.float32]:
    """Square roots of the joint RGB histogram, rows of Euclidean length 1.

    Args:
        images: (N, 3, S, S) uint8.
        bins: Bins per channel.

    Returns:
        (N, bins**3).

    >>> colour_histogram(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), bins=2)
    array([[1., 0., 0., 0., 0., 0., 0., 0.]], dtype=float32)
    """
    level = (images.long() * bins) // 256
    code = (level[:, 0] * bins + level[:, 1]) * bins + level[:, 2]
    counts = torch.zeros(len(images), bins**3)
    counts.scatter_add_(1, code.flatten(1), torch.ones(code.flatten(1).shape))
    return (counts / counts.sum(1, keepdim=True)).sqrt().numpy()


def pixel_pca(train: Tensor, other: Tensor, components: int = 64) -> tuple[NDArray[Any], NDArray[Any]]:
    """Principal components of raw pixels, fitted on `train`.

    Args:
        train: (N, 3, S, S) uint8.
        other: (M, 3, S, S) uint8.
        components: Largest number of components.

    Returns:
        (N, D) and (M, D) with D = min(components, N - 1, 3 S S).
    """
    flat = train.flatten(1).numpy().astype(np.float32) / 255
    pca = PCA(min(components, len(flat) - 1, flat.shape[1]), svd_solver="randomized", random_state=0).fit(flat)
    return pca.transform(flat), pca.transform(other.flatten(1).numpy().astype(np.float32) / 255)


def whiten(train: NDArray[Any], other: NDArray[Any], components: int = 64) -> tuple[NDArray[Any], NDArray[Any]]:
    """Principal components of features, each scaled to standard deviation 1 on `train`.

    Pooled features vary most with the size of a cell and the strength of its stain; whitening gives all directions the
    same weight.

    Args:
        train: Features (N, C).
        other: Features (M, C).
        components: Largest number of components.

    Returns:
        (N, D) and (M, D) with D = min(components, N - 1, C).

    References:
        Jegou & Chum 2012.
    """
    pca = PCA(min(components, len(train) - 1, train.shape[1]), whiten=True, svd_solver="full").fit(train)
    return pca.transform(train), pca.transform(other)


def knn_correct(
    train_x: NDArray[Any], train_y: NDArray[Any], x: NDArray[Any], y: NDArray[Any], k: int
) -> NDArray[np.bool_]:
    """Which of `x` (M, C) the k nearest training features (cosine) classify correctly, by majority: bool (M,)."""
    model = KNeighborsClassifier(min(k, len(train_x)), metric="cosine").fit(train_x, train_y)
    return model.predict(x) == y


def linear_correct(train_x: NDArray[Any], train_y: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of `x` (M, C) a logistic regression on standardised features classifies correctly: bool (M,)."""
    if len(np.unique(train_y)) < 2:
        return np.full(len(y), train_y[0]) == y
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, tol=1e-3)).fit(train_x, train_y)
    return model.predict(x) == y


def probe_correct(
    train_x: NDArray[Any], train_y: NDArray[Any], x: NDArray[Any], y: NDArray[Any], k: int
) -> dict[str, NDArray[np.bool_]]:
    """Which of the M cells each probe of `PROBES` classifies correctly: bool (M,) by name.

    Args:
        train_x: Training features (N, C).
        train_y: Their labels (N,).
        x: Features (M, C).
        y: Their labels (M,).
        k: Neighbours that vote.
    """
    white_train, white = whiten(train_x, x)
    return {
        "k-NN": knn_correct(train_x, train_y, x, y, k),
        "k-NN, whitened": knn_correct(white_train, train_y, white, y, k),
        "linear": linear_correct(train_x, train_y, x, y),
    }


@dataclass
class Probe:
    """Probes an encoder during its pretraining, as a `leuk_lib.fcmae.pretrain.Monitor`.

    Args:
        images: (N, 3, S, S) uint8, all cells.
        labels: (N,) int64.
        groups: (N,) str, patient or slide.
        train: Positions of the training cells.
        val: Positions of the validation cells.
        steps: Numbers of optimiser steps after which to probe.
        k: Neighbours that vote.
        limit: Largest number of training cells; evenly spaced ones are taken.
        start: Name of the encoder at step 0: random, or with given weights.

    Raises:
        LeukError: Fewer than two training cells or no validation cell.
    """

    images: Tensor
    labels: Tensor
    groups: NDArray[Any]
    train: Tensor
    val: Tensor
    steps: Sequence[int]
    k: int = 20
    limit: int = 2000
    start: str = RANDOM_START
    _correct: dict[tuple[str, str, int], NDArray[np.bool_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.train) < 2 or len(self.val) < 1:
            raise LeukError(
                f"the probe needs training and validation cells; there are {len(self.train)}, {len(self.val)}"
            )
        if len(self.train) > self.limit:
            self.train = self.train[evenly_spaced(len(self.train), self.limit)]
        self._train_y, self._val_y = self.labels[self.train].numpy(), self.labels[self.val].numpy()

    def __call__(self, step: int, encoder: Encoder) -> None:
        """Probe the encoder after `step` optimiser steps."""
        self._probe(ENCODER, step, encode(encoder, self.images[self.train]), encode(encoder, self.images[self.val]))

    def baselines(self, random: Encoder | None = None) -> None:
        """Probe features that need no training: colour histogram and principal components of raw pixels.

        With `random` also those of an encoder with random weights, where pretraining does not start from one.
        """
        train, val = self.images[self.train], self.images[self.val]
        if random is not None:
            self._probe(RANDOM_START, 0, encode(random, train), encode(random, val))
        self._probe("colour histogram", 0, colour_histogram(train), colour_histogram(val))
        self._probe("raw-pixel PCA", 0, *pixel_pca(train, val))

    def _probe(self, features: str, step: int, train_x: NDArray[Any], val_x: NDArray[Any]) -> None:
        for probe, correct in probe_correct(train_x, self._train_y, val_x, self._val_y, self.k).items():
            self._correct[features, probe, step] = correct

    def table(self) -> pd.DataFrame:
        """Accuracy of each probe on the validation cells: features, probe, step, accuracy, low, high, n.

        Low and high bound the 95 % interval over groups (`korn_graubard`); NaN for a single group.
        """
        groups, rows = self.groups[self.val.numpy()], []
        for (features, probe, step), correct in sorted(self._correct.items()):
            low, high, _ = korn_graubard(correct, groups)
            rows.append((features, probe, step, float(correct.mean()), low, high, len(correct)))
        return pd.DataFrame(rows, columns=["features", "probe", "step", "accuracy", "low", "high", "n"])

    def gains(self) -> pd.DataFrame:
        """Accuracy of the pretrained encoder minus that of its start and of each baseline on the same cells.

        Columns: probe, baseline, difference, low, high (95 %, paired), n, verdict. The verdict is "better" or "worse"
        where the interval excludes 0, else "inconclusive".
        """
        groups, rows = self.groups[self.val.numpy()], []
        last = max(step for features, _, step in self._correct if features == ENCODER)
        others = {name: (name, 0) for name in sorted({f for f, _, _ in self._correct} - {ENCODER})}
        # Given weights that were not trained any further are their own start.
        baselines = ({self.start: (ENCODER, 0)} if last or self.start == RANDOM_START else {}) | others
        for probe in PROBES:
            pretrained = self._correct[ENCODER, probe, last].astype(float)
            for name, (features, step) in baselines.items():
                difference = pretrained - self._correct[features, probe, step]
                low, high = difference_interval(
                    *paired_shares(pretrained, self._correct[features, probe, step], groups)
                )
                verdict = "better" if low > 0 else "worse" if high < 0 else "inconclusive"
                rows.append((probe, name, float(difference.mean()), low, high, len(difference), verdict))
        return pd.DataFrame(rows, columns=["probe", "baseline", "difference", "low", "high", "n", "verdict"])

    def state_dict(self) -> dict[str, Any]:
        """Outcomes so far, for a checkpoint."""
        return {"|".join(map(str, key)): torch.from_numpy(value) for key, value in self._correct.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the outcomes of `state_dict`."""
        for key, value in state_dict.items():
            features, probe, step = key.split("|")
            self._correct[features, probe, int(step)] = value.numpy()


def probe_steps(steps: int, points: int) -> tuple[int, ...]:
    """0 and `points` evenly spaced numbers of steps up to the last.

    >>> probe_steps(300, 3)
    (0, 100, 200, 300)
    """
    return tuple(sorted({round(i * steps / points) for i in range(points + 1)}))
