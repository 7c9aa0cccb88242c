"""Intervals of shares and rates against published examples; groups reduce the effective sample size."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics import intervals
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import Rate, Spread, clopper_pearson, korn_graubard, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_newcombe_1998_table_1(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_clopper_pearson_newcombe_1998_table_1(hits, n, low, high):
    assert clopper_pearson(hits, n) == pytest.approx((low, high), abs=5e-5)
    exact = stats.binomtest(hits, n).proportion_ci()
    assert clopper_pearson(hits, n) == pytest.approx((exact.low, exact.high))


def test_if_all_cells_agree_the_groups_are_the_sample():
    low, high, size = korn_graubard(np.ones(300, bool), np.repeat(["a", "b", "c"], 100))
    assert (low, high) == pytest.approx(clopper_pearson(3, 3))
    assert size == 3


def test_cells_of_their_own_group_are_independent():
    hits = np.arange(100) < 85
    assert korn_graubard(hits, np.arange(100)) == pytest.approx((*clopper_pearson(85, 100), 100))


def test_identical_cells_of_a_group_count_once():
    hits = np.repeat([1, 0, 1, 1, 0, 1], 10)
    assert korn_graubard(hits, np.repeat(np.arange(6), 10))[2] == pytest.approx(5)  # G - 1 of 6 patients, not 60 cells


def test_few_degrees_of_freedom_reduce_the_size_as_korn_and_graubard_do():
    rng = np.random.default_rng(0)
    groups, hits = np.repeat(np.arange(5), 200), rng.random(1000) < np.repeat([0.75, 0.7, 0.65, 0.72, 0.68], 200)
    sums, p = np.bincount(groups, hits), hits.mean()
    variance = 5 / 4 * ((sums - 200 * p) ** 2).sum() / 1000**2
    size = p * (1 - p) / max(variance, p * (1 - p) / 1000) * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 4)) ** 2
    assert korn_graubard(hits, groups)[2] == pytest.approx(size)


def test_the_design_effect_is_never_below_one():
    hits = np.tile([True, True, False, True], 25)  # all groups alike: less than binomial variance
    factor = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 24)) ** 2
    assert korn_graubard(hits, np.repeat(np.arange(25), 4))[2] == pytest.approx(100 * factor)


def test_the_error_of_a_share_is_the_cluster_robust_one_of_statsmodels():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 9, 150)
    hits = (rng.random(150) < rng.uniform(0.2, 0.9, 9)[groups]).astype(float)
    theirs = sm.OLS(hits, np.ones(150)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert intervals.share(hits, groups).spread.error == pytest.approx(theirs.bse[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.5, 2])
def test_hits_are_zero_or_one(bad):
    with pytest.raises(LeukError, match="0 or 1"):
        korn_graubard([1, bad, 0], ["a", "b", "c"])


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize(
    "values",
    [(np.nan, 10), (11, 10), (-1, 10), (5, np.nan), (5, np.inf), (0, 0), (5, 10, np.nan), (5, 10, 1.5)],
    ids=str,
)
def test_numbers_that_are_no_trials_are_refused(interval, values):
    """max(0, NaN) is 0: 11 of 10 successes had the interval 0 to 1."""
    with pytest.raises(LeukError, match="needs 0 to n of n > 0"):
        interval(*values)


@pytest.mark.parametrize("groups", [["a", None, None], [1.0, np.nan, np.nan], pd.Series(["a", None, None])])
def test_cells_without_a_group_are_refused(groups):
    """They would be the cells of one patient called None."""
    with pytest.raises(LeukError, match="2 of 3 cells have no group"):
        korn_graubard([1, 0, 1], groups)
    with pytest.raises(LeukError, match="2 of 3 cells have no group"):
        ClusterBootstrap(groups, 10, np.random.default_rng(0))


def test_one_group_has_no_interval():
    assert np.isnan(korn_graubard([1, 0, 1], ["a"] * 3)[:2]).all()
    assert np.isnan(korn_graubard([], [])[:2]).all() and korn_graubard([], [])[2] == 0


def test_difference_newcombe_1998_paired():
    # Newcombe 1998, Stat. Med. 17, 2635, table II, case (36, 12, 2, 0): his method 10 (square-and-add without a correction
    # of the correlation is method 8): -0.01 difference .2000; Wilson's limits of 48/50 and 38/50, phi -.0877.
    n, a, b, c, d = 50, 36, 12, 2, 0
    first, second = (a + b) / n, (a + c) / n
    phi = (a * d - b * c) / np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    found = intervals._recovered(first, *wilson(a + b, n), second, *wilson(a + c, n), phi)
    assert found == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_the_correlation_of_two_rates_comes_from_the_error_of_the_difference():
    first, second = Rate(0.8, Spread(0.04, 1e6), 1e6, 10), Rate(0.7, Spread(0.05, 1e6), 1e6, 10)
    independent = intervals.difference_interval(first, second, Spread(np.hypot(0.04, 0.05), 1e6))
    paired = intervals.difference_interval(first, second, Spread(0.02, 1e6))
    assert paired[1] - paired[0] < independent[1] - independent[0]
    assert independent == pytest.approx(stats.norm.interval(0.95, 0.1, np.hypot(0.04, 0.05)), abs=0.01)
    assert paired == pytest.approx(stats.norm.interval(0.95, 0.1, 0.02), abs=0.02)


def test_the_difference_over_few_seeds_is_as_uncertain_as_students():
    parts = ((0.01, 40.0), (0.05, 2.0))
    both = Spread(float(np.hypot(0.01, 0.05)), 2.1, parts)
    first, second = (Rate(v, Spread(0.06, 40), 1e6, 10) for v in (0.8, 0.7))
    low, high = intervals.difference_interval(first, second, both)
    assert (high - low) / 2 == pytest.approx(np.hypot(0.01 * stats.t.ppf(0.975, 40), 0.05 * stats.t.ppf(0.975, 2)))
    alone = intervals.difference_interval(first, second, Spread(both.error, 40))
    assert alone[1] - alone[0] < (high - low) / 1.5


def test_few_seeds_make_a_rate_as_uncertain_as_student_does():
    error, patients = 0.02, 160
    of_groups, of_seeds = (error / 4, 150.0), (error, 2.0)
    both = Rate(0.6, Spread(float(np.hypot(of_groups[0], error)), 2.2, (of_groups, of_seeds)), 1e4, patients)
    low, high = both.interval()
    student = 2 * np.hypot(1.976 * error / 4, 4.303 * error)
    assert student <= high - low < 1.05 * student
    exact = Rate(0.6, Spread(error, 2.0, ((0.0, float("inf")), of_seeds)), 1e4, patients)
    assert exact.size() == pytest.approx(0.24 / (4.303 / 1.96 * error) ** 2, rel=0.02)


def test_the_p_value_is_that_of_the_interval():
    first, second = Rate(0.8, Spread(0.04, 30), 1e6, 10), Rate(0.7, Spread(0.05, 30), 1e6, 10)
    p = intervals.difference_p(first, second, Spread(0.045, 30))
    low, high = intervals.difference_interval(first, second, Spread(0.045, 30), 1 - p)
    assert min(abs(low), abs(high)) < 1e-3 and 0.01 < p < 0.1
    assert intervals.difference_p(first, first, Spread(0.0, 30)) == 1
    assert np.isnan(intervals.difference_p(first, Rate(0.7, intervals.UNKNOWN, 10, 3), intervals.UNKNOWN))
