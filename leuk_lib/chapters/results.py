"""The tables of the results chapter: every model scored on the same cells and the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.evaluation import calibration, metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import resampled_metrics, score_interval
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest
from leuk_lib.runs.recorder import Notes
from leuk_lib.statistics import significance
from leuk_lib.statistics.bootstrap import ClusterBootstrap, paired_difference
from leuk_lib.statistics.intervals import clustered_wilson

Array = NDArray[np.float64]
FEW = 20  # groups below which a percentile interval of a mean is noticeably too narrow
COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")


@dataclass(frozen=True)
class Score:
    """One model on one part: its predictions, its metrics, and the same metrics in every resample of groups."""

    predictions: Predictions
    values: Mapping[str, float]
    samples: Mapping[str, Array]
    level: float

    @property
    def one_group(self) -> bool:
        """True if all cells belong to one group: nothing can then be said about other groups."""
        return len(set(self.predictions.groups.tolist())) < 2

    def interval(self, metric: str) -> tuple[float, float]:
        """`score_interval` of a metric."""
        return score_interval(self.predictions, metric, self.values[metric], self.samples[metric], self.level)


def part_of(found: Mapping[str, Mapping[str, Predictions]], split: str, full: str) -> dict[str, Predictions]:
    """Model -> predictions on one split, the full model first. Raises ``LeukError`` where one of them is missing."""
    if full not in found:
        raise LeukError(f"predictions hold no model {full!r}; {nearest(full, found)}")
    order = [full, *(name for name in found if name != full)]
    lacking = [name for name in order if split not in found[name]]
    if lacking:
        raise LeukError(f"predictions of model {lacking[0]!r} hold no split {split!r}; run 05_wpat.ipynb again")
    return {name: found[name][split] for name in order}


def cautions(stage: Notes, predictions: Predictions) -> pd.DataFrame:
    """What must be known of the test part before any figure is read: one row a caution, each noted in the card too."""
    groups, cells = len(set(predictions.groups.tolist())), len(predictions)
    found = []
    if predictions.absent:
        found.append(f"no cell of {', '.join(predictions.absent)} is in the test part: macro averages leave it out")
    if groups == 1:
        found.append("all test cells belong to one group: no interval can be given")
    elif groups < FEW:
        found.append(
            f"only {groups} groups in the test part: intervals over so few are rough and tend to be too narrow"
        )
    if groups == cells:
        found.append("every cell is its own group (no patients or slides are known): all figures are upper bounds")
    for caution in found:
        stage.note(caution)
    return pd.DataFrame({"caution": found or ["none"]})


def score_models(
    models: Mapping[str, Predictions], bootstrap: ClusterBootstrap, level: float = 0.95, ece_bins: int = 10
) -> dict[str, Score]:
    """Every model's metrics and their resamples; the resamples are shared, so differences are paired."""
    return {
        name: Score(
            part, metrics.evaluate(part, ece_bins), resampled_metrics(part, bootstrap, ece_bins=ece_bins), level
        )
        for name, part in models.items()
    }


def score_table(scores: Mapping[str, Score], names: Sequence[str] = tuple(metrics.HIGHER_IS_BETTER)) -> pd.DataFrame:
    """One row a model and metric: model, metric, value, low, high."""
    rows = [
        (model, metric, score.values[metric], *score.interval(metric))
        for model, score in scores.items()
        for metric in names
    ]
    return pd.DataFrame(rows, columns=["model", "metric", "value", "low", "high"])


def wide(table: pd.DataFrame, names: Sequence[str], digits: int = 3) -> pd.DataFrame:
    """A score table as people read it: one row a model, ``value [low, high]`` a metric."""

    def told(row: pd.Series) -> str:
        if not np.isfinite(row["value"]):
            return "–"
        interval = f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]" if np.isfinite(row["low"]) else ""
        return f"{row['value']:.{digits}f}{interval}"

    shown = table[table["metric"].isin(names)].copy()
    shown["told"] = shown.apply(told, axis=1)
    found = shown.pivot(index="model", columns="metric", values="told")
    order = list(dict.fromkeys(shown["model"]))
    return found.loc[order, list(names)].rename(columns=lambda name: name.replace("_", " ")).reset_index()


def difference_table(scores: Mapping[str, Score], full: str) -> pd.DataFrame:
    """The full model minus every other one, per metric of ``COMPARED``, over the same resamples.

    Columns: baseline, metric, difference, low, high, p (bootstrap), p_holm; for accuracy also only_full, only_baseline
    (cells that one of the two alone gets right), p_mcnemar, p_mcnemar_holm. Holm counts all baselines of a metric.
    """
    ours = scores[full]
    rows = []
    for name, theirs in scores.items():
        if name == full:
            continue
        test = significance.mcnemar_exact(ours.predictions.correct, theirs.predictions.correct)
        for metric in COMPARED:
            low = high = p = float("nan")
            if not ours.one_group:
                low, high, p = paired_difference(ours.samples[metric], theirs.samples[metric], ours.level)
            row = {"baseline": name, "metric": metric, "difference": ours.values[metric] - theirs.values[metric]}
            row |= {"low": low, "high": high, "p": p}
            if metric == "accuracy":
                row |= {"only_full": test.only_first, "only_baseline": test.only_second, "p_mcnemar": test.p}
            rows.append(row)
    columns = ["baseline", "metric", "difference", "low", "high", "p", "only_full", "only_baseline", "p_mcnemar"]
    table = pd.DataFrame(rows, columns=columns)
    for column in ("p", "p_mcnemar"):
        table[f"{column}_holm"] = table.groupby("metric")[column].transform(
            lambda p: significance.holm(p.to_numpy(float))
        )
    return table


def strongest_baseline(scores: Mapping[str, Score], full: str) -> str | None:
    """The other model of highest accuracy on these very cells: a choice that favours the baseline. None without one."""
    others = [name for name in scores if name != full]
    return max(others, key=lambda name: scores[name].values["accuracy"]) if others else None


def delong_table(ours: Predictions, theirs: Predictions) -> pd.DataFrame:
    """DeLong's test of the one-versus-rest areas of two models, a row a class: areas, standard error, z, p, p_holm.

    Classes with fewer than two cells (or fewer than two of the rest) get NaN: there is nothing to test.
    """
    rows = []
    for k, name in enumerate(ours.classes):
        positive = ours.labels == k
        n = int(positive.sum())
        if min(n, len(positive) - n) < 2:
            rows.append((name, n, *(float("nan"),) * 5))
            continue
        test = significance.delong(positive, ours.probs[:, k], theirs.probs[:, k])
        rows.append((name, n, test.first, test.second, test.standard_error, test.z, test.p))
    table = pd.DataFrame(rows, columns=["class", "n", "full", "baseline", "standard error", "z", "p"])
    table["p_holm"] = significance.holm(table["p"])
    return table


def recall_table(predictions: Predictions, level: float = 0.95) -> pd.DataFrame:
    """Recall of each class with Wilson's interval over groups: class, n, groups, correct, recall, low, high."""
    table = metrics.recalls(predictions)
    bounds, groups = [], []
    for k in range(len(predictions.classes)):
        mine = predictions.labels == k
        bounds.append(clustered_wilson(predictions.correct[mine], predictions.groups[mine], level)[:2])
        groups.append(len(np.unique(predictions.groups[mine])))
    table.insert(2, "groups", groups)
    table[["low", "high"]] = np.array(bounds).reshape(-1, 2)
    return table


def calibrate(
    validation: Mapping[str, Predictions], test: Mapping[str, Predictions]
) -> tuple[dict[str, float], dict[str, Predictions]]:
    """Model -> temperature fitted on validation, and model -> test predictions at that temperature."""
    temperatures = {name: calibration.fit_temperature(validation[name]) for name in test}
    scaled = {
        name: part.with_probs(calibration.apply_temperature(part.probs, temperatures[name]))
        for name, part in test.items()
    }
    return temperatures, scaled


def calibration_table(
    validation: Mapping[str, Predictions],
    test: Mapping[str, Predictions],
    resamples: int,
    seed: int,
    ece_bins: int = 10,
    level: float = 0.95,
) -> pd.DataFrame:
    """Temperature, NLL, Brier score and adaptive ECE before and after scaling, with intervals: `scaling_table` of every model."""
    tables = [
        calibration.scaling_table([(validation[name], part)], resamples, seed, ece_bins, level).assign(model=name)
        for name, part in test.items()
    ]
    return pd.concat(tables, ignore_index=True)


def read_calibration(table: pd.DataFrame) -> pd.DataFrame:
    """`calibration_table` as people read it: a row a model, a column a measure and moment, value and interval."""
    shown = table[table["moment"] != "change"]
    names = {"temperature": "temperature", "nll": "log loss", "brier": "Brier score", "ece": "calibration error"}
    moments = {"fitted": "", "before": ", before", "after": ", after"}
    shown = shown.assign(
        head=shown["measure"].map(names) + shown["moment"].map(moments),
        text=[f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in shown.itertuples()],
    )
    wide = shown.pivot(index="model", columns="head", values="text")
    return wide.loc[shown["model"].unique(), shown["head"].unique()].rename_axis(columns=None).reset_index()


def vote_table(models: Mapping[str, Predictions], level: float = 0.95) -> tuple[pd.DataFrame, str]:
    """Accuracy when the cells of a group (patient) vote, with Wilson's interval over groups, and a word on what it means.

    Columns: model, groups, accuracy, low, high. The table is empty where groups hold cells of several classes.
    """
    columns = ["model", "groups", "accuracy", "low", "high"]
    first = next(iter(models.values()))
    n_groups = len(np.unique(first.groups))
    try:
        voted = {name: metrics.vote(part) for name, part in models.items()}
    except LeukError as error:
        return pd.DataFrame(columns=columns), f"no patient-level figure: {error}"
    rows = []
    for name, part in voted.items():
        low, high, _ = clustered_wilson(part.correct, part.groups, level)
        rows.append((name, len(part), float(part.correct.mean()), low, high))
    word = f"{len(first)} cells of {n_groups} groups vote"
    if n_groups == len(first):
        word = "every cell is a group of its own (no patients or slides are known), so a vote changes nothing"
    return pd.DataFrame(rows, columns=columns), word
