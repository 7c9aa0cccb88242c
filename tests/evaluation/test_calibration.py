"""Calibration: a known temperature is recovered, the order of classes stays, abstention keeps the most confident cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from evaluation.toys import made_up
from leuk_lib.evaluation import calibration, metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.bootstrap import ClusterBootstrap


def overconfident(temperature: float, n: int = 20_000) -> Predictions:
    """Labels drawn from true probabilities; the model states them sharpened by ``temperature``."""
    rng = np.random.default_rng(0)
    truth = calibration.apply_temperature(rng.dirichlet(np.ones(3), n), 1.0)
    labels = (truth.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 2)
    return Predictions(
        labels, calibration.apply_temperature(truth, 1 / temperature), np.arange(n).astype(str), ("a", "b", "c")
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature):
    part = overconfident(temperature)
    assert calibration.fit_temperature(part) == pytest.approx(temperature, rel=0.05)


def test_far_logits_keep_their_temperature():
    """Logits up to 300 apart: a floor of 1e-12 under the probabilities would bias the temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 9, (4000, 3))
    labels = np.array([rng.choice(3, p=softmax(row / 6)) for row in logits])
    part = Predictions(labels, softmax(logits, axis=1), np.arange(4000).astype(str), ("a", "b", "c"))
    found = calibration.fit_temperature(part)
    by_hand = minimize_scalar(lambda t: log_loss(labels, softmax(logits / t, axis=1)), bounds=(1, 20), method="bounded")
    assert found == pytest.approx(by_hand.x, rel=1e-4) and found == pytest.approx(6, rel=0.05)
    scaled = calibration.apply_temperature(part.probs, 6.0)
    assert scaled == pytest.approx(softmax(logits / 6, axis=1), abs=1e-6)


def test_scaling_improves_nll_brier_and_ece():
    part = overconfident(3.0)
    fixed = part.with_probs(calibration.apply_temperature(part.probs, calibration.fit_temperature(part)))
    before, after = metrics.evaluate(part), metrics.evaluate(fixed)
    assert after["nll"] < before["nll"] and after["brier"] < before["brier"]
    assert after["ece"] < 0.01 < before["ece"]
    assert after["accuracy"] == before["accuracy"]


def test_temperature_one_is_the_identity():
    probs = made_up().probs
    assert calibration.apply_temperature(probs, 1.0) == pytest.approx(probs)
    for temperature in (0.0, np.inf, np.nan):
        with pytest.raises(LeukError, match="positive and finite"):
            calibration.apply_temperature(probs, temperature)


def test_constant_predictions_stay_finite():
    part = made_up()
    constant = part.with_probs(np.tile([1.0, 0, 0, 0], (len(part), 1)))
    scaled = calibration.apply_temperature(constant.probs, calibration.fit_temperature(constant))
    assert np.isfinite(scaled).all() and (scaled.argmax(axis=1) == 0).all()


def test_no_validation_cell_is_an_error():
    with pytest.raises(LeukError, match="no validation cell"):
        calibration.fit_temperature(Predictions(np.zeros(0, int), np.zeros((0, 2)), np.zeros(0, str), ("a", "b")))
    with pytest.raises(LeukError, match="positive"):
        calibration.apply_temperature(np.ones((1, 1)), 0)


def test_reliability_bins_add_up_to_the_calibration_error():
    part = made_up()
    table = calibration.reliability_table(part, bins=8)
    gap = (table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / table["n"].sum()
    assert gap == pytest.approx(metrics.adaptive_ece(part, 8))
    assert table["n"].sum() == len(part)
    assert ((table["low"] <= table["accuracy"] + 1e-9) & (table["accuracy"] <= table["high"] + 1e-9)).all()


def test_abstention_starts_at_accuracy_and_keeps_the_most_confident():
    part = made_up(n=300)
    table = calibration.abstention_curve(part, ClusterBootstrap(part.groups, 300, np.random.default_rng(0)))
    assert table["coverage"].iloc[0] == 1
    assert table["accuracy"].iloc[0] == pytest.approx(metrics.evaluate(part)["accuracy"])
    assert table["coverage"].is_monotonic_decreasing and table["threshold"].is_monotonic_increasing
    last = table.iloc[-1]
    kept = part.probs.max(axis=1) >= last["threshold"]
    assert kept.sum() == last["n"] and part.correct[kept].mean() == pytest.approx(last["accuracy"])


def test_abstention_of_equal_confidences_is_one_row():
    part = made_up().with_probs(np.tile([0.4, 0.2, 0.2, 0.2], (120, 1)))
    assert len(calibration.abstention_curve(part, ClusterBootstrap(part.groups, 50, np.random.default_rng(0)))) == 1


def test_scaling_counts_the_cells_behind_each_number():
    val, test = overconfident(2.0, 60), overconfident(2.0, 90)
    table = calibration.scaling_table([(val, test), (val, test)], 50, 0).set_index(["measure", "moment"])
    assert table.at[("temperature", "fitted"), "n"] == 120 and (table["n"].drop(("temperature", "fitted")) == 180).all()
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()


def test_scaling_on_one_patient_has_no_interval():
    part = overconfident(2.0, 60)
    alone = Predictions(part.labels, part.probs, np.full(60, "p1"), part.classes)
    table = calibration.scaling_table([(part, alone)], 50, 0).set_index(["measure", "moment"])
    assert np.isfinite(table.at[("temperature", "fitted"), "low"])
    assert table[["low", "high"]].drop(("temperature", "fitted")).isna().all(axis=None)


class Identity(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose features are its logits."""

    def fit(self, logits, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits):
        return logits

    def predict(self, logits):
        return self.classes_[logits.argmax(axis=1)]


def test_the_temperature_is_scikit_learns():
    pytest.importorskip("sklearn", minversion="1.8")  # the first one with temperature scaling
    part = overconfident(2.5, 500)
    logits = np.log(part.probs)
    scaler = CalibratedClassifierCV(FrozenEstimator(Identity().fit(logits, part.labels)), method="temperature")
    expected = scaler.fit(logits, part.labels).predict_proba(logits)
    scaled = calibration.apply_temperature(part.probs, calibration.fit_temperature(part))
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
