"""The gate: which synthetic cells may be handed on. Thresholds are what held-out real cells show.

A candidate of class c must pass four tests:
(i)   its calibrated probability of c is at least the 20th percentile of held-out real cells of c;
(ii)  it lies inside a k-NN ball of a real cell of c, and most of its real neighbours are of c;
(iii) it is no nearer to a training cell than other real cells are (features, and pixels, turned and moved);
(iv)  it is no copy of a candidate that was already accepted.
In (ii) and (iii) a limit gives way as far as 4 % of the held-out cells of the class need; the percentile of (i) is
lowered where otherwise fewer than 80 % of them would pass all tests together. The feature network must not be the
classifier under evaluation.
Source: Kynkäänniemi et al. 2019 (k-NN balls), Meehan et al. 2020 (nearest-real distances against held-out ones).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.gan.features import Head, Whitening
from leuk_lib.runs.errors import LeukError

Floats = NDArray[np.float64]
PERCENTILE = 0.20  # of held-out real cells that test (i) may turn away
TAIL = 0.04  # of held-out real cells that each other limit may turn away
ACCEPT = 0.80  # of held-out real cells that must pass all tests
MOST = 100  # training cells of a class that are compared with the others
THUMB = 16  # side of the thumbnails that find copies in pixel space
REASONS = ("not its class", "outside the real cells", "memorised", "duplicate")


@dataclass(frozen=True)
class Limits:
    """Thresholds of one class: accepted are probability >= , ball <= , neighbours >= , memory >= , pixels >= ."""

    probability: float
    ball: float
    neighbours: float
    memory: float
    pixels: float


@dataclass(frozen=True)
class Gate:
    """Thresholds and the real cells they came from; made by :meth:`fit`."""

    whitening: Whitening
    head: Head
    bank: Floats  # (N,d) whitened features of inner-training cells
    labels: NDArray[np.int64]  # (N,)
    radius: Floats  # (N,) distance to the k-th neighbour of the same class
    thumbs: NDArray[np.float32] | None  # (N,P) thumbnails of the same cells
    limits: dict[int, Limits]
    held_acceptance: dict[int, float]
    k: int

    @classmethod
    def fit(
        cls,
        features_train: NDArray[np.float32],
        labels_train: NDArray[np.int64],
        features_held: NDArray[np.float32],
        labels_held: NDArray[np.int64],
        n_classes: int,
        images_train: Tensor | None = None,
        images_held: Tensor | None = None,
        k: int = 5,
        min_train: int = 8,
        min_held: int = 4,
    ) -> Gate:
        """From features (N,D), labels (N,), and, for the copy test in pixels, images (N,3,S,S) uint8.

        A class with under ``min_train`` inner-training or ``min_held`` held-out cells gets no limits: no candidate
        of it is ever accepted. Raises ``LeukError`` if the arrays do not fit together.
        """
        if len(features_train) != len(labels_train) or len(features_held) != len(labels_held):
            raise LeukError(
                f"gate: {len(features_train)} features for {len(labels_train)} training labels, "
                f"{len(features_held)} for {len(labels_held)} held-out ones"
            )
        if (images_train is None) != (images_held is None):
            raise LeukError("gate: give the images of training and held-out cells, or of neither")
        whitening = Whitening.fit(features_train)
        bank, held = whitening(features_train), whitening(features_held)
        head = Head.fit(bank, labels_train, held, labels_held, n_classes)
        radius = np.full(len(bank), np.inf)
        for c in np.unique(labels_train):
            mine = labels_train == c
            among = distances(bank[mine], bank[mine])
            radius[mine] = np.sort(among, axis=1)[:, min(k, mine.sum() - 1)]
        radius = np.maximum(radius, 1e-9)
        thumbs = None if images_train is None else thumbnails(images_train)
        gate = cls(whitening, head, bank, labels_train, radius, thumbs, {}, {}, k)
        trained = np.bincount(labels_train, minlength=n_classes)
        seen = np.bincount(labels_held, minlength=n_classes)
        for c in range(n_classes):
            if trained[c] < max(min_train, 2) or seen[c] < min_held:
                continue
            mine = np.flatnonzero(labels_held == c)
            images = None if images_held is None else images_held[mine]
            apart = gate.between_training_cells(c, images_train)
            gate.limits[c], gate.held_acceptance[c] = _calibrate(gate.statistics(held[mine], c, images), apart)
        return gate

    def between_training_cells(self, label: int, images_train: Tensor | None) -> pd.DataFrame:
        """``memory`` and ``pixels`` of the training cells of a class against all other training cells.

        Cells of one slide are nearer to each other than to a held-out slide without being copies; a limit must let
        a candidate be as near to a training cell as another real cell of its slide is.
        """
        mine = np.flatnonzero(self.labels == label)[:MOST]
        rows = np.arange(len(mine))
        away = distances(self.bank[mine], self.bank)
        away[rows, mine] = np.inf
        nearest = away.argmin(axis=1)
        out = pd.DataFrame({"memory": away[rows, nearest] / self.radius[nearest], "pixels": np.inf})
        if self.thumbs is not None and images_train is not None:
            least = np.full(len(mine), np.inf)
            for view in moved_thumbnails(images_train[torch.from_numpy(mine)]):
                pixels = distances(view, self.thumbs)
                pixels[rows, mine] = np.inf
                least = np.minimum(least, pixels.min(axis=1))
            out["pixels"] = least
        return out

    def statistics(self, whitened: Floats, label: int, images: Tensor | None = None) -> pd.DataFrame:
        """The measured quantities of (M,d) candidates of class ``label``: a row each; larger ``ball`` is worse."""
        away = distances(whitened, self.bank)  # (M,N)
        own = self.labels == label
        near = np.argsort(away, axis=1, kind="stable")[:, : self.k]
        nearest = near[:, 0]
        rows = np.arange(len(whitened))
        out = pd.DataFrame(
            {
                "probability": self.head.probabilities(whitened)[:, label],
                "ball": (away[:, own] / self.radius[own]).min(axis=1, initial=np.inf),
                "neighbours": (self.labels[near] == label).mean(axis=1),
                "memory": away[rows, nearest] / self.radius[nearest],
                "nearest": nearest,
                "pixels": np.inf,
            }
        )
        if self.thumbs is not None and images is not None:
            turned = [distances(view, self.thumbs).min(axis=1) for view in moved_thumbnails(images)]
            out["pixels"] = np.min(turned, axis=0)
        return out

    def judge(
        self,
        features: NDArray[np.float32],
        labels: Sequence[int] | NDArray[np.int64],
        images: Tensor | None = None,
        accepted: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    ) -> pd.DataFrame:
        """A row a candidate, in order: label, the statistics, ``accepted`` and ``reason`` (empty if accepted).

        features (M,D) as given to ``fit``; ``accepted``: features and labels of candidates accepted before, which
        the new ones must not repeat. Reasons are tried in the order of the tests; the first that fails is named.
        """
        label_of = np.asarray(labels, dtype=np.int64)
        white = self.whitening(features)
        before = (
            self.whitening(accepted[0]) if accepted is not None and len(accepted[0]) else np.zeros((0, white.shape[1]))
        )
        before_labels = accepted[1] if accepted is not None else np.zeros(0, dtype=np.int64)
        parts = []
        for c in np.unique(label_of):
            mine = np.flatnonzero(label_of == c)
            stats = self.statistics(white[mine], int(c), None if images is None else images[mine])
            if c not in self.limits:
                stats["reason"] = "too few real cells to judge"
            else:
                passed = _passes(stats, self.limits[int(c)])
                first = np.argmin(passed, axis=1)
                stats["reason"] = np.where(passed.all(axis=1), "", np.array(REASONS)[first])
                self._mark_duplicates(stats, white[mine], before[before_labels == c], self.limits[int(c)].memory)
            stats.insert(0, "label", int(c))
            parts.append(stats.set_index(mine))
        columns = ["label", "probability", "ball", "neighbours", "memory", "nearest", "pixels", "reason"]
        table = pd.concat(parts).sort_index() if parts else pd.DataFrame(columns=columns)
        table["accepted"] = table["reason"] == ""
        return table

    def _mark_duplicates(self, stats: pd.DataFrame, white: Floats, before: Floats, limit: float) -> None:
        """Test (iv): two accepted cells must be as far apart as a candidate must be from a training cell."""
        kept = list(before)
        reach = limit * self.radius[stats["nearest"].to_numpy()]
        reason = stats["reason"].to_numpy(dtype=object).copy()
        for row in np.flatnonzero(reason == ""):
            if kept and distances(white[row : row + 1], np.stack(kept)).min() < max(float(reach[row]), 1e-6):
                reason[row] = REASONS[3]
            else:
                kept.append(white[row])
        stats["reason"] = reason

    def table(self, classes: Sequence[str]) -> pd.DataFrame:
        """Limits and held-out acceptance a class, for display."""
        rows = [
            {"class": classes[c], **vars(limits), "held-out accepted": self.held_acceptance[c]}
            for c, limits in self.limits.items()
        ]
        return pd.DataFrame(rows)


def distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Euclidean distances (len(a), len(b))."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))


def thumbnails(images: Tensor) -> NDArray[np.float32]:
    """(N,3,S,S) uint8 -> (N,3*16*16) float32, distances in [0,1].

    Small and blurred, so that noise, JPEG and a small shift change little.
    """
    x = F.avg_pool2d(F.interpolate(images.float(), size=(THUMB, THUMB), mode="area"), 3, 1, 1, count_include_pad=False)
    return (x.flatten(1) / (255 * 3**0.5 * THUMB)).numpy()


def moved_thumbnails(images: Tensor) -> Iterator[NDArray[np.float32]]:
    """Thumbnails of (N,3,S,S) moved by up to a pixel each way, under the eight turns and mirrors: 72 times (N,P)."""
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            flat = torch.from_numpy(thumbnails(images.roll((dy, dx), (-2, -1))))
            # Making thumbnails commutes with turning and mirroring, so these come after it.
            grid = flat.reshape(len(images), 3, THUMB, THUMB)
            for turns in range(4):
                turned = grid.rot90(turns, (-2, -1))
                yield turned.flatten(1).numpy()
                yield turned.flip(-1).flatten(1).numpy()


def _passes(stats: pd.DataFrame, limits: Limits) -> NDArray[np.bool_]:
    """(M,3) bool: tests (i), (ii), (iii)."""
    return np.stack(
        [
            stats["probability"] >= limits.probability,
            (stats["ball"] <= limits.ball) & (stats["neighbours"] >= limits.neighbours),
            (stats["memory"] >= limits.memory) & (stats["pixels"] >= limits.pixels),
        ],
        axis=1,
    )


def _lower(values: pd.Series, share: float) -> float:
    """The order statistic that turns away at most ``share`` of the values."""
    ordered = np.sort(values.to_numpy(dtype=np.float64))
    return float(ordered[int(share * len(ordered))])


def _calibrate(stats: pd.DataFrame, apart: pd.DataFrame) -> tuple[Limits, float]:
    """Limits of one class from its held-out cells, and the share of these that passes all tests.

    ``apart``: how far training cells are from each other, where that is less.
    """
    base = Limits(
        probability=_lower(stats["probability"], PERCENTILE),
        ball=max(1.0, -_lower(-stats["ball"], TAIL)),
        neighbours=min(0.5, _lower(stats["neighbours"], TAIL)),
        memory=min(_lower(stats["memory"], TAIL), _lower(apart["memory"], TAIL)),
        pixels=min(_lower(stats["pixels"], TAIL), _lower(apart["pixels"], TAIL)),
    )
    for value in np.sort(stats["probability"].to_numpy())[::-1]:
        limits = Limits(min(base.probability, float(value)), base.ball, base.neighbours, base.memory, base.pixels)
        share = float(_passes(stats, limits).all(axis=1).mean())
        if share >= ACCEPT:
            break
    return limits, share
