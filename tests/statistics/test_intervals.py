"""Intervals: published examples, agreement with scipy and with a naive loop, coverage with patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.toys import made_up
from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import recall_table, resampled_metrics
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap, paired_difference, percentile_interval
from leuk_lib.statistics.intervals import clustered_wilson, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_newcombe_1998_table_1(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_vectorised_equals_a_naive_loop():
    part = made_up(3, n=60, k=3, n_groups=12)
    part = part.with_probs(np.round(part.probs, 2) / np.round(part.probs, 2).sum(axis=1, keepdims=True))  # ties
    bootstrap = ClusterBootstrap(part.groups, 40, np.random.default_rng(0))
    found = resampled_metrics(part, bootstrap)
    for r in range(40):
        cells = np.repeat(np.arange(len(part)), bootstrap.weights[r][bootstrap.index])
        again = Predictions(part.labels[cells], part.probs[cells], part.groups[cells], part.classes)
        expected = metrics.evaluate(again)
        for name in ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "macro_auc", "nll", "brier"):
            assert found[name][r] == pytest.approx(expected[name]), name


def test_whole_groups_are_drawn():
    bootstrap = ClusterBootstrap(["a", "a", "b", "c", "c", "c"], 200, np.random.default_rng(0))
    assert (bootstrap.weights.sum(axis=1) == 3).all()
    assert set(bootstrap.sums(np.ones(6))) <= {3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0}


def test_crossed_counts_a_cell_by_its_group_and_its_repetition():
    groups, repetitions = np.array(["a", "a", "b", "b", "c"]), np.array([0, 1, 0, 1, 1])
    crossed = ClusterBootstrap.crossed(groups, repetitions, 200, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    by_group, by_repetition = (ClusterBootstrap(of, 200, rng).weights for of in (groups, repetitions))
    for cell in range(5):
        alone = np.eye(5)[cell]
        expected = by_group[:, "abc".index(groups[cell])] * by_repetition[:, repetitions[cell]]
        np.testing.assert_array_equal(crossed.sums(alone), expected)
    one = ClusterBootstrap.crossed(groups, np.zeros(5), 50, np.random.default_rng(0))
    plain = ClusterBootstrap(groups, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(one.weights, plain.weights)


def test_cells_without_groups_agree_with_scipy():
    values = (np.random.default_rng(1).random(200) < 0.8).astype(float)
    ours = percentile_interval(ClusterBootstrap(np.arange(200), 5000, np.random.default_rng(2)).means(values))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=3).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.011)


def test_clustered_interval_covers_where_the_plain_one_does_not():
    rng = np.random.default_rng(0)
    covered = {"clustered": 0, "plain": 0, "wilson": 0}
    rounds, groups, size = 200, 30, 15
    names = np.repeat(np.arange(groups), size)
    for _ in range(rounds):
        skill = rng.beta(4, 2, groups)  # patients differ; the mean is 2/3
        hits = (rng.random(groups * size) < skill[names]).astype(float)
        for kind, by in (("clustered", names), ("plain", np.arange(len(names)))):
            low, high = percentile_interval(ClusterBootstrap(by, 300, rng).means(hits))
            covered[kind] += low <= 2 / 3 <= high
        low, high, _ = clustered_wilson(hits, names)
        covered["wilson"] += low <= 2 / 3 <= high
    assert covered["clustered"] / rounds > 0.89
    assert covered["wilson"] / rounds > 0.89
    assert covered["plain"] / rounds < 0.85


def test_all_right_is_as_sure_as_the_number_of_patients():
    low, high, size = clustered_wilson(np.ones(300, bool), np.repeat(["a", "b", "c"], 100))
    assert (low, high) == pytest.approx(wilson(3, 3))
    assert size == 3


def test_independent_cells_have_no_design_effect_below_one():
    hits = np.tile([True, True, False, True], 25)
    assert clustered_wilson(hits, np.repeat(np.arange(25), 4))[2] == 100  # every group alike: variance below binomial
    assert clustered_wilson([], [])[2] == 0


def test_the_same_seed_gives_the_same_bytes():
    part = made_up()
    first, second = (
        resampled_metrics(part, ClusterBootstrap(part.groups, 100, numpy_rng(5, "bootstrap"))) for _ in range(2)
    )
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


def test_pairing_narrows_the_interval_of_a_difference():
    part = made_up(0, n=400, n_groups=80)
    better = part.with_probs(0.9 * part.probs + 0.1 * np.eye(4)[part.labels])
    one = ClusterBootstrap(part.groups, 1000, np.random.default_rng(0))
    ours, theirs = (resampled_metrics(p, one)["accuracy"] for p in (better, part))
    low, high, p = paired_difference(ours, theirs)
    unpaired = percentile_interval(ours - theirs[::-1])
    assert high - low < unpaired[1] - unpaired[0]
    assert low > 0 and p < 0.05


def test_equal_models_differ_by_nothing():
    part = made_up()
    samples = resampled_metrics(part, ClusterBootstrap(part.groups, 200, np.random.default_rng(0)))["accuracy"]
    assert paired_difference(samples, samples) == (0.0, 0.0, 1.0)


def test_a_class_missing_from_a_resample_does_not_break_it():
    part = Predictions(np.array([0, 0, 0, 1]), np.tile([0.6, 0.4], (4, 1)), np.array(list("aabc")), ("x", "y"))
    found = resampled_metrics(part, ClusterBootstrap(part.groups, 500, np.random.default_rng(0)))
    assert np.isfinite(found["balanced_accuracy"]).all()
    assert np.isnan(found["macro_auc"]).any() and np.isfinite(percentile_interval(found["macro_auc"])).all()


def test_no_cell_is_an_error():
    with pytest.raises(LeukError, match="no cell"):
        ClusterBootstrap([], 100, np.random.default_rng(0))


def test_fast_enough_for_two_thousand_resamples():
    import time

    part = made_up(0, n=2000, k=8, n_groups=2000)
    start = time.perf_counter()
    resampled_metrics(part, ClusterBootstrap(part.groups, 2000, np.random.default_rng(0)))
    assert time.perf_counter() - start < 40  # 3 s on two idle cores; nothing loops over resamples


def test_recall_table_agrees_with_resampled_metrics():
    part = made_up(4, n=80, k=3, n_groups=16)
    table = recall_table(part, numpy_rng(0, "x"), 200)
    again = resampled_metrics(part, ClusterBootstrap(part.groups, 200, numpy_rng(0, "x")))["recall"]
    for k, row in enumerate(table.to_dict("records")):
        assert (row["low"], row["high"]) == pytest.approx(percentile_interval(again[:, k]))
        assert (
            row["value"] == pytest.approx(part.correct[part.labels == k].mean())
            and row["n"] == (part.labels == k).sum()
        )


def test_recall_of_a_class_of_one_group_has_no_interval_and_of_none_no_value():
    labels = np.array([0, 0, 0, 0, 1, 1])
    probs = np.eye(3)[[0, 0, 1, 0, 1, 0]] * 0.9 + 0.1 / 3
    part = Predictions(labels, probs, np.array(list("aabbcc")), ("x", "y", "z"))
    table = recall_table(part, numpy_rng(0, "x"), 200).set_index("class")
    assert table.loc["x", ["value", "low", "high"]].tolist() == [0.75, 0.5, 1.0]
    assert table.at["y", "value"] == 0.5 and np.isnan(table.at["y", "low"]) and table.at["y", "groups"] == 1
    assert np.isnan(table.at["z", "value"]) and table.at["z", "n"] == 0
