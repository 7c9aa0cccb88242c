"""The ladder study's outcome: probabilities of each model, repetition and condition to tables with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.evaluation import calibration, metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.studies.paired import Outcomes, between, cells_of, scores
from leuk_lib.studies.study import Row

Array = NDArray[np.float64]
DIGITS = 5  # of a probability in a row
TEST, VAL = "test", "val"


def pack(condition: str, probs: Array, labels: Tensor, groups: Sequence[str], cells: Sequence[str]) -> Row:
    """One condition as a row of plain values: probabilities (N,K) as text, a cell after the other."""
    return {
        "condition": condition, "cell": ",".join(cells), "group": ",".join(groups),
        "label": ",".join(str(int(k)) for k in labels),
        "probs": ",".join(f"{p:.{DIGITS}f}" for p in np.asarray(probs).ravel()),
    }  # fmt: skip


def unpack(row: Row, classes: tuple[str, ...]) -> Predictions:
    """What :func:`pack` made a row of; rows of probabilities sum to 1 again."""
    labels = np.array(row["label"].split(","), dtype=np.int64)
    probs = np.array(row["probs"].split(","), dtype=np.float64).reshape(len(labels), -1)
    return Predictions(labels, probs / probs.sum(axis=1, keepdims=True), np.array(row["group"].split(",")), classes)


def tables(
    rows: Sequence[Row], ladder: Sequence[str], full: str, rivals: Sequence[str], classes: tuple[str, ...],
    test_over_train: float, resamples: int, seed: int,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """The outcome of the study; ``rows`` as ``Ladder._judge`` gives them.

    scores: every model's balanced accuracy on the test cells. steps: every step of the ladder against the one before.
    rivals: the full model against every rival, and the ladder's other steps with WPAT too. shifts: models tried on
    shifted cells. calibration, abstention: before and after temperature scaling; accuracy of the surest cells. small:
    frozen features on sets with classes of their own, patients left out.
    """
    judged = [row for row in rows if "probs" in row]
    outcomes = _outcomes([row for row in judged if row["condition"] == TEST], classes, resamples, seed)
    before = dict(zip(ladder[1:], ladder[:-1], strict=True))
    best = strongest(judged, rivals, classes)
    found = {
        "scores": scores(outcomes),
        "steps": between(outcomes, before.items(), test_over_train),
        "rivals": between(outcomes, [(full, rival) for rival in rivals], test_over_train),
        "best_rival": pd.DataFrame([{"arm": best, "chosen by": "validation loss, mean over repetitions"}]),
        "calibration": calibrated(judged, [*ladder, *rivals], classes, resamples, seed),
        "abstention": abstained(judged, [full, best], classes, resamples, seed),
        "recalls": recalls(judged, [full, best], classes),
        "training": pd.DataFrame([row for row in rows if row["condition"] == "training"]).drop(columns="condition"),
    }
    for prefix, name in (("shift ", "shifts"), ("other ", "foreign")):
        some = [row for row in judged if str(row["condition"]).startswith(prefix)]
        if some:
            shifted = _outcomes(some, classes, resamples, seed, shared_only=prefix == "other ")
            found[name] = scores(shifted)
            arms = shifted.arms
            against = [(full, rival) for rival in arms if rival in rivals and full in arms]
            found[f"{name}_gaps"] = between(shifted, against, test_over_train) if against else pd.DataFrame()
    small = [row for row in rows if str(row["condition"]).startswith("small ")]
    if small:
        own = Outcomes(cells_of(small), resamples, seed)
        found["small"] = scores(own)
        found["small_gaps"] = between(own, [(full, arm) for arm in own.arms if arm != full], test_over_train)
    return found


def strongest(rows: Sequence[Row], rivals: Sequence[str], classes: tuple[str, ...]) -> str:
    """The rival of lowest mean loss on the validation parts."""

    def loss(arm: str) -> float:
        mine = [unpack(row, classes) for row in rows if row["arm"] == arm and row["condition"] == VAL]
        return float(np.mean([metrics.nll_of_cells(part).mean() for part in mine]))

    return min(rivals, key=loss)


def calibrated(
    rows: Sequence[Row], arms: Sequence[str], classes: tuple[str, ...], resamples: int, seed: int
) -> pd.DataFrame:
    """`calibration.scaling_table` of every model, with a column arm."""
    tables = [
        calibration.scaling_table(_repetitions(rows, arm, classes), resamples, seed).assign(arm=arm) for arm in arms
    ]
    return pd.concat(tables, ignore_index=True)


def abstained(
    rows: Sequence[Row], arms: Sequence[str], classes: tuple[str, ...], resamples: int, seed: int
) -> pd.DataFrame:
    """``abstention_curve`` of each model over the test cells of all repetitions together, after temperature scaling.

    Intervals: repetitions and groups resampled, as those of the scores.
    """
    out = []
    for arm in arms:
        parts = []
        for val, test in _repetitions(rows, arm, classes):
            parts.append(test.with_probs(calibration.apply_temperature(test.probs, calibration.fit_temperature(val))))
        whole = _together(parts)
        repetition = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        bootstrap = ClusterBootstrap.crossed(whole.groups, repetition, resamples, numpy_rng(seed, "abstention"))
        out.append(calibration.abstention_curve(whole, bootstrap).assign(arm=arm))
    return pd.concat(out, ignore_index=True)


def recalls(rows: Sequence[Row], arms: Sequence[str], classes: tuple[str, ...]) -> pd.DataFrame:
    """Recall of every class over the test cells of all repetitions together: arm, class, n, correct, recall."""
    parts = []
    for arm in arms:
        whole = _together([test for _, test in _repetitions(rows, arm, classes)])
        parts.append(metrics.recalls(whole).assign(arm=arm))
    return pd.concat(parts, ignore_index=True)


def _together(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        np.concatenate([part.labels for part in parts]), np.concatenate([part.probs for part in parts]),
        np.concatenate([part.groups for part in parts]), parts[0].classes,
    )  # fmt: skip


def _repetitions(rows: Sequence[Row], arm: str, classes: tuple[str, ...]) -> list[tuple[Predictions, Predictions]]:
    """Validation and test predictions of each repetition of a model."""
    mine: dict[int, dict[str, Predictions]] = {}
    for row in rows:
        if row["arm"] == arm and row["condition"] in (VAL, TEST):
            mine.setdefault(row["seed"], {})[row["condition"]] = unpack(row, classes)
    return [(found[VAL], found[TEST]) for found in mine.values()]


def _outcomes(
    rows: Sequence[Row], classes: tuple[str, ...], resamples: int, seed: int, shared_only: bool = False
) -> Outcomes:
    """One row a test cell; ``shared_only``: the answer is the likeliest among the classes that the condition holds."""
    parts = []
    for row in rows:
        found = unpack(row, classes)
        allowed = found.present if shared_only else np.arange(len(classes))
        predicted = allowed[found.probs[:, allowed].argmax(axis=1)]
        parts.append(pd.DataFrame({
            "arm": row["arm"], "seed": row["seed"], "condition": row["condition"], "cell": row["cell"].split(","),
            "group": found.groups, "label": found.labels.astype(str), "right": (predicted == found.labels).astype(int),
        }))  # fmt: skip
    return Outcomes(pd.concat(parts, ignore_index=True), resamples, seed)
