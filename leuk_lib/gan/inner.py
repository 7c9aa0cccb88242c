"""The inner split of the training cells: one part trains the GAN, the other sets thresholds and measures recall."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from leuk_lib.data.loading import CellSet
from leuk_lib.data.splits import split_groups
from leuk_lib.runs.errors import LeukError


@dataclass(frozen=True)
class Inner:
    """Positions in the CellSet, LongTensors; both come from its training part and share no group."""

    train: Tensor
    held: Tensor
    digest: str

    def evidence(self) -> str:
        """A line for the card: which cells were read, as a hash that anyone can compute again from cells.csv."""
        return (
            f"read {len(self.train)} inner-training and {len(self.held)} inner held-out cells, all of the training "
            f"part; sha256 of their sorted paths: {self.digest}"
        )


def inner_split(cells: CellSet, fraction: float, seed: int) -> Inner:
    """Hold out ``fraction`` of the training cells by group, stratified. A class of one group stays in training.

    Raises ``LeukError`` if the training part cannot be split.
    """
    train = cells.indices("train")
    if len(train) < 2:
        raise LeukError(f"{cells.name}: {len(train)} training cells; the GAN needs cells to learn and to hold out")
    part = split_groups(cells.labels[train].numpy(), cells.groups[train.numpy()], (1 - fraction, fraction), seed)
    return Inner(train[from_numpy(part == 0)], train[from_numpy(part == 1)], paths_digest(cells, train.numpy()))


def paths_digest(cells: CellSet, positions: NDArray[np.int64]) -> str:
    """SHA-256 of the sorted paths of cells, one a line."""
    paths = sorted(cells.table["path"].iloc[positions].astype(str))
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()


def counts_table(cells: CellSet, inner: Inner, min_count: int, gated: set[int]) -> pd.DataFrame:
    """Training, inner-training and held-out cells a class, and whether the GAN can serve it, or why not."""
    n = len(cells.classes)
    whole = np.bincount(cells.labels[cells.indices("train")].numpy(), minlength=n)
    mine = np.bincount(cells.labels[inner.train].numpy(), minlength=n)
    held = np.bincount(cells.labels[inner.held].numpy(), minlength=n)
    rows = []
    for c, name in enumerate(cells.classes):
        if mine[c] < min_count:
            status = f"left out: under {min_count} inner-training cells"
        elif c not in gated:
            status = "left out: too few held-out cells to judge"
        else:
            status = "learned and judged"
        rows.append(
            {"class": name, "training": whole[c], "inner training": mine[c], "held out": held[c], "status": status}
        )
    return pd.DataFrame(rows)
