"""What the ladder study found, for chapters 6, 8 and 9: sentences, tables and metrics from its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from leuk_lib.runs.recorder import Recorder
from leuk_lib.statistics.intervals import format_interval
from leuk_lib.studies.ladder import FULL, OTHER, PUBLISHED_FULL, PUBLISHED_STEPS, STEPS
from leuk_lib.studies.paired import verdict
from leuk_lib.studies.record import StudyRecord

GOALS = {FULL: 0.95, PUBLISHED_FULL: 0.975}  # balanced accuracy that the project aims at
RANKS = {"helps": "ahead of", "harms": "behind", "inconclusive": "not clearly different from"}


def interval(row: Mapping[Any, Any] | pd.Series, signed: bool = False) -> str:
    """Return ``value [low, high]`` in per cent, or in signed percentage points."""
    value, low, high = (100 * float(row[name]) for name in ("value", "low", "high"))
    return format_interval(value, low, high, "+.1f" if signed else ".1f")


def steps_summary(record: StudyRecord) -> str:
    """Say what each step of the ladder adds to the one before."""
    return "\n".join(
        f"{row['arm']} over {row['against']}: {interval(row, signed=True)} points: {verdict(row['low'], row['high'])}."
        for _, row in record.table("steps").iterrows()
    )


def test_cells_summary(record: StudyRecord) -> str:
    """Say whether settings were chosen on cells that are also test cells."""
    tuned = ", ".join(map(str, record.params.get("tuned", ())))
    if not tuned:
        return (
            "Settings were chosen on validation cells of some repetitions, and some of these cells are test cells of "
            "other repetitions: the ladder's models may look slightly better than they are."
        )
    sizes = record.table("pretraining")["test"]
    return (
        f"Settings were chosen on the validation cells of repetitions {tuned}; these cells are in no test part. "
        f"A test part has {sizes.min():.0f} to {sizes.max():.0f} cells."
    )


def rates_summary(record: StudyRecord) -> str:
    """Say how the learning rates were chosen."""
    return describe_rates(record, "Every trained model", record.params["rate_steps"])


def describe_rates(record: StudyRecord, models: str, steps: int) -> str:
    """Say what was tried and chosen, and for how many models a rate outside the range may be better.

    Args:
        record: With a table of :func:`chosen_rates`, ``rates``.
        models: Subject of the first sentence.
        steps: Optimiser steps of a trial.
    """
    trials = record.table("rates")
    tried = sorted(trials["rate"].unique())
    chosen = trials.loc[trials["chosen"], "rate"]
    lowest, highest = (int((chosen == end).sum()) for end in (tried[0], tried[-1]))
    return (
        f"{models} had {len(tried)} tries: {steps} steps with the peak learning rates "
        f"{', '.join(f'{rate:g}' for rate in tried)}. The rate with the lowest loss on the validation cells of repetition "
        f"{record.params['seeds'][0]} was taken: the lowest for {lowest}, the highest for {highest} of {len(chosen)} models, "
        "for which a rate outside may be better."
    )


def rates_table(record: StudyRecord) -> pd.DataFrame:
    """The chosen learning rate of each model, with the validation loss of every try: a row per model."""
    trials = record.table("rates")
    wide = trials.pivot(index="arm", columns="rate", values="loss").reindex(trials["arm"].unique())
    wide.insert(0, "chosen", trials[trials["chosen"]].set_index("arm")["rate"])
    return (
        wide.rename(columns=lambda name: name if name == "chosen" else f"{name:g}")
        .rename_axis(index="model", columns=None)
        .reset_index()
    )


def full_model_summary(record: StudyRecord, full: str = FULL) -> str:
    """Say how good a column's full model is and how it compares with each baseline."""
    by_arm = {row["arm"]: row for row in record.table("scores").to_dict("records")}
    score = by_arm[full]
    baselines = against_baselines(record, full)
    kinds = [verdict(low, high) for low, high in baselines[["low", "high"]].to_numpy(dtype=np.float64)]
    ranks = [
        f"{words} " + ", ".join(baselines["against"][np.array(kinds) == kind])
        for kind, words in RANKS.items()
        if kind in kinds
    ]
    best = record.table("best_baseline")["arm"].iloc[0]
    against = baselines[baselines["against"] == best].iloc[0]
    goal = GOALS[full]
    outcome = "reached" if float(score["value"]) >= goal else "missed"
    return (
        f"Full model ({full}): {interval(score)} % balanced accuracy ({int(score['n'])} test cells over "
        f"{int(score['seeds'])} repetitions); the goal set before the study, {100 * goal:.1f} %, is {outcome}.\n"
        f"It is {'; '.join(ranks)}.\n"
        f"The baseline with the lowest validation loss is {best}, with {interval(by_arm[best])} %: the full model minus "
        f"it is {interval(against, signed=True)} points."
    )


def full_models(record: StudyRecord) -> list[str]:
    """The last model of each column in a record."""
    return [column[-1] for column in columns_of(record)]


def against_baselines(record: StudyRecord, full: str) -> pd.DataFrame:
    """The differences of a column's full model from each baseline."""
    return record.table("baselines" if full == FULL else "published_baselines")


def difference_panels(record: StudyRecord) -> dict[str, pd.DataFrame]:
    """The differences between the ladder's models, by title of a panel."""
    panels = {"each step over the one before": record.table("steps")}
    if len(columns_of(record)) > 1:
        panels["published weights over FCMAE"] = record.table("columns")
    return panels


def columns_summary(record: StudyRecord) -> str:
    """Say what published weights add over FCMAE on the same head and images."""
    if len(columns_of(record)) == 1:
        return "This record has no column from published weights."
    return "\n".join(
        f"{row['arm']} over {row['against']}: {interval(row, signed=True)} points: {verdict(row['low'], row['high'])}."
        for _, row in record.table("columns").iterrows()
    )


def columns_of(record: StudyRecord) -> list[list[str]]:
    """The ladder's models in a record, by column."""
    return [list(STEPS), list(PUBLISHED_STEPS)] if "columns" in record.tables else [list(STEPS)]


def cost_table(record: StudyRecord) -> pd.DataFrame:
    """Accuracy and cost of every trained model: arm, value, low, high (balanced accuracy), cpu seconds.

    Where the encoder was pretrained by FCMAE, its pretraining is part of the cost; that of published weights is not.
    """
    cost = record.table("training").groupby("arm", sort=False)[["cpu seconds", "parameters"]].mean()
    pretraining = float(record.table("pretraining")["cpu seconds"].mean())
    own = [arm for arm, step in STEPS.items() if step.start == "fcmae"]
    cost.loc[cost.index.isin(own), "cpu seconds"] += pretraining
    scores_of = record.table("scores").set_index("arm")[["value", "low", "high"]]
    return scores_of.join(cost[cost["parameters"] > 0]["cpu seconds"], how="inner").reset_index()


def shift_curves(record: StudyRecord) -> pd.DataFrame:
    """Return the table of shifts as the robustness figure takes it: model, kind, strength, value, low, high."""
    table = record.table("shifts")
    parts = table["condition"].str.split(" ", expand=True)
    return table.assign(model=table["arm"], kind=parts[1], strength=parts[2].astype(float))


def robustness_summary(record: StudyRecord) -> str:
    """Count the shifts under which a full model is ahead of each baseline, and say what the strongest ones cost."""
    sentences = []
    for (full, baseline), part in _shift_gaps(record).groupby(["arm", "against"], sort=False):
        kinds = [verdict(low, high) for low, high in part[["low", "high"]].to_numpy(dtype=np.float64)]
        sentences.append(
            f"{full} against {baseline}, of {len(part)} shifts: ahead under {kinds.count('helps')}, behind under "
            f"{kinds.count('harms')}, inconclusive under {kinds.count('inconclusive')}."
        )
    table = shift_curves(record)
    unshifted = table[table["kind"] == "none"].set_index("model")["value"]
    for model, part in table[table["kind"] != "none"].groupby("model", sort=False):
        hardest = part.loc[part.groupby("kind", sort=False)["strength"].idxmax()]
        lost = ", ".join(
            f"{kind} {100 * (value - unshifted[model]):+.0f}"
            for kind, value in zip(hardest["kind"], hardest["value"], strict=True)
        )
        sentences.append(
            f"{model}, change from none ({100 * unshifted[model]:.1f} %) to the strongest shift, points: {lost}."
        )
    return "\n".join(sentences)


def calibration_summary(record: StudyRecord, coverage: float = 0.8) -> str:
    """Say how well the full model and the best baseline are calibrated, and what abstaining gains at ``coverage``."""
    measures = {
        (row["arm"], row["measure"], row["moment"]): format_interval(row["value"], row["low"], row["high"])
        for row in record.table("calibration").to_dict("records")
    }
    sentences = []
    for arm, part in record.table("abstention").groupby("arm", sort=False):
        kept = part.iloc[(part["coverage"] - coverage).abs().argmin()]
        sentences.append(
            f"{arm}: temperature {measures[arm, 'temperature', 'fitted']}; calibration error "
            f"{measures[arm, 'ece', 'before']} before, {measures[arm, 'ece', 'after']} after; negative log likelihood "
            f"{measures[arm, 'nll', 'before']} and {measures[arm, 'nll', 'after']}. "
            f"All cells: {100 * part['accuracy'].iloc[0]:.1f} % right; the most confident {100 * kept['coverage']:.0f} %: "
            f"{interval(kept.rename({'accuracy': 'value'}))} %."
        )
    return "\n".join(sentences)


def _wide(table: pd.DataFrame, prefix: str, heading: str) -> pd.DataFrame:
    """Scores with intervals as text: a row per condition without its ``prefix``, a column per model."""
    text = [interval(row) for _, row in table.iterrows()]
    names = table["condition"].str.removeprefix(prefix)
    wide = table.assign(text=text, **{heading: names}).pivot(index=heading, columns="arm", values="text")
    return wide[list(dict.fromkeys(table["arm"]))]


def small_sets_table(record: StudyRecord) -> pd.DataFrame:
    """Return the read-outs of small sets for readers: a row per set, a column per model, with intervals."""
    table = record.table("small_sets")
    wide = _wide(table, "small ", "set")
    first = table.assign(set=table["condition"].str.removeprefix("small ")).drop_duplicates("set").set_index("set")
    wide.insert(0, "cells", (first["n"] // first["seeds"]).reindex(wide.index))
    wide.insert(1, "patients", first["groups"].reindex(wide.index))
    return wide.rename_axis(columns=None).reset_index()


def external_table(record: StudyRecord) -> pd.DataFrame:
    """Return the balanced accuracy on external test sets for readers: a row per set, a column per model."""
    wide = _wide(record.table("external"), OTHER, "source")
    sources = record.table("sources").set_index("source")
    wide.insert(0, "cells", sources["cells"].reindex(wide.index))
    wide.insert(1, "shared classes", sources["tested classes"].reindex(wide.index))
    return wide.rename_axis(columns=None).reset_index()


def difference_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return differences for readers: comparison, points with interval, p of the corrected t-test, p after Holm."""
    return pd.DataFrame(
        {
            "comparison": table["arm"] + " over " + table["against"],
            "points [95 % interval]": [interval(row, signed=True) for _, row in table.iterrows()],
            "p": table["p"],
            "p, Holm": table["p_holm"],
        }
    )


def record_models(stage: Recorder, record: StudyRecord) -> None:
    """Write a study's scores and differences into a stage's metrics: ``<study>_<arm>``, ``<study>_<arm>_minus_<other>``."""

    def key(*names: str) -> str:
        return re.sub(r"[^a-z0-9]+", "_", " ".join((record.study, *names)).lower()).strip("_")

    def write(name: str, row: Mapping[Any, Any]) -> None:
        stage.record(name, float(row["value"]), float(row["low"]), float(row["high"]), n)

    by_arm = record.table("scores")
    n = int(by_arm["n"].iloc[0])
    for row in by_arm.to_dict("records"):
        write(key(row["arm"]), row)
    for name in ("steps", "columns", "baselines", "published_baselines", "gains"):
        if name in record.tables:
            for row in record.table(name).to_dict("records"):
                write(key(row["arm"], "minus", row["against"]), row)


def record_shifts(stage: Recorder, record: StudyRecord) -> None:
    """Write ``ladder_shifts_lead`` into a stage's metrics (see :func:`shifts_lead`)."""
    stage.record("ladder_shifts_lead", *shifts_lead(record))


def shifts_lead(record: StudyRecord) -> tuple[float, float | None, float | None, int]:
    """Share of the shifts with the full model clearly ahead of a baseline, minus the share with it clearly behind.

    The full model is that of FCMAE's column. "Clearly": the whole interval is on that side of 0. The baseline with the
    lowest difference counts.

    Returns:
        What a stage records: the value in [-1, 1], no interval, and the number of shifts.
    """
    gaps = _shift_gaps(record)
    gaps = gaps[gaps["arm"] == FULL]
    clearly = (gaps["low"] > 0).astype(int) - (gaps["high"] < 0).astype(int)
    by_baseline = clearly.groupby(gaps["against"])
    return float(by_baseline.mean().min()), None, None, int(by_baseline.size().max())


def _shift_gaps(record: StudyRecord) -> pd.DataFrame:
    gaps = record.table("shifts_gaps")
    return gaps[~gaps["condition"].str.endswith("none 0")]
