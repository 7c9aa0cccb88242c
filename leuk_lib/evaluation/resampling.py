"""Metrics of a classifier in every resample of a cluster bootstrap, and their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.statistics.bootstrap import ClusterBootstrap, percentile_interval
from leuk_lib.statistics.intervals import clustered_wilson

Array = NDArray[np.float64]
RATES = ("accuracy", "balanced_accuracy", "macro_recall")  # 1 where all cells are right and 0 where all are wrong


def recall_table(predictions: Predictions, rng: np.random.Generator, n_resamples: int = 2000) -> pd.DataFrame:
    """One row a class: class, value (recall), low, high (95 %, whole groups resampled), n cells, groups.

    A class without a cell has NaN. Resamples that miss a class say nothing of its recall and are left out of its
    interval; a class of one group has no interval, since it is then unknown how groups differ.
    """
    table = metrics.recalls(predictions)
    bootstrap = ClusterBootstrap(predictions.groups, n_resamples, rng)
    mine = np.eye(len(predictions.classes))[predictions.labels]
    hits, sizes = bootstrap.sums(mine * predictions.correct[:, None]), bootstrap.sums(mine)
    drawn = np.divide(hits, sizes, out=np.full_like(hits, np.nan), where=sizes > 0)
    rows = []
    for k, row in enumerate(table.to_dict("records")):
        groups = len(np.unique(predictions.groups[predictions.labels == k]))
        there = drawn[np.isfinite(drawn[:, k]), k]
        low, high = percentile_interval(there) if groups > 1 else (float("nan"), float("nan"))
        rows.append((row["class"], float(row["recall"]), low, high, int(row["n"]), groups))
    return pd.DataFrame(rows, columns=["class", "value", "low", "high", "n", "groups"])


def resampled_aucs(predictions: Predictions, bootstrap: ClusterBootstrap) -> Array:
    """(R,K) one-versus-rest area under the ROC curve in every resample; NaN where a class or its rest is not drawn."""
    found = np.full((len(bootstrap), len(predictions.classes)), np.nan)
    for k in predictions.present:
        score = predictions.probs[:, k]
        order = np.argsort(score, kind="stable")
        positive = (predictions.labels == k)[order]
        starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])  # first of each run of equal scores
        for part, weights in bootstrap.blocks():
            sorted_weights = weights[:, order]
            up = np.add.reduceat(sorted_weights * positive, starts, axis=1)
            down = np.add.reduceat(sorted_weights * ~positive, starts, axis=1)
            below = np.cumsum(down, axis=1) - down
            pairs = up.sum(axis=1) * down.sum(axis=1)
            with np.errstate(invalid="ignore"):
                found[part, k] = np.where(pairs > 0, (up * (below + down / 2)).sum(axis=1) / pairs, np.nan)
    return found


def resampled_metrics(predictions: Predictions, bootstrap: ClusterBootstrap, ece_bins: int = 10) -> dict[str, Array]:
    """Every metric of ``metrics.evaluate`` in every resample: name -> (R,); ``recall`` and ``auc`` are (R,K).

    A class that a resample lacks is left out of its macro averages. The bins of the calibration error are those of
    the whole sample, so that an interval needs no sort a resample.
    """
    n, k = len(predictions), len(predictions.classes)
    cells = np.zeros((n, k * k))
    cells[np.arange(n), predictions.labels * k + predictions.predicted] = 1
    found = dict(metrics.confusion_metrics(bootstrap.sums(cells).reshape(len(bootstrap), k, k)))
    aucs = resampled_aucs(predictions, bootstrap)
    known = np.isfinite(aucs)
    with np.errstate(invalid="ignore"):
        found["macro_auc"] = np.where(known, aucs, 0).sum(axis=1) / known.sum(axis=1)
    found["auc"] = aucs
    return found | resampled_calibration(predictions, bootstrap, ece_bins)


def resampled_calibration(predictions: Predictions, bootstrap: ClusterBootstrap, ece_bins: int = 10) -> dict[str, Array]:
    """Log loss, Brier score and calibration error in every resample: ``nll``, ``brier`` and ``ece``, each (R,).

    The calibration error adds up absolute gaps, which resampling widens: where it is near 0 its interval lies too high.
    """
    confidence = predictions.probs.max(axis=1)
    number = metrics.equal_count_bins(confidence, ece_bins)
    gap = np.eye(number.max() + 1)[number] * (predictions.correct - confidence)[:, None]
    return {
        "nll": bootstrap.means(metrics.nll_of_cells(predictions)),
        "brier": bootstrap.means(metrics.brier_of_cells(predictions)),
        "ece": np.abs(bootstrap.sums(gap)).sum(axis=1) / bootstrap.sums(np.ones(len(predictions))),
    }


def score_interval(
    predictions: Predictions, metric: str, value: float, samples: Array, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a metric's resamples (R,), where resampling can tell; (NaN, NaN) where there is one group.

    Where all cells are right (or wrong) Wilson's over groups, for the metrics in ``RATES``: there the bootstrap only
    repeats what it saw, and its interval has no width.
    """
    if len(np.unique(predictions.groups)) < 2:
        return float("nan"), float("nan")
    if metric in RATES and value in (0.0, 1.0):
        return clustered_wilson(predictions.correct, predictions.groups, level)[:2]
    return percentile_interval(samples, level)
