"""Augmented batches for a ``DataLoader``: the same ones for any number of workers, and from any step on.

Our training loops need no workers: decoded cells are memory-mapped and a batch is augmented in one go (``augment``).
This is for who brings a transform that is slow, or a loop of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leuk_lib.runs.seeds import torch_generator

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Item ``step`` is the whole batch of that step: images (B,3,S,S) float in [0,1] and labels (B,).

    Every epoch is a permutation of ``positions`` (its rest that fills no batch is dropped). The permutation depends on
    ``seed`` and the epoch, the augmentation on ``seed`` and the step, and nothing on the process that does the work.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, positions: Tensor, batch_size: int, steps: int, seed: int = 0,
        augment: Augment | None = None,
    ) -> None:  # fmt: skip
        if not 1 <= batch_size <= len(positions):
            raise ValueError(f"batch_size {batch_size} must be from 1 to the number of cells, {len(positions)}")
        self.images, self.labels, self.positions = images, labels, positions
        self.batch_size, self.steps, self.seed, self.augment = batch_size, steps, seed, augment

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        epoch, place = divmod(step, len(self.positions) // self.batch_size)
        order = torch.randperm(len(self.positions), generator=torch_generator(self.seed, "epoch", epoch))
        rows = self.positions[order[place * self.batch_size : (place + 1) * self.batch_size]]
        x = self.images[rows].float() / 255
        if self.augment is not None:
            x = self.augment(x, torch_generator(self.seed, "augment", step))
        return x, self.labels[rows]


def loader(batches: Batches, start: int = 0, workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches from step ``start`` on, in order, prepared by ``workers`` processes (0: by the caller)."""
    return DataLoader(batches, batch_size=None, sampler=range(start, len(batches)), num_workers=workers)
