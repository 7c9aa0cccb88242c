"""Mixup and CutMix: convex, paired in the batch, labels by true area, independent of the number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.training.mixing import mix


def batch(n: int = 8, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, side, side, generator=generator), torch.eye(4)[torch.arange(n) % 4]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


alphas = st.sampled_from([0.0, 0.2, 1.0, 4.0])


@given(alphas, alphas, st.integers(0, 99), st.sampled_from([2, 6, 8]))
def test_images_and_labels_are_mixed_by_the_same_share(mixup, cutmix, seed, n):
    # Each image is constant, with its label's number as value, so that its mean is the mixed label.
    values = torch.arange(n).float()
    x, targets = values.view(n, 1, 1, 1).expand(n, 3, 16, 16).clone(), torch.eye(n)
    mixed, soft = mix(x, targets, rng(seed), mixup, cutmix)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft @ values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(n))
    assert soft.min() >= 0
    partner = torch.arange(n) ^ 1
    assert ((soft > 0).sum(dim=1) <= 2).all() and (
        soft.argmax(dim=1).eq(torch.arange(n)) | soft.argmax(dim=1).eq(partner)
    ).all()


def test_nothing_is_mixed_without_alpha():
    x, targets = batch()
    same, labels = mix(x, targets, rng(), 0.0, 0.0)
    assert same is x and labels is targets


def test_cutmix_pixels_are_one_of_the_two_and_mixup_blends_all():
    x, targets = batch()
    cut, _ = mix(x, targets, rng(1), 0.0, 1.0)
    partner = x[torch.arange(8) ^ 1]
    assert ((cut == x) | (cut == partner)).all() and not torch.equal(cut, x)
    blended, soft = mix(x, targets, rng(1), 1.0, 0.0)
    share = soft[torch.arange(8), torch.arange(8) % 4].view(8, 1, 1, 1)
    torch.testing.assert_close(blended, share * x + (1 - share) * partner)


def test_parts_of_a_batch_are_mixed_as_the_whole():
    x, targets = batch()
    whole, soft = mix(x, targets, rng(5), 0.4, 1.0)
    for rows in (torch.arange(0, 4), torch.arange(4, 8)):
        part, labels = mix(x[rows], targets[rows], rng(5), 0.4, 1.0, rows=rows, total=8)
        assert torch.equal(part, whole[rows]) and torch.equal(labels, soft[rows])


def test_rows_without_total_are_refused():
    x, targets = batch()
    for alone in ({"rows": torch.arange(8)}, {"total": 16}, {"rows": torch.arange(4), "total": 16}):
        with pytest.raises(ValueError, match="rows and total"):
            mix(x, targets, rng(), 1.0, 0.0, **alone)


def test_an_odd_batch_is_refused():
    x, targets = batch(3)
    with pytest.raises(ValueError, match=r"even number .* got 3"):
        mix(x, targets, rng(), 1.0, 0.0)
