"""Predictions of one model on one part of the data, the input of every metric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.tables import numbers, read_table

COLUMNS = ("model", "index", "group", "split", "label")
PREFIX = "prob_"
ADVICE = "run 06_comparison.ipynb again"


@dataclass(frozen=True)
class Predictions:
    """Labels and predicted probabilities of N cells and K classes.

    Attributes:
        labels: (N,) int, the true class as a position in ``classes``.
        probs: (N,K) predicted probabilities in [0,1], rows sum to 1.
        groups: (N,) str, the patient or slide of each cell.
        classes: names of the K classes.

    Raises:
        LeukError: shapes that do not match, classes of one name, labels outside 0 to K - 1, or rows that are no
            probabilities.
    """

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
        if len(set(self.classes)) < k:
            raise LeukError("predictions: two classes have the same name")
        if not np.isin(self.labels, np.arange(k)).all():
            raise LeukError(f"predictions: labels must be 0 to {k - 1}")
        if not np.isfinite(self.probs).all() or (self.probs < 0).any() or (abs(self.probs.sum(1) - 1) > 1e-3).any():
            raise LeukError("predictions: every row of probabilities must be finite, not negative and sum to 1")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Most probable class of each cell (N,); the first one of ties."""
        return self.probs.argmax(axis=1)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the most probable class is the true one (N,)."""
        return self.predicted == self.labels

    @property
    def present(self) -> NDArray[np.int64]:
        """Positions of the classes that occur among the labels."""
        return np.unique(self.labels)

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes without a cell here; macro averages leave them out."""
        present = set(self.present.tolist())
        return tuple(name for position, name in enumerate(self.classes) if position not in present)

    @property
    def group_counts(self) -> list[int]:
        """Number of groups with cells of each class (K,)."""
        return [len(np.unique(self.groups[self.labels == k])) for k in range(len(self.classes))]

    def with_probs(self, probs: NDArray[np.float64]) -> Predictions:
        """Copy with other probabilities (N,K)."""
        return Predictions(self.labels, probs, self.groups, self.classes)


def read_prediction_table(path: Path, advice: str = ADVICE) -> pd.DataFrame:
    """Read a table of predictions, as ``baselines.prediction_table`` makes it, and as exact as it was written.

    Args:
        path: ``predictions.csv``.
        advice: What to do if it is missing or damaged, for the error message.

    Raises:
        LeukError: missing file or columns, no rows, empty names, unknown labels, or values that are no numbers.
    """
    if not path.is_file():
        raise LeukError(f"{path}: no such file; {advice}")
    table = read_table(path, COLUMNS, advice)  # as texts: older parsers round floats in their last bit
    classes = tuple(name.removeprefix(PREFIX) for name in table.columns if name.startswith(PREFIX))
    if not classes:
        raise LeukError(f"{path}: lacks column {PREFIX}<class>; {advice}")
    if table.empty:
        raise LeukError(
            f"{path}: holds no cell; are there too few groups for a validation and a test part? See 01_data.ipynb"
        )
    for column in ("model", "group", "split"):  # without a name, the groups of several patients would be one
        if (blank := table[column].str.strip() == "").any():
            raise LeukError(f"{path}: row {int(blank.to_numpy().argmax()) + 2}: {column} is empty; {advice}")
    unknown = sorted(set(table["label"]) - set(classes))
    if unknown:
        raise LeukError(f"{path}: label {unknown[0]!r} has no column {PREFIX}{unknown[0]}; {advice}")
    table["index"] = numbers(table, "index", path, advice, whole=True).astype(int)
    for name in classes:
        table[PREFIX + name] = numbers(table, PREFIX + name, path, advice)
    return table


def read_predictions(path: Path) -> dict[str, dict[str, Predictions]]:
    """Read the predictions of all models, which stage ``comparison`` writes.

    Args:
        path: ``predictions.csv`` or its folder. Columns: model, index, group, split, label (name of a class), and
            ``prob_<class>`` per class.

    Returns:
        Model -> split -> predictions. Within a split all models have the same cells in the order of ``index``, so that
        differences are paired.

    Raises:
        LeukError: as `read_prediction_table`; or repeated cells, or models with different cells.
    """
    path = Path(path) / "predictions.csv" if Path(path).is_dir() else Path(path)
    table = read_prediction_table(path)
    classes = tuple(name.removeprefix(PREFIX) for name in table.columns if name.startswith(PREFIX))
    position = {name: number for number, name in enumerate(classes)}
    predictions: dict[str, dict[str, Predictions]] = {}
    cells_of_split: dict[str, tuple[str, list[tuple[int, str, str]]]] = {}
    for (model, split), rows in table.groupby(["model", "split"], sort=False):
        rows = rows.sort_values("index", kind="stable")
        if rows["index"].duplicated().any():
            raise LeukError(f"{path}: model {model} has a cell of split {split} twice; {ADVICE}")
        cells = list(zip(rows["index"], rows["group"], rows["label"], strict=True))
        first_model, first_cells = cells_of_split.setdefault(str(split), (str(model), cells))
        if cells != first_cells:
            raise LeukError(f"{path}: models {first_model} and {model} do not have the same cells of split {split}")
        predictions.setdefault(str(model), {})[str(split)] = Predictions(
            labels=np.array([position[name] for name in rows["label"]], dtype=np.int64),
            probs=rows[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64),
            groups=rows["group"].to_numpy(dtype=str),
            classes=classes,
        )
    return predictions
