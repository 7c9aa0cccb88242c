"""What the stages before wrote: their numbers and their costs, with where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs import paths
from leuk_lib.runs.display import Link
from leuk_lib.runs.files import read_json

if TYPE_CHECKING:
    from leuk_lib.data.loading import CellSet

COLUMNS = ["stage", "key", "value", "low", "high", "n", "unit"]


def numbers(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Every number of the stages' ``metrics.json``: stage, key, value, low, high, n, unit (NaN where not given)."""
    rows = [
        {"stage": stage, "key": key, **entry}
        for stage, folder in folders.items()
        for key, entry in read_json(folder / "metrics.json")["metrics"].items()
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["unit"] = table["unit"].fillna("")
    return table


def costs(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Seconds, memory and device of every stage from its card, and their sum in the last row.

    Differs from run to run and machine to machine: to be shown, not to be saved.
    """
    cards = [read_json(folder / "card.json") for folder in folders.values()]
    rows: list[dict[str, Any]] = [
        {
            "stage": card["stage"], "run": card["run"], "profile": card["profile"], "seconds": float(card["seconds"] or 0),
            "peak memory (MB)": float(card["peak_rss_mb"] or 0), "peak GPU memory (MB)": float(card["peak_gpu_mb"] or 0),
            "device": card["device"], "commit": (card["git"]["commit"] or "none")[:10] + ("*" if card["git"]["dirty"] else ""),
        }
        for card in cards
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    together = dict.fromkeys(table.columns, "") | {"stage": "together", "seconds": table["seconds"].sum()}
    together |= {name: table[name].max() for name in ("peak memory (MB)", "peak GPU memory (MB)")}
    return pd.concat([table, pd.DataFrame([together])], ignore_index=True)


def facts(cells: CellSet, test: Predictions, dataset: str, profile: str) -> dict[str, Any]:
    """What the claims chapter must know of the data: kind, classes, parts, groups. ``dataset`` without its folder."""
    n = {part: int((cells.parts == part).sum()) for part in ("train", "val", "test")}
    return {
        "dataset": Path(dataset).name,
        "profile": profile,
        "kind": cells.kind,
        "classes": list(cells.classes),
        "cells": n,
        "shares": {part: count / len(cells) for part, count in n.items()},
        "groups_test": len(np.unique(test.groups)),
    }


def linked(table: pd.DataFrame) -> pd.DataFrame:
    """A table for display whose column ``stage`` leads to the stage's chapter."""
    notebooks = {name: path.name for name, path in paths.stage_notebooks().items()}
    shown = [Link(name, notebooks[name]) if name in notebooks else name for name in table["stage"]]
    return table.assign(stage=pd.Series(shown, index=table.index, dtype=object))
