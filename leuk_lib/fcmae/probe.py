"""What a frozen encoder knows: k-NN, k-NN on whitened features and linear probe on the validation part, beside three untrained baselines.

Nothing here trains or changes the encoder, and nothing here ever sees a test image.
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
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.training.augment import normalise

ENCODER = "FCMAE encoder"
PROBES = ("k-NN", "k-NN, whitened", "linear")


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor, batch_size: int = 64) -> NDArray[np.float32]:
    """Pooled features of a frozen encoder: images (N, 3, S, S) uint8 -> (N, C_4) float32."""
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    parts = [encoder.pool(normalise(part.to(device))).float().cpu() for part in images.split(batch_size)]
    encoder.train(training)
    return torch.cat(parts).numpy()


def colour_histogram(images: Tensor, bins: int = 8) -> NDArray[np.float32]:
    """Square roots of the joint RGB histogram: (N, 3, S, S) uint8 -> (N, bins**3), each row of length 1."""
    level = (images.long() * bins) // 256
    code = (level[:, 0] * bins + level[:, 1]) * bins + level[:, 2]
    counts = torch.zeros(len(images), bins**3)
    counts.scatter_add_(1, code.flatten(1), torch.ones(code.flatten(1).shape))
    return (counts / counts.sum(1, keepdim=True)).sqrt().numpy()


def pixel_pca(train: Tensor, other: Tensor, components: int = 64) -> tuple[NDArray[Any], NDArray[Any]]:
    """Principal components of raw pixels, fitted on `train`: two (N, 3, S, S) uint8 -> two (N, components)."""
    flat = train.flatten(1).numpy().astype(np.float32) / 255
    pca = PCA(min(components, len(flat) - 1, flat.shape[1]), svd_solver="randomized", random_state=0).fit(flat)
    return pca.transform(flat), pca.transform(other.flatten(1).numpy().astype(np.float32) / 255)


def whiten(train: NDArray[Any], other: NDArray[Any], components: int = 64) -> tuple[NDArray[Any], NDArray[Any]]:
    """Principal components of features, each scaled to deviation 1 on `train`: (N, C), (M, C) -> (N, D), (M, D).

    D = min(`components`, N - 1, C). Pooled features vary most with the size of a cell and the strength of its stain;
    whitened, every direction counts alike. Source: Jegou & Chum 2012.
    """
    pca = PCA(min(components, len(train) - 1, train.shape[1]), whiten=True, svd_solver="full").fit(train)
    return pca.transform(train), pca.transform(other)


def knn_correct(
    train_x: NDArray[Any], train_y: NDArray[Any], x: NDArray[Any], y: NDArray[Any], k: int
) -> NDArray[np.bool_]:
    """Which of `x` the vote of the k nearest training features (cosine) gets right."""
    model = KNeighborsClassifier(min(k, len(train_x)), metric="cosine").fit(train_x, train_y)
    return model.predict(x) == y


def linear_correct(train_x: NDArray[Any], train_y: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of `x` a logistic regression on standardised training features gets right."""
    if len(np.unique(train_y)) < 2:
        return np.full(len(y), train_y[0]) == y
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, tol=1e-3)).fit(train_x, train_y)
    return model.predict(x) == y


def judge(
    train_x: NDArray[Any], train_y: NDArray[Any], x: NDArray[Any], y: NDArray[Any], k: int
) -> dict[str, NDArray[np.bool_]]:
    """Which of `x` each probe gets right: by name, in the order of `PROBES`."""
    white_train, white = whiten(train_x, x)
    return {
        "k-NN": knn_correct(train_x, train_y, x, y, k),
        "k-NN, whitened": knn_correct(white_train, train_y, white, y, k),
        "linear": linear_correct(train_x, train_y, x, y),
    }


def group_bootstrap(
    values: NDArray[Any], groups: NDArray[Any], seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values`, whole groups (patients) resampled.

    With one group only there is nothing to resample: (nan, nan), not a false certainty.
    """
    _, inverse = np.unique(groups, return_inverse=True)
    count = np.bincount(inverse).astype(float)
    if len(count) < 2:
        return float("nan"), float("nan")
    total = np.bincount(inverse, weights=values.astype(float))
    rng = numpy_rng(seed, "fcmae", "bootstrap")
    weights = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), size=resamples)
    low, high = np.quantile((weights @ total) / (weights @ count), [0.025, 0.975])
    return float(low), float(high)


@dataclass
class Probe:
    """Probes an encoder at several steps of its pretraining; hand it to `pretrain` as its monitor.

    images (N, 3, S, S) uint8 and labels (N,) of all cells; `train` and `val` are positions, `groups` (N,) str.
    At most `limit` training cells (evenly spaced ones) are used. `steps`: after which optimiser steps to look.
    """

    images: Tensor
    labels: Tensor
    groups: NDArray[Any]
    train: Tensor
    val: Tensor
    steps: Sequence[int]
    k: int = 20
    limit: int = 2000
    seed: int = 0
    _correct: dict[tuple[str, str, int], NDArray[np.bool_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.train) < 2 or len(self.val) < 1:
            raise LeukError(
                f"the probe needs training and validation cells; there are {len(self.train)}, {len(self.val)}"
            )
        if len(self.train) > self.limit:
            self.train = self.train[torch.linspace(0, len(self.train) - 1, self.limit).round().long()]
        self._train_y, self._val_y = self.labels[self.train].numpy(), self.labels[self.val].numpy()

    def __call__(self, step: int, encoder: Encoder) -> None:
        """Probe the encoder as it is after `step` optimiser steps."""
        self._judge(ENCODER, step, encode(encoder, self.images[self.train]), encode(encoder, self.images[self.val]))

    def baselines(self) -> None:
        """Probe what needs no training: colour histogram and principal components of raw pixels."""
        train, val = self.images[self.train], self.images[self.val]
        self._judge("colour histogram", 0, colour_histogram(train), colour_histogram(val))
        self._judge("raw-pixel PCA", 0, *pixel_pca(train, val))

    def _judge(self, features: str, step: int, train_x: NDArray[Any], val_x: NDArray[Any]) -> None:
        truth = self._train_y, self._val_y
        for probe, correct in judge(train_x, truth[0], val_x, truth[1], self.k).items():
            self._correct[features, probe, step] = correct

    def table(self) -> pd.DataFrame:
        """One row a probe: features, probe, step, accuracy, low, high (95 %, by group), n."""
        groups = self.groups[self.val.numpy()]
        rows = []
        for (features, probe, step), correct in sorted(self._correct.items()):
            low, high = group_bootstrap(correct, groups, self.seed)
            rows.append((features, probe, step, float(correct.mean()), low, high, len(correct)))
        return pd.DataFrame(rows, columns=["features", "probe", "step", "accuracy", "low", "high", "n"])

    def gains(self) -> pd.DataFrame:
        """Accuracy of the pretrained encoder minus that of its rivals on the same cells, paired intervals.

        Columns: probe, against, difference, low, high, n, verdict ("better", "worse", "not told apart").
        """
        groups = self.groups[self.val.numpy()]
        last = max(step for features, _, step in self._correct if features == ENCODER)
        rivals = {"random initialisation": (ENCODER, 0)} | {
            name: (name, 0) for name in sorted({f for f, _, _ in self._correct} - {ENCODER})
        }
        rows = []
        for probe in PROBES:
            ours = self._correct[ENCODER, probe, last].astype(float)
            for name, (features, step) in rivals.items():
                difference = ours - self._correct[features, probe, step]
                low, high = group_bootstrap(difference, groups, self.seed)
                verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
                rows.append((probe, name, float(difference.mean()), low, high, len(difference), verdict))
        return pd.DataFrame(rows, columns=["probe", "against", "difference", "low", "high", "n", "verdict"])

    def state_dict(self) -> dict[str, Any]:
        """What was judged so far, for a checkpoint."""
        return {"|".join(map(str, key)): torch.from_numpy(value) for key, value in self._correct.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was judged before an interruption."""
        for key, value in state_dict.items():
            features, probe, step = key.split("|")
            self._correct[features, probe, int(step)] = value.numpy()


def probe_steps(steps: int, points: int) -> tuple[int, ...]:
    """0 and `points` evenly spaced steps up to the last."""
    return tuple(sorted({round(i * steps / points) for i in range(points + 1)}))
