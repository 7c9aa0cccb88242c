r"""The gate: which synthetic cells may be delivered.

A candidate :math:`x` of class :math:`c` is accepted if it passes four tests.

(i) Class: its calibrated probability of :math:`c` is at least the 20th percentile of held-out real cells of :math:`c`.

(ii) Realism: it lies in the :math:`k`-nearest-neighbour ball of a real cell of its class, most of its real neighbours
are of its class, and its texture is within the range of real cells. With the distance :math:`\rho_j` of training cell
:math:`x_j` to its :math:`k`-th neighbour of the same class, the first condition is

.. math:: \min_{j: y_j = c} \lVert x - x_j \rVert / \rho_j \le 1 .

(iii) Novelty: it is no nearer to a training cell than other real cells are, neither in features
(:math:`\lVert x - x_n \rVert / \rho_n` for the nearest training cell :math:`n`) nor in pixels, whether rotated,
reflected or shifted.

(iv) No duplicate: by the same limits, it is not a copy of a candidate that was accepted before it.

The limits of (ii) and (iii) are relaxed as far as 2 % of the held-out cells of the class require. The limit of (i) is
lowered where otherwise too few held-out cells would pass all tests together. The share that must pass is the smallest
for which 80 % of held-out cells pass limits from the other held-out cells (cross-fitting), because cells pass less
often where they did not set the limits. Acceptance on unseen patients or slides can be lower still. It is measured, but
no limit is relaxed for it. The networks behind (i) to (iii) must not be the classifier under evaluation.

References:
    Kynkäänniemi et al. 2019 (k-NN balls); Meehan et al. 2020 (distances to the nearest real cell).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from leuk_lib.gan.features import (
    IDENTITY,
    Features,
    Whitening,
    distances,
    nearest_of_views,
    texture,
    thumbnails,
    transformed_thumbnails,
)
from leuk_lib.gan.verifier import LinearDiscriminant, stacking_weights
from leuk_lib.runs.errors import LeukError

Floats = NDArray[np.float64]
ImageLogits = Callable[[Tensor], NDArray[Any]]  # uint8 images (N,3,S,S) -> logits (N,K)

PROBABILITY_TAIL = 0.20  # share of held-out real cells that test (i) may reject
TAIL = 0.02  # share of held-out real cells that each other limit may reject
ACCEPTANCE = 0.80  # share of held-out real cells that must pass limits from the others
PASS_SHARES = (
    0.80,
    0.82,
    0.84,
    0.86,
    0.88,
    0.90,
    0.92,
    0.94,
    0.96,
    0.98,
    1.0,
)  # tried: shares passing their own limits
FOLDS = 5  # of the held-out cells, for cross-fitting
MAX_COMPARED = 100  # training cells per class that are compared with the others

REASONS = ("wrong class", "unlike real cells", "memorised", "duplicate")
NO_LIMITS = "too few real cells to set limits"
MEASURES = ("probability", "ball_ratio", "neighbour_share", "nearest_ratio", "nearest", "pixel_distance", "texture")
COLUMNS = ("label", *MEASURES, "reason", "accepted")  # of the table of candidates


@dataclass(frozen=True)
class Limits:
    """Limits of one class: lower for all measures but ``ball_ratio``, two-sided for the texture (equal in all classes)."""

    probability: float
    ball_ratio: float
    neighbour_share: float
    nearest_ratio: float
    pixel_distance: float
    texture_low: float = -np.inf
    texture_high: float = np.inf

    def passed(self, measures: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows (M) pass tests (i), (ii) and (iii): (M,3)."""
        # Plain arrays: cross-fitting comes here a thousand times, and comparing Series takes many times as long.
        of = {name: measures[name].to_numpy() for name in MEASURES}
        realistic = (of["ball_ratio"] <= self.ball_ratio) & (of["neighbour_share"] >= self.neighbour_share)
        usual_texture = (of["texture"] >= self.texture_low) & (of["texture"] <= self.texture_high)
        novel = (of["nearest_ratio"] >= self.nearest_ratio) & (of["pixel_distance"] >= self.pixel_distance)
        return np.stack([of["probability"] >= self.probability, realistic & usual_texture, novel], axis=1)


def lower_limit(values: pd.Series, share: float) -> float:
    """Return the largest value below which at most ``share`` of the values lie.

    >>> lower_limit(pd.Series([3.0, 1.0, 2.0, 4.0]), 0.25)
    2.0
    """
    ordered = np.sort(values.to_numpy(dtype=np.float64))
    return float(ordered[int(share * len(ordered))])


def folds(groups: NDArray[Any] | None, count: int) -> NDArray[np.int64]:
    """Assign ``count`` cells to folds: whole groups, or single cells if there are fewer than two groups.

    Args:
        groups: Groups (count,), or None.
        count: Number of cells.

    Returns:
        Fold numbers (count,) from 0 to ``FOLDS - 1``.
    """
    if groups is not None and len(np.unique(groups)) > 1:
        return np.unique(groups, return_inverse=True)[1] % FOLDS
    return np.arange(count) % FOLDS


@dataclass(frozen=True)
class _ClassEvidence:
    """What the limits of a class are derived from.

    ``measures``: of its held-out cells, at positions ``cells`` in folds ``fold``; ``between_training``: distances
    between training cells, used where they are smaller; texture range of all held-out cells.
    """

    measures: pd.DataFrame
    between_training: pd.DataFrame
    texture_low: float
    texture_high: float
    cells: NDArray[np.int64]
    fold: NDArray[np.int64]

    def limits(self, pass_share: float, subset: NDArray[np.bool_] | None = None) -> Limits:
        """Return limits that at least ``pass_share`` of the cells (of the subset) pass."""
        measures = self.measures if subset is None else self.measures[subset]
        training = self.between_training
        base = Limits(
            probability=lower_limit(measures["probability"], PROBABILITY_TAIL),
            ball_ratio=max(1.0, -lower_limit(-measures["ball_ratio"], TAIL)),
            neighbour_share=min(0.5, lower_limit(measures["neighbour_share"], TAIL)),
            nearest_ratio=min(
                lower_limit(measures["nearest_ratio"], TAIL), lower_limit(training["nearest_ratio"], TAIL)
            ),
            pixel_distance=min(
                lower_limit(measures["pixel_distance"], TAIL), lower_limit(training["pixel_distance"], TAIL)
            ),
            texture_low=self.texture_low,
            texture_high=self.texture_high,
        )
        limits = base
        for value in np.sort(measures["probability"].to_numpy())[::-1]:
            limits = replace(base, probability=min(base.probability, float(value)))
            if limits.passed(measures).all(axis=1).mean() >= pass_share:
                break
        return limits

    def cross_fitted(self, pass_share: float, fold: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which cells pass limits from the other folds."""
        out = np.zeros(len(self.measures), dtype=bool)
        for number in np.unique(fold):
            inside = fold == number
            out[inside] = self.limits(pass_share, ~inside).passed(self.measures[inside]).all(axis=1)
        return out


@dataclass(frozen=True)
class Gate:
    """The limits and the real cells from which they were derived; made by :meth:`fit`.

    Attributes:
        whitening: Projection of features.
        head: Linear discriminant on whitened features.
        bank: Whitened features (N,d) of inner-training cells.
        labels: Their labels (N,).
        radius: Their distances (N,) to the k-th neighbour of the same class.
        thumbnails: Their thumbnails (N,P), or None without images.
        limits: Limits by class number; a class without enough real cells has none.
        holdout_acceptance: Share of held-out cells accepted, by class number.
        holdout_passed: Held-out cells (H,) that pass limits from the other folds.
        k: Number of neighbours.
        verifier: Logits of the class verifier's network, or None.
        weights: Stacking weights of discriminant and network.
    """

    whitening: Whitening
    head: LinearDiscriminant
    bank: Floats
    labels: NDArray[np.int64]
    radius: Floats
    thumbnails: NDArray[np.float32] | None
    limits: dict[int, Limits]
    holdout_acceptance: dict[int, float]
    holdout_passed: NDArray[np.bool_]
    k: int
    verifier: ImageLogits | None = None
    weights: tuple[float, float] = (1.0, 0.0)

    @classmethod
    def fit(
        cls,
        features_train: Features,
        labels_train: NDArray[np.int64],
        features_holdout: Features,
        labels_holdout: NDArray[np.int64],
        n_classes: int,
        images_train: Tensor | None = None,
        images_holdout: Tensor | None = None,
        k: int = 5,
        min_train: int = 8,
        min_holdout: int = 4,
        verifier: ImageLogits | None = None,
        groups_holdout: NDArray[Any] | None = None,
    ) -> Gate:
        """Derive the limits from real cells.

        Args:
            features_train: Features (N,D) of inner-training cells.
            labels_train: Their labels (N,).
            features_holdout: Features (H,D) of held-out cells.
            labels_holdout: Their labels (H,).
            n_classes: Number K of classes.
            images_train: uint8 images (N,3,S,S), for texture and copies in pixels; None: features only.
            images_holdout: uint8 images (H,3,S,S), or None.
            k: Number of neighbours.
            min_train: A class with fewer training cells gets no limits, so none of its candidates is accepted.
            min_holdout: The same for held-out cells.
            verifier: A network trained on the training cells. Its logits (N,K) are stacked with those of the linear
                discriminant; without it, the discriminant gives the probabilities.
            groups_holdout: Patients or slides (H,). ``holdout_passed`` is cross-fitted over them.

        Raises:
            LeukError: If the arrays do not match, or if the verifier has no images.
        """
        if len(features_train) != len(labels_train) or len(features_holdout) != len(labels_holdout):
            raise LeukError(
                f"gate: {len(features_train)} features for {len(labels_train)} training labels, "
                f"{len(features_holdout)} for {len(labels_holdout)} held-out ones"
            )
        if (images_train is None) != (images_holdout is None):
            raise LeukError("gate: give the images of training and held-out cells, or of neither")
        if verifier is not None and images_holdout is None:
            raise LeukError("gate: a class verifier needs the images of training and held-out cells")
        whitening = Whitening.fit(features_train)
        bank, holdout = whitening(features_train), whitening(features_holdout)
        head = LinearDiscriminant.fit(bank, labels_train, holdout, labels_holdout, n_classes)
        radius = np.full(len(bank), np.inf)
        for c in np.unique(labels_train):
            members = labels_train == c
            within = distances(bank[members], bank[members])
            radius[members] = np.sort(within, axis=1)[:, min(k, members.sum() - 1)]
        radius = np.maximum(radius, 1e-9)
        small = None if images_train is None else thumbnails(images_train)
        weights = (1.0, 0.0)
        if verifier is not None and images_holdout is not None:
            network = np.asarray(verifier(images_holdout), dtype=np.float64)
            weights = stacking_weights(head.log_probabilities(holdout), network, labels_holdout)
        passed = np.zeros(len(labels_holdout), dtype=bool)
        gate = cls(whitening, head, bank, labels_train, radius, small, {}, {}, passed, k, verifier, weights)
        texture_low, texture_high = -np.inf, np.inf
        if images_holdout is not None and len(images_holdout):
            real = pd.Series(texture(images_holdout))
            texture_low, texture_high = lower_limit(real, TAIL / 4), -lower_limit(-real, TAIL / 4)
        train_counts = np.bincount(labels_train, minlength=n_classes)
        holdout_counts = np.bincount(labels_holdout, minlength=n_classes)
        evidence: dict[int, _ClassEvidence] = {}
        for c in range(n_classes):
            if train_counts[c] < max(min_train, 2) or holdout_counts[c] < min_holdout:
                continue
            rows = np.flatnonzero(labels_holdout == c)
            images = None if images_holdout is None else images_holdout[torch.from_numpy(rows)]
            fold = folds(None if groups_holdout is None else groups_holdout[rows], len(rows))
            between = gate._between_training_cells(c, images_train)
            measures = gate.measure(holdout[rows], c, images)
            evidence[c] = _ClassEvidence(measures, between, texture_low, texture_high, rows, fold)
        for pass_share in PASS_SHARES:
            for part in evidence.values():
                passed[part.cells] = part.cross_fitted(pass_share, folds(None, len(part.cells)))
            if not evidence or passed[np.concatenate([part.cells for part in evidence.values()])].mean() >= ACCEPTANCE:
                break
        for c, part in evidence.items():
            gate.limits[c] = part.limits(pass_share)
            passed[part.cells] = part.cross_fitted(pass_share, part.fold)
            gate.holdout_acceptance[c] = float(passed[part.cells].mean())
        return gate

    def _between_training_cells(self, label: int, images_train: Tensor | None) -> pd.DataFrame:
        """Return ``nearest_ratio`` and ``pixel_distance`` of training cells of a class to all other training cells.

        Cells of one slide are nearer to each other than to a held-out slide without being copies. A candidate may be
        as near to a training cell as another real cell of the same slide.
        """
        cells = np.flatnonzero(self.labels == label)[:MAX_COMPARED]
        rows = np.arange(len(cells))
        distance = distances(self.bank[cells], self.bank)
        distance[rows, cells] = np.inf
        nearest = distance.argmin(axis=1)
        out = pd.DataFrame({"nearest_ratio": distance[rows, nearest] / self.radius[nearest], "pixel_distance": np.inf})
        if self.thumbnails is not None and images_train is not None:
            views = transformed_thumbnails(images_train[torch.from_numpy(cells)])
            out["pixel_distance"] = nearest_of_views(views, self.thumbnails, cells).astype(float)
        return out

    def probabilities(self, whitened: Floats, images: Tensor | None = None) -> Floats:
        """Return the calibrated class probabilities (M,K) of candidates.

        Args:
            whitened: Whitened features (M,d).
            images: uint8 images (M,3,S,S); required if there is a verifier network.

        Raises:
            LeukError: If the images are missing.
        """
        if self.verifier is None:
            return self.head.probabilities(whitened)
        if images is None:
            raise LeukError("gate: its class verifier needs the candidates' images")
        if not len(images):
            return np.zeros((0, self.head.n_classes))
        discriminant, network = self.weights
        logits = np.asarray(self.verifier(images), dtype=np.float64)
        return softmax(discriminant * self.head.log_probabilities(whitened) + network * logits, axis=1)

    def measure(self, whitened: Floats, label: int, images: Tensor | None = None) -> pd.DataFrame:
        """Return the ``MEASURES`` of candidates of one class, one row each.

        Args:
            whitened: Whitened features (M,d).
            label: The class that the candidates should be of.
            images: uint8 images (M,3,S,S), or None.
        """
        distance = distances(whitened, self.bank)  # (M,N)
        own = self.labels == label
        neighbours = np.argsort(distance, axis=1, kind="stable")[:, : self.k]
        nearest = neighbours[:, 0]
        rows = np.arange(len(whitened))
        out = pd.DataFrame(
            {
                "probability": self.probabilities(whitened, images)[:, label],
                "ball_ratio": (distance[:, own] / self.radius[own]).min(axis=1, initial=np.inf),
                "neighbour_share": (self.labels[neighbours] == label).mean(axis=1),
                "nearest_ratio": distance[rows, nearest] / self.radius[nearest],
                "nearest": nearest,
                "pixel_distance": np.inf,
                "texture": 0.0 if images is None else texture(images),
            }
        )
        if self.thumbnails is not None and images is not None:
            out["pixel_distance"] = nearest_of_views(transformed_thumbnails(images), self.thumbnails)
        return out

    def screen(
        self,
        features: Features,
        labels: Sequence[int] | NDArray[np.int64],
        images: Tensor | None = None,
        accepted: tuple[Features, NDArray[np.int64], Tensor | None] | None = None,
    ) -> pd.DataFrame:
        """Accept or reject candidates.

        Args:
            features: Features (M,D), of the same encoder as in :meth:`fit`.
            labels: The classes (M,) that the candidates should be of.
            images: uint8 images (M,3,S,S), or None.
            accepted: Features, labels and images of candidates accepted earlier, which must not be repeated.

        Returns:
            One row per candidate, in order, with ``COLUMNS``. ``reason`` names the first test that fails and is empty
            for accepted candidates.
        """
        label_of = np.asarray(labels, dtype=np.int64)
        white = self.whitening(features)
        parts = []
        for c in np.unique(label_of):
            rows = np.flatnonzero(label_of == c)
            # Without images of real cells there is nothing to compare an image with.
            class_images = None if images is None or self.thumbnails is None else images[torch.from_numpy(rows)]
            table = self.measure(white[rows], int(c), class_images)
            if c not in self.limits:
                table["reason"] = NO_LIMITS
            else:
                passed = self.limits[int(c)].passed(table)
                first = np.argmin(passed, axis=1)
                table["reason"] = np.where(passed.all(axis=1), "", np.array(REASONS)[first])
                earlier = _AcceptedCells()
                if accepted is not None and len(accepted[0]):
                    same = np.flatnonzero(accepted[1] == c)
                    earlier_images = None if accepted[2] is None else accepted[2][torch.from_numpy(same)]
                    earlier = _AcceptedCells.of(self.whitening(accepted[0])[same], earlier_images)
                self._reject_duplicates(table, white[rows], class_images, earlier, self.limits[int(c)])
            table.insert(0, "label", int(c))
            parts.append(table.set_index(rows))
        out = pd.concat(parts).sort_index() if parts else pd.DataFrame(columns=list(COLUMNS))
        out["accepted"] = out["reason"] == ""
        return out

    def _reject_duplicates(
        self, table: pd.DataFrame, white: Floats, images: Tensor | None, accepted: _AcceptedCells, limits: Limits
    ) -> None:
        """Apply test (iv): accepted cells must be as far apart as a candidate must be from a training cell."""
        reach = np.maximum(limits.nearest_ratio * self.radius[table["nearest"].to_numpy()], 1e-6)
        reason = table["reason"].to_numpy(dtype=object).copy()
        rows = np.flatnonzero(reason == "")
        views = None
        if images is not None and len(rows):
            views = np.stack(list(transformed_thumbnails(images[torch.from_numpy(rows)])), axis=1)  # (R,72,P)
        for i, row in enumerate(rows):
            view = None if views is None else views[i]
            if accepted.contains(white[row], float(reach[row]), view, limits.pixel_distance):
                reason[row] = REASONS[3]
            else:
                accepted.add(white[row], None if view is None else view[IDENTITY])
        table["reason"] = reason

    def trade_off(self, features: Features, labels: NDArray[np.int64], images: Tensor | None = None) -> pd.DataFrame:
        """Return what other limits of test (i) would accept.

        Args:
            features: Features (H,D) of held-out cells.
            labels: Their labels (H,).
            images: uint8 images (H,3,S,S), or None.

        Returns:
            One row per class and share (``percentile``) of its held-out cells below the limit: label, percentile,
            and the shares of the class's ``own`` and of all ``other`` held-out cells that pass tests (i) and (ii).
            ``own`` is optimistic, because the same cells set the limits.
        """
        white = self.whitening(features)
        distance = distances(white, self.bank)
        votes = self.labels[np.argsort(distance, axis=1, kind="stable")[:, : self.k]]
        textures = np.zeros(len(white)) if images is None else texture(images)
        probability, rows = self.probabilities(white, images), []
        for c, limits in self.limits.items():
            same, own = self.labels == c, labels == c
            real = (distance[:, same] / self.radius[same]).min(axis=1) <= limits.ball_ratio
            real &= (votes == c).mean(axis=1) >= limits.neighbour_share
            real &= (textures >= limits.texture_low) & (textures <= limits.texture_high)
            for share in np.arange(0, 1, 0.02):
                passed = real & (probability[:, c] >= lower_limit(pd.Series(probability[own, c]), float(share)))
                rows.append((c, float(share), float(passed[own].mean()), float(passed[~own].mean())))
        return pd.DataFrame(rows, columns=["label", "percentile", "own", "other"])

    def memorised(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows of a table of :meth:`screen` fail test (iii), whatever test they fail first."""
        failed = np.zeros(len(table), dtype=bool)
        for c in np.unique(table["label"]):
            rows = np.flatnonzero(table["label"] == c)
            failed[rows] = ~self.limits[int(c)].passed(table.iloc[rows])[:, 2]
        return failed

    def table(self, classes: Sequence[str]) -> pd.DataFrame:
        """Return the limits and the held-out acceptance per class, for display."""
        rows = [
            {"class": classes[c], **vars(limits), "held-out accepted": self.holdout_acceptance[c]}
            for c, limits in self.limits.items()
        ]
        return pd.DataFrame(rows, columns=["class", *(field.name for field in fields(Limits)), "held-out accepted"])


class _AcceptedCells:
    """Whitened features and thumbnails of the accepted cells of a class."""

    def __init__(self) -> None:
        self.features: list[Floats] = []
        self.thumbnails: list[NDArray[np.float32]] = []

    @classmethod
    def of(cls, features: Floats, images: Tensor | None) -> _AcceptedCells:
        out = cls()
        out.features = list(features)
        out.thumbnails = [] if images is None else list(thumbnails(images))
        return out

    def add(self, feature: Floats, thumbnail: NDArray[np.float32] | None) -> None:
        self.features.append(feature)
        if thumbnail is not None:
            self.thumbnails.append(thumbnail)

    def contains(self, feature: Floats, reach: float, views: NDArray[np.float32] | None, pixels: float) -> bool:
        """Whether a cell is nearer than ``reach`` (features) or ``pixels`` (any transformed thumbnail) to one of these."""
        if not self.features:
            return False
        if distances(feature[None], np.stack(self.features)).min() < reach:
            return True
        return (
            views is not None and bool(self.thumbnails) and distances(views, np.stack(self.thumbnails)).min() < pixels
        )
