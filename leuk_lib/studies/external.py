"""Cells of other sources as a model trained elsewhere would be shown them: shared classes only, one cell an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from leuk_lib.data.catalog import load_dataset
from leuk_lib.data.decode import decode_file, square
from leuk_lib.runs.errors import LeukError

FEWEST = 5  # cells a class must have to be tested
MARGIN = 2.2  # side of the square around a white cell's box, in units of the box's longer side: as PBC frames its cells


@dataclass(frozen=True)
class Foreign:
    """images (N,3,S,S) uint8, labels (N,) positions in the training classes, groups (N,), and the source's name."""

    source: str
    images: Tensor
    labels: Tensor
    groups: list[str]


def foreign_cells(folder: Path, classes: tuple[str, ...], size: int, workers: int) -> Foreign:
    """Cells of ``folder`` whose class is one of ``classes`` and has ``FEWEST`` cells; fields with boxes are cut up.

    Raises ``LeukError`` where fewer than two classes are shared.
    """
    boxes = _white_cells(folder)
    if boxes is None:
        data = load_dataset(str(folder), size=size, workers=workers)
        images, table = data.images, data.table
    else:
        images, table = _cut(folder, boxes, size)
    counts = table["label"].value_counts()
    shared = [name for name in classes if counts.get(name, 0) >= FEWEST]
    if len(shared) < 2:
        raise LeukError(f"{folder.name}: shares fewer than two classes of {FEWEST} cells with {', '.join(classes)}")
    chosen = table["label"].isin(shared).to_numpy()
    return Foreign(
        source=folder.name,
        images=torch.from_numpy(np.ascontiguousarray(images[chosen].transpose(0, 3, 1, 2))),
        labels=torch.tensor([classes.index(label) for label in table["label"][chosen]]),
        groups=[f"{folder.name}:{group}" for group in table["group"][chosen]],
    )


def _white_cells(folder: Path) -> pd.DataFrame | None:
    """The boxes of white cells in the fields of ``folder``, from the ``boxes.csv`` beside it; None without one."""
    path = folder.parent / "boxes.csv"
    if not path.is_file():
        return None
    boxes = pd.read_csv(path)
    mine = boxes[boxes["path"].str.startswith(f"{folder.name}/") & (boxes["box_label"] == "WBC")]
    return mine if len(mine) else None


def _cut(folder: Path, boxes: pd.DataFrame, size: int) -> tuple[np.ndarray, pd.DataFrame]:
    """A square of ``MARGIN`` times its box around every white cell (mirrored beyond the field's edge); group: the field."""
    images, rows = [], []
    for name, mine in boxes.groupby("path", sort=True):
        field = decode_file(folder.parent / str(name)).image
        for box in mine.to_dict("records"):
            side = round(MARGIN * max(box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]))
            x, y = (round((box[f"{axis}min"] + box[f"{axis}max"]) / 2) for axis in "xy")
            rows_at, columns_at = (
                _mirrored(np.arange(centre - side // 2, centre - side // 2 + side), length)
                for centre, length in ((y, field.shape[0]), (x, field.shape[1]))
            )
            images.append(square(np.ascontiguousarray(field[rows_at][:, columns_at]), size))
            rows.append({"label": Path(str(name)).parent.name, "group": name})
    return np.stack(images), pd.DataFrame(rows)


def _mirrored(places: np.ndarray, length: int) -> np.ndarray:
    """Positions outside 0 … length-1 reflected into it (the edge itself not repeated)."""
    period = 2 * (length - 1)
    inside = np.abs(places) % period
    return np.where(inside >= length, period - inside, inside)
