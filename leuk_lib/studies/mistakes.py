"""The rungs of the leakage ladder: how a model can be scored, rightly and wrongly, and what is compared with what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

GROUPED, RANDOM = "grouped split", "random split"
OF_TRAINING = " of training cells"


@dataclass(frozen=True)
class Arm:
    """How a model is scored. ``random``: cells are dealt out without regard to groups. ``sees``: which cells the
    generator is trained on (training, all), or none; ``pooled``: its cells are dealt out with the real ones."""

    name: str
    random: bool = False
    generator: str = ""
    sees: str = ""
    pooled: bool = False


def arms_of(generators: Sequence[str]) -> list[Arm]:
    """The ladder: both splits without synthetic cells, then for every generator one right use and two wrong ones."""
    found = [Arm(GROUPED), Arm(RANDOM, random=True)]
    for name in generators:
        found += [
            Arm(f"{name}{OF_TRAINING}", generator=name, sees="training"),
            Arm(f"{name} of all cells", generator=name, sees="all"),
            Arm(f"{name} before the split", random=True, generator=name, sees="all", pooled=True),
        ]
    return found


def steps_of(generators: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared with what: every mistake with the same thing done right, and honest synthetic cells with none."""
    found = [(RANDOM, GROUPED)]
    for name in generators:
        right = f"{name}{OF_TRAINING}"
        found += [
            (right, GROUPED), (f"{name} of all cells", right), (f"{name} before the split", RANDOM),
            (f"{name} before the split", right),
        ]  # fmt: skip
    return found


def mistakes_only(bought: pd.DataFrame) -> pd.DataFrame:
    """The rows of the study's table in which the first arm makes a mistake that the second does not make."""
    honest = {GROUPED} | {name for name in bought["arm"] if str(name).endswith(OF_TRAINING)}
    return bought[~bought["arm"].isin(honest)].reset_index(drop=True)


def in_points(bought: pd.DataFrame) -> pd.DataFrame:
    """A row a mistake and kind of cells: what it buys, in points of balanced accuracy, and whether that is sure."""
    rows = []
    for row in mistakes_only(bought).to_dict("records"):
        low, high = 100 * row["low"], 100 * row["high"]
        sure = "buys points" if low > 0 else "costs points" if high < 0 else "not told apart from nothing"
        points = f"{100 * row['value']:+.1f} [{low:+.1f}, {high:+.1f}]"
        rows.append((row["condition"], row["arm"], row["against"], points, sure))
    return pd.DataFrame(rows, columns=["cells, model", "mistake", "instead of", "points [95 % interval]", "verdict"])


def record_bought(stage: Any, bought: Mapping[str, pd.DataFrame]) -> None:
    """Put what every mistake buys (data set -> table) into a stage's metrics."""
    for data, table in bought.items():
        for row in mistakes_only(table).to_dict("records"):
            stage.record(key(data, row), float(row["value"]), float(row["low"]), float(row["high"]))


def key(data: str, row: Mapping[Any, Any]) -> str:
    """Name of a row's number in a stage's metrics."""
    said = f"bought {data} {row['condition']} {row['arm']} over {row['against']}"
    return re.sub(r"[^a-z0-9]+", "_", said.lower()).strip("_")
