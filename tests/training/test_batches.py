"""Batches: independent of the number of workers and of the first step; cells stay on disk until they are read."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from data.test_cellset import tiny
from leuk_lib.training.augment import dihedral, random_resized_crop, stain_jitter
from leuk_lib.training.batches import Batches, loader


def augment(x, generator):
    return stain_jitter(random_resized_crop(dihedral(x, generator), generator), generator)


def batches(seed=0, **options):
    images = torch.randint(0, 256, (37, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    settings = {"batch_size": 8, "steps": 11, "augment": augment, **options}
    return Batches(images, torch.arange(37), torch.arange(1, 36), seed=seed, **settings)


def test_the_same_batches_for_any_number_of_workers():
    alone = list(loader(batches()))
    for workers in (1, 3):
        others = list(loader(batches(), workers=workers))
        assert len(others) == 11
        assert all(
            torch.equal(a, b)
            for expected, batch in zip(alone, others, strict=True)
            for a, b in zip(expected, batch, strict=True)
        )


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees():
    whole, rest = list(loader(batches())), list(loader(batches(), start=6, workers=1))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[6:], rest, strict=True))


def test_an_epoch_is_a_permutation_and_the_seed_decides():
    labels = torch.cat([y for _, y in loader(batches(steps=4))])
    assert len(labels.unique()) == 32 and set(labels.tolist()) <= set(range(1, 36))
    assert not torch.equal(torch.cat([y for _, y in loader(batches(seed=1, steps=4))]), labels)
    x, _ = batches()[0]
    assert x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
    with pytest.raises(ValueError, match="batch_size"):
        batches(batch_size=99)
    with pytest.raises(IndexError):
        batches()[11]


def test_open_cells_are_mapped_not_read(tmp_path):
    """Opening 150 MB of cells takes far less memory; reading one cell takes the memory of that cell."""
    cells = tiny(masks=False)
    big = cells.images.new_zeros((6, 3, 2900, 2900))
    type(cells)(big, None, cells.labels, cells.classes, cells.table, "rendered", "big").save(tmp_path)
    script = (
        "import sys; from pathlib import Path; from leuk_lib.data.cellset import CellSet\n"
        "rss = lambda: int(Path('/proc/self/statm').read_text().split()[1]) * 4096 // 2**20\n"
        "before = rss(); cells = CellSet.open(Path(sys.argv[1])); opened = rss() - before\n"
        "cells.images[2].sum(); print(opened, rss() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    opened, read = map(int, done.stdout.split())
    assert opened < 40 and read < 80
