"""Augmented batches for a ``DataLoader``, independent of the number of workers and of the first step.

The library's training loops need no workers, as decoded cells are memory-mapped and batches augmented as a whole. Use
this module for a slow transform, or with a training loop of your own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leuk_lib.runs.seeds import torch_generator

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by step: images (B,3,S,S) float in [0,1] and labels (B,).

    Every epoch is a permutation of ``positions``, without its last partial batch. The permutation depends on ``seed``
    and the epoch only, the augmentation on ``seed`` and the step.

    Args:
        images: (N,3,S,S) uint8.
        labels: (N,).
        positions: Cells to draw from.
        batch_size: B, at most the number of positions.
        steps: Number of batches.
        seed: Seed of order and augmentation.
        augment: Called with a batch and a generator.

    Raises:
        ValueError: ``batch_size`` is out of range.
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
        epoch, index = divmod(step, len(self.positions) // self.batch_size)
        order = torch.randperm(len(self.positions), generator=torch_generator(self.seed, "epoch", epoch))
        rows = self.positions[order[index * self.batch_size : (index + 1) * self.batch_size]]
        x = self.images[rows].float() / 255
        if self.augment is not None:
            x = self.augment(x, torch_generator(self.seed, "augment", step))
        return x, self.labels[rows]


def loader(batches: Batches, start: int = 0, workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
    """Load the batches from step ``start`` on, in order, with ``workers`` processes (0: in the calling process)."""
    return DataLoader(batches, batch_size=None, sampler=range(start, len(batches)), num_workers=workers)
