"""Chapters 1 and 9, second labels: how well two experts agree, and whether the model is as good as a second reader.

A data set with a second expert's label for each cell has the column ``label2`` (``label3``, ...) in ``cells.csv``.
Everything here is empty for a data set without one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.chapters.results import slugs
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.second_labels import label_columns
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.agreement import Agreement, agreement
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import UNKNOWN, format_interval, t_interval, t_p

FIRST = "label"  # the label that models are trained on and scored by
OPEN_PARTS = ("train", "val")
PAIRS = [
    "first", "second", "cells", "groups", "agreement", "agreement low", "agreement high", "kappa", "low", "high",
]  # fmt: skip
DIFFERENCES = ["against", "reader", "other reader", "difference", "low", "high", "p"]


def _pairs(
    readers: Mapping[str, NDArray[np.str_]], groups: NDArray[np.str_], n_resamples: int, level: float,
    rng: np.random.Generator,
) -> dict[tuple[str, str], Agreement]:  # fmt: skip
    """Agreement of each pair of readers on the same cells and resamples."""
    bootstrap = ClusterBootstrap(groups, n_resamples, rng)
    return {
        (a, b): agreement(readers[a], readers[b], groups, bootstrap, level) for a, b in combinations(list(readers), 2)
    }


def _pair_table(pairs: Mapping[tuple[str, str], Agreement]) -> pd.DataFrame:
    rows = [
        (a, b, result.n, result.n_groups, result.agreement, *result.agreement_interval, result.kappa,
         *result.kappa_interval)
        for (a, b), result in pairs.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=PAIRS)


def label_agreement(cells: CellSet, seed: int = 0, n_resamples: int = 2000, level: float = 0.95) -> pd.DataFrame:
    """Agreement of the label with each further label on training and validation cells; the test part stays closed.

    Args:
        cells: the data set.
        seed: seed of the resamples.
        n_resamples: bootstrap resamples of groups.
        level: coverage of the intervals.

    Returns:
        One row per further label, over the cells that have it: first, second, cells, groups, agreement (share of equal
        labels, with low and high), kappa, low, high; empty without a second label.
    """
    table = cells.table[cells.table["split"].isin(OPEN_PARTS)]
    rows = []
    for name in label_columns(table):
        both = table[table[name].astype(str) != ""]
        readers = {column: both[column].to_numpy(dtype=str) for column in (FIRST, name)}
        rng = numpy_rng(seed, "agreement", name)
        rows.append(_pair_table(_pairs(readers, both["group"].to_numpy(dtype=str), n_resamples, level, rng)))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=PAIRS)


def disagreements(cells: CellSet, limit: int = 10) -> pd.DataFrame:
    """The commonest pairs of different labels: second label (its column), label, other label, cells, share of the label.

    Training and validation cells only; empty without a second label.
    """
    table = cells.table[cells.table["split"].isin(OPEN_PARTS)]
    rows = []
    for name in label_columns(table):
        both = table[table[name].astype(str) != ""]
        of_class = both[FIRST].value_counts()
        differ = both[both[FIRST] != both[name].astype(str)]
        counts = differ.groupby([FIRST, name]).size().rename("cells").reset_index()
        rows += [
            (name, row[FIRST], row[name], int(row["cells"]), row["cells"] / of_class[row[FIRST]])
            for row in counts.to_dict("records")
        ]
    columns = ["second label", "label", "other label", "cells", "share of the label"]
    return pd.DataFrame(rows, columns=columns).sort_values("cells", ascending=False, kind="stable").head(limit)


def agreement_sentence(pairs: pd.DataFrame) -> str:
    """Say how well the labels of a data set agree, "" without a second label."""
    return " ".join(
        f"On {row['cells']} training and validation cells with both labels, {row['first']} and {row['second']} are equal "
        f"for {100 * row['agreement']:.1f} % of the cells; {_kappa_words(row)}."
        for row in pairs.to_dict("records")
    )


def _kappa_words(row: Mapping[Any, Any]) -> str:
    if not math.isfinite(row["kappa"]):
        return "kappa is undefined, because both use one class only"
    return f"Cohen's kappa is {format_interval(row['kappa'], row['low'], row['high'], '.2f')}"


def read_labels(cells: CellSet, predictions: Predictions, split: str = "test") -> pd.DataFrame:
    """Return the further labels of the predicted cells, in their order; no column without a second label.

    Args:
        cells: the data set.
        predictions: predictions on one split, in the order of the cells.
        split: that split.

    Raises:
        LeukError: the predictions are of other cells.
    """
    table = cells.table[cells.table["split"] == split]
    names = label_columns(table)
    labels = [predictions.classes[k] for k in predictions.labels.tolist()]
    if names and (
        table[FIRST].tolist() != labels or table["group"].astype(str).tolist() != predictions.groups.tolist()
    ):
        raise LeukError(f"the predictions on {split} are of other cells than the data; run 06_comparison.ipynb again")
    return table[names].astype(str).reset_index(drop=True)


def compare_readers(
    predictions: Predictions,
    further: pd.DataFrame,
    model: str,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the model with each expert, and the experts with each other, on the same cells and resamples.

    Args:
        predictions: the model's predictions.
        further: further labels of the same cells (`read_labels`); cells without a further label are left out.
        model: name of the model.
        seed: seed of the resamples.
        n_resamples: bootstrap resamples of groups.
        level: coverage of the intervals.

    Returns:
        Pairs of readers, as `label_agreement`; and differences of kappa: against (whose labels are the reference),
        reader (the model), other reader (the other expert), difference, low, high, p. Both empty without a second label.
    """
    pairs, differences = [], []
    names = np.array(predictions.classes)
    for name in further.columns:
        known = (further[name] != "").to_numpy()
        readers = {
            FIRST: names[predictions.labels[known]],
            str(name): further.loc[known, name].to_numpy(dtype=str),
            model: names[predictions.predicted[known]],
        }
        rng = numpy_rng(seed, "agreement", str(name))
        of_pairs = _pairs(readers, predictions.groups[known], n_resamples, level, rng)
        pairs.append(_pair_table(of_pairs))
        between = of_pairs[FIRST, str(name)]
        for against, other in ((FIRST, str(name)), (str(name), FIRST)):
            ours = of_pairs[against, model]
            difference = ours.kappa - between.kappa
            spread = ours.spread_of_difference(between)
            if spread.error == 0:  # equal in every resample, which is no certainty about other groups
                spread = UNKNOWN
            differences.append(
                (against, model, other, difference, *t_interval(difference, spread, level), t_p(difference, spread))
            )
    if not pairs:
        return pd.DataFrame(columns=PAIRS), pd.DataFrame(columns=DIFFERENCES)
    return pd.concat(pairs, ignore_index=True), pd.DataFrame(differences, columns=DIFFERENCES)


def reader_sentences(differences: pd.DataFrame) -> list[str]:
    """Say for each difference of kappa what it shows; nothing without a second label.

    An interval that includes 0 shows no difference, which is not equality: the sentence also says how much worse the
    model may be.
    """
    out = []
    for row in differences.to_dict("records"):
        reader, other, against = row["reader"], row["other reader"], row["against"]
        if not math.isfinite(row["difference"]):
            out.append(f"Against {against}, {reader} and {other} cannot be compared: kappa is undefined.")
            continue
        size = abs(row["difference"])
        way = "higher" if row["difference"] > 0 else "lower"
        start = f"Against {against}, the kappa of {reader} is {size:.2f} {way} than that of {other}"
        if not math.isfinite(row["low"]):
            out.append(f"{start}; no interval can be given (one group, or two readers that always agree).")
            continue
        start += f" [{row['low']:.2f}, {row['high']:.2f}]"
        if row["low"] > 0:
            end = f"{reader} agrees with {against} more than {other} does"
        elif row["high"] < 0:
            end = f"{reader} agrees with {against} less than {other} does"
        else:
            end = f"no difference is shown, but {reader} may be up to {max(0.0, -row['low']):.2f} worse"
        bias = f" {reader} was trained on {against}, which favours it here." if against == FIRST else ""
        out.append(f"{start}: {end}.{bias}")
    return out


def agreed_accuracy(predictions: Predictions, further: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the model where the experts agree and where they differ: second label, cells are, n, accuracy."""
    rows = []
    names = np.array(predictions.classes)
    for name in further.columns:
        known = (further[name] != "").to_numpy()
        same = (names[predictions.labels] == further[name].to_numpy(dtype=str)) & known
        for words, chosen in (("labelled alike", same), ("labelled differently", known & ~same)):
            if chosen.any():
                rows.append((name, words, int(chosen.sum()), float(predictions.correct[chosen].mean())))
    return pd.DataFrame(rows, columns=["second label", "cells are", "n", "accuracy by label"])


def format_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """`label_agreement` for display: the readers, cells, and both measures with their intervals."""
    shown = pairs[["first", "second", "cells", "groups"]].copy()
    for head, names in (
        ("equal labels", ("agreement", "agreement low", "agreement high")),
        ("Cohen's kappa", ("kappa", "low", "high")),
    ):
        shown[head] = [format_interval(*row) for row in pairs[list(names)].to_numpy(dtype=np.float64)]
    return shown


def record_agreement(stage: Recorder, pairs: pd.DataFrame, differences: Sequence[Mapping[Any, Any]] = ()) -> None:
    """Record kappa and agreement of each pair of readers, and the differences; a kappa without a value becomes a note.

    Keys: ``kappa_<first>_<second>``, ``agreement_<first>_<second>``, ``kappa_difference_<against>``.
    """
    for row in pairs.to_dict("records"):
        name = "_".join(slugs([row["first"], row["second"]]))
        _record(stage, f"kappa_{name}", row["kappa"], row["low"], row["high"], row["cells"])
        _record(stage, f"agreement_{name}", row["agreement"], row["agreement low"], row["agreement high"], row["cells"])
    for line in differences:
        key = f"kappa_difference_{'_'.join(slugs([line['against'], line['other reader']]))}"
        _record(stage, key, line["difference"], line["low"], line["high"])


def _record(stage: Recorder, key: str, value: float, low: float, high: float, n: int | None = None) -> None:
    if not math.isfinite(value):
        stage.note(f"{key} has no value: both readers use one class only")
        return
    known = math.isfinite(low) and math.isfinite(high)
    stage.record(key, value, low if known else None, high if known else None, n)
