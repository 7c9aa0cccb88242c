"""Can the probabilities be believed? Temperature scaling, reliability, and what abstaining buys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import resampled_calibration
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap, percentile_interval
from leuk_lib.statistics.intervals import clustered_wilson

Array = NDArray[np.float64]
T_MIN, T_MAX = 0.05, 20.0
FITS = 200  # refitted temperatures behind the interval of one


def apply_temperature(probs: Array, temperature: float) -> Array:
    """softmax(log p / T) of probabilities (N,K); T = 1 is the identity, the order of classes never changes."""
    if not temperature > 0:
        raise LeukError(f"temperature {temperature}: must be positive")
    return softmax(np.log(np.clip(probs, metrics.TINY, 1)) / temperature, axis=1)


def fit_temperature(validation: Predictions, weights: NDArray[Any] | None = None) -> float:
    """Temperature in [0.05, 20] that minimises the negative log likelihood on validation cells (Guo et al. 2017).

    ``weights`` (N,): how often each cell counts (a resample); None: once. Raises ``LeukError`` without a validation cell.
    """
    if not len(validation):
        raise LeukError("temperature: there is no validation cell to fit it on")

    logs = np.log(np.clip(validation.probs, metrics.TINY, 1))
    own = logs[np.arange(len(logs)), validation.labels]

    def nll(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.average(np.log(np.exp(logs * inverse).sum(axis=1)) - own * inverse, weights=weights))

    best = minimize_scalar(nll, bounds=(np.log(T_MIN), np.log(T_MAX)), method="bounded", options={"xatol": 1e-8})
    # Where the likelihood is flat (a model that always says the same), leave the probabilities as they are.
    return 1.0 if nll(0.0) <= best.fun + 1e-12 else float(np.exp(best.x))


def scaling_table(
    repetitions: Sequence[tuple[Predictions, Predictions]],
    resamples: int,
    seed: int,
    ece_bins: int = 10,
    level: float = 0.95,
) -> pd.DataFrame:
    """What temperature scaling does to one model, from (validation, test) of each repetition: a row a measure and moment.

    measure: temperature (moment "fitted"), nll, brier and ece ("before", "after", and "change", after minus before);
    value: mean over repetitions; low, high: at ``level``, repetitions and groups resampled, the test's for the measures, and
    the validation's, with a fit in each of ``FITS`` resamples, for the temperature (NaN where they are of one group);
    n: cells of that part over all repetitions.
    """
    each = [_scaled(*parts, resamples, seed, str(number), ece_bins) for number, parts in enumerate(repetitions)]
    over = ClusterBootstrap(
        np.arange(len(repetitions)), resamples, numpy_rng(seed, "calibration", "repetitions")
    ).weights
    rows = []
    for name, moment in each[0]:
        values, drawn = zip(*(found[name, moment] for found in each), strict=True)
        judged = [validation if moment == "fitted" else test for validation, test in repetitions]
        low = high = float("nan")
        if len(np.unique(np.concatenate([part.groups for part in judged]))) > 1:
            low, high = percentile_interval((np.array(drawn).T * over).sum(axis=1) / over.sum(axis=1), level)
        rows.append((name, moment, float(np.mean(values)), low, high, sum(map(len, judged))))
    return pd.DataFrame(rows, columns=["measure", "moment", "value", "low", "high", "n"])


def _scaled(
    validation: Predictions, test: Predictions, resamples: int, seed: int, number: str, ece_bins: int
) -> dict[tuple[str, str], tuple[float, Array]]:
    """One repetition of `scaling_table`: (measure, moment) -> its value, and its value in every resample (R,)."""
    of_validation = ClusterBootstrap(validation.groups, FITS, numpy_rng(seed, "calibration", "validation", number))
    of_test = ClusterBootstrap(test.groups, resamples, numpy_rng(seed, "calibration", "test", number))
    temperature = fit_temperature(validation)
    refitted = [fit_temperature(validation, weights[of_validation.index]) for weights in of_validation.weights]
    found = {("temperature", "fitted"): (temperature, np.resize(refitted, resamples))}
    scaled = test.with_probs(apply_temperature(test.probs, temperature))
    before, after = (metrics.evaluate(part, ece_bins) for part in (test, scaled))
    for (name, drawn), drawn_after in zip(
        resampled_calibration(test, of_test, ece_bins).items(),
        resampled_calibration(scaled, of_test, ece_bins).values(),
        strict=True,
    ):
        found[name, "before"] = before[name], drawn
        found[name, "after"] = after[name], drawn_after
        found[name, "change"] = after[name] - before[name], drawn_after - drawn
    return found


def reliability_table(predictions: Predictions, bins: int = 10, level: float = 0.95) -> pd.DataFrame:
    """One row a bin of equal counts: n, confidence, accuracy, and the accuracy's clustered Wilson interval."""
    confidence = predictions.probs.max(axis=1)
    number = metrics.equal_count_bins(confidence, bins)
    rows = []
    for position in range(int(number.max()) + 1 if len(number) else 0):
        inside = number == position
        hits = predictions.correct[inside]
        low, high, _ = clustered_wilson(hits, predictions.groups[inside], level)
        rows.append((position + 1, int(inside.sum()), confidence[inside].mean(), hits.mean(), low, high))
    return pd.DataFrame(rows, columns=["bin", "n", "confidence", "accuracy", "low", "high"])


def abstention_curve(predictions: Predictions, bootstrap: ClusterBootstrap, level: float = 0.95) -> pd.DataFrame:
    """Accuracy on the cells that are kept when the least sure ones are left to a human.

    One row a threshold, at coverages 1.00, 0.95, …, 0.05 as far as the cells allow: threshold (least kept
    confidence), coverage and accuracy in [0,1], n kept, and the accuracy's interval over resampled groups.
    """
    confidence, correct = predictions.probs.max(axis=1), predictions.correct
    descending = np.sort(confidence)[::-1]
    wanted = np.unique(np.ceil(np.linspace(0.05, 1, 20) * len(predictions)).astype(int))[::-1]
    rows: list[tuple[float, float, float, int, float, float]] = []
    for keep in wanted:
        threshold = descending[keep - 1]
        kept = confidence >= threshold
        if rows and rows[-1][3] == kept.sum():  # equal confidences: the same cells again
            continue
        with np.errstate(invalid="ignore"):
            samples = bootstrap.sums((kept & correct).astype(float)) / bootstrap.sums(kept.astype(float))
        low, high = percentile_interval(samples, level)
        rows.append((float(threshold), float(kept.mean()), float(correct[kept].mean()), int(kept.sum()), low, high))
    return pd.DataFrame(rows, columns=["threshold", "coverage", "accuracy", "n", "low", "high"])
