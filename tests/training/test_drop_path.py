"""Drop path: the mean is kept, and the draws do not depend on the number of processes."""

from __future__ import annotations

import torch

from leuk_lib.training import drop_path as module
from leuk_lib.training.drop_path import drop_path


def test_without_rate_or_training_it_is_the_identity():
    branch = torch.randn(4, 3)
    assert drop_path(branch, 0.0, True) is branch and drop_path(branch, 0.5, False) is branch


def test_whole_samples_are_dropped_and_the_mean_stays():
    torch.manual_seed(0)
    out = drop_path(torch.ones(4000, 2, 3), 0.25, True)
    kept = out[:, 0, 0] > 0
    assert torch.equal(out, torch.where(kept[:, None, None], 1 / 0.75, 0.0).expand_as(out))
    assert abs(float(out.mean()) - 1) < 0.05


def test_processes_drop_what_one_would(monkeypatch):
    branch = torch.ones(12, 5)
    torch.manual_seed(3)
    whole = drop_path(branch, 0.5, True)
    monkeypatch.setattr(module.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(module.distributed, "get_world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(module.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(3)
        parts.append(drop_path(branch[:4], 0.5, True))
    assert torch.equal(torch.cat(parts), whole)
