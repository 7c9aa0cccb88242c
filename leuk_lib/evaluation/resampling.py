"""Metrics of a classifier in each resample of a cluster bootstrap, and their intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.statistics.bootstrap import ClusterBootstrap, percentile_interval
from leuk_lib.statistics.intervals import clustered_wilson

Array = NDArray[np.float64]
RATES = ("accuracy", "balanced_accuracy", "macro_recall")  # 1 if all cells are right, 0 if all are wrong


def resampled_confusion(predictions: Predictions, bootstrap: ClusterBootstrap) -> dict[str, Array]:
    """`metrics.confusion_metrics` in each resample: name -> (R,), and ``recall`` (R,K)."""
    n, k = len(predictions), len(predictions.classes)
    one_hot = np.zeros((n, k * k))
    one_hot[np.arange(n), predictions.labels * k + predictions.predicted] = 1
    return dict(metrics.confusion_metrics(bootstrap.sums(one_hot).reshape(len(bootstrap), k, k)))


def resampled_aucs(predictions: Predictions, bootstrap: ClusterBootstrap) -> Array:
    """One-versus-rest area under the ROC curve in each resample (R,K); NaN where the class or the rest is not drawn."""
    aucs = np.full((len(bootstrap), len(predictions.classes)), np.nan)
    for k in predictions.present:
        score = predictions.probs[:, k]
        order = np.argsort(score, kind="stable")
        positive = (predictions.labels == k)[order]
        starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])  # first of each run of equal scores
        for part, weights in bootstrap.blocks():
            sorted_weights = weights[:, order]
            positives = np.add.reduceat(sorted_weights * positive, starts, axis=1)
            negatives = np.add.reduceat(sorted_weights * ~positive, starts, axis=1)
            below = np.cumsum(negatives, axis=1) - negatives
            pairs = positives.sum(axis=1) * negatives.sum(axis=1)
            with np.errstate(invalid="ignore"):
                ranked = (positives * (below + negatives / 2)).sum(axis=1)
                aucs[part, k] = np.where(pairs > 0, ranked / pairs, np.nan)
    return aucs


def resampled_calibration(
    predictions: Predictions, bootstrap: ClusterBootstrap, ece_bins: int = 10
) -> dict[str, Array]:
    """Log loss, Brier score and calibration error in each resample: ``nll``, ``brier`` and ``ece``, each (R,).

    The bins of the calibration error are those of the whole sample, so that no resample needs a sort. The error sums
    absolute gaps, which resampling widens: where it is near 0 its interval is too high.
    """
    confidence = predictions.probs.max(axis=1)
    bin_of = metrics.equal_count_bins(confidence, ece_bins)
    gap = np.eye(bin_of.max() + 1)[bin_of] * (predictions.correct - confidence)[:, None]
    return {
        "nll": bootstrap.means(metrics.nll_of_cells(predictions)),
        "brier": bootstrap.means(metrics.brier_of_cells(predictions)),
        "ece": np.abs(bootstrap.sums(gap)).sum(axis=1) / bootstrap.sums(np.ones(len(predictions))),
    }


def resampled_metrics(predictions: Predictions, bootstrap: ClusterBootstrap, ece_bins: int = 10) -> dict[str, Array]:
    """All metrics of `metrics.evaluate` in each resample: name -> (R,); also ``recall`` and ``auc`` (R,K).

    A class that a resample lacks is left out of the macro averages of that resample.
    """
    resampled = resampled_confusion(predictions, bootstrap)
    aucs = resampled_aucs(predictions, bootstrap)
    known = np.isfinite(aucs)
    with np.errstate(invalid="ignore"):
        resampled["macro_auc"] = np.where(known, aucs, 0).sum(axis=1) / known.sum(axis=1)
    resampled["auc"] = aucs
    return resampled | resampled_calibration(predictions, bootstrap, ece_bins)


def score_interval(
    predictions: Predictions, metric: str, value: float, samples: Array, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a metric: percentile, or Wilson's over groups where resampling cannot vary.

    Where all cells are right (or all wrong) every resample repeats the same value and the percentile interval has no
    width; the metrics in ``RATES`` then get `clustered_wilson`.

    Args:
        predictions: predictions that the metric was computed from.
        metric: its name.
        value: its value.
        samples: (R,) its values in the resamples.
        level: coverage.

    Returns:
        low, high; (NaN, NaN) if there is one group.
    """
    if len(np.unique(predictions.groups)) < 2:
        return float("nan"), float("nan")
    if metric in RATES and value in (0.0, 1.0):
        return clustered_wilson(predictions.correct, predictions.groups, level)[:2]
    return percentile_interval(samples, level)
