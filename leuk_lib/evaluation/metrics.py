"""Metrics of a classifier on one part of the data: scikit-learn's where it has them, named absences where it fails."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics as sk

from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs.errors import LeukError

Array = NDArray[np.float64]
TINY = 1e-12  # smallest probability that enters a logarithm

HIGHER_IS_BETTER = {
    "accuracy": True, "balanced_accuracy": True, "macro_precision": True, "macro_recall": True, "macro_f1": True,
    "macro_auc": True, "nll": False, "brier": False, "ece": False,
}  # fmt: skip


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """(K,K) counts: row the true class, column the predicted one."""
    return sk.confusion_matrix(predictions.labels, predictions.predicted, labels=range(len(predictions.classes)))


def recalls(predictions: Predictions) -> pd.DataFrame:
    """One row a class: class, n, correct, recall in [0,1] (NaN for a class that is absent here)."""
    counts = confusion(predictions)
    n = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        recall = counts.diagonal() / n
    return pd.DataFrame({"class": predictions.classes, "n": n, "correct": counts.diagonal(), "recall": recall})


def class_aucs(predictions: Predictions) -> Array:
    """(K,) area under the ROC curve of each class against the rest; NaN where the class or the rest is absent."""
    found = np.full(len(predictions.classes), np.nan)
    for k in predictions.present:
        positive = predictions.labels == k
        if not positive.all():
            found[k] = sk.roc_auc_score(positive, predictions.probs[:, k])
    return found


def nll_of_cells(predictions: Predictions) -> Array:
    """(N,) negative log probability of the true class, nats."""
    return -np.log(np.clip(predictions.probs[np.arange(len(predictions)), predictions.labels], TINY, 1))


def brier_of_cells(predictions: Predictions) -> Array:
    """(N,) squared distance between the probabilities and the one-hot label, in [0,2] (Brier 1950)."""
    return ((predictions.probs - np.eye(len(predictions.classes))[predictions.labels]) ** 2).sum(axis=1)


def equal_count_bins(confidence: Array, bins: int) -> NDArray[np.int64]:
    """(N,) bin number of every cell: ``bins`` bins of equal counts by rank; equal confidences share a bin."""
    if not len(confidence):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(confidence, np.linspace(0, 1, min(bins, len(confidence)) + 1)[1:-1], method="higher")
    return np.unique(np.searchsorted(np.unique(edges), confidence, side="right"), return_inverse=True)[1]


def adaptive_ece(predictions: Predictions, bins: int = 10) -> float:
    """Expected calibration error of the top class over bins of equal counts, in [0,1] (Nguyen & O'Connor 2015)."""
    confidence = predictions.probs.max(axis=1)
    number = equal_count_bins(confidence, bins)
    gap = np.bincount(number, predictions.correct) - np.bincount(number, confidence)
    return float(np.abs(gap).sum() / len(predictions))


def evaluate(predictions: Predictions, ece_bins: int = 10) -> dict[str, float]:
    """All scalar metrics of one model on one part.

    Keys: accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1, macro_auc (one versus rest), nll (nats),
    brier ([0,2]), ece. Macro averages run over the classes that occur here (``predictions.absent`` names the others; a
    cell predicted as one of those still counts as wrong). macro_auc is NaN where only one class occurs.
    Raises ``LeukError`` without a single cell.
    """
    if not len(predictions):
        raise LeukError("metrics: there is no cell in this part")
    y, z, present = predictions.labels, predictions.predicted, predictions.present
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        y, z, labels=present, average="macro", zero_division=0
    )
    aucs = class_aucs(predictions)
    return {
        "accuracy": float(sk.accuracy_score(y, z)),
        "balanced_accuracy": float(recall),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
        "macro_auc": float(np.nanmean(aucs)) if np.isfinite(aucs).any() else float("nan"),
        "nll": float(nll_of_cells(predictions).mean()),
        "brier": float(brier_of_cells(predictions).mean()),
        "ece": adaptive_ece(predictions, ece_bins),
    }


def confusion_metrics(counts: Array) -> Mapping[str, Array]:
    """The metrics that a confusion matrix decides, for a whole batch of matrices (...,K,K) at once.

    Own code because scikit-learn takes one set of labels at a time and a bootstrap has thousands; equal to
    ``evaluate`` (tested). Classes without a row sum are left out of the macro averages of their matrix.
    """
    counts = np.asarray(counts, dtype=np.float64)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said = counts.sum(axis=-1), counts.sum(axis=-2)
    here = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(here, hit / true, np.nan)
        precision = np.where(said > 0, hit / said, 0.0)
        f1 = 2 * hit / (true + said)
        held = here.sum(axis=-1)

        def macro(values: Array) -> Array:
            return np.where(here, np.nan_to_num(values), 0).sum(axis=-1) / held

        balanced = macro(recall)
        return {
            "accuracy": hit.sum(axis=-1) / true.sum(axis=-1), "balanced_accuracy": balanced,
            "macro_precision": macro(precision), "macro_recall": balanced, "macro_f1": macro(f1), "recall": recall,
        }  # fmt: skip


def vote(predictions: Predictions) -> Predictions:
    """One row a group (patient): the share of its cells' votes for each class, ties broken by mean probability.

    Raises ``LeukError`` naming a group whose cells have several labels: there is no single answer to vote on.
    """
    names, number = np.unique(predictions.groups, return_inverse=True)
    k = len(predictions.classes)
    labels = np.zeros((len(names), k))
    np.add.at(labels, (number, predictions.labels), 1)
    mixed = (labels > 0).sum(axis=1) > 1
    if mixed.any():
        raise LeukError(
            f"vote: group {names[mixed][0]!r} holds cells of several classes ({int(mixed.sum())} of {len(names)} groups do)"
        )
    votes, mean = np.zeros((len(names), k)), np.zeros((len(names), k))
    np.add.at(votes, (number, predictions.predicted), 1)
    np.add.at(mean, number, predictions.probs)
    size = labels.sum(axis=1, keepdims=True)
    # A tie of votes differs by at least 1/size, so a millionth of the mean probability only ever breaks ties.
    shares = (votes / size + 1e-6 * mean / size) / (1 + 1e-6)
    shares /= shares.sum(axis=1, keepdims=True)
    return Predictions(labels.argmax(axis=1), shares, names, predictions.classes)
