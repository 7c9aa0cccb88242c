"""The numbers of the results chapter by name, as they go into ``metrics.json`` and from there into the book."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leuk_lib.chapters.results import Score
from leuk_lib.runs.files import read_json
from leuk_lib.runs.recorder import Recorder

Entry = dict[str, Any]
HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")
REST = ("macro_precision", "macro_recall", "nll", "brier", "ece")


def slugs(names: Sequence[str]) -> list[str]:
    """Names as parts of keys: letters, digits and underscores, all different."""
    plain = [re.sub(r"\W+", "_", name).strip("_").lower() or "class" for name in names]
    return [slug if plain.count(slug) == 1 else f"{slug}_{position}" for position, slug in enumerate(plain)]


def _entry(value: float, low: float = math.nan, high: float = math.nan, n: int | None = None) -> Entry:
    return {"value": value, "low": low, "high": high, "n": n}


def entries(
    scores: Mapping[str, Score], full: str, rival: str | None, differences: pd.DataFrame, recalls: pd.DataFrame,
    votes: pd.DataFrame, calibration: pd.DataFrame, facts: Mapping[str, Any],
) -> dict[str, Entry]:  # fmt: skip
    """Key -> value, low, high, n; headline figures first.

    ``margin``: accuracy minus that of ``rival``, the strongest baseline; ``ahead_of_<baseline>``: the same for each
    baseline; ``recall_<class>``; ``patient_accuracy``: groups vote; ``*_calibrated``: after temperature scaling.
    """
    ours = scores[full]
    n = len(ours.predictions)
    found = {name: _entry(ours.values[name], *ours.interval(name), n) for name in HEADLINE}
    accuracy = differences[differences["metric"] == "accuracy"].set_index("baseline")
    ahead = {
        str(name): _entry(row["difference"], row["low"], row["high"], n)
        for name, row in accuracy.to_dict("index").items()
    }
    if rival is not None:
        found["margin"] = ahead[rival]
    mine = votes[votes["model"] == full].to_dict("records")
    if mine and int(mine[0]["groups"]) < n:  # cells without known patients have no patient-level figure
        found["patient_accuracy"] = _entry(mine[0]["accuracy"], mine[0]["low"], mine[0]["high"], int(mine[0]["groups"]))
    found |= {name: _entry(ours.values[name], *ours.interval(name), n) for name in REST}
    scaled = calibration[(calibration["model"] == full) & calibration["moment"].isin(["fitted", "after"])]
    for row in scaled.to_dict("records"):
        key = row["measure"] if row["moment"] == "fitted" else f"{row['measure']}_calibrated"
        found[key] = _entry(row["value"], row["low"], row["high"], int(row["n"]))
    for slug, row in zip(slugs(list(recalls["class"])), recalls.to_dict("records"), strict=True):
        found[f"recall_{slug}"] = _entry(row["recall"], row["low"], row["high"], int(row["n"]))
    for slug, (name, entry) in zip(slugs(list(ahead)), ahead.items(), strict=True):
        found[f"accuracy_of_{slug}"] = _entry(scores[name].values["accuracy"], *scores[name].interval("accuracy"), n)
        found[f"ahead_of_{slug}"] = entry
    found |= {f"{part}_share": _entry(share) for part, share in facts["shares"].items()}
    found |= {"n_test": _entry(n), "n_test_groups": _entry(facts["groups_test"])}
    return found


def record(stage: Recorder, found: Mapping[str, Entry]) -> None:
    """Put every number into the stage's metrics; one that has no value becomes a note instead."""
    for key, entry in found.items():
        if not np.isfinite(entry["value"]):
            stage.note(f"{key} has no value here: no cell of this class (or of any other) in the test part")
            continue
        known = np.isfinite(entry["low"]) and np.isfinite(entry["high"])
        stage.record(key, entry["value"], entry["low"] if known else None, entry["high"] if known else None, entry["n"])


def read_numbers(results: Path) -> tuple[dict[str, dict[str, Entry]], dict[str, Any]]:
    """What stage ``results`` knows: stage -> key -> entry (its own numbers and those it read upstream), and the facts."""
    metrics: dict[str, dict[str, Entry]] = {"results": read_json(results / "metrics.json")["metrics"]}
    text = {"stage": str, "key": str, "unit": str}
    above = pd.read_csv(
        results / "upstream.csv", dtype=text, keep_default_na=False, na_values={"low": [""], "high": [""], "n": [""]}
    )
    for row in above.to_dict("records"):
        entry = {name: row[name] for name in ("value", "low", "high") if pd.notna(row[name])}
        entry |= {"n": int(row["n"])} if pd.notna(row["n"]) else {}
        metrics.setdefault(row["stage"], {})[row["key"]] = entry
    return metrics, read_json(results / "facts.json")
