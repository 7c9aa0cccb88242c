"""Shifts of test images: identity at strength 0, monotonic in strength, seeded, and each with its stated property."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from alhe.toys import cell
from leuk_lib.evaluation.robustness import (
    SHIFTS,
    STRENGTHS,
    UNITS,
    other_scale,
    other_stain,
    out_of_focus,
    sensor_noise,
    uneven_light,
)

RANDOM = [kind for kind in SHIFTS if kind not in ("blur", "JPEG")]  # the others are deterministic


def cells(count: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.stack([cell(40, 40, seed)[0] for seed in range(count)])).permute(0, 3, 1, 2).contiguous()


def shifted(kind: str, strength: float, seed: int = 0) -> torch.Tensor:
    return SHIFTS[kind](cells(), strength, torch.Generator().manual_seed(seed))


def change(kind: str, strength: float) -> float:
    return float((shifted(kind, strength).int() - cells().int()).abs().float().mean())


def test_each_kind_has_five_increasing_strengths():
    assert len(SHIFTS) == 6 and set(STRENGTHS) == set(SHIFTS) == set(UNITS)
    for strengths in STRENGTHS.values():
        assert len(strengths) == 5 and list(strengths) == sorted(set(strengths)) and strengths[0] > 0


@pytest.mark.parametrize("kind", SHIFTS)
def test_identity_at_zero_and_a_larger_change_with_each_strength(kind):
    assert change(kind, 0.0) <= 0.5  # rounding
    assert (shifted(kind, 0.0).int() - cells().int()).abs().max() <= 1
    steps = [change(kind, strength) for strength in STRENGTHS[kind]]
    assert all(less < more for less, more in itertools.pairwise(steps))
    assert shifted(kind, STRENGTHS[kind][-1]).dtype == torch.uint8


@pytest.mark.parametrize("kind", RANDOM)
def test_draws_depend_on_the_seed_alone(kind):
    strength = STRENGTHS[kind][2]
    assert torch.equal(shifted(kind, strength), shifted(kind, strength))
    assert not torch.equal(shifted(kind, strength), shifted(kind, strength, seed=1))


def test_log_light_is_linear_in_space():
    grey = torch.full((1, 3, 33, 33), 100, dtype=torch.uint8)
    light = uneven_light(grey, 0.4, torch.Generator().manual_seed(3)).float()
    logs = light.log()
    assert logs.diff(n=2, dim=2).abs().max() < 0.03 and logs.diff(n=2, dim=3).abs().max() < 0.03
    assert 1.3 < light.amax() / light.amin() < 3


def test_clear_glass_stays_white_under_another_stain():
    white = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    assert other_stain(white, 0.7, torch.Generator().manual_seed(0)).min() >= 254


def test_blur_has_the_stated_deviation_and_keeps_flat_images():
    point = torch.zeros(1, 3, 50, 50, dtype=torch.uint8)
    point[:, :, 25, 25] = 255
    blurred = out_of_focus(255 - point, 4.0, torch.Generator()).float()  # 2 px
    dark = (255 - blurred)[0, 0]
    squared_distance = (torch.arange(50) - 25.0) ** 2
    assert float((dark.sum(0) * squared_distance).sum() / dark.sum()) == pytest.approx(4, rel=0.2)
    flat = torch.full((1, 3, 20, 20), 90, dtype=torch.uint8)
    assert torch.equal(out_of_focus(flat, 4.0, torch.Generator()), flat)


def test_noise_has_the_stated_deviation():
    grey = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    noisy = sensor_noise(grey, 0.08, torch.Generator().manual_seed(0)).float() / 255
    assert float(noisy.std()) == pytest.approx(0.08, rel=0.05)


def test_scale_enlarges_half_of_the_cells_and_shrinks_the_others():
    disc = torch.full((40, 3, 64, 64), 255, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    disc[:, :, (y**2 + x**2) < 14**2] = 0
    scaled = other_scale(disc, 0.5, torch.Generator().manual_seed(0))
    ratio = (255 - scaled.float()).sum(dim=(1, 2, 3)) / (255 - disc.float()).sum(dim=(1, 2, 3))
    larger = ratio > 1
    assert 10 < int(larger.sum()) < 30
    torch.testing.assert_close(ratio[larger], torch.full_like(ratio[larger], 2.25), rtol=0.05, atol=0)
    torch.testing.assert_close(ratio[~larger], torch.full_like(ratio[~larger], 1 / 2.25), rtol=0.05, atol=0)
