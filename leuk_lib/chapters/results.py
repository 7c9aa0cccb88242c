"""Chapter 9, results: all models scored on the same cells and resamples, and the numbers of the stages before."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.folder import INFERRED
from leuk_lib.data.splits import EXTERNAL
from leuk_lib.evaluation import calibration, metrics
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import rate_of, resampled_metrics, score_interval
from leuk_lib.fcmae.weights import origin_sentence
from leuk_lib.runs import paths, progress
from leuk_lib.runs.display import Link
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import AGAIN
from leuk_lib.runs.params import nearest
from leuk_lib.runs.recorder import Notes, Recorder
from leuk_lib.runs.records import RunCard, read_metrics, read_record
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.runs.stage import Stage
from leuk_lib.statistics import significance
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import Rate, difference_interval, difference_p, format_interval, korn_graubard
from leuk_lib.training.pretrained import is_limited, run_card

Array = NDArray[np.float64]
Entry = dict[str, Any]  # value, low, high, n
MIN_GROUPS = 8  # of a class; with fewer, an interval of a recall spans 40 points and more
HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")
FURTHER = ("macro_precision", "macro_recall", "nll", "brier", "ece")


@dataclass(frozen=True)
class Score:
    """One model on one part of the data.

    Attributes:
        predictions: its predictions.
        values: its metrics.
        samples: the metrics in each resample of groups, (R,) each.
        bootstrap: the resamples.
        level: coverage of the intervals.
    """

    predictions: Predictions
    values: Mapping[str, float]
    samples: Mapping[str, Array]
    bootstrap: ClusterBootstrap
    level: float

    def interval(self, metric: str) -> tuple[float, float]:
        """`score_interval` of a metric."""
        return score_interval(self.predictions, metric, self.values[metric], self.samples, self.bootstrap, self.level)

    def rate(self, metric: str) -> Rate:
        """`rate_of` a metric."""
        return rate_of(self.predictions, metric, self.values[metric], self.samples[metric], self.bootstrap)


def part_of(predictions: Mapping[str, Mapping[str, Predictions]], split: str, full: str) -> dict[str, Predictions]:
    """Predictions of all models on one split, the full model first.

    Args:
        predictions: model -> split -> predictions.
        split: name of the split.
        full: name of the full model.

    Raises:
        LeukError: the full model is missing, or a model has no such split.
    """
    if full not in predictions:
        raise LeukError(f"predictions hold no model {full!r}; {nearest(full, predictions)}")
    order = [full, *(name for name in predictions if name != full)]
    lacking = [name for name in order if split not in predictions[name]]
    if lacking:
        raise LeukError(f"predictions of model {lacking[0]!r} hold no split {split!r}; run 06_comparison.ipynb again")
    return {name: predictions[name][split] for name in order}


def note_licences(stage: Stage[Any], folders: Iterable[Path]) -> None:
    """Show the published weights that trained networks in these folders started from, if their licence has limits."""
    files = sorted(path for folder in folders for path in folder.glob("*.safetensors"))
    origins = [card["origin"] for card in map(run_card, files) if card and isinstance(card.get("origin"), dict)]
    sentences = [origin_sentence(origin) for origin in origins if is_limited(str(origin.get("licence")))]
    for sentence in dict.fromkeys(sentences):
        stage.notice(sentence)


def cautions(stage: Notes, predictions: Predictions) -> pd.DataFrame:
    """Limitations of the test part, one row each; each is noted in the run card too."""
    groups, cells = len(set(predictions.groups.tolist())), len(predictions)
    rows = []
    if predictions.absent:
        rows.append(f"the test part has no cell of {', '.join(predictions.absent)}: macro averages leave it out")
    if groups == 1:
        rows.append("all test cells belong to one group: no interval can be given")
    else:
        of_class = {name: n for name, n in zip(predictions.classes, predictions.group_counts, strict=True) if n}
        if single := [name for name, count in of_class.items() if count == 1]:
            rows.append(
                f"the test part has one group of {', '.join(single)}: no interval can be given for its recall, nor for "
                "averages over classes"
            )
        if few := [f"{name} ({count})" for name, count in of_class.items() if 1 < count < MIN_GROUPS]:
            rows.append(
                f"fewer than {MIN_GROUPS} test groups of {', '.join(few)}: their intervals are wide, and differences between "
                "models can hardly be shown"
            )
    if groups == cells:
        rows.append("each cell is its own group (patients and slides are unknown): all figures are upper bounds")
    for row in rows:
        stage.note(row)
    return pd.DataFrame({"caution": rows or ["none"]})


def score_models(
    models: Mapping[str, Predictions], bootstrap: ClusterBootstrap, level: float = 0.95, ece_bins: int = 10
) -> dict[str, Score]:
    """Score all models on the same resamples, so that differences are paired."""
    return {
        name: Score(
            part,
            metrics.evaluate(part, ece_bins),
            resampled_metrics(part, bootstrap, ece_bins=ece_bins),
            bootstrap,
            level,
        )
        for name, part in progress.track(models.items(), "resampling models", len(models), "model")
    }


def score_table(scores: Mapping[str, Score], names: Sequence[str] = metrics.METRICS) -> pd.DataFrame:
    """One row per model and metric: model, metric, value, low, high."""
    rows = [
        (model, metric, score.values[metric], *score.interval(metric))
        for model, score in scores.items()
        for metric in names
    ]
    return pd.DataFrame(rows, columns=["model", "metric", "value", "low", "high"])


def format_scores(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """`score_table` for display: one row per model, ``value [low, high]`` per metric."""
    wide = _wide(table[table["metric"].isin(names)], "metric")[["model", *names]]
    return wide.rename(columns=lambda name: name.replace("_", " "))


def _wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per model and one column per value of ``column``, in the order of the table."""
    text = [format_interval(*row) for row in table[["value", "low", "high"]].to_numpy(dtype=np.float64)]
    wide = table.assign(text=text).pivot(index="model", columns=column, values="text")
    return wide.loc[table["model"].unique(), table[column].unique()].rename_axis(columns=None).reset_index()


def difference_table(scores: Mapping[str, Score], full: str) -> pd.DataFrame:
    """The full model minus each baseline, for the metrics in ``HEADLINE``, over the same resamples.

    Returns:
        Columns baseline, metric, difference, low, high, p (of the interval), only_full and only_baseline (cells that only one
        of the two gets right; for accuracy), p_mcnemar (for accuracy), p_holm, p_mcnemar_holm (over all baselines of a
        metric).
    """
    ours = scores[full]
    rates = {metric: ours.rate(metric) for metric in HEADLINE}
    rows = []
    for name, theirs in scores.items():
        if name == full:
            continue
        test = significance.mcnemar_exact(ours.predictions.correct, theirs.predictions.correct)
        for metric in HEADLINE:
            spread = ours.bootstrap.spread(
                ours.samples[metric] - theirs.samples[metric], per_class=metric != "accuracy"
            )
            pair = rates[metric], theirs.rate(metric), spread
            low, high = difference_interval(*pair, ours.level)
            p = difference_p(*pair)
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


def format_differences(table: pd.DataFrame) -> pd.DataFrame:
    """`difference_table` of one metric for display: one row per baseline, "difference [low, high]" and the p-values."""
    text = [
        format_interval(value, low, high, "+.3f")
        for value, low, high in table[["difference", "low", "high"]].to_numpy(dtype=np.float64)
    ]
    shown = table[["baseline", "p", "p_holm", "only_full", "only_baseline", "p_mcnemar", "p_mcnemar_holm"]]
    for name in ("p", "p_holm", "p_mcnemar", "p_mcnemar_holm"):
        shown = shown.assign(**{name: ["–" if np.isnan(p) else f"{p:.2g}" for p in table[name]]})
    shown.insert(1, "difference", text)
    return shown.rename(
        columns={
            "p_holm": "p (Holm)", "only_full": "only full right", "only_baseline": "only baseline right",
            "p_mcnemar": "McNemar's p", "p_mcnemar_holm": "McNemar's p (Holm)",
        }
    )  # fmt: skip


def strongest_baseline(scores: Mapping[str, Score], full: str) -> str | None:
    """Baseline with the highest accuracy on these cells, a choice that favours the baseline; None without one."""
    others = [name for name in scores if name != full]
    return max(others, key=lambda name: scores[name].values["accuracy"]) if others else None


def delong_table(full: Predictions, baseline: Predictions) -> pd.DataFrame:
    """DeLong's test of the one-versus-rest areas of two models, per class.

    Returns:
        Columns class, n, full, baseline (areas), standard error, z, p, p_holm; NaN if the class or the rest has fewer
        than two cells.
    """
    rows = []
    for k, name in enumerate(full.classes):
        positive = full.labels == k
        n = int(positive.sum())
        if min(n, len(positive) - n) < 2:
            rows.append((name, n, *(float("nan"),) * 5))
            continue
        test = significance.delong(positive, full.probs[:, k], baseline.probs[:, k])
        rows.append((name, n, test.first, test.second, test.standard_error, test.z, test.p))
    table = pd.DataFrame(rows, columns=["class", "n", "full", "baseline", "standard error", "z", "p"])
    table["p_holm"] = significance.holm(table["p"])
    return table


def recall_table(predictions: Predictions, level: float = 0.95) -> pd.DataFrame:
    """Recall per class with `korn_graubard`: class, n, groups, correct, recall, low, high."""
    table = metrics.recalls(predictions)
    bounds = []
    for k in range(len(predictions.classes)):
        cells = predictions.labels == k
        bounds.append(korn_graubard(predictions.correct[cells], predictions.groups[cells], level)[:2])
    table.insert(2, "groups", predictions.group_counts)
    table[["low", "high"]] = np.array(bounds).reshape(-1, 2)
    return table


def calibrate(
    validation: Mapping[str, Predictions], test: Mapping[str, Predictions]
) -> tuple[dict[str, float], dict[str, Predictions]]:
    """Fit a temperature per model on the validation part and apply it to the test part.

    Returns:
        Model -> temperature, and model -> scaled test predictions.
    """
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
    """`calibration.scaling_table` of all models, with a column model."""
    tables = [
        calibration.scaling_table([(validation[name], part)], resamples, seed, ece_bins, level).assign(model=name)
        for name, part in progress.track(test.items(), "scaling models", len(test), "model")
    ]
    return pd.concat(tables, ignore_index=True)


def format_calibration(table: pd.DataFrame) -> pd.DataFrame:
    """`calibration_table` for display: two rows per model, with ``value [low, high]`` before scaling and after it."""
    names = {"nll": "log loss", "brier": "Brier score", "ece": "calibration error"}
    fitted = table[table["measure"] == "temperature"].set_index("model")["value"]
    shown = table[table["measure"].isin(names)].assign(head=table["measure"].map(names))
    before, after = (_wide(shown[shown["moment"] == moment], "head") for moment in ("before", "after"))
    before.insert(1, "temperature", ["1 (before)"] * len(before))
    after.insert(1, "temperature", [f"{fitted[name]:.3f}" for name in after["model"]])
    return pd.concat([before, after]).sort_index(kind="stable").reset_index(drop=True)


def vote_table(models: Mapping[str, Predictions], level: float = 0.95) -> tuple[pd.DataFrame, str]:
    """Accuracy when the cells of each group (patient) vote, with `korn_graubard`'s interval.

    Returns:
        Columns model, groups, accuracy, low, high (no row if a group has cells of several classes), and a note on
        what the figure means.
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
        low, high, _ = korn_graubard(part.correct, part.groups, level)
        rows.append((name, len(part), float(part.correct.mean()), low, high))
    note = f"{len(first)} cells of {n_groups} groups vote"
    if n_groups == len(first):
        note = "each cell is its own group (patients and slides are unknown), so a vote changes nothing"
    return pd.DataFrame(rows, columns=columns), note


def external_scores(
    predictions: Mapping[str, Mapping[str, Predictions]], full: str, n_resamples: int, seed: int, level: float = 0.95
) -> pd.DataFrame:
    """Scores of all models on each external test set: cells of another source that nothing was trained or chosen on.

    Args:
        predictions: model -> split -> predictions.
        full: name of the full model, which comes first.
        n_resamples: bootstrap resamples of groups.
        seed: seed of the resamples.
        level: coverage of the intervals.

    Returns:
        Columns set, cells, groups, absent (classes without a cell), model, metric, value, low, high; empty without an
        external test set.
    """
    tables = []
    for split in [name for name in predictions[full] if name.startswith(EXTERNAL)]:
        models = part_of(predictions, split, full)
        first = models[full]
        bootstrap = ClusterBootstrap(first.groups, n_resamples, numpy_rng(seed, "results", split), first.labels)
        table = score_table(score_models(models, bootstrap, level), HEADLINE)
        table.insert(0, "absent", ", ".join(first.absent) or "none")
        table.insert(0, "groups", bootstrap.n_groups)
        table.insert(0, "cells", len(first))
        table.insert(0, "set", split.removeprefix(EXTERNAL))
        tables.append(table)
    columns = ["set", "cells", "groups", "absent", "model", "metric", "value", "low", "high"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def format_external(table: pd.DataFrame, names: Sequence[str] = ("accuracy", "balanced_accuracy")) -> pd.DataFrame:
    """`external_scores` for display: one row per set and model, ``value [low, high]`` per metric."""
    rows = []
    for _, part in table.groupby("set", sort=False):
        wide = _wide(part[part["metric"].isin(names)], "metric")[["model", *names]]
        facts = part[["set", "cells", "groups", "absent"]].iloc[[0] * len(wide)].reset_index(drop=True)
        rows.append(pd.concat([facts, wide], axis=1))
    shown = pd.concat(rows, ignore_index=True)[["set", "cells", "groups", "absent", "model", *names]]
    return shown.rename(columns=lambda name: name.replace("_", " ")).rename(
        columns={"absent": "classes without a cell"}
    )


def external_metrics(table: pd.DataFrame, full: str) -> dict[str, Entry]:
    """The full model's scores on external test sets: ``external_<set>_<metric>`` -> value, low, high, n."""
    sets = list(dict.fromkeys(table["set"]))
    slug_of = dict(zip(sets, slugs(sets), strict=True))
    return {
        f"external_{slug_of[row['set']]}_{row['metric']}": _entry(
            row["value"], row["low"], row["high"], int(row["cells"])
        )
        for row in table[table["model"] == full].to_dict("records")
    }


def data_facts(cells: CellSet, test: Predictions, dataset: str, profile: str) -> dict[str, Any]:
    """Facts about the data that chapter 10 needs: name without folder, kind, classes, parts, groups.

    ``test_cells`` and ``test_groups`` count cells and patients, slides or other groups of each class in the test part.
    """
    of_class = [test.groups[test.labels == label] for label in range(len(cells.classes))]
    n = {part: int((cells.parts == part).sum()) for part in ("train", "val", "test")}
    return {
        "dataset": Path(dataset).name,
        "profile": profile,
        "kind": cells.kind,
        "classes": list(cells.classes),
        "cells": n,
        "shares": {part: count / len(cells) for part, count in n.items()},
        "groups_test": len(np.unique(test.groups)),
        "test_cells": {name: len(groups) for name, groups in zip(cells.classes, of_class, strict=True)},
        "test_groups": {name: len(set(groups)) for name, groups in zip(cells.classes, of_class, strict=True)},
        "patients_known": not any(str(group).startswith(INFERRED) for group in test.groups),
    }


def upstream_numbers(folders: Mapping[str, Path]) -> pd.DataFrame:
    """All numbers in the ``metrics.json`` of other stages: stage, key, value, low, high, n, unit (NaN if not given)."""
    rows = [
        {"stage": stage, "key": key, "unit": "", **entry}
        for stage, folder in folders.items()
        for key, entry in read_metrics(folder).items()
    ]
    return pd.DataFrame(rows, columns=["stage", "key", "value", "low", "high", "n", "unit"])


def cost_table(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Time, memory and device of each stage from its card, and their sum in the last row.

    The costs differ between runs and machines: display them, do not save them.
    """
    cards = [read_record(folder / "card.json", RunCard, "a run card", AGAIN) for folder in folders.values()]
    rows: list[dict[str, Any]] = [
        {
            "stage": card["stage"], "run": card["run"], "profile": card["profile"], "seconds": float(card["seconds"] or 0),
            "peak memory (MB)": float(card["peak_rss_mb"] or 0), "peak GPU memory (MB)": float(card["peak_gpu_mb"] or 0),
            "device": card["device"], "commit": (card["git"]["commit"] or "none")[:10] + ("*" if card["git"]["dirty"] else ""),
        }
        for card in cards
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    total = dict.fromkeys(table.columns, "") | {"stage": "total", "seconds": table["seconds"].sum()}
    total |= {name: table[name].max() for name in ("peak memory (MB)", "peak GPU memory (MB)")}
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def link_stages(table: pd.DataFrame) -> pd.DataFrame:
    """Table for display whose column ``stage`` links to the chapters."""
    notebooks = {name: path.name for name, path in paths.stage_notebooks().items()}
    shown = [Link(name, notebooks[name]) if name in notebooks else name for name in table["stage"]]
    return table.assign(stage=pd.Series(shown, index=table.index, dtype=object))


def slugs(names: Sequence[str]) -> list[str]:
    """Turn names into parts of keys: lower case letters, digits and underscores, all different.

    >>> slugs(["B cell", "b-cell", "ALL"])
    ['b_cell_0', 'b_cell_1', 'all']
    """
    plain = [re.sub(r"\W+", "_", name).strip("_").lower() or "class" for name in names]
    return [slug if plain.count(slug) == 1 else f"{slug}_{position}" for position, slug in enumerate(plain)]


def _entry(value: float, low: float = math.nan, high: float = math.nan, n: int | None = None) -> Entry:
    return {"value": value, "low": low, "high": high, "n": n}


def chapter_metrics(
    scores: Mapping[str, Score], full: str, baseline: str | None, differences: pd.DataFrame, recalls: pd.DataFrame,
    votes: pd.DataFrame, calibration: pd.DataFrame, facts: Mapping[str, Any],
) -> dict[str, Entry]:  # fmt: skip
    """The chapter's numbers: key -> value, low, high, n; the headline figures first.

    ``margin`` is the accuracy minus that of ``baseline``, the strongest one; ``ahead_of_<baseline>`` the same for each
    baseline; ``patient_accuracy`` that of the vote of groups; ``*_calibrated`` are after temperature scaling.
    """
    ours = scores[full]
    n = len(ours.predictions)
    entries = {name: _entry(ours.values[name], *ours.interval(name), n) for name in HEADLINE}
    accuracy = differences[differences["metric"] == "accuracy"].set_index("baseline")
    ahead = {
        str(name): _entry(row["difference"], row["low"], row["high"], n)
        for name, row in accuracy.to_dict("index").items()
    }
    if baseline is not None:
        entries["margin"] = ahead[baseline]
    vote = votes[votes["model"] == full].to_dict("records")
    if vote and int(vote[0]["groups"]) < n:  # without known patients there is no patient-level figure
        entries["patient_accuracy"] = _entry(
            vote[0]["accuracy"], vote[0]["low"], vote[0]["high"], int(vote[0]["groups"])
        )
    entries |= {name: _entry(ours.values[name], *ours.interval(name), n) for name in FURTHER}
    scaled = calibration[(calibration["model"] == full) & calibration["moment"].isin(["fitted", "after"])]
    for row in scaled.to_dict("records"):
        key = row["measure"] if row["moment"] == "fitted" else f"{row['measure']}_calibrated"
        entries[key] = _entry(row["value"], row["low"], row["high"], int(row["n"]))
    for slug, row in zip(slugs(list(recalls["class"])), recalls.to_dict("records"), strict=True):
        entries[f"recall_{slug}"] = _entry(row["recall"], row["low"], row["high"], int(row["n"]))
    for slug, (name, entry) in zip(slugs(list(ahead)), ahead.items(), strict=True):
        entries[f"accuracy_of_{slug}"] = _entry(scores[name].values["accuracy"], *scores[name].interval("accuracy"), n)
        entries[f"ahead_of_{slug}"] = entry
    entries |= {f"{part}_share": _entry(share) for part, share in facts["shares"].items()}
    entries |= {"n_test": _entry(n), "n_test_groups": _entry(facts["groups_test"])}
    return entries


def record_metrics(stage: Recorder, entries: Mapping[str, Entry]) -> None:
    """Record the chapter's numbers in the stage's metrics; a number without a value becomes a note."""
    for key, entry in entries.items():
        if not np.isfinite(entry["value"]):
            stage.note(f"{key} has no value: the test part has no cell of this class, or of no other class")
            continue
        known = np.isfinite(entry["low"]) and np.isfinite(entry["high"])
        stage.record(key, entry["value"], entry["low"] if known else None, entry["high"] if known else None, entry["n"])


def one_cell(cells: CellSet, models: Mapping[str, Predictions], stage: Notes) -> dict[str, Any] | None:
    """The probabilities that all models state for the same cell.

    Args:
        cells: The cells of the run.
        models: Model -> predictions on the test part, in the order of the cell table.
        stage: The stage whose card gets a note.

    Returns:
        Arguments of ``figures.results.one_cell``; None for a data set without test cells.
    """
    cell = find_cell(cells, stage)
    if cell is None:
        return None
    place = int((cells.parts[: cell.position] == "test").sum())
    return {
        "image": cells.images[cell.position].permute(1, 2, 0).numpy(), "truth": cell.label, "classes": cells.classes,
        "probs": {name: part.probs[place] for name, part in models.items()},
    }  # fmt: skip
