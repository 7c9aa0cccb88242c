r"""Confidence intervals of cells that come in groups (patients, slides), few of them included.

- a share of correct cells: :func:`korn_graubard`
- any other rate in [0, 1] (balanced accuracy, F1, area under the curve): :class:`Rate` at the effective size that its
  standard error over groups implies
- the difference of two rates: :func:`difference_interval`
- a mean of any other values: :func:`t_interval`

All use Student's t with the degrees of freedom that the groups give. ``tests/interval_coverage.py`` simulates how often
they contain the true value; the page "How the intervals are made" has the results.

References:
    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.

    Clopper, C. J. and Pearson, E. S. (1934). The use of confidence or fiducial limits illustrated in the case of the
    binomial. Biometrika 26, 404-413.

    Newcombe, R. G. (1998). Improved confidence intervals for the difference between binomial proportions based on paired
    data. Stat. Med. 17, 2635-2650.

    Korn, E. L. and Graubard, B. I. (1998). Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data. Survey Methodology 24, 193-201.

    Fisher, R. A. (1915). Frequency distribution of the values of the correlation coefficient in samples from an
    indefinitely large population. Biometrika 10, 507-521.

    Zou, G. Y. (2007). Toward using confidence intervals to compare correlations. Psychol. Methods 12, 399-413.

    Dean, N. and Pagano, M. (2015). Evaluating confidence interval methods for binomial proportions in clustered
    surveys. J. Surv. Stat. Methodol. 3, 484-503.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.tables import names_of

NO_INTERVAL = (float("nan"), float("nan"))
EXACT = 1e-12  # variances and distances from 0 and 1 below this are 0


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    r"""Wilson's interval of a proportion :math:`\hat p` out of ``n`` independent trials.

    .. math:: \frac{1}{1 + z^2/n} \left(\hat p + \frac{z^2}{2n}
              \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}}\right)

    with z the normal quantile of ``level``.

    Args:
        successes: number of successes, 0 to ``n``.
        n: number of trials; an effective size need not be whole.
        level: coverage in (0, 1).

    Raises:
        LeukError: another number of successes or level, or NaN.

    >>> low, high = wilson(15, 148)  # Newcombe 1998, table I
    >>> round(low, 4), round(high, 4)
    (0.0624, 0.1605)
    """
    _check_trials("Wilson's interval", successes, n, level)
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def clopper_pearson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion out of ``n`` independent trials, from quantiles of the beta distribution.

    Args:
        successes: number of successes, 0 to ``n``.
        n: number of trials; an effective size need not be whole.
        level: coverage in (0, 1), never below it.

    Raises:
        LeukError: another number of successes or level, or NaN.

    >>> low, high = clopper_pearson(15, 148)  # Newcombe 1998, table I
    >>> round(low, 4), round(high, 4)
    (0.0578, 0.1617)
    """
    _check_trials("Clopper and Pearson's interval", successes, n, level)
    tail = (1 - level) / 2
    low = 0.0 if successes <= EXACT else float(special.betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if n - successes <= EXACT else float(special.betainccinv(successes + 1, n - successes, tail))
    return low, high


def _check_trials(name: str, successes: float, n: float, level: float) -> None:
    if not (0 <= successes <= n and 0 < n < np.inf and 0 <= level <= 1):  # false for NaN
        raise LeukError(f"{name}: {successes} of {n} at level {level}; needs 0 to n of n > 0 and a level of 0 to 1")


def korn_graubard(hits: ArrayLike, groups: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    r"""Interval of a proportion of N cells in G groups: Clopper and Pearson's at the effective sample size.

    The size is divided by the design effect, the variance between groups over the binomial one, never below 1, and
    reduced for the few degrees of freedom :math:`\nu` of that variance:

    .. math:: n_\text{eff} = \frac{N}{\max(1, D)} \left(\frac{z}{t_\nu}\right)^2, \qquad
              D = \frac{\frac{G}{G-1} \sum_g \big(\sum_{i \in g} (x_i - \bar x)\big)^2 / N^2}{\bar x (1 - \bar x) / N}.

    Korn and Graubard take :math:`\nu = G - 1`. Near 0 and 1 that is too much: how far the groups differ is then known
    from those few only that hold the rarer outcome. Here :math:`\nu + 1` is the number of groups that hold it, at most
    Kish's number of groups of equal size, :math:`G_\text{eff} = N^2 / \sum_g n_g^2`.

    The size is at least :math:`G_\text{eff}`: cells of a group can be no more alike than equal. Where all cells agree it
    is this number: 3 correct patients are no certainty, however many cells each has. If each cell is its own group,
    there is nothing to estimate, and the size is N.

    Args:
        hits: (N,) 0 or 1 (or bool) per cell.
        groups: (N,) group of each cell; compared as strings.
        level: coverage in (0, 1).

    Returns:
        low, high, effective size; (NaN, NaN, 0) without cells and (NaN, NaN, 1) for one group.

    References:
        Korn & Graubard 1998; Dean & Pagano 2015 (see the module).

    >>> low, high, size = korn_graubard([1] * 300, ["a", "b", "c"] * 100)
    >>> round(low, 3), high, size
    (0.292, 1.0, 3.0)
    """
    rate = share(hits, groups)
    if not np.isfinite(rate.spread.error):
        return *NO_INTERVAL, float(rate.n > 0)
    return *rate.interval(level), rate.size(level)


def normal_quantile(level: float) -> float:
    """Number of standard errors on each side of a normal interval that covers ``level``; 1.96 for 95 %."""
    return float(special.ndtri((1 + level) / 2))


def t_quantile(level: float, df: float) -> float:
    """Number of standard errors on each side of Student's interval with ``df`` degrees of freedom.

    >>> round(t_quantile(0.95, 2), 3), round(t_quantile(0.95, float("inf")), 3)
    (4.303, 1.96)
    """
    # scipy.special is a hundred times faster than scipy.stats for single numbers, and p-values take dozens.
    return float(special.stdtrit(df, (1 + level) / 2)) if np.isfinite(df) else normal_quantile(level)


@dataclass(frozen=True)
class Spread:
    """How much a statistic varies between samples of groups.

    Attributes:
        error: its standard error; NaN where it is unknown.
        df: degrees of freedom of that error.
        parts: error and degrees of freedom of each source where there are several (groups and seeds).
    """

    error: float
    df: float
    parts: tuple[tuple[float, float], ...] = ()

    def quantile(self, level: float) -> float:
        r"""Number of standard errors on each side of an interval; Student's quantile for one source.

        Several sources add in quadrature, each with its own quantile (Zou 2007): :math:`\sqrt{\sum_j t_j^2 s_j^2}` in all. One
        quantile for the pooled degrees of freedom is too small where few seeds hold much of the variance.
        """
        if len(self.parts) < 2 or not self.error > 0:
            return t_quantile(level, self.df)
        return float(np.sqrt(sum((t_quantile(level, df) * error) ** 2 for error, df in self.parts))) / self.error


UNKNOWN = Spread(float("nan"), float("nan"))


def t_interval(
    value: float, spread: Spread, level: float = 0.95, scale: Literal["linear", "log", "fisher"] = "linear"
) -> tuple[float, float]:
    r"""Student's interval of a statistic.

    On the linear scale :math:`v \pm t_\nu\, \mathrm{SE}`, on the log scale :math:`v \exp(\pm t_\nu\, \mathrm{SE} / v)`,
    on Fisher's :math:`\tanh(\operatorname{artanh} v \pm t_\nu\, \mathrm{SE} / (1 - v^2))`. The latter two have half the
    tail probability, since few groups hold most of a skewed measure and their share is itself uncertain.

    Args:
        value: the statistic v.
        spread: its standard error over groups.
        level: coverage in (0, 1).
        scale: "log" for positive, skewed statistics such as a log loss, "fisher" for those in [-1, 1] such as a correlation;
            linear for a value outside of (0, infinity) or (-1, 1).

    Returns:
        low, high; NaN if the error is unknown.

    >>> low, high = t_interval(10.0, Spread(1.0, 2.0))
    >>> round(low, 3), round(high, 3)
    (5.697, 14.303)
    """
    if not (np.isfinite(value) and np.isfinite(spread.error)):
        return NO_INTERVAL
    half = spread.quantile(level if scale == "linear" else (1 + level) / 2) * spread.error
    if scale == "log" and value > 0:
        return value * float(np.exp(-half / value)), value * float(np.exp(half / value))
    if scale == "fisher" and abs(value) < 1:
        middle, half = np.arctanh(value), half / (1 - value**2)
        return float(np.tanh(middle - half)), float(np.tanh(middle + half))
    return value - half, value + half


def t_p(value: float, spread: Spread) -> float:
    """Two-sided p-value of Student's test that a statistic is 0.

    Args:
        value: the statistic.
        spread: its standard error over groups.

    Returns:
        p in [0, 1]; 1 for a value of 0, NaN if the error is 0 or unknown otherwise.

    >>> round(t_p(2.0, Spread(1.0, 10.0)), 4)
    0.0734
    """
    if value == 0 and np.isfinite(spread.error):
        return 1.0
    if not (np.isfinite(value) and spread.error > 0):
        return float("nan")
    return float(2 * stats.t.sf(abs(value) / spread.error, spread.df))


@dataclass(frozen=True)
class Rate:
    r"""A rate in [0, 1] with what its interval needs: Clopper and Pearson's at the size that its error implies.

    .. math:: n_\text{eff} = \min\!\left(N, \frac{v (1 - v)}{\mathrm{SE}^2}\right) \left(\frac{z}{t_\nu}\right)^2

    as in :func:`korn_graubard`, whose rule for values without variance it shares. Where groups and seeds vary, each has such
    a size from its part of the error, and the reciprocals add; only that of the groups is at least ``least``, for seeds can
    differ by any amount.

    Attributes:
        value: the rate v.
        spread: its standard error over groups; an error of 0 with ``constant`` means that the value is exact.
        n: number of cells N.
        least: effective size where the cells of each group are all alike; the size if no resample changes the value.
        constant: whether the value does not depend on the sample: the balanced accuracy of one answer for all cells.

    >>> low, high = Rate(0.5, Spread(0.05, 1e6), 1000, 10).interval()  # v (1 - v) / SE^2 is 100
    >>> round(low, 3), round(high, 3)
    (0.398, 0.602)
    """

    value: float
    spread: Spread
    n: float
    least: float
    constant: bool = False

    def size(self, level: float = 0.95) -> float:
        """Effective number of cells."""
        variance = self.value * (1 - self.value)
        if variance <= EXACT or self.spread.error <= EXACT:
            return self.least
        groups, *seeds = self.spread.parts or ((self.spread.error, self.spread.df),)
        size = self.n if groups[0] <= EXACT else min(self.n, variance / groups[0] ** 2)
        size = max(size * _narrowed(level, groups[1]), min(self.least, size))
        return 1 / (1 / size + sum(error**2 / variance / _narrowed(level, df) for error, df in seeds))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Low and high; NaN if the error is unknown, of no width for a constant."""
        if not (np.isfinite(self.value) and np.isfinite(self.spread.error)):
            return NO_INTERVAL
        if self.constant:
            return self.value, self.value
        size = self.size(level)
        return clopper_pearson(min(1.0, max(0.0, self.value)) * size, size, level)


def _narrowed(level: float, df: float) -> float:
    """Factor by which an effective size falls because its variance has ``df`` degrees of freedom only."""
    return (normal_quantile(level) / t_quantile(level, df)) ** 2


def equal_groups(groups: ArrayLike) -> float:
    r"""Kish's number of groups of equal size, :math:`N^2 / \sum_g n_g^2`.

    >>> equal_groups(["a", "a", "b", "b"]), equal_groups(["a", "a", "a", "b"])
    (2.0, 1.6)
    """
    return _equal_sizes(np.bincount(_numbered(groups)))


def _equal_sizes(sizes: NDArray[np.int64]) -> float:
    return float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum()) if len(sizes) else 0.0


def _numbered(groups: ArrayLike) -> NDArray[np.int64]:
    """Number of each cell's group (N,), from 0."""
    return np.unique(names_of(groups), return_inverse=True)[1]


def share(hits: ArrayLike, groups: ArrayLike) -> Rate:
    """Share of correct cells as a rate, its error from the variance between groups (see :func:`korn_graubard`).

    Args:
        hits: (N,) 0 or 1 (or bool) per cell.
        groups: (N,) group of each cell; compared as strings.

    Raises:
        LeukError: a value is neither 0 nor 1, or the lengths differ.
    """
    values = np.asarray(hits, dtype=np.float64)
    if values.shape != np.shape(groups) or not np.isin(values, (0, 1)).all():
        raise LeukError(f"share of correct cells: needs 0 or 1 and a group for each of {values.size} cells")
    n = len(values)
    if not n:
        return Rate(float("nan"), UNKNOWN, 0, 0.0)
    number = _numbered(groups)
    sizes, sums = np.bincount(number), np.bincount(number, values)
    g, p, alike = len(sizes), float(values.mean()), _equal_sizes(sizes)
    if g < 2:
        return Rate(p, UNKNOWN, n, alike)
    if g == n:
        return Rate(p, Spread(float(np.sqrt(p * (1 - p) / n)), float("inf")), n, n)
    informative = min((sums < sizes).sum(), (sums > 0).sum())
    df = max(1.0, min(float(informative), alike) - 1)
    error = max(_error_over_groups(sums - p * sizes, n), float(np.sqrt(p * (1 - p) / n)))
    return Rate(p, Spread(error, df), n, alike)


def _error_over_groups(residuals: NDArray[Any], n: int) -> float:
    """Standard error of a mean over n cells from the sums of its residuals per group."""
    g = len(residuals)
    return float(np.sqrt(g / (g - 1) * (residuals**2).sum()) / n)


def paired_shares(first: ArrayLike, second: ArrayLike, groups: ArrayLike) -> tuple[Rate, Rate, Spread]:
    """Two shares of correct cells on the same cells, and the error of their difference over groups.

    Args:
        first: (N,) hits of one model.
        second: (N,) hits of the other.
        groups: (N,) group of each cell.

    Returns:
        What :func:`difference_interval` takes.
    """
    one, other = share(first, groups), share(second, groups)
    if not np.isfinite(one.spread.error):
        return one, other, UNKNOWN
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    error = _error_over_groups(np.bincount(_numbered(groups), difference - difference.mean()), len(difference))
    return one, other, Spread(error, min(one.spread.df, other.spread.df))


def difference_interval(first: Rate, second: Rate, spread: Spread, level: float = 0.95) -> tuple[float, float]:
    r"""Interval of the difference of two rates of the same cells, from the intervals of the two.

    With :math:`[l_j, u_j]` the interval of rate :math:`v_j` and r the correlation of their errors,

    .. math:: \text{low} = v_1 - v_2 - \sqrt{(v_1 - l_1)^2 - 2r (v_1 - l_1)(u_2 - v_2) + (u_2 - v_2)^2},

    the upper limit likewise (Newcombe's method 10 with Wilson's intervals; Zou: with any). Here
    :math:`r = (s_1^2 + s_2^2 - s_d^2) / (2 s_1 s_2)` from the standard errors of the two and of the difference. Models that
    agree on every cell differ by at most the upper limit of none out of as many cells as there are groups. Where groups and
    seeds vary, the interval is at least as long as Student's: patients that both models find hard cancel in the
    difference, so that the few seeds hold more of its variance than of that of each model.

    Args:
        first: rate of one model.
        second: rate of the other on the same cells.
        spread: standard error of the difference over the same resamples.
        level: coverage in (0, 1).

    Returns:
        low, high in [-1, 1]; NaN if one of the two has no interval.

    References:
        Newcombe 1998; Zou 2007 (see the module).
    """
    (low_1, high_1), (low_2, high_2) = first.interval(level), second.interval(level)
    if first.value == second.value and spread.error == 0:
        most = (
            0.0 if first.constant and second.constant else clopper_pearson(0, min(first.least, second.least), level)[1]
        )
        return -most, most
    product = 2 * first.spread.error * second.spread.error
    r = 0.0
    if product > EXACT and np.isfinite(spread.error):
        r = (first.spread.error**2 + second.spread.error**2 - spread.error**2) / product
        r = min(1.0, max(-1.0, float(r)))
    low, high = _recovered(first.value, low_1, high_1, second.value, low_2, high_2, r)
    half, student = (high - low) / 2, spread.quantile(level) * spread.error
    if len(spread.parts) > 1 and half > 0 and student > half:
        difference, widening = first.value - second.value, student / half
        low = max(-1.0, difference - widening * (difference - low))
        high = min(1.0, difference + widening * (high - difference))
    return low, high


def _recovered(
    v1: float, low_1: float, high_1: float, v2: float, low_2: float, high_2: float, r: float
) -> tuple[float, float]:
    below_1, above_1, below_2, above_2 = v1 - low_1, high_1 - v1, v2 - low_2, high_2 - v2
    down = below_1**2 - 2 * r * below_1 * above_2 + above_2**2
    up = above_1**2 - 2 * r * above_1 * below_2 + below_2**2
    if not (np.isfinite(down) and np.isfinite(up)):
        return NO_INTERVAL
    difference = v1 - v2
    return max(-1.0, difference - float(np.sqrt(max(down, 0.0)))), min(1.0, difference + float(np.sqrt(max(up, 0.0))))


def difference_p(first: Rate, second: Rate, spread: Spread, smallest: float = 1e-6) -> float:
    """Two-sided p-value of no difference: the smallest 1 - level at which `difference_interval` excludes 0.

    Args:
        first: rate of one model.
        second: rate of the other on the same cells.
        spread: standard error of the difference.
        smallest: lowest p-value that is given.

    Returns:
        p in [``smallest``, 1]; NaN without an interval.
    """
    if not np.isfinite(difference_interval(first, second, spread)).all():
        return float("nan")

    def distance(log_p: float) -> float:
        low, high = difference_interval(first, second, spread, 1 - float(np.exp(log_p)))
        return max(low, -high)

    smallest_log, largest_log = float(np.log(smallest)), float(np.log1p(-1e-6))
    if distance(largest_log) <= 0:
        return 1.0
    if distance(smallest_log) > 0:
        return smallest
    return float(np.exp(optimize.brentq(distance, smallest_log, largest_log, xtol=1e-4)))


def format_interval(value: float, low: float, high: float, spec: str = ".3f") -> str:
    """Format a number with its interval; without an interval the number alone, without a number a dash.

    >>> format_interval(0.5, 0.25, 0.75, ".2f"), format_interval(0.5, float("nan"), float("nan"), ".2f")
    ('0.50 [0.25, 0.75]', '0.50')
    """
    if not np.isfinite(value):
        return "–"
    return f"{value:{spec}}" + (f" [{low:{spec}}, {high:{spec}}]" if np.isfinite(low) and np.isfinite(high) else "")
