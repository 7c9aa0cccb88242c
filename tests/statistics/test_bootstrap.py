"""Cluster bootstrap: whole groups are drawn, crossed draws multiply, errors agree with scipy and know their degrees of freedom."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.bootstrap import ClusterBootstrap, strata_of
from leuk_lib.statistics.intervals import t_interval


def test_whole_groups_are_drawn():
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    bootstrap = ClusterBootstrap(groups, 200, np.random.default_rng(0))
    assert (bootstrap.weights.sum(axis=1) == 3).all()
    by_cell = np.concatenate([weights for _, weights in bootstrap.blocks()])
    np.testing.assert_array_equal(by_cell, bootstrap.sums(np.eye(6)))
    assert (by_cell[:, 0] == by_cell[:, 1]).all() and (by_cell[:, 3] == by_cell[:, 5]).all()


def test_sums_and_means_equal_a_naive_loop():
    rng = np.random.default_rng(1)
    groups, values = rng.integers(0, 7, 40), rng.normal(size=40)
    bootstrap = ClusterBootstrap(groups, 20, rng)
    for r in range(20):
        cells = np.repeat(np.arange(40), bootstrap.weights[r][bootstrap.index])
        assert bootstrap.sums(values)[r] == pytest.approx(values[cells].sum())
        assert bootstrap.means(values)[r] == pytest.approx(values[cells].mean())


def test_crossed_weights_are_products_of_group_and_repetition():
    groups, repetitions = np.array(["a", "a", "b", "b", "c"]), np.array([0, 1, 0, 1, 1])
    crossed = ClusterBootstrap.crossed(groups, repetitions, 200, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    by_group, by_repetition = (ClusterBootstrap(of, 200, rng).weights for of in (groups, repetitions))
    for cell in range(5):
        expected = by_group[:, "abc".index(groups[cell])] * by_repetition[:, repetitions[cell]]
        np.testing.assert_array_equal(crossed.sums(np.eye(5)[cell]), expected)
    one_repetition = ClusterBootstrap.crossed(groups, np.zeros(5), 50, np.random.default_rng(0))
    plain = ClusterBootstrap(groups, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(one_repetition.weights, plain.weights)


def test_cells_without_groups_agree_with_scipy():
    values = (np.random.default_rng(1).random(200) < 0.8).astype(float)
    bootstrap = ClusterBootstrap(np.arange(200), 5000, np.random.default_rng(2))
    ours = t_interval(float(values.mean()), bootstrap.spread(bootstrap.means(values)))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=3).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.011)


def test_pairing_lowers_the_error_of_a_difference():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    difficulty = np.repeat(rng.uniform(0.3, 1.0, 60), 5)
    draw = rng.random(300)
    better, worse = (draw < difficulty).astype(float), (draw < difficulty - 0.1).astype(float)
    bootstrap = ClusterBootstrap(groups, 1000, rng)
    first, second = bootstrap.means(better), bootstrap.means(worse)
    assert bootstrap.spread(first - second).error < bootstrap.spread(first - second[::-1]).error


def test_the_error_of_a_mean_is_that_of_the_group_means():
    rng = np.random.default_rng(0)
    means = rng.normal(size=8)
    bootstrap = ClusterBootstrap(np.repeat(np.arange(8), 5), 20_000, rng)
    spread = bootstrap.spread(bootstrap.means(np.repeat(means, 5)))
    assert spread.error == pytest.approx(stats.sem(means), rel=0.03)  # sem divides by G - 1
    assert spread.df <= 7


def test_a_class_of_few_groups_that_holds_the_variance_gives_its_degrees_of_freedom():
    groups, labels = np.arange(23), np.repeat(["rare", "common"], [3, 20])
    values = np.r_[[-3.0, 0.0, 3.0], np.zeros(20)]
    with_classes, without = (ClusterBootstrap(groups, 5000, np.random.default_rng(1), of) for of in (labels, None))
    samples = with_classes.means(values)
    assert with_classes.spread(samples).df == pytest.approx(2, abs=0.2) and without.spread(samples).df > 2.5
    widened = with_classes.spread(samples).error / without.spread(samples).error
    assert widened == pytest.approx(np.sqrt(3 / 2 / (23 / 22)), rel=0.03)


def test_a_class_of_one_group_leaves_an_average_over_classes_unknown():
    labels = np.array(["a", "b", "b", "b"])
    bootstrap = ClusterBootstrap(np.arange(4), 500, np.random.default_rng(0), labels)
    samples = bootstrap.means(np.array([0.0, 1.0, 2.0, 4.0]))
    assert np.isnan(bootstrap.spread(samples, per_class=True).error)
    assert np.isfinite(bootstrap.spread(samples).error)


def test_repetitions_add_their_variance_and_degrees_of_freedom():
    rng = np.random.default_rng(0)
    groups, repetitions = np.tile(np.arange(30), 3), np.repeat(np.arange(3), 30)
    values = 5.0 * repetitions + rng.normal(size=90)
    crossed = ClusterBootstrap.crossed(groups, repetitions, 4000, rng)
    spread = crossed.spread(crossed.means(values))
    assert spread.df == pytest.approx(2, abs=0.3)  # three repetitions hold the variance
    assert spread.error == pytest.approx(stats.sem([0, 5, 10]), rel=0.1)


def test_strata_are_the_classes_where_groups_are_nested():
    assert strata_of(np.array([0, 0, 1]), ["b", "b", "a"]).tolist() == [1, 0]
    assert strata_of(np.array([0, 0, 1]), ["b", "a", "a"]).tolist() == [0, 0]  # a patient with cells of two classes


def test_the_same_resamples_serve_other_cells_of_the_groups():
    bootstrap = ClusterBootstrap(["a", "b", "c", "c"], 50, np.random.default_rng(0))
    part = bootstrap.of_cells(["c", "a"])
    np.testing.assert_array_equal(part.sums(np.array([1.0, 0.0])), bootstrap.weights[:, 2])
    assert len(bootstrap.index) == 4
    with pytest.raises(LeukError, match="'bb' is not among"):
        bootstrap.of_cells(["a", "bb"])


@pytest.mark.parametrize(("groups", "scale"), [(20, "log"), (21, "linear")])
def test_means_of_skewed_values_are_on_the_log_scale_for_few_groups(groups: int, scale: str):
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(0, 0.5, groups))
    bootstrap = ClusterBootstrap(np.arange(groups), 500, rng)
    value, samples = float(values.mean()), bootstrap.means(values)
    found = bootstrap.skewed_interval(value, samples)
    assert found == t_interval(value, bootstrap.spread(samples), scale=scale)
    assert (value - found[0] < 0.95 * (found[1] - value)) == (scale == "log")


def test_values_within_their_error_of_0_stay_on_the_linear_scale():
    values = np.array([1e-3, -1.0, 1.0, 0.5, -0.49])
    bootstrap = ClusterBootstrap(np.arange(5), 300, np.random.default_rng(1))
    for mean, samples in ((float(values.mean()), bootstrap.means(values)), (0.0, bootstrap.means(0 * values))):
        low, high = bootstrap.skewed_interval(mean, samples)
        assert low + high == pytest.approx(2 * mean) and np.isfinite(high)


@pytest.mark.parametrize("groups", [5, 40, 41])
def test_means_of_correlations_stay_in_their_range_for_few_groups(groups: int):
    values = 1 - np.append(np.random.default_rng(0).exponential(0.02, groups - 1), 0.9)
    bootstrap = ClusterBootstrap(np.arange(groups), 500, np.random.default_rng(1))
    value, samples = float(values.mean()), bootstrap.means(values)
    low, high = bootstrap.bounded_interval(value, samples)
    assert low < value < high
    if groups > 40:
        assert (low, high) == t_interval(value, bootstrap.spread(samples))
    else:
        assert high < 1 and value - low > 1.1 * (high - value)
        mirrored = bootstrap.bounded_interval(-value, -samples)
        assert mirrored == pytest.approx((-high, -low))
    assert bootstrap.bounded_interval(1.0, np.ones(500)) == (1.0, 1.0)  # a map that never differs


def test_one_group_has_no_interval_and_no_cell_is_an_error():
    one = ClusterBootstrap(["a"] * 4, 100, np.random.default_rng(0))
    assert np.isnan(one.bounded_interval(0.5, one.means(np.arange(4.0)))).all()
    with pytest.raises(LeukError, match="no cell"):
        ClusterBootstrap([], 100, np.random.default_rng(0))
