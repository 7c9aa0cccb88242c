"""Metrics of a classifier in each resample of a cluster bootstrap, and their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import (
    NO_INTERVAL,
    Rate,
    equal_groups,
    normal_quantile,
    share,
    t_interval,
)

Array = NDArray[np.float64]
PER_CLASS = ("balanced_accuracy", "macro_recall", "macro_precision", "macro_f1", "macro_auc")  # averages over classes
RATES = ("accuracy", *PER_CLASS)
MIN_SKEWED = 8  # groups of a class for an interval of a log loss, Brier score or temperature


def resampled_confusion(predictions: Predictions, bootstrap: ClusterBootstrap) -> dict[str, Array]:
    """`metrics.confusion_metrics` in each resample: name -> (R,), and ``recall`` (R,K)."""
    n, k = len(predictions), len(predictions.classes)
    one_hot = np.zeros((n, k * k))
    one_hot[np.arange(n), predictions.labels * k + predictions.predicted] = 1
    return dict(metrics.confusion_metrics(bootstrap.sums(one_hot).reshape(len(bootstrap), k, k)))


def resampled_aucs(predictions: Predictions, bootstrap: ClusterBootstrap) -> Array:
    """One-versus-rest area under the ROC curve in each resample (R,K); NaN where the class or the rest is not drawn."""
    # Class -> its cells, the others by score, and how many of these score less than each cell, and at most as much.
    ranks = {}
    for k in predictions.present:
        score, positive = predictions.probs[:, k], predictions.labels == k
        negatives = np.flatnonzero(~positive)
        negatives = negatives[np.argsort(score[negatives])]
        less, at_most = (np.searchsorted(score[negatives], score[positive], side) for side in ("left", "right"))
        ranks[k] = np.flatnonzero(positive), negatives, less, at_most
    aucs = np.full((len(bootstrap), len(predictions.classes)), np.nan)
    for part, weights in bootstrap.blocks():
        for k, (positives, negatives, less, at_most) in ranks.items():
            drawn = weights[:, positives]
            counts = np.zeros((len(weights), len(negatives) + 1))  # negatives drawn among the first 0, 1, ...
            np.cumsum(weights[:, negatives], axis=1, out=counts[:, 1:])
            pairs = drawn.sum(axis=1) * counts[:, -1]
            with np.errstate(invalid="ignore"):
                ranked = (drawn * (counts[:, less] + counts[:, at_most])).sum(axis=1) / 2
                aucs[part, k] = np.where(pairs > 0, ranked / pairs, np.nan)
    return aucs


def resampled_calibration(
    predictions: Predictions, bootstrap: ClusterBootstrap, ece_bins: int = 10
) -> dict[str, Array]:
    """Log loss, Brier score and calibration error in each resample: ``nll``, ``brier`` and ``ece``, each (R,).

    The bins of the calibration error are those of the whole sample, so that no resample needs a sort. ``ece_noise`` is
    the sum over the bins of how far each gap lies from that of the sample (see :func:`ece_interval`).
    """
    confidence = predictions.probs.max(axis=1)
    bin_of = metrics.equal_count_bins(confidence, ece_bins)
    gap = np.eye(bin_of.max() + 1)[bin_of] * (predictions.correct - confidence)[:, None]
    with np.errstate(invalid="ignore"):  # a resample may draw no group of this part
        gaps = bootstrap.sums(gap) / bootstrap.sums(np.ones(len(predictions)))[:, None]
    return {
        "nll": bootstrap.means(metrics.nll_of_cells(predictions)),
        "brier": bootstrap.means(metrics.brier_of_cells(predictions)),
        "ece": np.abs(gaps).sum(axis=1),
        "ece_noise": np.abs(gaps - gap.mean(axis=0)).sum(axis=1),
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


def rate_of(predictions: Predictions, metric: str, value: float, samples: Array, bootstrap: ClusterBootstrap) -> Rate:
    """A metric in ``RATES`` with what its interval needs.

    Args:
        predictions: predictions that the metric was computed from.
        metric: its name.
        value: its value.
        samples: (R,) its values in the resamples.
        bootstrap: the resamples, drawn with the classes of the cells.
    """
    if metric == "accuracy":
        return share(predictions.correct, predictions.groups)
    strata = bootstrap.factors[0].strata
    classes = len(predictions.present)
    least = equal_groups(predictions.groups)
    if strata.any():  # no group has several classes: as many groups as if every class had the fewest
        least = float(classes * np.bincount(strata).min())
    one_answer = (
        len(np.unique(predictions.predicted)) == 1 if metric != "macro_auc" else not np.ptp(predictions.probs, 0).any()
    )
    exact = one_answer and metric in ("balanced_accuracy", "macro_recall", "macro_auc")
    return Rate(value, bootstrap.spread(samples, per_class=classes > 1), len(predictions), least, constant=exact)


def ece_interval(
    value: float, samples: Array, noise: Array, bootstrap: ClusterBootstrap, level: float = 0.95
) -> tuple[float, float]:
    r"""Interval of the calibration error, which is biased upwards: noise in the gaps of the bins adds to it.

    With gaps :math:`g_b` and their values :math:`g_b^*` in a resample, no true value lies further below than
    :math:`\sum_b |g_b^* - g_b|`, whose upper quantile gives the lower limit; the upper one is Student's.
    The bootstrap's quantiles of the error itself miss a well calibrated model's true error almost always.

    Args:
        value: the calibration error.
        samples: (R,) its values in the resamples.
        noise: (R,) ``ece_noise`` of :func:`resampled_calibration`.
        bootstrap: the resamples.
        level: coverage.
    """
    spread = bootstrap.spread(samples)
    if not np.isfinite(spread.error):
        return NO_INTERVAL
    deviation = float(np.nanstd(samples))
    half_tail = (1 + level) / 2  # skewed, as the measures on the log scale
    widening = spread.quantile(half_tail) / normal_quantile(half_tail)
    widening *= spread.error / deviation if deviation > 0 else 1.0
    low = value - float(np.nanquantile(noise, half_tail)) * widening
    return max(0.0, low), min(1.0, t_interval(value, spread, half_tail)[1])


def score_interval(
    predictions: Predictions, metric: str, value: float, samples: Mapping[str, Array], bootstrap: ClusterBootstrap,
    level: float = 0.95,
) -> tuple[float, float]:  # fmt: skip
    """Interval of a metric over groups.

    Args:
        predictions: predictions that the metric was computed from.
        metric: its name.
        value: its value.
        samples: name -> (R,) values in the resamples (`resampled_metrics`).
        bootstrap: the resamples, drawn with the classes of the cells.
        level: coverage.

    Returns:
        low, high; (NaN, NaN) if there is one group, for averages over classes if a class has one group, and for log loss
        and Brier score if a class has fewer than ``MIN_SKEWED``: one bad group that was not drawn may hold most of these.
    """
    if metric in RATES:
        return rate_of(predictions, metric, value, samples[metric], bootstrap).interval(level)
    if metric == "ece":
        return ece_interval(value, samples[metric], samples["ece_noise"], bootstrap, level)
    if bootstrap.fewest < MIN_SKEWED:
        return NO_INTERVAL
    return t_interval(value, bootstrap.spread(samples[metric]), level, scale="log")
