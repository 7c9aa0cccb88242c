"""Intervals that know that cells of one patient resemble each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint

from leuk_lib.runs.errors import LeukError

Array = NDArray[np.float64]
BUDGET = 4_000_000  # numbers of a (resamples, cells) block held at a time


class ClusterBootstrap:
    """The same resamples of groups for every metric and model, so that differences are paired.

    G groups are drawn with replacement, ``n_resamples`` times (Field & Welsh 2007: cluster bootstrap); weights
    (R,G) say how often each was drawn. scipy.stats.bootstrap resamples cells, not groups, and calls a Python
    function a resample.
    """

    def __init__(self, groups: ArrayLike, n_resamples: int, rng: np.random.Generator) -> None:
        names, self.index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
        if not len(names):
            raise LeukError("bootstrap: there is no cell in this part")
        self.n_groups = len(names)
        self.weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)

    @classmethod
    def crossed(cls, groups: ArrayLike, repetitions: ArrayLike, n_resamples: int, rng: np.random.Generator) -> Self:
        """Groups and repetitions (N,) resampled independently of each other (Owen 2007: the pigeonhole bootstrap).

        A cell counts as often as its group was drawn, times as often as its repetition was. Groups first: with one
        repetition the weights are those of the groups alone.
        """
        first = cls(groups, n_resamples, rng)
        second = cls(repetitions, n_resamples, rng)
        pairs, index = np.unique(np.stack([first.index, second.index]), axis=1, return_inverse=True)
        first.weights = first.weights[:, pairs[0]] * second.weights[:, pairs[1]]
        first.index, first.n_groups = index.reshape(-1), pairs.shape[1]
        return first

    def __len__(self) -> int:
        return len(self.weights)

    def sums(self, values: Array) -> Array:
        """(R,...) sum of ``values`` (N,...) over the cells of every resample."""
        grouped = np.zeros((self.n_groups, *values.shape[1:]))
        np.add.at(grouped, self.index, values)
        return np.tensordot(self.weights.astype(np.float64), grouped, axes=1)

    def means(self, values: Array) -> Array:
        """(R,) mean of ``values`` (N,) over the cells of every resample."""
        return self.sums(values) / self.sums(np.ones(len(self.index)))

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Weights of the cells (r,N), a block of resamples at a time."""
        step = max(1, BUDGET // len(self.index))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield part, self.weights[part][:, self.index].astype(np.float64)


def percentile(samples: Array, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval over the first axis, NaN left out; (NaN, NaN) where nothing is left."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion (Wilson 1927); ``n`` may be an effective size and need not be whole."""
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def clustered_wilson(hits: ArrayLike, groups: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Wilson's interval of a proportion of cells that come in groups: (low, high, effective n).

    The sample size is divided by the design effect, the variance between groups over the binomial one, never below
    1 (Korn & Graubard 1998; Dean & Pagano 2015). Where all cells agree the variance says nothing, and the number
    of groups is the size: 1.0 of 3 patients does not become certain by many cells a patient.
    """
    values = np.asarray(hits, dtype=np.float64)
    _, number = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    n, g = len(values), int(number.max()) + 1 if len(number) else 0
    if not n:
        return float("nan"), float("nan"), 0.0
    p = values.mean()
    if p in (0.0, 1.0) or g == 1:
        size = float(g)
    else:
        residual = np.bincount(number, values - p)
        clustered = g / (g - 1) * (residual**2).sum() / n**2
        size = n / max(1.0, clustered * n / (p * (1 - p)))
    low, high = wilson(p * size, size, level)
    return low, high, size


def paired_difference(ours: Array, theirs: Array, level: float = 0.95) -> tuple[float, float, float]:
    """Percentile interval and two-sided bootstrap p-value of ``ours - theirs`` over the same resamples (R,).

    p is twice the smaller tail at zero, with one added above and below (Davison & Hinkley 1997, section 4.2), so it is
    never 0 with a finite number of resamples.
    """
    difference = ours - theirs
    kept = difference[np.isfinite(difference)]
    if not len(kept):
        return float("nan"), float("nan"), float("nan")
    low, high = percentile(kept, level)
    tail = min((kept <= 0).sum(), (kept >= 0).sum())
    return low, high, float(min(1.0, 2 * (tail + 1) / (len(kept) + 1)))
