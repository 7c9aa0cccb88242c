"""Metrics in each resample: equal to a naive loop, the same for the same seed, robust to classes that are not drawn."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.toys import made_up
from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import resampled_metrics, score_interval
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import clopper_pearson, equal_groups


def test_vectorised_equals_a_naive_loop():
    part = made_up(3, n=60, k=3, n_groups=12)
    part = part.with_probs(np.round(part.probs, 2) / np.round(part.probs, 2).sum(axis=1, keepdims=True))  # ties
    bootstrap = ClusterBootstrap(part.groups, 40, np.random.default_rng(0))
    resampled = resampled_metrics(part, bootstrap)
    for r in range(40):
        cells = np.repeat(np.arange(len(part)), bootstrap.weights[r][bootstrap.index])
        drawn = Predictions(part.labels[cells], part.probs[cells], part.groups[cells], part.classes)
        expected = metrics.evaluate(drawn)
        for name in ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "macro_auc", "nll", "brier"):
            assert resampled[name][r] == pytest.approx(expected[name]), name


def test_the_same_seed_gives_the_same_bytes():
    part = made_up()
    first, second = (
        resampled_metrics(part, ClusterBootstrap(part.groups, 100, numpy_rng(5, "bootstrap"))) for _ in range(2)
    )
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


def test_a_class_missing_from_a_resample_does_not_break_it():
    part = Predictions(np.array([0, 0, 0, 1]), np.tile([0.6, 0.4], (4, 1)), np.array(list("aabc")), ("x", "y"))
    resampled = resampled_metrics(part, ClusterBootstrap(part.groups, 500, np.random.default_rng(0)))
    assert np.isfinite(resampled["balanced_accuracy"]).all()
    assert np.isnan(resampled["macro_auc"]).any() and np.isfinite(resampled["macro_auc"]).any()


def intervals_of(part: Predictions, resamples: int = 300) -> dict[str, tuple[float, float]]:
    bootstrap = ClusterBootstrap(part.groups, resamples, np.random.default_rng(0), part.labels)
    samples, values = resampled_metrics(part, bootstrap), metrics.evaluate(part)
    return {name: score_interval(part, name, values[name], samples, bootstrap) for name in metrics.METRICS}


def test_perfect_scores_are_as_uncertain_as_their_groups_are_few():
    part = made_up(skill=50.0, n_groups=8)
    found = intervals_of(part)
    assert found["accuracy"] == pytest.approx(clopper_pearson(*2 * [equal_groups(part.groups)]))
    for name in ("balanced_accuracy", "macro_f1", "macro_auc"):  # four classes of two patients each
        assert found[name] == pytest.approx(clopper_pearson(8, 8)), name


def test_one_group_has_no_interval_and_a_class_of_one_group_no_average_over_classes():
    part = made_up()
    alone = Predictions(part.labels, part.probs, np.full(len(part), "p"), part.classes)
    assert all(np.isnan(found).all() for found in intervals_of(alone).values())
    groups = np.where(part.labels == 0, "only", part.groups)
    found = intervals_of(Predictions(part.labels, part.probs, groups, part.classes))
    assert np.isnan([found["balanced_accuracy"], found["macro_f1"], found["macro_auc"]]).all()
    assert np.isfinite([found["accuracy"], found["ece"]]).all()


def test_a_skewed_measure_needs_eight_groups_of_a_class():
    few, enough = (intervals_of(made_up(n=400, n_groups=4 * groups)) for groups in (7, 8))
    assert np.isnan([few["nll"], few["brier"]]).all() and np.isfinite([enough["nll"], enough["brier"]]).all()
    assert np.isfinite(few["macro_f1"]).all()


def test_one_answer_for_all_cells_has_an_exact_balanced_accuracy():
    part = made_up().with_probs(np.tile([0.4, 0.3, 0.2, 0.1], (120, 1)))
    found = intervals_of(part)
    assert found["balanced_accuracy"] == (0.25, 0.25) and found["macro_auc"] == (0.5, 0.5)
    assert found["accuracy"][0] < 0.2 < 0.3 < found["accuracy"][1]


def test_the_calibration_error_of_a_calibrated_model_may_be_zero():
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.5, 1, 400)
    labels = (rng.random(400) > stated).astype(np.int64)
    part = Predictions(labels, np.stack([stated, 1 - stated], axis=1), np.arange(400).astype(str), ("x", "y"))
    low, high = intervals_of(part)["ece"]
    assert low == 0 and 0.02 < high < 0.15
