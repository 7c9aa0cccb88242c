r"""Cluster bootstrap: resamples whole groups (patients, slides), because the cells of a group resemble each other.

Resample :math:`r` draws G groups out of G with replacement. With :math:`w_{rg}` the number of times that group g was
drawn, a mean over the cells becomes

.. math:: \bar v_r = \frac{\sum_g w_{rg} \sum_{i \in g} v_i}{\sum_g w_{rg} n_g}.

The standard deviation of :math:`\bar v_1, \dots, \bar v_R` is the standard error over groups, which the intervals of
:mod:`leuk_lib.statistics.intervals` take. The quantiles are not used: for few groups they lie too close together.

References:
    Field, C. A. and Welsh, A. H. (2007). Bootstrapping clustered data. J. R. Stat. Soc. B 69, 369-390.

    Owen, A. B. (2007). The pigeonhole bootstrap. Ann. Appl. Stat. 1, 386-411.

    Hesterberg, T. C. (2015). What teachers should know about the bootstrap. Am. Stat. 69, 371-386.

    Satterthwaite, F. E. (1946). An approximate distribution of estimates of variance components. Biometrics Bull. 2,
    110-114.

    Efron, B. (2014). Estimation and accuracy after model selection. JASA 109, 991-1007 (the covariance of the draws with
    the statistic, section 3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.tables import names_of
from leuk_lib.statistics.intervals import UNKNOWN, Spread, t_interval

Array = NDArray[np.float64]
BLOCK_SIZE = 4_000_000  # largest number of elements of a (resamples, cells) block
MANY_GROUPS = 400  # from here on Student's t is the normal distribution, and the degrees of freedom are not estimated
FEW_GROUPS = 20  # up to here intervals of skewed means are computed on the log scale
BOUNDED_GROUPS = 40  # up to here intervals of means of correlations are computed on Fisher's scale


@dataclass(frozen=True)
class Factor:
    """What was drawn: the groups, or the repetitions.

    Attributes:
        weights: (R,G) how often each was drawn.
        strata: (G,) stratum of each, from 0: the class of a patient's cells.
    """

    weights: NDArray[np.int64]
    strata: NDArray[np.int64]


class ClusterBootstrap:
    """One set of resamples of groups, shared by all metrics and models, so that differences are paired.

    ``scipy.stats.bootstrap`` resamples cells, not groups, and calls a Python function per resample.

    Args:
        groups: (N,) group of each cell; compared as strings.
        n_resamples: number of resamples R.
        rng: source of the draws.
        labels: (N,) class of each cell. Does not change the draws; where no group has cells of several classes, the
            degrees of freedom of standard errors are counted class by class.

    Attributes:
        weights: (R,G) how often each group was drawn.
        index: (N,) position of each cell's group among the G groups.
        n_groups: G.
        names: (G,) the groups.
        factors: what was drawn, for standard errors.

    Raises:
        LeukError: there is no cell, or a cell has no group.

    >>> bootstrap = ClusterBootstrap(["a", "a", "b"], 100, np.random.default_rng(0))
    >>> bootstrap.weights.shape, sorted(set(bootstrap.sums(np.ones(3)).tolist()))
    ((100, 2), [2.0, 3.0, 4.0])
    """

    def __init__(
        self, groups: ArrayLike, n_resamples: int, rng: np.random.Generator, labels: ArrayLike | None = None
    ) -> None:
        self.names, self.index = np.unique(names_of(groups), return_inverse=True)
        if not len(self.names):
            raise LeukError("bootstrap: there is no cell in this part")
        self.n_groups = len(self.names)
        self.weights = rng.multinomial(self.n_groups, np.full(self.n_groups, 1 / self.n_groups), size=n_resamples)
        self.factors = [Factor(self.weights, strata_of(self.index, labels))]

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
        if len(np.unique(np.asarray(repetitions))) > 1:
            crossed.factors = [*crossed.factors, *by_repetition.factors]
        return crossed

    def of_cells(self, groups: ArrayLike) -> Self:
        """The same resamples for other cells of the same groups, so that parts that share groups vary together.

        Args:
            groups: (n,) group of each of the other cells.

        Raises:
            LeukError: a group is not among those that were resampled.
        """
        part, names = copy.copy(self), names_of(groups)
        if unknown := sorted(set(names.tolist()) - set(self.names.tolist())):
            raise LeukError(f"bootstrap: group {unknown[0]!r} is not among those that were resampled")
        part.index = np.searchsorted(self.names, names)
        return part

    def __len__(self) -> int:
        return len(self.weights)

    def sums(self, values: Array) -> Array:
        """Sum of ``values`` (N,...) over the cells of each resample: (R,...)."""
        grouped = np.zeros((self.n_groups, *values.shape[1:]))
        np.add.at(grouped, self.index, values)
        return np.tensordot(self.weights.astype(np.float64), grouped, axes=1)

    def means(self, values: Array) -> Array:
        """Mean of ``values`` (N,) over the cells of each resample: (R,); NaN where it draws none of their groups."""
        with np.errstate(invalid="ignore"):
            return self.sums(values) / self.sums(np.ones(len(self.index)))

    def spread(self, samples: Array, per_class: bool = False) -> Spread:
        """`spread_of` a statistic whose values in the resamples are ``samples`` (R,)."""
        return spread_of(samples, self.factors, per_class)

    @property
    def fewest(self) -> int:
        """Number of groups of the class that has the fewest; of all if groups have cells of several classes."""
        return int(np.bincount(self.factors[0].strata).min())

    def bounded_interval(self, value: float, samples: Array, level: float = 0.95) -> tuple[float, float]:
        """Student's interval of a mean of values in [-1, 1], such as correlations.

        With ``BOUNDED_GROUPS`` groups or fewer it is computed on Fisher's scale: on the linear one it lies too high near 1,
        because the few groups with small values are often not among those drawn.

        Args:
            value: the mean, in [-1, 1].
            samples: (R,) its values in the resamples.
            level: coverage.

        Returns:
            low, high; (NaN, NaN) for one group.
        """
        scale: Literal["fisher", "linear"] = "fisher" if self.n_groups <= BOUNDED_GROUPS else "linear"
        return t_interval(value, self.spread(samples), level, scale)

    def skewed_interval(self, value: float, samples: Array, level: float = 0.95) -> tuple[float, float]:
        """Student's interval of a mean of positive values that may be skewed, such as ratios.

        With ``FEW_GROUPS`` groups or fewer it is computed on the log scale: on the linear one it lies too low for a skewed
        measure, because the few large values that hold much of the mean are often not among the groups.

        Args:
            value: the mean.
            samples: (R,) its values in the resamples.
            level: coverage.
        """
        spread = self.spread(samples)
        skewed = self.n_groups <= FEW_GROUPS and spread.error < value  # larger errors have no meaning on the log scale
        scale: Literal["linear", "log"] = "log" if skewed else "linear"
        return t_interval(value, spread, level, scale)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield slices of the resamples with the weights of all cells (r,N) in them, to bound the memory."""
        step = max(1, BLOCK_SIZE // len(self.index))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield part, self.weights[part][:, self.index].astype(np.float64)


def strata_of(index: NDArray[np.int64], labels: ArrayLike | None) -> NDArray[np.int64]:
    """Class of each group (G,), from 0; one class for all if a group has cells of several.

    Args:
        index: (N,) position of each cell's group.
        labels: (N,) class of each cell, or None.

    >>> strata_of(np.array([0, 0, 1, 2]), ["AML", "AML", "ALL", "AML"])
    array([1, 0, 1])
    """
    n_groups = int(index.max()) + 1
    if labels is None:
        return np.zeros(n_groups, dtype=np.int64)
    number = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    strata = np.zeros(n_groups, dtype=np.int64)
    strata[index] = number
    return strata if (strata[index] == number).all() else np.zeros(n_groups, dtype=np.int64)


def spread_of(samples: Array, factors: Sequence[Factor], per_class: bool = False) -> Spread:
    r"""Standard error of a statistic over groups and its degrees of freedom, from its values in the resamples.

    The influence :math:`u_g = \operatorname{Cov}_r(w_{rg}, s_r)` of each group (Efron 2014) divides the variance of the
    resampled values among the classes k, :math:`V_k = \sum_{g \in k} u_g^2`, and among groups and repetitions where both
    were drawn. A class of :math:`G_k` groups has :math:`G_k - 1` degrees of freedom; their sum is Satterthwaite's,

    .. math:: \nu = \frac{\big(\sum_k V_k\big)^2}{\sum_k V_k^2 / (G_k - 1)}, \qquad
              \mathrm{SE}^2 = \operatorname{Var}_r(s_r)\, \frac{\sum_k V_k\, G_k / (G_k - 1)}{\sum_k V_k},

    the second factor making up for the bootstrap's division by G in place of G - 1 (Hesterberg 2015). Where a few groups
    hold most of the variance, :math:`\nu` is at most :math:`2 / (\kappa - 1/G) - 1` with
    :math:`\kappa = \sum_g u_g^4 / (\sum_g u_g^2)^2`.

    Args:
        samples: (R,) the statistic in each resample; NaN is left out.
        factors: what was drawn. Variances of several factors add.
        per_class: whether the statistic averages over classes. A class of one group then leaves the error unknown;
            else such classes are counted together with the smallest other.

    Returns:
        The spread; unknown for one group or fewer than two finite samples.
    """
    known = np.isfinite(samples)
    first = factors[0]
    if known.sum() < 2 or first.weights.shape[1] < 2:
        return UNKNOWN
    strata = _no_single(first.strata, merge=not per_class)
    if strata is None:
        return UNKNOWN
    finite = samples[known]
    variance = float(finite.var())
    if variance == 0:
        return Spread(0.0, float(len(strata) - strata.max() - 1))
    sources = []  # share of the variance, the same widened, degrees of freedom
    for factor, of in zip(factors, [strata, *(f.strata for f in factors[1:])], strict=True):
        groups = factor.weights.shape[1]
        counts = np.bincount(of)
        if groups > MANY_GROUPS:  # more influences than the resamples can estimate
            inner = np.full(groups, np.sqrt(variance / groups))
        else:
            weights = factor.weights[known] - factor.weights[known].mean(axis=0)
            inner = (finite - finite.mean()) @ weights / len(finite)
        by_class = np.bincount(of, inner**2)
        total = float(by_class.sum())
        if total == 0:
            sources.append((0.0, 0.0, float("inf")))
            continue
        df = total**2 / float((by_class**2 / np.maximum(counts - 1, 1)).sum())
        if groups <= MANY_GROUPS:
            concentration = float((inner**4).sum()) / total**2
            df = min(df, max(1.0, 2 / max(concentration - 1 / groups, 1e-9) - 1))
        sources.append((total, float((by_class * counts / np.maximum(counts - 1, 1)).sum()), df))
    whole = sum(total for total, _, _ in sources)
    if whole == 0:
        return UNKNOWN
    errors = tuple((float(np.sqrt(variance * widened / whole)), df) for _, widened, df in sources)
    df = whole**2 / sum(total**2 / df for total, _, df in sources)
    return Spread(float(np.sqrt(sum(error**2 for error, _ in errors))), df, errors)


def _no_single(strata: NDArray[np.int64], merge: bool) -> NDArray[np.int64] | None:
    """Strata numbered from 0 without one of a single group; None if there is one and it must not be merged."""
    names, numbered, counts = np.unique(strata, return_inverse=True, return_counts=True)
    if (counts > 1).all():
        return numbered
    if not merge:
        return None
    single = np.flatnonzero(counts == 1)
    if len(single) == 1 and len(names) > 1:
        others = np.where(counts == 1, counts.max() + 1, counts)
        single = np.append(single, others.argmin())
    numbered = np.where(np.isin(numbered, single), single[0], numbered)
    return np.unique(numbered, return_inverse=True)[1]
