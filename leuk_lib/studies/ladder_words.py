"""What the ladder study found, in sentences and tables made from its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from leuk_lib.runs.recorder import Recorder
from leuk_lib.studies.ladder import FULL
from leuk_lib.studies.paired import verdict
from leuk_lib.studies.record import StudyRecord

GOAL = 0.95  # of the project, for the full model
SAYS = {"helps": "helps", "harms": "harms", "not told apart": "cannot be told apart from nothing"}
STANDS = {"helps": "ahead of", "harms": "behind", "not told apart": "not told apart from"}


def interval(row: Mapping[Any, Any] | pd.Series, signed: bool = False) -> str:
    """``value [low, high]`` in per cent or points."""
    form = "{:+.1f} [{:+.1f}, {:+.1f}]" if signed else "{:.1f} [{:.1f}, {:.1f}]"
    return form.format(*(100 * float(row[name]) for name in ("value", "low", "high")))


def steps_in_words(found: StudyRecord) -> str:
    """What every step of the ladder adds to the one before."""
    return "\n".join(
        f"{row['arm']} over {row['against']}: {interval(row, signed=True)} points: "
        f"{SAYS[verdict(row['low'], row['high'])]}."
        for _, row in found.table("steps").iterrows()
    )


def apart_in_words(found: StudyRecord) -> str:
    """Whether test cells had a part in choosing settings: cells that one repetition validates on may be another's test."""
    tuned = ", ".join(map(str, found.params.get("tuned", ())))
    if not tuned:
        return (
            "Every repetition deals the same cells anew, and settings were chosen on validation cells of some: part of the "
            "test cells of the other repetitions had been among those, so that the ladder's models may look a little better "
            "than they are."
        )
    sizes = found.table("pretraining")["test"]
    return (
        f"Settings were chosen on the validation cells of repetitions {tuned}; these cells are in no test part, which has "
        f"{sizes.min():.0f} to {sizes.max():.0f} cells a repetition."
    )


def standing_in_words(found: StudyRecord) -> str:
    """How high the full model comes, and where every rival stands to it."""
    scores = {row["arm"]: row for row in found.table("scores").to_dict("records")}
    ours = scores[FULL]
    rivals = found.table("rivals")
    kinds = [verdict(low, high) for low, high in rivals[["low", "high"]].to_numpy(dtype=np.float64)]
    said = [
        f"{STANDS[kind]} " + ", ".join(rivals["against"][np.array(kinds) == kind]) for kind in STANDS if kind in kinds
    ]
    best = found.table("best_rival")["arm"].iloc[0]
    against = rivals[rivals["against"] == best].iloc[0]
    goal = "reached" if float(ours["value"]) >= GOAL else "missed"
    return (
        f"Full model ({FULL}): {interval(ours)} % balanced accuracy ({int(ours['n'])} test cells over {int(ours['seeds'])} "
        f"repetitions); the goal of {100 * GOAL:.0f} % is {goal}.\nIt is {'; '.join(said)}.\n"
        f"The rival that validates best is {best}, with {interval(scores[best])} %: the full model minus it is "
        f"{interval(against, signed=True)} points."
    )


def curves(found: StudyRecord) -> pd.DataFrame:
    """The shifts as the figure of robustness takes them: model, kind, strength, value, low, high."""
    table = found.table("shifts")
    parts = table["condition"].str.split(" ", expand=True)
    return table.assign(model=table["arm"], kind=parts[1], strength=parts[2].astype(float))


def robustness_in_words(found: StudyRecord) -> str:
    """Under how many shifts the full model is ahead of each rival, and how much each loses under the strongest ones."""
    gaps = found.table("shifts_gaps")
    gaps = gaps[~gaps["condition"].str.endswith("none 0")]
    said = []
    for rival, part in gaps.groupby("against", sort=False):
        kinds = [verdict(low, high) for low, high in part[["low", "high"]].to_numpy(dtype=np.float64)]
        said.append(
            f"Against {rival}, of {len(part)} shifts: ahead under {kinds.count('helps')}, behind under "
            f"{kinds.count('harms')}, not told apart under {kinds.count('not told apart')}."
        )
    table = curves(found)
    plain = table[table["kind"] == "none"].set_index("model")["value"]
    for model, part in table[table["kind"] != "none"].groupby("model", sort=False):
        hardest = part.loc[part.groupby("kind", sort=False)["strength"].idxmax()]
        lost = ", ".join(
            f"{kind} {100 * (value - plain[model]):+.0f}"
            for kind, value in zip(hardest["kind"], hardest["value"], strict=True)
        )
        said.append(f"{model}, change from none ({100 * plain[model]:.1f} %) to the strongest shift, points: {lost}.")
    return "\n".join(said)


def trust_in_words(found: StudyRecord, coverage: float = 0.8) -> str:
    """Calibration before and after, and what abstaining buys at a coverage, for the full model and the best rival."""
    told = {
        (row["arm"], row["measure"], row["moment"]): f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in found.table("calibration").to_dict("records")
    }
    curve = found.table("abstention")
    said = []
    for arm, part in curve.groupby("arm", sort=False):
        kept = part.iloc[(part["coverage"] - coverage).abs().argmin()]
        said.append(
            f"{arm}: temperature {told[arm, 'temperature', 'fitted']}; calibration error {told[arm, 'ece', 'before']} before, "
            f"{told[arm, 'ece', 'after']} after; negative log likelihood {told[arm, 'nll', 'before']} and {told[arm, 'nll', 'after']}. "
            f"All cells: {100 * part['accuracy'].iloc[0]:.1f} % right; the surest {100 * kept['coverage']:.0f} %: "
            f"{interval(kept.rename({'accuracy': 'value'}))} %."
        )
    return "\n".join(said)


def _after(prefix: str, table: pd.DataFrame) -> pd.Series:
    """What the conditions name, without their kind."""
    return table["condition"].str.removeprefix(prefix)


def _by_arm(table: pd.DataFrame, prefix: str, heading: str) -> pd.DataFrame:
    """Scores with intervals as text: a row a condition without its ``prefix`` (the index, ``heading``), a column a model."""
    text = [interval(row) for _, row in table.iterrows()]
    wide = table.assign(text=text, **{heading: _after(prefix, table)}).pivot(
        index=heading, columns="arm", values="text"
    )
    return wide[list(dict.fromkeys(table["arm"]))]


def small_table(found: StudyRecord) -> pd.DataFrame:
    """Frozen features on small sets as people read it: a row a set, a column a model, balanced accuracy with interval."""
    table = found.table("small")
    wide = _by_arm(table, "small ", "set")
    first = table.assign(set=_after("small ", table)).drop_duplicates("set").set_index("set")
    wide.insert(0, "cells", (first["n"] // first["seeds"]).reindex(wide.index))
    wide.insert(1, "patients", first["groups"].reindex(wide.index))
    return wide.rename_axis(columns=None).reset_index()


def foreign_table(found: StudyRecord) -> pd.DataFrame:
    """Balanced accuracy on other sources as people read it: a row a source, a column a model."""
    wide = _by_arm(found.table("foreign"), "other ", "source")
    sources = found.table("sources").set_index("source")
    wide.insert(0, "cells", sources["cells"].reindex(wide.index))
    wide.insert(1, "shared classes", sources["tested classes"].reindex(wide.index))
    return wide.rename_axis(columns=None).reset_index()


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Differences as people read them: comparison, points with interval, corrected t-test's p, after Holm."""
    return pd.DataFrame(
        {
            "comparison": table["arm"] + " over " + table["against"],
            "points [95 % interval]": [interval(row, signed=True) for _, row in table.iterrows()],
            "p": table["p"],
            "p, Holm": table["p_holm"],
        }
    )


def record_ladder(stage: Recorder, found: StudyRecord) -> None:
    """Put the ladder's scores and differences into a stage's metrics: ``ladder_<arm>``, ``ladder_<arm>_minus_<other>``.

    ``ladder_shifts_lead``: see :func:`shifts_lead`.
    """

    def key(*names: str) -> str:
        return re.sub(r"[^a-z0-9]+", "_", " ".join(("ladder", *names)).lower()).strip("_")

    scores = found.table("scores")
    n = int(scores["n"].iloc[0])
    for row in scores.to_dict("records"):
        stage.record(key(row["arm"]), float(row["value"]), float(row["low"]), float(row["high"]), n)
    for name in ("steps", "rivals"):
        for row in found.table(name).to_dict("records"):
            stage.record(
                key(row["arm"], "minus", row["against"]), float(row["value"]), float(row["low"]), float(row["high"]), n
            )
    stage.record("ladder_shifts_lead", *shifts_lead(found))


def shifts_lead(found: StudyRecord) -> tuple[float, float | None, float | None, int]:
    """Share of the shifts under which the full model is surely ahead of a rival, less the share where it is surely behind.

    "Surely": the whole interval lies on that side of 0. Of all rivals the one against which this is lowest counts.
    Returns what a stage records: the value, no interval, and the number of shifts.
    """
    gaps = found.table("shifts_gaps")
    gaps = gaps[~gaps["condition"].str.endswith("none 0")]
    surely = (gaps["low"] > 0).astype(int) - (gaps["high"] < 0).astype(int)
    by_rival = surely.groupby(gaps["against"])
    return float(by_rival.mean().min()), None, None, int(by_rival.size().max())
