"""The gate's limits: read off held-out real cells, and judged on held-out cells that they have not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PERCENTILE = 0.20  # of held-out real cells that test (i) may turn away
TAIL = 0.02  # of held-out real cells that each other limit may turn away
ACCEPT = 0.80  # of held-out real cells that must pass all tests, by limits that have not seen them
LEVELS = (0.80, 0.82, 0.84, 0.86, 0.88, 0.90, 0.92, 0.94, 0.96, 0.98, 1.0)  # shares that must pass the limits they set
FOLDS = 5  # parts of the held-out cells: each is judged by limits from the others


@dataclass(frozen=True)
class Limits:
    """Thresholds of one class: accepted are probability >= , ball <= , neighbours >= , memory >= , pixels >= , and
    flattest <= texture <= finest (the same for all classes)."""

    probability: float
    ball: float
    neighbours: float
    memory: float
    pixels: float
    flattest: float = -np.inf
    finest: float = np.inf


def lower(values: pd.Series, share: float) -> float:
    """The order statistic that turns away at most ``share`` of the values."""
    ordered = np.sort(values.to_numpy(dtype=np.float64))
    return float(ordered[int(share * len(ordered))])


def folds(groups: NDArray[Any] | None, count: int) -> NDArray[np.int64]:
    """(count,) in 0 … FOLDS-1: whole groups together; single cells where there are no two groups."""
    if groups is not None and len(np.unique(groups)) > 1:
        return np.unique(groups, return_inverse=True)[1] % FOLDS
    return np.arange(count) % FOLDS


def passes(stats: pd.DataFrame, limits: Limits) -> NDArray[np.bool_]:
    """(M,3) bool: tests (i), (ii), (iii)."""
    return np.stack(
        [
            stats["probability"] >= limits.probability,
            (stats["ball"] <= limits.ball)
            & (stats["neighbours"] >= limits.neighbours)
            & stats["texture"].between(limits.flattest, limits.finest),
            (stats["memory"] >= limits.memory) & (stats["pixels"] >= limits.pixels),
        ],
        axis=1,
    )


@dataclass(frozen=True)
class Evidence:
    """What the limits of one class come from: ``stats`` of its held-out cells (at positions ``cells``, in ``fold``);
    ``apart``: how far training cells are from each other, where that is less."""

    stats: pd.DataFrame
    apart: pd.DataFrame
    flattest: float
    finest: float
    cells: NDArray[np.int64]
    fold: NDArray[np.int64]

    def limits(self, level: float, chosen: NDArray[np.bool_] | None = None) -> Limits:
        """Limits that at least ``level`` of the cells (the ``chosen`` ones) pass."""
        stats, apart = self.stats if chosen is None else self.stats[chosen], self.apart
        base = Limits(
            probability=lower(stats["probability"], PERCENTILE),
            ball=max(1.0, -lower(-stats["ball"], TAIL)),
            neighbours=min(0.5, lower(stats["neighbours"], TAIL)),
            memory=min(lower(stats["memory"], TAIL), lower(apart["memory"], TAIL)),
            pixels=min(lower(stats["pixels"], TAIL), lower(apart["pixels"], TAIL)),
            flattest=self.flattest,
            finest=self.finest,
        )
        limits = base
        for value in np.sort(stats["probability"].to_numpy())[::-1]:
            limits = replace(base, probability=min(base.probability, float(value)))
            if passes(stats, limits).all(axis=1).mean() >= level:
                break
        return limits

    def passed(self, level: float, fold: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which cells pass limits from the other folds."""
        out = np.zeros(len(self.stats), dtype=bool)
        for part in np.unique(fold):
            now = fold == part
            out[now] = passes(self.stats[now], self.limits(level, ~now)).all(axis=1)
        return out
