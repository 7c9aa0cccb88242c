r"""Tests of difference that scipy lacks: McNemar, DeLong, the t-test corrected for repeated splits, Holm.

References:
    McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or percentages.
    Psychometrika 12, 153-157.

    DeLong, E. R., DeLong, D. M. and Clarke-Pearson, D. L. (1988). Comparing the areas under two or more correlated
    receiver operating characteristic curves. Biometrics 44, 837-845.

    Sun, X. and Xu, W. (2014). Fast implementation of DeLong's algorithm. IEEE Signal Process. Lett. 21, 1389-1393.

    Nadeau, C. and Bengio, Y. (2003). Inference for the generalization error. Machine Learning 52, 239-281.

    Fagerland, M. W., Lydersen, S. and Laake, P. (2013). The McNemar test for binary matched-pairs data: mid-p and
    asymptotic are better than exact conditional. BMC Med. Res. Methodol. 13, 91.

    Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scand. J. Stat. 6, 65-70.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from leuk_lib.runs.errors import LeukError

Array = NDArray[np.float64]
ROUNDING = 1e-9  # differences of scores that are closer than this are equal


@dataclass(frozen=True)
class McNemar:
    """Outcome of McNemar's test.

    Attributes:
        only_first: cells that only the first model classifies correctly.
        only_second: cells that only the second model classifies correctly.
        p: two-sided exact p-value.
        mid_p: two-sided mid-p-value, half the probability of the observed table less: nearer to its level than the exact
            one, which is conservative (Fagerland et al. 2013).
    """

    only_first: int
    only_second: int
    p: float
    mid_p: float


def mcnemar_exact(first: ArrayLike, second: ArrayLike) -> McNemar:
    r"""McNemar's exact (binomial) test of two models on the same cells.

    With b cells that only the first model gets right and c that only the second does,

    .. math:: p = \min\!\left(1, 2 \sum_{k=0}^{\min(b, c)} \binom{b + c}{k} 2^{-(b + c)}\right),

    and the mid-p-value is :math:`p - \binom{b + c}{b} 2^{-(b + c)}`, or 1 if b = c.

    The test treats cells as independent, which the cells of a patient are not; the cluster bootstrap takes precedence.

    Args:
        first: (N,) bool, whether the first model classifies the cell correctly.
        second: (N,) bool, the same for the second model.

    Raises:
        LeukError: the two shapes differ or are not one-dimensional, or a value is neither 0 nor 1.

    References:
        McNemar 1947; Fagerland et al. 2013 (see the module).

    >>> mcnemar_exact([1] * 5 + [0] * 2, [0] * 5 + [1] * 2)
    McNemar(only_first=5, only_second=2, p=0.453125, mid_p=0.2890625)
    """
    hits = [np.asarray(values) for values in (first, second)]
    if not all(np.isin(values, (0, 1)).all() for values in hits):  # NaN would become True
        raise LeukError("McNemar: needs hits, 0 or 1 for each cell")
    a, b = (values.astype(bool) for values in hits)
    if a.shape != b.shape or a.ndim != 1:
        raise LeukError(f"McNemar: needs the hits of two models on the same cells, got shapes {a.shape} and {b.shape}")
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    only_first, only_second = table[0][1], table[1][0]
    p = float(mcnemar(table, exact=True).pvalue)
    observed = float(stats.binom.pmf(only_first, only_first + only_second, 0.5))
    mid_p = 1.0 if only_first == only_second else p - observed
    return McNemar(only_first, only_second, p, mid_p)


def delong_covariance(positive: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    r"""Areas under the ROC curve of M scores on the same cells, and the covariance of the areas.

    With m positives :math:`x_i`, n negatives :math:`y_j` and :math:`\psi` = 1, 1/2 or 0 for :math:`x_i` greater than,
    equal to or less than :math:`y_j`, the placement values are

    .. math:: V_i = \frac{1}{n} \sum_j \psi(x_i, y_j), \qquad W_j = \frac{1}{m} \sum_i \psi(x_i, y_j),

    the area is the mean of V, and the covariance matrix is :math:`\operatorname{Cov}(V)/m + \operatorname{Cov}(W)/n`.
    They are computed from mid-ranks (Sun & Xu 2014).

    Args:
        positive: (N,) bool.
        scores: (M,N) or (N,), higher for positives.

    Returns:
        Areas (M,) and covariance (M,M).

    Raises:
        LeukError: labels other than 0 and 1, fewer than two positive or two negative cells, shapes that do not match, or
            scores that are NaN or infinite.

    References:
        DeLong et al. 1988; Sun & Xu 2014 (see the module).
    """
    if not np.isin(positive, (0, 1)).all():  # NaN would become True
        raise LeukError("DeLong: needs a label, 0 or 1, for each cell")
    y = np.asarray(positive, dtype=bool)
    x = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    m, n = int(y.sum()), int((~y).sum())
    if x.shape[1:] != y.shape or min(m, n) < 2:
        raise LeukError(f"DeLong: needs at least two positive and two negative cells, got {m} and {n}")
    if not np.isfinite(x).all():
        raise LeukError(
            f"DeLong: {int((~np.isfinite(x)).any(axis=0).sum())} of {x.shape[1]} cells have NaN or infinite scores"
        )
    rank = stats.rankdata(x, axis=1)
    above = (rank[:, y] - stats.rankdata(x[:, y], axis=1)) / n  # share of negatives below each positive
    below = 1 - (rank[:, ~y] - stats.rankdata(x[:, ~y], axis=1)) / m  # share of positives above each negative
    covariance = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n
    return above.mean(axis=1), covariance


@dataclass(frozen=True)
class DeLong:
    """Two areas under the ROC curve, the standard error of their difference, z, and the two-sided p-value.

    z and p are NaN where the test cannot decide: see :func:`delong`.
    """

    first: float
    second: float
    standard_error: float
    z: float
    p: float


def delong(positive: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLong:
    r"""DeLong's test of two scores on the same cells: :math:`z = (A_1 - A_2) / \mathrm{SE}(A_1 - A_2)`.

    If both scores separate the classes perfectly, or not at all alike in every pair of cells, the estimated error is 0 and
    z is infinite or 0/0. That says nothing about other cells: with 2 positives and 2 negatives, a score that separates
    them and one that reverses them would differ with p = 0. Such a difference has no p-value (NaN). Areas that are equal
    because the two rank every cell alike have p = 1.

    Args:
        positive: (N,) bool.
        first: (N,) scores of the first model.
        second: (N,) scores of the second model; scores that rank the cells alike give z = 0 and p = 1.

    Raises:
        LeukError: as :func:`delong_covariance`.
    """
    areas, covariance = delong_covariance(positive, np.stack([np.asarray(first), np.asarray(second)]))
    error = float(np.sqrt(np.maximum(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    difference = float(areas[0] - areas[1])
    if error > ROUNDING:
        z = difference / error
    else:
        error, z = 0.0, 0.0 if abs(difference) <= ROUNDING else float("nan")
    return DeLong(float(areas[0]), float(areas[1]), error, z, float(2 * stats.norm.sf(abs(z))))


@dataclass(frozen=True)
class TTest:
    """A t statistic, its degrees of freedom, and the two-sided p-value."""

    t: float
    df: float
    p: float


def t_corrected(first: ArrayLike, second: ArrayLike, test_over_train: float) -> TTest:
    r"""Corrected resampled t-test of Nadeau & Bengio over J repeated splits of the same cells.

    .. math:: t = \frac{\bar d}{\sqrt{\left(\frac{1}{J} + \frac{n_\text{test}}{n_\text{train}}\right) s_d^2}},
              \qquad J - 1 \text{ degrees of freedom.}

    Repeated splits share training cells, so their differences vary less than those of independent experiments; the
    second term makes up for that.

    Args:
        first: (J,) scores of the first model, split by split.
        second: (J,) scores of the second model on the same splits.
        test_over_train: :math:`n_\text{test} / n_\text{train}`, positive.

    Raises:
        LeukError: fewer than two splits, a ratio that is not positive, equal differences, or a score that is NaN or
            infinite.

    References:
        Nadeau & Bengio 2003, eq. 9 (see the module).

    >>> round(t_corrected([3, 5, 7, 9, 11], [2, 3, 4, 5, 6], 0.25).t, 4)  # 3 / sqrt((1/5 + 1/4) * 2.5)
    2.8284
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise LeukError("corrected t-test: a score is NaN or infinite")
    j = len(difference)
    if j < 2 or not 0 < test_over_train < np.inf:
        raise LeukError(f"corrected t-test: needs at least two splits and a positive ratio, got {j}, {test_over_train}")
    if np.ptp(difference) <= ROUNDING * max(1.0, float(np.abs(difference).max())):
        raise LeukError("corrected t-test: all differences are equal, so their variance is unknown")
    t = float(difference.mean() / np.sqrt((1 / j + test_over_train) * difference.var(ddof=1)))
    return TTest(t, j - 1, float(2 * stats.t.sf(abs(t), j - 1)))


def holm(p_values: ArrayLike) -> Array:
    r"""Holm's step-down adjusted p-values, in the given order.

    For m p-values in ascending order, :math:`\tilde p_{(k)} = \max_{j \le k} \min(1, (m - j + 1)\, p_{(j)})`.

    Args:
        p_values: (m,); NaN stay NaN and do not count.

    Raises:
        LeukError: a value is not in [0, 1].

    References:
        Holm 1979 (see the module).

    >>> [round(float(p), 6) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = p.copy()
    known = ~np.isnan(p)
    if not ((p[known] >= 0) & (p[known] <= 1 + ROUNDING)).all():
        raise LeukError("Holm: a p-value is not in [0, 1]")
    order = np.argsort(p[known], kind="stable")
    # statsmodels' multipletests collects garbage in each call, which takes longer than all else in a table of results.
    steps = np.minimum(1, p[known][order] * np.arange(len(order), 0, -1))
    adjusted[np.flatnonzero(known)[order]] = np.maximum.accumulate(steps)
    return adjusted
