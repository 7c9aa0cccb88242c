"""The same cell: one test cell that several chapters show, chosen by a rule that reads labels and the split only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.cellset import CellSet
from leuk_lib.runs.recorder import Notes


@dataclass(frozen=True)
class OneCell:
    """The cell that the chapters follow.

    Attributes:
        position: Its row in the cell table.
        label: Its class.
        group: Its patient, slide or inferred group.
        path: Its file, or the number of a rendered cell; "" where the table has no column ``path``.
        mask: (S, S) uint8 with 0 background, 128 cytoplasm, 255 nucleus; None where masks are not known.
    """

    position: int
    label: str
    group: str
    path: str
    mask: NDArray[np.uint8] | None


def find_cell(cells: CellSet, stage: Notes) -> OneCell | None:
    """Return the first test cell, in the order of the cell table, of the class with the fewest training cells.

    Among equally rare classes the first one counts; classes without a test cell are left out. The rule reads neither an
    image nor a prediction, so no model can make the choice look better, and every stage finds the same cell. Nothing may
    be learned or chosen from it; the note in the run card says that it was shown.

    Args:
        cells: The cells of stage ``data``, with its images or enhanced ones.
        stage: The stage whose card gets the note.

    Returns:
        The cell; None for a data set without test cells.
    """
    is_test = cells.parts == "test"
    tested = [name for name in cells.classes if (is_test & (cells.table["label"] == name)).any()]
    if not tested:
        return None
    rarest = cells.counts("train")[tested].idxmin()
    position = int(np.flatnonzero(is_test & (cells.table["label"] == rarest))[0])
    row = cells.table.iloc[position]
    cell = OneCell(
        position, str(row["label"]), str(row["group"]), str(row.get("path", "")),
        None if cells.masks is None else cells.masks[position].numpy(),
    )  # fmt: skip
    stage.note(f"shown as an example, not learned from: test cell {cell.path or position} of class {cell.label}")
    return cell
