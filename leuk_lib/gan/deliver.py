"""From a trained generator to the synthetic cells that are handed on: draw, judge, hand on what the quota asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from leuk_lib.gan import balance
from leuk_lib.gan.features import Features, Head
from leuk_lib.gan.gate import JUDGED, Gate
from leuk_lib.gan.params import AcdbGanParams

FALLBACK = "class-weighted loss"

Draw = Callable[[int, int, int], Tensor]  # (class, first sample, count) -> images uint8
Embed = Callable[[Tensor], Features]


@dataclass(frozen=True)
class Delivery:
    """What is handed on, and the account of it.

    images (M,3,S,S) uint8, labels (M,) int64, features (M,D): accepted cells within the quota, class by class.
    gate: a row a candidate (round, class number, sample, statistics, reason, delivered). candidates: their images,
    in the order of ``gate``. classes: a row a class. rounds: quota and recall a class in each round.
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
        """Numbers of the classes that were owed cells and get a class-weighted loss instead."""
        return self.classes.loc[self.classes["instead"] == FALLBACK, "class_number"].tolist()


class _Pool:
    """All candidates of one class so far."""

    def __init__(self, label: int, draw: Draw, embed: Embed, gate: Gate) -> None:
        self.label, self._draw, self._embed, self._gate = label, draw, embed, gate
        self.images: list[Tensor] = []
        self.features: list[Features] = []
        self.tables: list[pd.DataFrame] = []

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables)

    def more(self, count: int, round_number: int) -> None:
        start = len(self)
        images = self._draw(self.label, start, count)
        features = self._embed(images)
        before = None
        if start:
            kept = self.table["accepted"].to_numpy()
            known = np.concatenate(self.features)[kept]
            before = (known, np.full(len(known), self.label), torch.cat(self.images)[torch.tensor(kept.tolist())])
        table = self._gate.judge(features, np.full(count, self.label), images, before)
        table.insert(0, "sample", range(start, start + count))
        table.insert(0, "round", round_number)
        self.images.append(images)
        self.features.append(features)
        self.tables.append(table)

    @property
    def table(self) -> pd.DataFrame:
        return pd.concat(self.tables, ignore_index=True)

    @property
    def accepted(self) -> int:
        return int(sum(table["accepted"].sum() for table in self.tables))


def deliver(
    draw: Draw,
    embed: Embed,
    gate: Gate,
    counts: ArrayLike,
    learned: Sequence[bool] | NDArray[np.bool_],
    recall: ArrayLike,
    real: tuple[Features, NDArray[np.int64]],
    held: tuple[Features, NDArray[np.int64]],
    params: AcdbGanParams,
) -> Delivery:
    """Rounds of quota -> candidates -> gate -> recall with what was delivered -> damped quota.

    ``counts`` (K,): real training cells a class; ``learned`` (K,): classes the generator knows; ``recall`` (K,):
    shrunk recall before any synthetic cell; ``real``, ``held``: features and labels of inner-training and held-out
    cells. A class whose acceptance, over at least ``params.pilot`` candidates, is under ``params.min_acceptance``
    has failed: its quota is 0 and its need is left to the class-weighted loss.
    """
    n = np.asarray(counts, dtype=np.int64)
    able = np.asarray(learned, dtype=bool) & np.isin(np.arange(len(n)), list(gate.limits))
    known = np.asarray(recall, dtype=np.float64)
    pools = {c: _Pool(c, draw, embed, gate) for c in np.flatnonzero(able).tolist()}
    failed: set[int] = set()
    wanted = np.zeros(len(n), dtype=np.int64)
    accounts = []
    for number in range(1, params.rounds + 1):
        fresh = balance.quota(n, known, params.beta, params.quota_need, params.quota_recall, params.rho)
        wanted = fresh if number == 1 else balance.damped(wanted, fresh, params.damping)
        for c, pool in pools.items():
            if wanted[c] > 0 and c not in failed:
                _fill(pool, int(wanted[c]), number, params)
                if pool.accepted < params.min_acceptance * len(pool):
                    failed.add(c)
        owed = np.array([wanted[c] if c in pools and c not in failed else 0 for c in range(len(n))])
        known_now = known
        features, labels, _ = _chosen(pools, owed)
        known = _recall_with(gate, real, held, features, labels, len(n))
        accounts += [
            {
                "round": number,
                "class_number": c,
                "recall": known_now[c],
                "quota": int(wanted[c]),
                "recall_after": known[c],
            }
            for c in range(len(n))
        ]
    features, labels, images = _chosen(pools, owed)
    table, candidates = _account(pools, owed)
    size = candidates.shape[-1] if len(candidates) else draw(int(next(iter(pools), 0)), 0, 1).shape[-1]
    return Delivery(
        images=torch.cat(images) if images else torch.zeros(0, 3, size, size, dtype=torch.uint8),
        labels=torch.from_numpy(labels),
        features=features,
        gate=table,
        candidates=candidates,
        classes=_summary(n, able, wanted, owed, pools, failed),
        rounds=pd.DataFrame(accounts),
    )


def _fill(pool: _Pool, wanted: int, number: int, params: AcdbGanParams) -> None:
    """Draw until ``wanted`` are accepted, the acceptance is too low, or ``max_candidates`` were drawn."""
    while pool.accepted < wanted and len(pool) < params.max_candidates:
        if len(pool) >= params.pilot and pool.accepted < params.min_acceptance * len(pool):
            return
        rate = max(pool.accepted / len(pool), params.min_acceptance) if len(pool) else 1.0
        more = int(np.ceil((wanted - pool.accepted) / rate))
        # The first look is always a whole pilot: less would not tell a failed class from bad luck.
        more = max(more, params.pilot - len(pool), 1)
        pool.more(min(more, params.max_candidates - len(pool), 4 * params.pilot), number)


def _chosen(pools: dict[int, _Pool], owed: NDArray[np.int64]) -> tuple[Features, NDArray[np.int64], list[Tensor]]:
    """The first ``owed`` accepted candidates of every class."""
    features, labels, images = [], [], []
    for c, pool in pools.items():
        if owed[c] == 0 or not len(pool):
            continue
        rows = np.flatnonzero(pool.table["accepted"].to_numpy())[: owed[c]]
        features.append(np.concatenate(pool.features)[rows])
        images.append(torch.cat(pool.images)[torch.from_numpy(rows)])
        labels.append(np.full(len(rows), c, dtype=np.int64))
    width = next((p.features[0].shape[1] for p in pools.values() if len(p)), 0)
    return (
        np.concatenate(features) if features else np.zeros((0, width), dtype=np.float32),
        np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64),
        images,
    )


def _recall_with(
    gate: Gate,
    real: tuple[Features, NDArray[np.int64]],
    held: tuple[Features, NDArray[np.int64]],
    features: Features,
    labels: NDArray[np.int64],
    n_classes: int,
) -> NDArray[np.float64]:
    """Shrunk held-out recall of a head that saw the synthetic cells beside the real ones."""
    x = gate.whitening(np.concatenate([real[0], features]) if len(features) else real[0])
    y = np.concatenate([real[1], labels])
    white = gate.whitening(held[0])
    head = Head.fit(x, y, white, held[1], n_classes)
    return balance.shrunk_recall(*head.recalled(white, held[1]))


def _account(pools: dict[int, _Pool], owed: NDArray[np.int64]) -> tuple[pd.DataFrame, Tensor]:
    tables, images = [], []
    for c, pool in pools.items():
        if not len(pool):
            continue
        table = pool.table
        table["delivered"] = table["accepted"] & (table["accepted"].cumsum() <= owed[c])
        tables.append(table)
        images += pool.images
    if not tables:
        empty = pd.DataFrame(columns=["round", "sample", *JUDGED, "delivered"])
        return empty, torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    return pd.concat(tables, ignore_index=True), torch.cat(images)


def _summary(
    counts: NDArray[np.int64],
    able: NDArray[np.bool_],
    wanted: NDArray[np.int64],
    owed: NDArray[np.int64],
    pools: dict[int, _Pool],
    failed: set[int],
) -> pd.DataFrame:
    rows = []
    for c in range(len(counts)):
        drawn = len(pools[c]) if c in pools else 0
        accepted = pools[c].accepted if drawn else 0
        handed = min(int(owed[c]), accepted)
        if wanted[c] == 0:
            instead = "nothing needed"
        elif not able[c] or c in failed:
            instead = FALLBACK
        else:
            instead = "" if handed >= wanted[c] else "fewer than asked for"
        rows.append(
            {
                "class_number": c, "real": int(counts[c]), "quota": int(wanted[c]), "candidates": drawn,
                "accepted": accepted, "acceptance": accepted / drawn if drawn else float("nan"),
                "delivered": handed, "instead": instead,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
