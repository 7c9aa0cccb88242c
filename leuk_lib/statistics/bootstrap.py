r"""Cluster bootstrap: resamples whole groups (patients, slides), because the cells of a group resemble each other.

Resample :math:`r` draws G groups out of G with replacement. With :math:`w_{rg}` the number of times that group g was
drawn, a mean over the cells becomes

.. math:: \bar v_r = \frac{\sum_g w_{rg} \sum_{i \in g} v_i}{\sum_g w_{rg} n_g},

and the quantiles of :math:`\bar v_1, \dots, \bar v_R` are the percentile interval.

References:
    Field, C. A. and Welsh, A. H. (2007). Bootstrapping clustered data. J. R. Stat. Soc. B 69, 369-390.

    Owen, A. B. (2007). The pigeonhole bootstrap. Ann. Appl. Stat. 1, 386-411.

    Davison, A. C. and Hinkley, D. V. (1997). Bootstrap Methods and their Application. Cambridge, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leuk_lib.runs.errors import LeukError

Array = NDArray[np.float64]
BLOCK_SIZE = 4_000_000  # largest number of elements of a (resamples, cells) block


class ClusterBootstrap:
    """One set of resamples of groups, shared by all metrics and models, so that differences are paired.

    ``scipy.stats.bootstrap`` resamples cells, not groups, and calls a Python function per resample.

    Args:
        groups: (N,) group of each cell; compared as strings.
        n_resamples: number of resamples R.
        rng: source of the draws.

    Attributes:
        weights: (R,G) how often each group was drawn.
        index: (N,) position of each cell's group among the G groups.
        n_groups: G.

    Raises:
        LeukError: there is no cell.

    >>> bootstrap = ClusterBootstrap(["a", "a", "b"], 100, np.random.default_rng(0))
    >>> bootstrap.weights.shape, sorted(set(bootstrap.sums(np.ones(3)).tolist()))
    ((100, 2), [2.0, 3.0, 4.0])
    """

    def __init__(self, groups: ArrayLike, n_resamples: int, rng: np.random.Generator) -> None:
        names, self.index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
        if not len(names):
            raise LeukError("bootstrap: there is no cell in this part")
        self.n_groups = len(names)
        self.weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)

    @classmethod
    def crossed(cls, groups: ArrayLike, repetitions: ArrayLike, n_resamples: int, rng: np.random.Generator) -> Self:
        """Resample groups and repetitions independently of each other (pigeonhole bootstrap, Owen 2007).

        A cell's weight is the product of the weights of its group and of its repetition. The groups are drawn first,
        so that with one repetition the weights are those of ``ClusterBootstrap(groups, ...)``. In ``weights``, ``index``
        and ``n_groups`` of the result, each pair of a group and a repetition that occurs counts as one group.

        Args:
            groups: (N,) group of each cell.
            repetitions: (N,) repetition (split, seed) that the cell belongs to.
            n_resamples: number of resamples R.
            rng: source of the draws.
        """
        crossed = cls(groups, n_resamples, rng)
        by_repetition = cls(repetitions, n_resamples, rng)
        pairs, index = np.unique(np.stack([crossed.index, by_repetition.index]), axis=1, return_inverse=True)
        crossed.weights = crossed.weights[:, pairs[0]] * by_repetition.weights[:, pairs[1]]
        crossed.index, crossed.n_groups = index.reshape(-1), pairs.shape[1]
        return crossed

    def __len__(self) -> int:
        return len(self.weights)

    def sums(self, values: Array) -> Array:
        """Sum of ``values`` (N,...) over the cells of each resample: (R,...)."""
        grouped = np.zeros((self.n_groups, *values.shape[1:]))
        np.add.at(grouped, self.index, values)
        return np.tensordot(self.weights.astype(np.float64), grouped, axes=1)

    def means(self, values: Array) -> Array:
        """Mean of ``values`` (N,) over the cells of each resample: (R,)."""
        return self.sums(values) / self.sums(np.ones(len(self.index)))

    def mean_interval(
        self, values: Array, level: float = 0.95, tails: tuple[float, float] | None = None
    ) -> tuple[float, float]:
        """Percentile interval of the mean of ``values`` (N,); (NaN, NaN) for one group, which has no spread."""
        if self.n_groups < 2:
            return float("nan"), float("nan")
        return percentile_interval(self.means(values), level, tails)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield slices of the resamples with the weights of all cells (r,N) in them, to bound the memory."""
        step = max(1, BLOCK_SIZE // len(self.index))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield part, self.weights[part][:, self.index].astype(np.float64)


def percentile_interval(
    samples: Array, level: float = 0.95, tails: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Percentile interval of resampled values (R,), NaN left out; (NaN, NaN) if none is left.

    Args:
        samples: (R,) a statistic in each resample.
        level: coverage in (0, 1); the tails are ``(1 - level) / 2`` and ``(1 + level) / 2``.
        tails: the two quantiles themselves, instead of ``level``. In floating point (1 - 0.95) / 2 is not 0.025;
            recorded numbers that used 0.025 keep their last bit in this way.

    >>> percentile_interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, tails or [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(first: Array, second: Array, level: float = 0.95) -> tuple[float, float, float]:
    r"""Percentile interval and two-sided bootstrap p-value of ``first - second`` over the same resamples.

    With :math:`d_1, \dots, d_R` the differences,

    .. math:: p = \min\!\left(1, 2\,\frac{\min(\#\{d_r \le 0\}, \#\{d_r \ge 0\}) + 1}{R + 1}\right),

    which is never 0 (Davison & Hinkley 1997, section 4.2).

    Args:
        first: (R,) the statistic of one model in each resample.
        second: (R,) that of the other model in the same resamples; NaN differences are left out.
        level: coverage of the interval.

    Returns:
        low, high, p; all NaN if no difference is finite.

    >>> paired_difference(np.array([0.5, 0.75, 1.0]), np.array([0.25, 0.5, 0.5]), level=0.5)
    (0.25, 0.375, 0.5)
    """
    difference = first - second
    kept = difference[np.isfinite(difference)]
    if not len(kept):
        return float("nan"), float("nan"), float("nan")
    low, high = percentile_interval(kept, level)
    tail = min((kept <= 0).sum(), (kept >= 0).sum())
    return low, high, float(min(1.0, 2 * (tail + 1) / (len(kept) + 1)))
