"""Delivery: generate candidates, screen them, and deliver accepted ones up to the quota of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from leuk_lib.gan import balance
from leuk_lib.gan.features import Features
from leuk_lib.gan.gate import COLUMNS, Gate
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.verifier import LinearDiscriminant

FALLBACK = "class-weighted loss"

Generate = Callable[[int, int, int], Tensor]  # (class, first sample, count) -> uint8 images
Embed = Callable[[Tensor], Features]
Labelled = tuple[Features, NDArray[np.int64]]  # features and labels of real cells


@dataclass(frozen=True)
class Delivery:
    """The delivered cells and how they came about.

    Attributes:
        images: Delivered images (M,3,S,S) uint8, class by class.
        labels: Their labels (M,) int64.
        features: Their features (M,D).
        gate: One row per candidate: round, sample number, the gate's columns, and whether it was delivered.
        candidates: Images of all candidates (C,3,S,S) uint8, in the order of ``gate``.
        classes: One row per class: quota, candidates, acceptance, delivered, and what is used instead.
        rounds: One row per round and class: recall before and after, and quota.
    """

    images: Tensor
    labels: Tensor
    features: Features
    gate: pd.DataFrame
    candidates: Tensor
    classes: pd.DataFrame
    rounds: pd.DataFrame

    @property
    def fallbacks(self) -> list[int]:
        """Numbers of the classes that have a quota but get a class-weighted loss instead of synthetic cells."""
        return self.classes.loc[self.classes["instead"] == FALLBACK, "class_number"].tolist()


class _Candidates:
    """All candidates of one class so far."""

    def __init__(self, label: int, generate: Generate, embed: Embed, gate: Gate) -> None:
        self.label, self._generate, self._embed, self._gate = label, generate, embed, gate
        self.images: list[Tensor] = []
        self.features: list[Features] = []
        self.tables: list[pd.DataFrame] = []

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables)

    def add(self, count: int, round_number: int) -> None:
        """Generate and screen ``count`` more candidates."""
        start = len(self)
        images = self._generate(self.label, start, count)
        features = self._embed(images)
        earlier = None
        if start:
            mask = self.table["accepted"].to_numpy()
            accepted = np.concatenate(self.features)[mask]
            accepted_images = torch.cat(self.images)[torch.tensor(mask.tolist())]
            earlier = (accepted, np.full(len(accepted), self.label), accepted_images)
        table = self._gate.screen(features, np.full(count, self.label), images, earlier)
        table.insert(0, "sample", range(start, start + count))
        table.insert(0, "round", round_number)
        self.images.append(images)
        self.features.append(features)
        self.tables.append(table)

    def fill(self, quota: int, round_number: int, params: AcdbGanParams) -> None:
        """Add candidates until ``quota`` are accepted, the acceptance is too low, or ``max_candidates`` is reached."""
        while self.accepted < quota and len(self) < params.max_candidates:
            if len(self) >= params.pilot and self.accepted < params.min_acceptance * len(self):
                return
            rate = max(self.accepted / len(self), params.min_acceptance) if len(self) else 1.0
            count = int(np.ceil((quota - self.accepted) / rate))
            # The first batch is a whole pilot: fewer candidates would not tell a failed class from bad luck.
            count = max(count, params.pilot - len(self), 1)
            self.add(min(count, params.max_candidates - len(self), 4 * params.pilot), round_number)

    @property
    def table(self) -> pd.DataFrame:
        return pd.concat(self.tables, ignore_index=True)

    @property
    def accepted(self) -> int:
        return int(sum(table["accepted"].sum() for table in self.tables))


def deliver(
    generate: Generate,
    embed: Embed,
    gate: Gate,
    counts: ArrayLike,
    learned: Sequence[bool] | NDArray[np.bool_],
    recall: ArrayLike,
    train: Labelled,
    holdout: Labelled,
    params: AcdbGanParams,
) -> Delivery:
    """Fill the quotas in rounds.

    A round computes the quotas from counts and recall, adds candidates until they are filled, and measures the held-out
    recall with the accepted cells added to the training cells. The quota of the next round is damped. A class has
    failed if fewer than ``params.min_acceptance`` of its candidates are accepted; it gets no synthetic cell and is left
    to the class-weighted loss.

    Args:
        generate: Maps (class, first sample, count) to images (count,3,S,S) uint8.
        embed: Maps uint8 images to features, as for the gate.
        gate: The fitted gate.
        counts: Real training cells per class (K,).
        learned: Classes that the generator was trained on (K,).
        recall: Shrunk held-out recall (K,) without synthetic cells.
        train: Features (N,D) and labels (N,) of inner-training cells.
        holdout: Features (H,D) and labels (H,) of held-out cells.
        params: Quotas, rounds, and limits on the number of candidates.
    """
    n = np.asarray(counts, dtype=np.int64)
    eligible = np.asarray(learned, dtype=bool) & np.isin(np.arange(len(n)), list(gate.limits))
    recalls = np.asarray(recall, dtype=np.float64)
    pools = {c: _Candidates(c, generate, embed, gate) for c in np.flatnonzero(eligible).tolist()}
    failed: set[int] = set()
    quotas = np.zeros(len(n), dtype=np.int64)
    rounds = []
    for number in range(1, params.rounds + 1):
        fresh = balance.quota(n, recalls, params.beta, params.quota_need, params.quota_recall, params.rho)
        quotas = fresh if number == 1 else balance.damped(quotas, fresh, params.damping)
        for c, pool in pools.items():
            if quotas[c] > 0 and c not in failed:
                pool.fill(int(quotas[c]), number, params)
                if pool.accepted < params.min_acceptance * len(pool):
                    failed.add(c)
        granted = np.array([quotas[c] if c in pools and c not in failed else 0 for c in range(len(n))])
        before = recalls
        features, labels, images = _first_accepted(pools, granted)
        recalls = _augmented_recall(gate, train, holdout, features, labels, len(n))
        rounds += [
            {
                "round": number, "class_number": c, "recall": before[c], "quota": int(quotas[c]),
                "recall_after": recalls[c],
            }
            for c in range(len(n))
        ]  # fmt: skip
    table, candidates = _candidate_table(pools, granted)
    size = candidates.shape[-1] if len(candidates) else generate(int(next(iter(pools), 0)), 0, 1).shape[-1]
    return Delivery(
        images=torch.cat(images) if images else torch.zeros(0, 3, size, size, dtype=torch.uint8),
        labels=torch.from_numpy(labels),
        features=features,
        gate=table,
        candidates=candidates,
        classes=_class_table(n, eligible, quotas, granted, pools, failed),
        rounds=pd.DataFrame(rounds),
    )


def _first_accepted(
    pools: dict[int, _Candidates], granted: NDArray[np.int64]
) -> tuple[Features, NDArray[np.int64], list[Tensor]]:
    """Return features, labels and images of the first ``granted`` accepted candidates of each class."""
    features, labels, images = [], [], []
    for c, pool in pools.items():
        if granted[c] == 0 or not len(pool):
            continue
        rows = np.flatnonzero(pool.table["accepted"].to_numpy())[: granted[c]]
        features.append(np.concatenate(pool.features)[rows])
        images.append(torch.cat(pool.images)[torch.from_numpy(rows)])
        labels.append(np.full(len(rows), c, dtype=np.int64))
    width = next((pool.features[0].shape[1] for pool in pools.values() if len(pool)), 0)
    return (
        np.concatenate(features) if features else np.zeros((0, width), dtype=np.float32),
        np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64),
        images,
    )


def _augmented_recall(
    gate: Gate, train: Labelled, holdout: Labelled, features: Features, labels: NDArray[np.int64], n_classes: int
) -> NDArray[np.float64]:
    """Return the shrunk held-out recall of a discriminant fitted on real and synthetic cells."""
    x = gate.whitening(np.concatenate([train[0], features]) if len(features) else train[0])
    y = np.concatenate([train[1], labels])
    white = gate.whitening(holdout[0])
    head = LinearDiscriminant.fit(x, y, white, holdout[1], n_classes)
    return balance.shrunk_recall(*head.recalled(white, holdout[1]))


def _candidate_table(pools: dict[int, _Candidates], granted: NDArray[np.int64]) -> tuple[pd.DataFrame, Tensor]:
    """Return the table and the images of all candidates."""
    tables, images = [], []
    for c, pool in pools.items():
        if not len(pool):
            continue
        table = pool.table
        table["delivered"] = table["accepted"] & (table["accepted"].cumsum() <= granted[c])
        tables.append(table)
        images += pool.images
    if not tables:
        empty = pd.DataFrame(columns=["round", "sample", *COLUMNS, "delivered"])
        return empty, torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    return pd.concat(tables, ignore_index=True), torch.cat(images)


def _class_table(
    counts: NDArray[np.int64],
    eligible: NDArray[np.bool_],
    quotas: NDArray[np.int64],
    granted: NDArray[np.int64],
    pools: dict[int, _Candidates],
    failed: set[int],
) -> pd.DataFrame:
    """Return one row per class."""
    rows = []
    for c in range(len(counts)):
        candidates = len(pools[c]) if c in pools else 0
        accepted = pools[c].accepted if candidates else 0
        delivered = min(int(granted[c]), accepted)
        if quotas[c] == 0:
            instead = "nothing needed"
        elif not eligible[c] or c in failed:
            instead = FALLBACK
        else:
            instead = "" if delivered >= quotas[c] else "fewer than the quota"
        rows.append(
            {
                "class_number": c, "real": int(counts[c]), "quota": int(quotas[c]), "candidates": candidates,
                "accepted": accepted, "acceptance": accepted / candidates if candidates else float("nan"),
                "delivered": delivered, "instead": instead,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
