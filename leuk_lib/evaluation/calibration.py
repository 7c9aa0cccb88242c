r"""Calibration of stated probabilities: temperature scaling, reliability and abstention.

Temperature scaling divides the log probabilities (up to a constant: the logits) by one number T > 0,

.. math:: q_{ik} = \frac{\exp(\ln p_{ik} / T)}{\sum_j \exp(\ln p_{ij} / T)},

fitted on the validation part. T > 1 flattens overconfident probabilities; no T changes the predicted class.

References:
    Guo, C., Pleiss, G., Sun, Y. and Weinberger, K. Q. (2017). On calibration of modern neural networks. ICML, 1321-1330.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import MIN_SKEWED, ece_interval, resampled_calibration
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import NO_INTERVAL, Rate, equal_groups, korn_graubard, t_interval
from leuk_lib.statistics.temperature import fit_temperature as fit_to_logits

Array = NDArray[np.float64]
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
NOISE = "ece_noise"
N_REFITS = 200  # resamples in which the temperature is fitted again, for its interval


def log_probs(probs: Array) -> Array:
    """Logits of probabilities up to a constant per row; 0 counts as the smallest positive number of 32 bits, 1.4e-45.

    A higher floor would flatten confident models: with 1e-12, logits that are 60 apart would count as 28 apart.
    """
    return np.log(np.maximum(probs, SMALLEST))


def apply_temperature(probs: Array, temperature: float) -> Array:
    r"""Scale probabilities by a temperature, :math:`\operatorname{softmax}(\ln p / T)`.

    Args:
        probs: (N,K) probabilities, rows sum to 1 (see :func:`log_probs`).
        temperature: T > 0; 1 is the identity.

    Returns:
        (N,K) scaled probabilities; the order of the classes in each row stays.

    Raises:
        LeukError: the temperature is not positive and finite.

    >>> apply_temperature(np.array([[0.8, 0.2]]), 2.0).round(4)  # square roots, normalised
    array([[0.6667, 0.3333]])
    """
    if not 0 < temperature < np.inf:
        raise LeukError(f"temperature {temperature}: must be positive and finite")
    return softmax(log_probs(probs) / temperature, axis=1)


def fit_temperature(validation: Predictions, weights: NDArray[Any] | None = None) -> float:
    r"""Temperature in [0.05, 20] that minimises the negative log likelihood of the validation cells.

    Args:
        validation: predictions on the validation part.
        weights: (N,) how often each cell counts, as in a resample; None: once.

    Raises:
        LeukError: there is no validation cell.

    References:
        Guo et al. 2017 (see the module).
    """
    if not len(validation):
        raise LeukError("temperature: there is no validation cell to fit it on")
    return fit_to_logits(log_probs(validation.probs), validation.labels, weights)


def scaling_table(
    repetitions: Sequence[tuple[Predictions, Predictions]],
    resamples: int,
    seed: int,
    ece_bins: int = 10,
    level: float = 0.95,
) -> pd.DataFrame:
    """Effect of temperature scaling on one model.

    Args:
        repetitions: (validation, test) predictions of each repetition.
        resamples: number of bootstrap resamples.
        seed: seed of the resamples.
        ece_bins: bins of the calibration error.
        level: coverage of the intervals.

    Returns:
        One row per measure and moment: ``temperature`` ("fitted"), ``nll``, ``brier`` and ``ece`` ("before" and
        "after"). value: mean over repetitions. low, high: Student's interval over groups and
        repetitions, resampled independently of each other (for ``ece`` see `resampling.ece_interval`); the groups are
        those of the test part, for the temperature those of the validation part with ``N_REFITS`` fits; NaN for one
        group, and for all but ``ece`` if a class has fewer than ``MIN_SKEWED``. n: cells of that part over all repetitions.
    """
    parts = {"validation": [validation for validation, _ in repetitions], "test": [test for _, test in repetitions]}
    drawn = {
        name: _crossed(parts[name], count, seed, name)
        for name, count in (("validation", N_REFITS), ("test", resamples))
    }
    results = [
        _scaling_in_resamples(
            validation,
            test,
            drawn["validation"].of_cells(validation.groups),
            drawn["test"].of_cells(test.groups),
            ece_bins,
        )
        for validation, test in repetitions
    ]
    rows = []
    for name, moment in results[0]:
        if name == NOISE:
            continue
        of = "validation" if moment == "fitted" else "test"
        value = float(np.mean([result[name, moment][0] for result in results]))
        samples = _mean_over(drawn[of], [result[name, moment][1] for result in results])
        if name == "ece":
            noise = _mean_over(drawn[of], [result[NOISE, moment][1] for result in results])
            low, high = ece_interval(value, samples, noise, drawn[of], level)
        elif drawn[of].fewest < MIN_SKEWED:
            low, high = NO_INTERVAL
        else:
            low, high = t_interval(value, drawn[of].spread(samples), level, scale="log")
        rows.append((name, moment, value, low, high, sum(map(len, parts[of]))))
    return pd.DataFrame(rows, columns=["measure", "moment", "value", "low", "high", "n"])


def _crossed(parts: Sequence[Predictions], resamples: int, seed: int, name: str) -> ClusterBootstrap:
    """Resamples of the groups of all repetitions together, and of the repetitions."""
    groups, labels = (np.concatenate([getattr(part, of) for part in parts]) for of in ("groups", "labels"))
    bootstrap = ClusterBootstrap(groups, resamples, numpy_rng(seed, "calibration", name, "0"), labels)
    if len(parts) > 1:
        repetitions = ClusterBootstrap(np.arange(len(parts)), resamples, numpy_rng(seed, "calibration", "repetitions"))
        bootstrap.factors = [*bootstrap.factors, *repetitions.factors]
    return bootstrap


def _mean_over(bootstrap: ClusterBootstrap, samples: Sequence[Array]) -> Array:
    """Mean over the repetitions that each resample draws (R,), from the values per repetition."""
    each = np.array(samples).T
    if len(bootstrap.factors) == 1:
        return each[:, 0]
    weights = bootstrap.factors[1].weights
    return (each * weights).sum(axis=1) / weights.sum(axis=1)


def _scaling_in_resamples(
    validation: Predictions,
    test: Predictions,
    on_validation: ClusterBootstrap,
    on_test: ClusterBootstrap,
    ece_bins: int,
) -> dict[tuple[str, str], tuple[float, Array]]:
    """One repetition of `scaling_table`: (measure, moment) -> its value, and its value in each resample (R,)."""
    fitted = fit_temperature(validation)
    refitted = np.full(len(on_validation), np.nan)
    for number, weights in enumerate(on_validation.weights):
        if (of_cells := weights[on_validation.index]).any():
            refitted[number] = fit_temperature(validation, of_cells)
    result = {("temperature", "fitted"): (fitted, refitted)}
    scaled = test.with_probs(apply_temperature(test.probs, fitted))
    before, after = (metrics.calibration_metrics(part, ece_bins) for part in (test, scaled))
    samples_before = resampled_calibration(test, on_test, ece_bins)
    samples_after = resampled_calibration(scaled, on_test, ece_bins)
    for name, samples in samples_before.items():
        result[name, "before"] = before.get(name, 0.0), samples
        result[name, "after"] = after.get(name, 0.0), samples_after[name]
    return result


def reliability_table(predictions: Predictions, bins: int = 10, level: float = 0.95) -> pd.DataFrame:
    """Confidence and accuracy per bin of equal counts.

    Returns:
        Columns bin, n, confidence (mean), accuracy, low, high (`korn_graubard` of the accuracy).
    """
    confidence = predictions.probs.max(axis=1)
    bin_of = metrics.equal_count_bins(confidence, bins)
    rows = []
    for position in range(int(bin_of.max()) + 1 if len(bin_of) else 0):
        inside = bin_of == position
        hits = predictions.correct[inside]
        low, high, _ = korn_graubard(hits, predictions.groups[inside], level)
        rows.append((position + 1, int(inside.sum()), confidence[inside].mean(), hits.mean(), low, high))
    return pd.DataFrame(rows, columns=["bin", "n", "confidence", "accuracy", "low", "high"])


def abstention_curve(predictions: Predictions, bootstrap: ClusterBootstrap, level: float = 0.95) -> pd.DataFrame:
    """Accuracy on the cells that remain when the least confident ones are referred to a human.

    Each resample keeps the same share of its own cells: the threshold depends on the sample as well.

    Returns:
        One row per coverage 1.00, 0.95, …, 0.05, as far as the cells allow: threshold (lowest kept confidence),
        coverage and accuracy in [0,1], n kept, and the accuracy's interval low, high (`Rate.interval` over groups).
    """
    confidence, correct = predictions.probs.max(axis=1), predictions.correct
    falling = np.argsort(-confidence, kind="stable")
    thresholds = confidence[falling][np.ceil(np.linspace(0.05, 1, 20) * len(predictions)).astype(int) - 1]
    thresholds = np.unique(thresholds)  # ties: the same cells again
    kept = [confidence >= threshold for threshold in thresholds]
    samples = np.full((len(thresholds), len(bootstrap)), np.nan)
    for part, weights in bootstrap.blocks():
        drawn = np.cumsum(weights[:, falling], axis=1)
        right = np.cumsum(weights[:, falling] * correct[falling], axis=1)
        for number, of in enumerate(kept):
            last = (drawn < of.mean() * drawn[:, -1:] - 1e-9).sum(axis=1, keepdims=True)
            ends = (np.take_along_axis(sums, last, axis=1)[:, 0] for sums in (right, drawn))
            with np.errstate(invalid="ignore"):  # a resample may draw no group of this part
                samples[number, part] = np.divide(*ends)
    rows = []
    for threshold, of, drawn_accuracy in zip(thresholds, kept, samples, strict=True):
        accuracy, n = float(correct[of].mean()), int(of.sum())
        rate = Rate(accuracy, bootstrap.spread(drawn_accuracy), n, equal_groups(predictions.groups[of]))
        rows.append((float(threshold), float(of.mean()), accuracy, n, *rate.interval(level)))
    return pd.DataFrame(rows, columns=["threshold", "coverage", "accuracy", "n", "low", "high"])
