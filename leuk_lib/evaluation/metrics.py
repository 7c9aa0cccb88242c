r"""Metrics of a classifier on one part of the data; scikit-learn's where it has them.

Notation: N cells, K classes, :math:`p_{ik}` the stated probability of class k for cell i, :math:`y_i` its true class,
:math:`\hat y_i = \arg\max_k p_{ik}` the predicted one, :math:`\mathcal K` the classes that occur among the labels.

- accuracy: :math:`\frac{1}{N} \sum_i [\hat y_i = y_i]`
- recall and precision of a class: :math:`R_k = \mathrm{TP}_k / n_k`, :math:`P_k = \mathrm{TP}_k / \hat n_k`, with
  :math:`n_k` true and :math:`\hat n_k` predicted cells of the class
- balanced accuracy = macro recall: :math:`\frac{1}{|\mathcal K|} \sum_{k \in \mathcal K} R_k`
- macro F1: :math:`\frac{1}{|\mathcal K|} \sum_{k \in \mathcal K} \frac{2\,\mathrm{TP}_k}{n_k + \hat n_k}`
- macro AUC: mean over the classes of the area under the one-versus-rest ROC curve
- negative log likelihood (log loss): :math:`-\frac{1}{N} \sum_i \ln p_{i y_i}`, in nats
- Brier score: :math:`\frac{1}{N} \sum_i \sum_k (p_{ik} - [y_i = k])^2`, in [0, 2]
- adaptive calibration error: see :func:`adaptive_ece`

References:
    Brier, G. W. (1950). Verification of forecasts expressed in terms of probability. Mon. Weather Rev. 78, 1-3.

    Nguyen, K. and O'Connor, B. (2015). Posterior calibration and exploratory analysis for natural language processing
    models. EMNLP, 1587-1598.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics as sk

from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs.errors import LeukError

Array = NDArray[np.float64]
MIN_PROBABILITY = 1e-12  # smallest probability that enters a logarithm

METRICS = (
    "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_auc", "nll", "brier", "ece",
)  # fmt: skip


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """Confusion matrix (K,K) of counts: rows are true classes, columns predicted ones."""
    return sk.confusion_matrix(predictions.labels, predictions.predicted, labels=range(len(predictions.classes)))


def recalls(predictions: Predictions) -> pd.DataFrame:
    """Recall per class: columns class, n, correct, recall in [0,1] (NaN for a class without a cell)."""
    counts = confusion(predictions)
    n = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        recall = counts.diagonal() / n
    return pd.DataFrame({"class": predictions.classes, "n": n, "correct": counts.diagonal(), "recall": recall})


def class_aucs(predictions: Predictions) -> Array:
    """Area under the one-versus-rest ROC curve of each class (K,); NaN where the class or the rest has no cell."""
    aucs = np.full(len(predictions.classes), np.nan)
    for k in predictions.present:
        positive = predictions.labels == k
        if not positive.all():
            aucs[k] = sk.roc_auc_score(positive, predictions.probs[:, k])
    return aucs


def nll_of_cells(predictions: Predictions) -> Array:
    r"""Negative log likelihood of each cell (N,), :math:`-\ln p_{i y_i}` in nats."""
    true_probs = predictions.probs[np.arange(len(predictions)), predictions.labels]
    return -np.log(np.clip(true_probs, MIN_PROBABILITY, 1))


def brier_of_cells(predictions: Predictions) -> Array:
    r"""Brier score of each cell (N,), :math:`\sum_k (p_{ik} - [y_i = k])^2` in [0, 2]."""
    return ((predictions.probs - np.eye(len(predictions.classes))[predictions.labels]) ** 2).sum(axis=1)


def equal_count_bins(confidence: Array, bins: int) -> NDArray[np.int64]:
    """Assign each cell to one of ``bins`` bins of equal counts; equal confidences share a bin.

    Args:
        confidence: (N,) values to bin by rank.
        bins: number of bins; fewer result where cells or different confidences are few.

    Returns:
        (N,) bin of each cell, 0 the least confident.

    Raises:
        LeukError: less than one bin.

    >>> equal_count_bins(np.array([0.9, 0.5, 0.6, 0.8]), 2)
    array([1, 0, 0, 1])
    """
    if bins < 1:
        raise LeukError(f"bins of equal counts: needs at least one, got {bins}")
    if not len(confidence):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(confidence, np.linspace(0, 1, min(bins, len(confidence)) + 1)[1:-1], method="higher")
    return np.unique(np.searchsorted(np.unique(edges), confidence, side="right"), return_inverse=True)[1]


def adaptive_ece(predictions: Predictions, bins: int = 10) -> float:
    r"""Expected calibration error of the predicted class over bins of equal counts, in [0, 1].

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} \left|\mathrm{acc}_b - \mathrm{conf}_b\right|

    with :math:`n_b` the cells, :math:`\mathrm{acc}_b` the accuracy and :math:`\mathrm{conf}_b` the mean confidence
    :math:`\max_k p_{ik}` of bin b.

    References:
        Nguyen & O'Connor 2015 (see the module).

    >>> probs = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
    >>> part = Predictions(np.array([0, 1, 0, 0]), probs, np.array(list("abcd")), ("x", "y"))
    >>> round(adaptive_ece(part, bins=2), 6)  # |1/2 - 0.6| / 2 + |1 - 0.9| / 2
    0.1
    """
    confidence = predictions.probs.max(axis=1)
    bin_of = equal_count_bins(confidence, bins)
    gap = np.bincount(bin_of, predictions.correct) - np.bincount(bin_of, confidence)
    return float(np.abs(gap).sum() / len(predictions))


def calibration_metrics(predictions: Predictions, ece_bins: int = 10) -> dict[str, float]:
    """Metrics of the stated probabilities: nll, brier and ece, as in `evaluate`.

    Raises:
        LeukError: the part has no cell.
    """
    if not len(predictions):
        raise LeukError("metrics: there is no cell in this part")
    return {
        "nll": float(nll_of_cells(predictions).mean()),
        "brier": float(brier_of_cells(predictions).mean()),
        "ece": adaptive_ece(predictions, ece_bins),
    }


def evaluate(predictions: Predictions, ece_bins: int = 10) -> dict[str, float]:
    """All scalar metrics of one model on one part, as the module defines them.

    Macro averages run over the classes that occur here; ``predictions.absent`` names the others. A cell that is
    predicted as an absent class still counts as wrong.

    Args:
        predictions: predictions on the part.
        ece_bins: bins of the calibration error.

    Returns:
        accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1, macro_auc (NaN if only one class occurs),
        nll, brier, ece.

    Raises:
        LeukError: the part has no cell.
    """
    calibration = calibration_metrics(predictions, ece_bins)
    labels, predicted = predictions.labels, predictions.predicted
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predicted, labels=predictions.present, average="macro", zero_division=0
    )
    aucs = class_aucs(predictions)
    return {
        "accuracy": float(sk.accuracy_score(labels, predicted)),
        "balanced_accuracy": float(recall),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
        "macro_auc": float(np.nanmean(aucs)) if np.isfinite(aucs).any() else float("nan"),
        **calibration,
    }


def confusion_metrics(counts: Array) -> Mapping[str, Array]:
    """Metrics that follow from a confusion matrix, for a batch of matrices at once.

    scikit-learn takes one set of labels at a time and a bootstrap has thousands; a test compares the two.

    Args:
        counts: (...,K,K) confusion matrices; a class without a true cell is left out of the averages of its matrix.

    Returns:
        accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1 (...) and recall (...,K).
    """
    counts = np.asarray(counts, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    n_true, n_predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    present = n_true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(present, hits / n_true, np.nan)
        precision = np.where(n_predicted > 0, hits / n_predicted, 0.0)
        f1 = 2 * hits / (n_true + n_predicted)
        n_present = present.sum(axis=-1)

        def macro(values: Array) -> Array:
            return np.where(present, np.nan_to_num(values), 0).sum(axis=-1) / n_present

        balanced = macro(recall)
        return {
            "accuracy": hits.sum(axis=-1) / n_true.sum(axis=-1), "balanced_accuracy": balanced,
            "macro_precision": macro(precision), "macro_recall": balanced, "macro_f1": macro(f1), "recall": recall,
        }  # fmt: skip


def vote(predictions: Predictions) -> Predictions:
    """Majority vote of the cells of each group (patient).

    Returns:
        One row per group, its probabilities the shares of votes; the mean probability breaks ties.

    Raises:
        LeukError: a group has cells of several classes, so that there is no single label to vote on.
    """
    groups, group_of = np.unique(predictions.groups, return_inverse=True)
    k = len(predictions.classes)
    labels = np.zeros((len(groups), k))
    np.add.at(labels, (group_of, predictions.labels), 1)
    mixed = (labels > 0).sum(axis=1) > 1
    if mixed.any():
        raise LeukError(
            f"vote: group {groups[mixed][0]!r} has cells of several classes "
            f"({int(mixed.sum())} of {len(groups)} groups have)"
        )
    votes, mean = np.zeros((len(groups), k)), np.zeros((len(groups), k))
    np.add.at(votes, (group_of, predictions.predicted), 1)
    np.add.at(mean, group_of, predictions.probs)
    size = labels.sum(axis=1, keepdims=True)
    # Shares of votes differ by at least 1/size, so a millionth of the mean probability can only break ties.
    shares = (votes / size + 1e-6 * mean / size) / (1 + 1e-6)
    shares /= shares.sum(axis=1, keepdims=True)
    return Predictions(labels.argmax(axis=1), shares, groups, predictions.classes)
