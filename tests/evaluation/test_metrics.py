"""Metrics: equal to scikit-learn's where it has them, absent classes, batched = one by one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from damage import TIMES, fuzz_table
from evaluation.toys import as_rows, made_up
from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions, read_predictions
from leuk_lib.runs.errors import LeukError


def with_labels(labels: list[int], predicted: list[int], k: int, groups: list[str] | None = None) -> Predictions:
    probs = np.full((len(labels), k), 0.1 / (k - 1))
    probs[np.arange(len(labels)), predicted] = 0.9
    names = np.array(groups or [f"g{i}" for i in range(len(labels))])
    return Predictions(np.array(labels), probs, names, tuple("abcdefgh"[:k]))


def test_all_classes_present_equals_sklearn():
    part = made_up()
    values = metrics.evaluate(part)
    y, z = part.labels, part.predicted
    assert values["accuracy"] == sk.accuracy_score(y, z)
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, z))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(y, z, average="macro"))
    assert values["macro_auc"] == pytest.approx(sk.roc_auc_score(y, part.probs, multi_class="ovr"))
    assert values["nll"] == pytest.approx(sk.log_loss(y, part.probs))
    assert values["brier"] == pytest.approx(
        np.mean([((p - np.eye(4)[c]) ** 2).sum() for p, c in zip(part.probs, y, strict=True)])
    )


def test_absent_classes_are_listed_and_left_out_of_the_averages():
    part = with_labels([0, 0, 1, 1], [0, 3, 1, 1], k=4)
    values = metrics.evaluate(part)
    assert part.absent == ("c", "d")
    assert values["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert values["macro_precision"] == 1.0
    assert np.isnan(metrics.recalls(part)["recall"].to_numpy()[2:]).all()
    assert np.isfinite(values["macro_auc"])


def test_one_class_only_has_no_auc():
    part = with_labels([1, 1, 1], [1, 0, 1], k=2)
    assert np.isnan(metrics.evaluate(part)["macro_auc"])
    assert metrics.evaluate(part)["accuracy"] == pytest.approx(2 / 3)


def test_no_cell_is_an_error():
    with pytest.raises(LeukError, match="no cell"):
        metrics.evaluate(Predictions(np.zeros(0, int), np.zeros((0, 2)), np.zeros(0, str), ("a", "b")))


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(5, 60))
@settings(max_examples=30, deadline=None)
def test_batched_confusion_metrics_equal_sklearn(seed, k, n):
    part = made_up(seed, n=n, k=k, n_groups=max(2, n // 4), skill=1.0)
    batched = metrics.confusion_metrics(np.stack([metrics.confusion(part)] * 3))
    expected = metrics.evaluate(part)
    for name in ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1"):
        assert batched[name] == pytest.approx([expected[name]] * 3), name


@given(st.integers(0, 10**6), st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_bins_of_equal_counts(seed, bins):
    confidence = np.random.default_rng(seed).random(60)
    counts = np.bincount(metrics.equal_count_bins(confidence, bins))
    assert len(counts) == bins
    assert counts.max() - counts.min() <= 1


def test_equal_confidences_share_a_bin():
    assert set(metrics.equal_count_bins(np.full(20, 0.7), 5)) == {0}
    with pytest.raises(LeukError, match="at least one, got 0"):
        metrics.equal_count_bins(np.full(20, 0.7), 0)


@pytest.mark.parametrize(
    ("bins", "value"), [(4, 0.2161914946), (6, 0.2267613065), (10, 0.2781033586), (12, 0.2570859556)]
)
def test_ece_is_that_of_other_packages(bins, value):
    """``get_ece_em`` of uncertainty-calibration 0.1.4 (Kumar, Liang & Ma 2019) gave these values; scikit-learn's bins too."""
    i = np.arange(60)
    weights = np.stack([1 + 41 * i % 101, 1 + 29 * i % 103, 1 + 61 * i % 107], axis=1)
    part = Predictions(
        (i * i + i // 7) % 3, weights / weights.sum(axis=1, keepdims=True), i.astype(str), ("a", "b", "c")
    )
    assert metrics.adaptive_ece(part, bins) == pytest.approx(value, abs=1e-9)
    accuracy, confidence = calibration_curve(part.correct, part.probs.max(axis=1), n_bins=bins, strategy="quantile")
    assert metrics.adaptive_ece(part, bins) == pytest.approx(np.abs(accuracy - confidence).mean())


def test_ece_by_hand():
    # Two bins: confidence .6 with one hit of two, .9 with two of two: |.5 - .6| / 2 + |1 - .9| / 2 = .1
    probs = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
    part = Predictions(np.array([0, 1, 0, 0]), probs, np.array(list("abcd")), ("x", "y"))
    assert metrics.adaptive_ece(part, bins=2) == pytest.approx(0.1)


def test_a_calibrated_model_has_almost_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40_000)
    labels = (rng.random(40_000) > p).astype(int)
    part = Predictions(labels, np.stack([p, 1 - p], axis=1), np.arange(40_000).astype(str), ("x", "y"))
    assert metrics.adaptive_ece(part, 10) < 0.01


def test_vote_by_majority_and_ties_by_mean_probability():
    groups = ["p", "p", "p", "q", "q"]
    probs = np.array([[0.6, 0.4], [0.6, 0.4], [0.01, 0.99], [0.55, 0.45], [0.05, 0.95]])
    part = Predictions(np.array([0, 0, 0, 1, 1]), probs, np.array(groups), ("x", "y"))
    voted = metrics.vote(part)
    assert list(voted.groups) == ["p", "q"]
    assert list(voted.predicted) == [0, 1]  # p: two votes to one, though the mean says y; q: a tie, the mean decides
    assert list(voted.labels) == [0, 1]


def test_vote_of_single_cells_changes_nothing():
    part = with_labels([0, 1, 2, 1], [0, 2, 2, 1], k=3)
    assert metrics.vote(part).correct.tolist() == part.correct.tolist()


def test_vote_needs_one_label_per_group():
    with pytest.raises(LeukError, match="several classes"):
        metrics.vote(with_labels([0, 1], [0, 1], k=2, groups=["p", "p"]))


def test_invalid_predictions_are_refused():
    with pytest.raises(LeukError, match="sum to 1"):
        Predictions(np.array([0]), np.array([[0.9, 0.9]]), np.array(["a"]), ("x", "y"))
    with pytest.raises(LeukError, match="labels"):
        Predictions(np.array([2]), np.array([[0.5, 0.5]]), np.array(["a"]), ("x", "y"))
    with pytest.raises(LeukError, match="labels"):
        Predictions(np.array([np.nan]), np.array([[0.5, 0.5]]), np.array(["a"]), ("x", "y"))
    with pytest.raises(LeukError, match="same name"):
        Predictions(np.array([0]), np.array([[0.5, 0.5]]), np.array(["a"]), ("x", "x"))


def test_predictions_are_read_exactly_in_any_order(tmp_path):
    part = made_up(classes=("NA", "1", "b b", "ü"))
    other = part.with_probs(part.probs[:, ::-1])
    rows = pd.concat([as_rows("full", "test", part).sample(frac=1, random_state=1), as_rows("other", "test", other)])
    rows.to_csv(tmp_path / "p.csv", index=False)
    predictions = read_predictions(tmp_path / "p.csv")
    assert list(predictions) == ["full", "other"]
    assert predictions["full"]["test"].classes == ("NA", "1", "b b", "ü")
    assert (predictions["full"]["test"].probs == part.probs).all()
    assert (predictions["full"]["test"].labels == part.labels).all()
    assert (predictions["other"]["test"].probs == other.probs).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="group"), "lacks column group"),
        (lambda f: f.drop(columns="prob_class1"), "label 'class1'"),
        (lambda f: f.iloc[:-1], "same cells"),
        (lambda f: f.assign(index=0), "twice"),
        (lambda f: f.assign(group=["", *f["group"][1:]]), "row 2: group is empty"),
        (lambda f: f.assign(split=" "), "row 2: split is empty"),
        (lambda f: f.rename(columns={"prob_class1": "prob_class0"}), "has the column prob_class0 twice"),
        (lambda f: f.iloc[:0], "holds no cell"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, change, message):
    rows = pd.concat([as_rows("full", "test", made_up()), as_rows("other", "test", made_up())], ignore_index=True)
    change(rows).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(LeukError, match=message):
        read_predictions(tmp_path / "p.csv")


def test_missing_table_names_the_notebook(tmp_path):
    with pytest.raises(LeukError, match="06_comparison"):
        read_predictions(tmp_path / "none.csv")


@pytest.mark.parametrize("times", TIMES)
def test_mutated_predictions_are_one_line(tmp_path, times):
    rows = pd.concat([as_rows(model, "test", made_up(n=12, n_groups=6)) for model in ("full", "other")])
    rows.to_csv(tmp_path / "predictions.csv", index=False)
    assert 0 < fuzz_table(tmp_path / "predictions.csv", lambda: read_predictions(tmp_path), times) < times
