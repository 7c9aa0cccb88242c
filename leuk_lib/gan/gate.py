"""The gate: which synthetic cells may be handed on. Thresholds are what held-out real cells show.

A candidate of class c must pass four tests:
(i)   its calibrated probability of c is at least the 20th percentile of held-out real cells of c;
(ii)  it lies inside a k-NN ball of a real cell of c, most of its real neighbours are of c, and its texture is neither
      finer nor flatter than that of real cells;
(iii) it is no nearer to a training cell than other real cells are (features, and pixels, turned and moved);
(iv)  it is no copy, in the same sense, of a candidate that was already accepted.
In (ii) and (iii) a limit gives way as far as 2 % of the held-out cells of the class need; the percentile of (i) is
lowered where otherwise too few of them would pass all tests together. How many must pass is the least share for which
80 % of held-out cells pass limits that come from the others (cross-fitting): limits are read off the cells that they
fit best, so cells that they have not seen pass less often. Cells of a patient or slide that the limits have not seen
may pass less often still; how often is measured, and no limit is loosened for it.
The networks behind (i) to (iii) must not be the classifier under evaluation.
Source: Kynkäänniemi et al. 2019 (k-NN balls), Meehan et al. 2020 (nearest-real distances against held-out ones).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from leuk_lib.gan.features import Head, Whitening, stack
from leuk_lib.gan.limits import ACCEPT, LEVELS, TAIL, Evidence, Limits, folds, lower, passes
from leuk_lib.gan.pixels import UNMOVED, distances, moved_thumbnails, texture, thumbnails
from leuk_lib.runs.errors import LeukError

Floats = NDArray[np.float64]
MOST = 100  # training cells of a class that are compared with the others
# Columns of a judged table.
JUDGED = ("label", "probability", "ball", "neighbours", "memory", "nearest", "pixels", "texture", "reason", "accepted")
REASONS = ("not its class", "outside the real cells", "memorised", "duplicate")


Judge = Callable[[Tensor], NDArray[Any]]  # images (N,3,S,S) uint8 -> logits (N,K)


@dataclass(frozen=True)
class Gate:
    """Thresholds and the real cells they came from; made by :meth:`fit`.

    ``held_passed`` (H,) bool: which held-out cells pass limits from the other folds of held-out cells;
    ``held_acceptance``: their share a class.
    """

    whitening: Whitening
    head: Head
    bank: Floats  # (N,d) whitened features of inner-training cells
    labels: NDArray[np.int64]  # (N,)
    radius: Floats  # (N,) distance to the k-th neighbour of the same class
    thumbs: NDArray[np.float32] | None  # (N,P) thumbnails of the same cells
    limits: dict[int, Limits]
    held_acceptance: dict[int, float]
    held_passed: NDArray[np.bool_]
    k: int
    judge_logits: Judge | None = None
    judge_weights: tuple[float, float] = (1.0, 0.0)  # of the discriminant's and of the judge's logits

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
        judge: Judge | None = None,
        groups_held: NDArray[Any] | None = None,
    ) -> Gate:
        """From features (N,D), labels (N,), and, for texture and the copy test in pixels, images (N,3,S,S) uint8.

        ``judge``: logits (N,K) of images, from a network that was trained on the training cells; its logits and those
        of a linear discriminant on the features are added, with the weights that suit the held-out cells best. Without
        one the class probability is the discriminant's. ``groups_held`` (H,): patients or slides of
        the held-out cells; what limits do to cells they never saw is measured group by group.

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
        if judge is not None and images_held is None:
            raise LeukError("gate: a judge of images needs the images of training and held-out cells")
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
        weights = (1.0, 0.0)
        if judge is not None and images_held is not None:
            weights = stack(head.logits(held), np.asarray(judge(images_held), dtype=np.float64), labels_held)
        passed = np.zeros(len(labels_held), dtype=bool)
        gate = cls(whitening, head, bank, labels_train, radius, thumbs, {}, {}, passed, k, judge, weights)
        flattest, finest = -np.inf, np.inf
        if images_held is not None and len(images_held):
            real = pd.Series(texture(images_held))
            flattest, finest = lower(real, TAIL / 4), -lower(-real, TAIL / 4)
        trained = np.bincount(labels_train, minlength=n_classes)
        seen = np.bincount(labels_held, minlength=n_classes)
        evidence: dict[int, Evidence] = {}
        for c in range(n_classes):
            if trained[c] < max(min_train, 2) or seen[c] < min_held:
                continue
            mine = np.flatnonzero(labels_held == c)
            images = None if images_held is None else images_held[torch.from_numpy(mine)]
            fold = folds(None if groups_held is None else groups_held[mine], len(mine))
            apart = gate.between_training_cells(c, images_train)
            evidence[c] = Evidence(gate.statistics(held[mine], c, images), apart, flattest, finest, mine, fold)
        for level in LEVELS:
            for each in evidence.values():
                passed[each.cells] = each.passed(level, folds(None, len(each.cells)))
            if not evidence or passed[np.concatenate([each.cells for each in evidence.values()])].mean() >= ACCEPT:
                break
        for c, each in evidence.items():
            gate.limits[c] = each.limits(level)
            passed[each.cells] = each.passed(level, each.fold)
            gate.held_acceptance[c] = float(passed[each.cells].mean())
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

    def probabilities(self, whitened: Floats, images: Tensor | None = None) -> Floats:
        """(M,K) calibrated class probabilities of candidates: discriminant and judge together, or the discriminant alone."""
        if self.judge_logits is None:
            return self.head.probabilities(whitened)
        if images is None:
            raise LeukError("gate: its judge needs the candidates' images")
        if not len(images):
            return np.zeros((0, self.head.n_classes))
        ours, theirs = self.judge_weights
        judged = np.asarray(self.judge_logits(images), dtype=np.float64)
        return softmax(ours * self.head.logits(whitened) + theirs * judged, axis=1)

    def statistics(self, whitened: Floats, label: int, images: Tensor | None = None) -> pd.DataFrame:
        """The measured quantities of (M,d) candidates of class ``label``: a row each; larger ``ball`` is worse."""
        away = distances(whitened, self.bank)  # (M,N)
        own = self.labels == label
        near = np.argsort(away, axis=1, kind="stable")[:, : self.k]
        nearest = near[:, 0]
        rows = np.arange(len(whitened))
        out = pd.DataFrame(
            {
                "probability": self.probabilities(whitened, images)[:, label],
                "ball": (away[:, own] / self.radius[own]).min(axis=1, initial=np.inf),
                "neighbours": (self.labels[near] == label).mean(axis=1),
                "memory": away[rows, nearest] / self.radius[nearest],
                "nearest": nearest,
                "pixels": np.inf,
                "texture": 0.0 if images is None else texture(images),
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
        accepted: tuple[NDArray[np.float32], NDArray[np.int64], Tensor | None] | None = None,
    ) -> pd.DataFrame:
        """A row a candidate, in order: label, the statistics, ``accepted`` and ``reason`` (empty if accepted).

        features (M,D) as given to ``fit``; ``accepted``: features, labels and (where ``images`` are given) images of
        candidates accepted before, which the new ones must not repeat. Reasons are tried in the order of the tests; the first that fails is named.
        """
        label_of = np.asarray(labels, dtype=np.int64)
        white = self.whitening(features)
        parts = []
        for c in np.unique(label_of):
            mine = np.flatnonzero(label_of == c)
            # Without images of real cells there is nothing to compare a picture with.
            mine_images = None if images is None or self.thumbs is None else images[torch.from_numpy(mine)]
            stats = self.statistics(white[mine], int(c), mine_images)
            if c not in self.limits:
                stats["reason"] = "too few real cells to judge"
            else:
                passed = passes(stats, self.limits[int(c)])
                first = np.argmin(passed, axis=1)
                stats["reason"] = np.where(passed.all(axis=1), "", np.array(REASONS)[first])
                seen = _Accepted()
                if accepted is not None and len(accepted[0]):
                    same = np.flatnonzero(accepted[1] == c)
                    pictures = None if accepted[2] is None else accepted[2][torch.from_numpy(same)]
                    seen = _Accepted.of(self.whitening(accepted[0])[same], pictures)
                self._mark_duplicates(stats, white[mine], mine_images, seen, self.limits[int(c)])
            stats.insert(0, "label", int(c))
            parts.append(stats.set_index(mine))
        table = pd.concat(parts).sort_index() if parts else pd.DataFrame(columns=list(JUDGED))
        table["accepted"] = table["reason"] == ""
        return table

    def _mark_duplicates(
        self, stats: pd.DataFrame, white: Floats, images: Tensor | None, seen: _Accepted, limits: Limits
    ) -> None:
        """Test (iv): two accepted cells must be as far apart as a candidate must be from a training cell."""
        reach = np.maximum(limits.memory * self.radius[stats["nearest"].to_numpy()], 1e-6)
        reason = stats["reason"].to_numpy(dtype=object).copy()
        rows = np.flatnonzero(reason == "")
        moved = None
        if images is not None and len(rows):
            moved = np.stack(list(moved_thumbnails(images[torch.from_numpy(rows)])), axis=1)  # (R,72,P)
        for place, row in enumerate(rows):
            views = None if moved is None else moved[place]
            if seen.nearer(white[row], float(reach[row]), views, limits.pixels):
                reason[row] = REASONS[3]
            else:
                seen.add(white[row], None if views is None else views[UNMOVED])
        stats["reason"] = reason

    def trade_off(
        self, features: NDArray[np.float32], labels: NDArray[np.int64], images: Tensor | None = None
    ) -> pd.DataFrame:
        """What another limit of test (i) would do: a row a class and share of its own held-out cells to be turned away.

        features (H,D), labels (H,), images of the held-out cells. Columns label, percentile, own, other: shares of the
        class's own and of all other held-out cells that pass tests (i) and (ii). The limits are read off the same
        cells, so ``own`` is a little too good.
        """
        white = self.whitening(features)
        away = distances(white, self.bank)
        votes = self.labels[np.argsort(away, axis=1, kind="stable")[:, : self.k]]
        fine = np.zeros(len(white)) if images is None else texture(images)
        probability, rows = self.probabilities(white, images), []
        for c, limits in self.limits.items():
            same, mine = self.labels == c, labels == c
            real = (away[:, same] / self.radius[same]).min(axis=1) <= limits.ball
            real &= (
                ((votes == c).mean(axis=1) >= limits.neighbours) & (fine >= limits.flattest) & (fine <= limits.finest)
            )
            for share in np.arange(0, 1, 0.02):
                passed = real & (probability[:, c] >= lower(pd.Series(probability[mine, c]), float(share)))
                rows.append((c, float(share), float(passed[mine].mean()), float(passed[~mine].mean())))
        return pd.DataFrame(rows, columns=["label", "percentile", "own", "other"])

    def memorised(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows of ``judge``'s table fail test (iii), whatever other test they fail before."""
        limits = [self.limits[int(c)] for c in table["label"]]
        memory, pixels = (np.array([getattr(limit, key) for limit in limits]) for key in ("memory", "pixels"))
        return ((table["memory"] < memory) | (table["pixels"] < pixels)).to_numpy(dtype=bool)

    def table(self, classes: Sequence[str]) -> pd.DataFrame:
        """Limits and held-out acceptance a class, for display."""
        rows = [
            {"class": classes[c], **vars(limits), "held-out accepted": self.held_acceptance[c]}
            for c, limits in self.limits.items()
        ]
        return pd.DataFrame(rows, columns=["class", *(field.name for field in fields(Limits)), "held-out accepted"])


class _Accepted:
    """Whitened features and thumbnails of the accepted cells of a class."""

    def __init__(self) -> None:
        self.features: list[Floats] = []
        self.thumbs: list[NDArray[np.float32]] = []

    @classmethod
    def of(cls, features: Floats, images: Tensor | None) -> _Accepted:
        out = cls()
        out.features = list(features)
        out.thumbs = [] if images is None else list(thumbnails(images))
        return out

    def add(self, feature: Floats, thumb: NDArray[np.float32] | None) -> None:
        self.features.append(feature)
        if thumb is not None:
            self.thumbs.append(thumb)

    def nearer(self, feature: Floats, reach: float, views: NDArray[np.float32] | None, pixels: float) -> bool:
        """Whether a cell is nearer than ``reach`` (features) or ``pixels`` (any of its moved thumbnails) to one here."""
        if not self.features:
            return False
        if distances(feature[None], np.stack(self.features)).min() < reach:
            return True
        return views is not None and bool(self.thumbs) and distances(views, np.stack(self.thumbs)).min() < pixels
