"""Predictions of one model on one part of the data, as every metric takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.runs.errors import LeukError

COLUMNS = ("model", "index", "group", "split", "label")
PREFIX = "prob_"


@dataclass(frozen=True)
class Predictions:
    """labels (N,) int positions in ``classes``; probs (N,K), rows sum to 1; groups (N,) str: patient or slide."""

    labels: NDArray[np.int64]
    probs: NDArray[np.float64]
    groups: NDArray[np.str_]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        n, k = len(self.labels), len(self.classes)
        if self.probs.shape != (n, k) or self.groups.shape != (n,):
            raise LeukError(
                f"predictions: {n} labels, {k} classes, probabilities {self.probs.shape}, groups {self.groups.shape}"
            )
        if n and (self.labels.min() < 0 or self.labels.max() >= k):
            raise LeukError(f"predictions: labels must lie in 0 to {k - 1}")
        if not np.isfinite(self.probs).all() or (self.probs < 0).any() or (abs(self.probs.sum(1) - 1) > 1e-3).any():
            raise LeukError("predictions: every row of probabilities must be finite, not negative and sum to 1")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) the most probable class of every cell; the first of equals."""
        return self.probs.argmax(axis=1)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether the most probable class is the label."""
        return self.predicted == self.labels

    @property
    def present(self) -> NDArray[np.int64]:
        """Positions of the classes that occur among the labels."""
        return np.unique(self.labels)

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes without a single cell here: macro averages leave them out."""
        held = set(self.present.tolist())
        return tuple(name for position, name in enumerate(self.classes) if position not in held)

    def with_probs(self, probs: NDArray[np.float64]) -> Predictions:
        """The same cells with other probabilities."""
        return Predictions(self.labels, probs, self.groups, self.classes)


def read_predictions(path: Path) -> dict[str, dict[str, Predictions]]:
    """Model -> split -> predictions, from the table (or the folder) that stage ``wpat`` writes.

    Columns: model, index, group, split, label (a class's name), one ``prob_<class>`` a class. Within a split all
    models must have judged the same cells; the cells are put in the order of ``index``, so differences are paired.
    Raises ``LeukError`` for missing columns, unknown labels, repeated or unequal cells.
    """
    path = Path(path) / "predictions.csv" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise LeukError(f"{path}: no such file; run notebooks/05_wpat.ipynb first")
    text = {"model": str, "group": str, "split": str, "label": str}
    table = pd.read_csv(path, dtype=text, keep_default_na=False, float_precision="round_trip")
    missing = [name for name in COLUMNS if name not in table.columns]
    classes = tuple(name.removeprefix(PREFIX) for name in table.columns if name.startswith(PREFIX))
    if missing or not classes:
        raise LeukError(f"{path}: lacks column {', '.join(missing) or PREFIX + '<class>'}; run 05_wpat.ipynb again")
    if table.empty:
        raise LeukError(f"{path}: holds no cell: too few groups for a validation and a test part? See 01_data.ipynb")
    unknown = sorted(set(table["label"]) - set(classes))
    if unknown:
        raise LeukError(f"{path}: label {unknown[0]!r} has no column {PREFIX}{unknown[0]}; run 05_wpat.ipynb again")
    position = {name: number for number, name in enumerate(classes)}
    found: dict[str, dict[str, Predictions]] = {}
    cells: dict[str, tuple[str, list[tuple[int, str, str]]]] = {}
    for (model, split), rows in table.groupby(["model", "split"], sort=False):
        rows = rows.sort_values("index", kind="stable")
        if rows["index"].duplicated().any():
            raise LeukError(f"{path}: model {model} judges a cell of split {split} twice; run 05_wpat.ipynb again")
        mine = list(zip(rows["index"], rows["group"], rows["label"], strict=True))
        first, theirs = cells.setdefault(str(split), (str(model), mine))
        if mine != theirs:
            raise LeukError(f"{path}: models {first} and {model} were not judged on the same cells of split {split}")
        found.setdefault(str(model), {})[str(split)] = Predictions(
            labels=np.array([position[name] for name in rows["label"]], dtype=np.int64),
            probs=rows[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64),
            groups=rows["group"].to_numpy(dtype=str),
            classes=classes,
        )
    return found
