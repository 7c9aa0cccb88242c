r"""Wilson's interval of a proportion, for independent cells and for cells that come in groups.

References:
    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.

    Korn, E. L. and Graubard, B. I. (1998). Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data. Survey Methodology 24, 193-201.

    Dean, N. and Pagano, M. (2015). Evaluating confidence interval methods for binomial proportions in clustered
    surveys. J. Surv. Stat. Methodol. 3, 484-503.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    r"""Wilson's interval of a proportion :math:`\hat p` out of ``n`` independent trials.

    .. math:: \frac{1}{1 + z^2/n} \left(\hat p + \frac{z^2}{2n}
              \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}}\right)

    with z the normal quantile of ``level``.

    Args:
        successes: number of successes, 0 to ``n``.
        n: number of trials; an effective size need not be whole.
        level: coverage in (0, 1).

    >>> low, high = wilson(15, 148)  # Newcombe 1998, table I
    >>> round(low, 4), round(high, 4)
    (0.0624, 0.1605)
    """
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def clustered_wilson(hits: ArrayLike, groups: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    r"""Wilson's interval of a proportion of N cells in G groups, at the effective sample size.

    The size is divided by the design effect, the variance between groups over the binomial one, never below 1:

    .. math:: n_\text{eff} = \frac{N}{\max(1, D)}, \qquad
              D = \frac{\frac{G}{G-1} \sum_g \big(\sum_{i \in g} (x_i - \bar x)\big)^2 / N^2}{\bar x (1 - \bar x) / N}.

    Where all cells agree, or there is one group, this variance says nothing and :math:`n_\text{eff} = G`: 3 correct
    patients are no certainty, however many cells each has.

    Args:
        hits: (N,) 0 or 1 (or bool) per cell.
        groups: (N,) group of each cell; compared as strings.
        level: coverage in (0, 1).

    Returns:
        low, high, effective size; (NaN, NaN, 0) without cells.

    References:
        Korn & Graubard 1998; Dean & Pagano 2015 (see the module).

    >>> low, high, size = clustered_wilson([1] * 300, ["a", "b", "c"] * 100)
    >>> round(low, 3), high, size
    (0.439, 1.0, 3.0)
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


def format_interval(value: float, low: float, high: float, spec: str = ".3f") -> str:
    """Format a number with its interval; without an interval the number alone, without a number a dash.

    >>> format_interval(0.5, 0.25, 0.75, ".2f"), format_interval(0.5, float("nan"), float("nan"), ".2f")
    ('0.50 [0.25, 0.75]', '0.50')
    """
    if not np.isfinite(value):
        return "–"
    return f"{value:{spec}}" + (f" [{low:{spec}}, {high:{spec}}]" if np.isfinite(low) and np.isfinite(high) else "")
