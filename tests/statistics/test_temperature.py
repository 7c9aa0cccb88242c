"""One fit of the temperature: against scikit-learn, invariant to shifts, and refusing what it cannot fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.temperature import T_MAX, T_MIN, fit_temperature


def drawn(temperature: float, n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, 4))
    return logits, np.array([rng.choice(4, p=softmax(row / temperature)) for row in logits])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_it_minimises_scikit_learns_log_loss(temperature):
    logits, labels = drawn(temperature)
    best = minimize_scalar(
        lambda t: log_loss(labels, softmax(logits / t, axis=1), labels=range(4)),
        bounds=(T_MIN, T_MAX),
        method="bounded",
    )
    assert fit_temperature(logits, labels) == pytest.approx(best.x, rel=1e-3)


def test_shifts_of_a_row_and_huge_logits_change_nothing():
    logits, labels = drawn(2.0)
    shifted = logits + np.random.default_rng(1).normal(0, 1e4, (len(logits), 1))
    assert fit_temperature(shifted, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-6)


def test_weights_count_cells():
    logits, labels = drawn(2.0, 60)
    times = np.random.default_rng(2).integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), times)
    assert fit_temperature(logits, labels, times) == pytest.approx(fit_temperature(logits[repeated], labels[repeated]))


def test_constant_logits_leave_the_probabilities_alone():
    assert fit_temperature(np.zeros((5, 3)), [0, 1, 2, 0, 1]) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_cannot_be_fitted_is_refused(bad):
    with pytest.raises(LeukError, match="1 of 2 cells"):
        fit_temperature([[0.0, 1.0], [bad, 0.0]], [0, 1])
    with pytest.raises(LeukError, match="no cell"):
        fit_temperature(np.zeros((0, 2)), [])


@pytest.mark.parametrize("labels", [[0, -1], [0, 2], [0], [0.0, 1.0], [0.0, np.nan]])
def test_labels_are_columns_one_for_each_cell(labels):
    """A label of -1 would be the last class, and one label that of all cells."""
    with pytest.raises(LeukError, match="label of 0 to K - 1"):
        fit_temperature([[0.0, 1.0], [1.0, 0.0]], labels)


@pytest.mark.parametrize("weights", [[1, np.nan], [1, np.inf], [2, -1], [0, 0], [1]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(LeukError, match="weight for each of 2 cells"):
        fit_temperature([[0.0, 1.0], [1.0, 0.0]], [0, 1], np.array(weights, dtype=float))
