"""Tests of difference: McNemar, DeLong, the corrected resampled t-test, Holm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from leuk_lib.runs.errors import LeukError

Array = NDArray[np.float64]
ROUNDING = 1e-9  # differences of scores that lie closer than this are equal


@dataclass(frozen=True)
class McNemar:
    """``only_first`` cells that only the first model gets right, ``only_second`` the other way, two-sided exact p."""

    only_first: int
    only_second: int
    p: float


def mcnemar_exact(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact (binomial) test of two models' hits (N,) bool on the same cells (McNemar 1947).

    Cells count as independent, which cells of one patient are not: secondary to the clustered bootstrap.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise LeukError(f"McNemar: hits of the same cells are needed, got {a.shape} and {b.shape}")
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return McNemar(table[0][1], table[1][0], float(mcnemar(table, exact=True).pvalue))


def delong_covariance(positive: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Areas under the ROC curve (M,) of M scores (M,N) and their covariance (M,M) (DeLong et al. 1988).

    Placement values by mid-ranks (Sun & Xu 2014), so ties count one half. Raises ``LeukError`` unless there are at
    least two positive and two negative cells.
    """
    y = np.asarray(positive, dtype=bool)
    x = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    m, n = int(y.sum()), int((~y).sum())
    if x.shape[1:] != y.shape or min(m, n) < 2:
        raise LeukError(f"DeLong: needs two positive and two negative cells at least, got {m} and {n}")
    rank = stats.rankdata(x, axis=1)
    above = (rank[:, y] - stats.rankdata(x[:, y], axis=1)) / n  # share of negatives below each positive
    below = 1 - (rank[:, ~y] - stats.rankdata(x[:, ~y], axis=1)) / m  # share of positives above each negative
    covariance = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n
    return above.mean(axis=1), covariance


@dataclass(frozen=True)
class DeLong:
    """Two areas under the ROC curve, the standard error of their difference, z and two-sided p."""

    first: float
    second: float
    standard_error: float
    z: float
    p: float


def delong(positive: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLong:
    """DeLong's test of two scores (N,) on the same cells; equal scores give z = 0 and p = 1."""
    areas, covariance = delong_covariance(positive, np.stack([np.asarray(first), np.asarray(second)]))
    error = float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    difference = float(areas[0] - areas[1])
    z = difference / error if error > 0 else (0.0 if difference == 0 else float(np.copysign(np.inf, difference)))
    return DeLong(float(areas[0]), float(areas[1]), error, z, float(2 * stats.norm.sf(abs(z))))


@dataclass(frozen=True)
class TTest:
    """A t statistic, its degrees of freedom and two-sided p."""

    t: float
    df: float
    p: float


def t_unpaired(first: ArrayLike, second: ArrayLike) -> TTest:
    """Student's t-test of two independent samples with equal variances."""
    found = stats.ttest_ind(first, second)
    return TTest(float(found.statistic), float(found.df), float(found.pvalue))


def t_paired(first: ArrayLike, second: ArrayLike) -> TTest:
    """Student's t-test of paired differences."""
    found = stats.ttest_rel(first, second)
    return TTest(float(found.statistic), float(found.df), float(found.pvalue))


def t_corrected(first: ArrayLike, second: ArrayLike, test_over_train: float) -> TTest:
    """Nadeau & Bengio's corrected resampled t-test over J repeated splits (Machine Learning 52, 2003, eq. 9).

    t = mean(d) / sqrt((1/J + n_test/n_train) var(d)), J - 1 degrees of freedom: repeated splits share training cells, so
    their differences vary less than those of independent experiments. ``test_over_train`` is n_test/n_train.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    j = len(difference)
    if j < 2 or not test_over_train > 0:
        raise LeukError(f"corrected t-test: needs two splits at least and a positive ratio, got {j}, {test_over_train}")
    if np.ptp(difference) <= ROUNDING * max(1.0, float(np.abs(difference).max())):
        raise LeukError("corrected t-test: all differences are equal, so their variance is unknown")
    t = float(difference.mean() / np.sqrt((1 / j + test_over_train) * difference.var(ddof=1)))
    return TTest(t, j - 1, float(2 * stats.t.sf(abs(t), j - 1)))


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given; NaN stay NaN and do not count."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = p.copy()
    known = np.isfinite(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted
