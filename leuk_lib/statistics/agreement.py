r"""Cohen's kappa: how much more two readers agree than readers with the same habits would by chance.

With :math:`n_{jk}` the cells that the first reader calls j and the second k, of n in all,

.. math:: p_o = \frac{1}{n} \sum_k n_{kk}, \qquad
          p_e = \frac{1}{n^2} \sum_k n_{k \cdot} n_{\cdot k}, \qquad
          \kappa = \frac{p_o - p_e}{1 - p_e}.

It is 1 for full agreement, 0 for the agreement of chance, and undefined if both readers use one class only.
scikit-learn and statsmodels compute it for one table, and statsmodels its standard error for independent cells; the
cells of a patient are not, so that the interval comes from the cluster bootstrap.

References:
    Cohen, J. (1960). A coefficient of agreement for nominal scales. Educ. Psychol. Meas. 20, 37-46.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.tables import names_of
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import NO_INTERVAL, Spread, share

Array = NDArray[np.float64]


def kappa_of_counts(counts: ArrayLike) -> Array:
    """Cohen's kappa of tables of counts, for a batch of tables at once.

    Args:
        counts: (...,K,K) cells by the first (rows) and the second reader (columns).

    Returns:
        (...) kappa; NaN for an empty table and where both readers use one class only.

    >>> round(float(kappa_of_counts([[20, 5], [10, 15]])), 3)  # p_o = 35/50, p_e = 1/2
    0.4
    """
    table = np.asarray(counts, dtype=np.float64)
    n = table.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / n
        expected = _chance_agreement(table)
        kappa = (observed - expected) / (1 - expected)
    return np.where(1 - expected > 1e-12, kappa, np.nan)


def _chance_agreement(table: NDArray[Any]) -> Array:
    """Agreement by chance of tables of counts (...,K,K): (...)."""
    return (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / table.sum(axis=(-2, -1)) ** 2


@dataclass(frozen=True)
class Agreement:
    """Agreement of two readers on N cells.

    Attributes:
        n: cells.
        n_groups: groups (patients, slides) that they come from.
        agreement: share of the cells with equal labels, in [0,1].
        agreement_interval: its low and high end, `korn_graubard`.
        kappa: Cohen's kappa, at most 1; NaN if both readers use one class only.
        kappa_interval: its low and high end over resampled groups; NaN for one group.
        kappa_samples: (R,) kappa in each resample, for paired differences.
        bootstrap: the resamples.
    """

    n: int
    n_groups: int
    agreement: float
    agreement_interval: tuple[float, float]
    kappa: float
    kappa_interval: tuple[float, float]
    kappa_samples: Array = field(repr=False)
    bootstrap: ClusterBootstrap = field(repr=False)

    def spread_of_difference(self, other: Agreement) -> Spread:
        """Standard error of the difference of two kappas over the same resamples."""
        return self.bootstrap.spread(self.kappa_samples - other.kappa_samples)


def agreement(
    first: Sequence[str] | NDArray[np.str_], second: Sequence[str] | NDArray[np.str_],
    groups: NDArray[np.str_], bootstrap: ClusterBootstrap, level: float = 0.95,
) -> Agreement:  # fmt: skip
    """Agreement of two readers, with intervals over resampled groups.

    The interval of kappa is that of the share of agreement with kappa's standard error (`Rate.interval`), at the present
    chance agreement :math:`p_e`. Where the readers agree on every cell, it is as uncertain as the groups are few.

    Args:
        first: (N,) labels of the first reader.
        second: (N,) labels of the second reader; the two may use different classes.
        groups: (N,) group of each cell, those that ``bootstrap`` resamples.
        bootstrap: resamples; share it between pairs of readers, so that differences are paired.
        level: coverage of the intervals.

    Raises:
        LeukError: the lengths differ, or a cell has no label.
    """
    a, b = (names_of(labels, "label") for labels in (first, second))
    if not len(a) == len(b) == len(groups) == len(bootstrap.index):
        raise LeukError(f"agreement: {len(a)} and {len(b)} labels of {len(groups)} cells; each cell needs both")
    names = np.unique(np.concatenate([a, b]))
    pair = np.searchsorted(names, a) * len(names) + np.searchsorted(names, b)
    k = len(names)
    occurring, position = np.unique(pair, return_inverse=True)  # few of the K x K pairs occur
    resampled = np.zeros((len(bootstrap), k * k))
    resampled[:, occurring] = bootstrap.sums(np.eye(len(occurring))[position])
    samples = kappa_of_counts(resampled.reshape(-1, k, k))
    counts = np.bincount(pair, minlength=k * k).reshape(k, k)
    kappa, same = float(kappa_of_counts(counts)), share(a == b, groups)
    interval = NO_INTERVAL
    if np.isfinite(kappa):
        expected = float(_chance_agreement(counts))
        spread = bootstrap.spread(samples)
        error = Spread(spread.error * (1 - expected), spread.df)
        low, high = replace(same, spread=error).interval(level)
        interval = (low - expected) / (1 - expected), (high - expected) / (1 - expected)
    return Agreement(len(a), bootstrap.n_groups, same.value, same.interval(level), kappa, interval, samples, bootstrap)
