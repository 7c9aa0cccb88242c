"""External test sets: cells of other sources, of the classes that a trained model knows, one cell per image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.data.decode import decode_file, square
from leuk_lib.data.loading import load_dataset
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.tables import numbers, read_table

BOX = ("xmin", "ymin", "xmax", "ymax")
MIN_CELLS = 5  # per class
MARGIN = 2.2  # side of the square around a white cell, in units of its box's longer side; PBC frames its cells so


@dataclass(frozen=True)
class ExternalSet:
    """Cells of one source.

    Attributes:
        images: (N,3,S,S) uint8.
        labels: (N,) positions in the classes of training.
        groups: (N,) names.
        grouped_by: what the groups are.
    """

    images: Tensor
    labels: Tensor
    groups: list[str]
    grouped_by: str


def external_cells(folder: Path, classes: tuple[str, ...], size: int, workers: int) -> ExternalSet:
    """Read the cells of ``folder`` that belong to ``classes``; images of whole fields are cut at their boxes.

    Args:
        folder: class folders; boxes of cells are in ``boxes.csv`` beside it, if there are any.
        classes: classes of training; those with fewer than ``MIN_CELLS`` cells here are left out.
        size: side of the images, pixels.
        workers: processes that decode.

    Raises:
        LeukError: fewer than two classes are shared.
    """
    boxes = _white_cells(folder)
    if boxes is None:
        data = load_dataset(str(folder), size=size, workers=workers)
        images, table, grouped_by = data.images, data.table, data.grouped_by
    else:
        images, table = _crop(folder, boxes, size)
        grouped_by = "file"
    counts = table["label"].value_counts()
    shared = [name for name in classes if counts.get(name, 0) >= MIN_CELLS]
    if len(shared) < 2:
        raise LeukError(f"{folder.name}: shares fewer than two classes of {MIN_CELLS} cells with {', '.join(classes)}")
    chosen = table["label"].isin(shared).to_numpy()
    return ExternalSet(
        images=torch.from_numpy(np.ascontiguousarray(images[chosen].transpose(0, 3, 1, 2))),
        labels=torch.tensor([classes.index(label) for label in table["label"][chosen]]),
        groups=[f"{folder.name}:{group}" for group in table["group"][chosen]],
        grouped_by=grouped_by,
    )


def _white_cells(folder: Path) -> pd.DataFrame | None:
    """Boxes of white cells in the fields of ``folder``, from the ``boxes.csv`` beside it; None without one."""
    path = folder.parent / "boxes.csv"
    if not path.is_file():
        return None
    advice = "restore it"
    boxes = read_table(path, ("path", "box_label", *BOX), advice)
    for name in BOX:
        boxes[name] = numbers(boxes, name, path, advice)
    boxes = boxes[boxes["path"].str.startswith(f"{folder.name}/") & (boxes["box_label"] == "WBC")]
    return boxes if len(boxes) else None


def _crop(folder: Path, boxes: pd.DataFrame, size: int) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """A square of ``MARGIN`` times the box around each white cell, mirrored beyond the field's edge; group: the field."""
    images, rows = [], []
    for name, of_field in boxes.groupby("path", sort=True):
        field = decode_file(folder.parent / str(name)).image
        for box in of_field.to_dict("records"):
            side = round(MARGIN * max(box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]))
            x, y = (round((box[f"{axis}min"] + box[f"{axis}max"]) / 2) for axis in "xy")
            rows_at, columns_at = (
                _mirrored(np.arange(centre - side // 2, centre - side // 2 + side), length)
                for centre, length in ((y, field.shape[0]), (x, field.shape[1]))
            )
            images.append(square(np.ascontiguousarray(field[rows_at][:, columns_at]), size))
            rows.append({"label": Path(str(name)).parent.name, "group": name})
    return np.stack(images), pd.DataFrame(rows)


def _mirrored(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions outside 0 … length-1 reflected into it; the edge itself is not repeated."""
    period = 2 * (length - 1)
    inside = np.abs(positions) % period
    return np.where(inside >= length, period - inside, inside)
