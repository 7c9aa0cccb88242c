"""Chapter 10, claims: what it reads from chapter 9, and what it records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.audit.claims import NOT_REACHED, REACHED, VERDICTS
from leuk_lib.audit.facts import read_facts
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.records import read_metrics
from leuk_lib.runs.tables import numbers, read_table


def read_results(folder: Path) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, Any]]:
    """Read what stage ``results`` wrote.

    Args:
        folder: the stage's folder.

    Returns:
        Stage -> key -> entry, for its own numbers and those of the stages before; and the facts about the data.

    Raises:
        LeukError: If a file is missing or damaged.
    """
    metrics: dict[str, dict[str, dict[str, Any]]] = {"results": read_metrics(folder)}
    path, advice = folder / "upstream.csv", "run notebooks/09_results.ipynb again"
    table = read_table(path, ("stage", "key", "value", "low", "high", "n"), advice)
    for name in ("value", "low", "high", "n"):
        table[name] = numbers(table, name, path, advice, blank=name != "value", whole=name == "n")
    for row in table.to_dict("records"):
        entry = {name: row[name] for name in ("value", "low", "high") if pd.notna(row[name])}
        entry |= {"n": int(row["n"])} if pd.notna(row["n"]) else {}
        metrics.setdefault(row["stage"], {})[row["key"]] = entry
    return metrics, read_facts(folder / "facts.json")


def record_audit(stage: Recorder, verdicts: pd.DataFrame, audit: Mapping[str, float]) -> None:
    """Record the number of claims with each verdict and the figures of the audit in the stage's metrics.

    Verdicts about another public set are recorded only where there are any.
    """
    for name in VERDICTS:
        count = int((verdicts["verdict"] == name).sum())
        if count or name not in (REACHED, NOT_REACHED):
            stage.record(name.replace(" ", "_"), count, None, None, len(verdicts))
    stage.record("published_accuracy", audit["accuracy"], audit["accuracy_low"], audit["accuracy_high"], None)
    for key, value in audit.items():
        if not key.startswith("accuracy"):
            stage.record(key, value, None, None, None)
