"""Metrics in each resample: equal to a naive loop, the same for the same seed, robust to classes that are not drawn."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.toys import made_up
from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import resampled_confusion, resampled_metrics, score_interval
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap, percentile_interval
from leuk_lib.statistics.intervals import wilson


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
    assert np.isnan(resampled["macro_auc"]).any() and np.isfinite(percentile_interval(resampled["macro_auc"])).all()


def test_an_interval_without_width_becomes_wilsons():
    part = made_up(skill=50.0, n_groups=8)
    samples = resampled_confusion(part, ClusterBootstrap(part.groups, 100, np.random.default_rng(0)))
    assert set(samples["accuracy"]) == {1.0}
    groups = len(np.unique(part.groups))
    assert score_interval(part, "accuracy", 1.0, samples["accuracy"]) == pytest.approx(wilson(groups, groups))
    alone = Predictions(part.labels, part.probs, np.full(len(part), "p"), part.classes)
    assert np.isnan(score_interval(alone, "accuracy", 1.0, samples["accuracy"])).all()
