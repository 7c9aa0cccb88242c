"""Cluster bootstrap: whole groups are drawn, crossed draws multiply, intervals agree with scipy and cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.bootstrap import ClusterBootstrap, paired_difference, percentile_interval
from leuk_lib.statistics.intervals import clustered_wilson


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
    ours = ClusterBootstrap(np.arange(200), 5000, np.random.default_rng(2)).mean_interval(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=3).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.011)


def test_clustered_interval_covers_where_the_plain_one_does_not():
    rng = np.random.default_rng(0)
    covered = {"clustered": 0, "plain": 0, "wilson": 0}
    rounds, n_groups, size = 200, 30, 15
    groups = np.repeat(np.arange(n_groups), size)
    for _ in range(rounds):
        accuracy = rng.beta(4, 2, n_groups)  # patients differ; the mean is 2/3
        hits = (rng.random(n_groups * size) < accuracy[groups]).astype(float)
        for kind, by in (("clustered", groups), ("plain", np.arange(len(groups)))):
            low, high = ClusterBootstrap(by, 300, rng).mean_interval(hits)
            covered[kind] += low <= 2 / 3 <= high
        low, high, _ = clustered_wilson(hits, groups)
        covered["wilson"] += low <= 2 / 3 <= high
    assert covered["clustered"] / rounds > 0.89
    assert covered["wilson"] / rounds > 0.89
    assert covered["plain"] / rounds < 0.85


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    difficulty = np.repeat(rng.uniform(0.3, 1.0, 60), 5)
    draw = rng.random(300)
    better, worse = (draw < difficulty).astype(float), (draw < difficulty - 0.1).astype(float)
    bootstrap = ClusterBootstrap(groups, 1000, rng)
    first, second = bootstrap.means(better), bootstrap.means(worse)
    low, high, p = paired_difference(first, second)
    unpaired = percentile_interval(first - second[::-1])
    assert high - low < unpaired[1] - unpaired[0]
    assert low > 0 and p < 0.05


def test_equal_models_do_not_differ():
    samples = np.random.default_rng(0).random(200)
    assert paired_difference(samples, samples) == (0.0, 0.0, 1.0)


def test_the_p_value_is_never_zero_and_nan_is_left_out():
    assert paired_difference(np.ones(99), np.zeros(99)) == (1.0, 1.0, 2 / 100)
    assert paired_difference(np.array([1.0, np.nan]), np.zeros(2)) == paired_difference(np.ones(1), np.zeros(1))
    assert np.isnan(paired_difference(np.full(3, np.nan), np.zeros(3))).all()
    assert np.isnan(percentile_interval(np.full(3, np.nan))).all()


def test_tails_are_the_quantiles_themselves():
    samples = np.random.default_rng(0).normal(size=2000)
    assert percentile_interval(samples, tails=(0.025, 0.975)) == tuple(np.quantile(samples, [0.025, 0.975]))
    assert percentile_interval(samples, 0.8) == pytest.approx(percentile_interval(samples, tails=(0.1, 0.9)))


def test_one_group_has_no_interval_and_no_cell_is_an_error():
    assert np.isnan(ClusterBootstrap(["a"] * 4, 100, np.random.default_rng(0)).mean_interval(np.arange(4.0))).all()
    with pytest.raises(LeukError, match="no cell"):
        ClusterBootstrap([], 100, np.random.default_rng(0))
