"""Fidelity metrics respond to collapse, copying and noise, and say when they are not computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leuk_lib.gan import fidelity
from leuk_lib.gan.features import distances
from leuk_lib.runs.errors import LeukError


def cloud(n: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=(n, 8))


REAL, TRAIN = cloud(300, 0), cloud(300, 1)
GOOD = cloud(300, 2)
COLLAPSED = np.repeat(REAL[:3], 100, axis=0) + cloud(300, 3, 0.01)
NOISE = cloud(300, 4, 6.0)
COPIED = TRAIN + cloud(300, 5, 0.02)


def test_collapse_keeps_precision_and_loses_recall() -> None:
    good, bad = fidelity.set_metrics(GOOD, REAL), fidelity.set_metrics(COLLAPSED, REAL)
    assert bad["precision"] > 0.9 and bad["recall"] < 0.1 < 0.6 < good["recall"]
    assert bad["FD-FCMAE"] > 3 * good["FD-FCMAE"] and bad["KID-FCMAE x 1000"] > 10 * abs(good["KID-FCMAE x 1000"])
    good_c, bad_c = fidelity.density_coverage(GOOD, REAL), fidelity.density_coverage(COLLAPSED, REAL)
    assert bad_c["coverage"] < 0.3 < 0.85 < good_c["coverage"]
    assert good_c["density"] == pytest.approx(1, abs=0.2)


def test_noise_loses_precision_and_density() -> None:
    good, bad = fidelity.set_metrics(GOOD, REAL), fidelity.set_metrics(NOISE, REAL)
    assert bad["precision"] < 0.3 < 0.6 < good["precision"] and bad["FD-FCMAE"] > 10 * good["FD-FCMAE"]
    assert fidelity.density_coverage(NOISE, REAL)["density"] < 0.1


def test_distances_do_not_depend_on_the_origin() -> None:
    here, there = (fidelity.density_coverage(GOOD + offset, REAL + offset) for offset in (0.0, 1e6))
    assert here == pytest.approx(there, abs=1e-3) and there["coverage"] > 0.85
    z = fidelity.copying_z(COPIED, TRAIN, REAL)
    assert fidelity.copying_z(COPIED + 1e6, TRAIN + 1e6, REAL + 1e6) == pytest.approx(z, abs=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    damaged = GOOD.copy()
    damaged[3, 2] = bad
    for measure in (fidelity.set_metrics, fidelity.density_coverage):
        with pytest.raises(LeukError, match="1 of 300 cells are NaN or infinite"):
            measure(damaged, REAL)


def test_copying_shows_in_c_t_only() -> None:
    assert fidelity.copying_z(COPIED, TRAIN, REAL) < -10
    assert abs(fidelity.copying_z(GOOD, TRAIN, REAL)) < 3
    assert fidelity.copying_z(NOISE, TRAIN, REAL) > 10
    # The other metrics favour copies, which is why C_T is reported too.
    assert fidelity.set_metrics(COPIED, REAL)["precision"] > 0.6


def test_set_against_itself() -> None:
    same = fidelity.set_metrics(REAL, REAL, name="X")
    assert same["FD-X"] == pytest.approx(0, abs=1e-6) and same["precision"] == same["recall"] == 1


def test_frechet_distance_of_a_shift() -> None:
    """Equal covariances, means 2 apart: FD is the squared distance of the means."""
    shift = np.zeros(8)
    shift[0] = 2
    assert fidelity.set_metrics(REAL + shift, REAL)["FD-FCMAE"] == pytest.approx(4, abs=1e-6)


@pytest.mark.parametrize("n", [6, 12])
def test_few_cells_in_many_dimensions(n: int) -> None:
    """FD in the cells' own span is the FD of all dimensions."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    rng = np.random.default_rng(n)
    fake, real = rng.normal(1, 1, (n, 20)), rng.normal(0.5, 2, (n + 1, 20))
    metrics = fidelity.set_metrics(fake, real)
    both = [fid_features_to_statistics(torch.from_numpy(x)) for x in (fake, real)]
    assert metrics["FD-FCMAE"] == pytest.approx(
        fid_statistics_to_metric(*both, False)["frechet_inception_distance"], rel=1e-6
    )


def test_kid_of_identical_subsets_by_hand() -> None:
    """KID of constant sets by hand, with features far from the origin."""
    fake, real = np.array([[3.0, 1.0]] * 4), np.array([[1.0, 2.0]] * 4)
    k = lambda x, y: (float(np.dot(x, y)) / 2 + 1) ** 3  # noqa: E731
    by_hand = k(fake[0], fake[0]) + k(real[0], real[0]) - 2 * k(fake[0], real[0])
    assert fidelity.set_metrics(fake, real)["KID-FCMAE x 1000"] == pytest.approx(1000 * by_hand)


def test_copying_z_by_counting_pairs() -> None:
    fake = np.concatenate([cloud(40, 7, 1.3), REAL[:3]])  # three ties with held-out cells
    synthetic, holdout = distances(fake, TRAIN).min(axis=1), distances(REAL[:50], TRAIN).min(axis=1)
    u = sum(0.5 * (s == h) + (s > h) for s in synthetic for h in holdout)
    z = (u - 43 * 50 / 2) / np.sqrt(43 * 50 * 94 / 12)
    assert fidelity.copying_z(fake, TRAIN, REAL[:50]) == pytest.approx(z, rel=1e-12)


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(LeukError, match="more than 3"):
        fidelity.set_metrics(REAL[:2], REAL)
    with pytest.raises(LeukError, match="more than 5"):
        fidelity.density_coverage(GOOD, REAL[:4])


@pytest.mark.parametrize("side", [16, 32])
def test_ssim_of_copy_noise_and_other(side: int) -> None:
    bank = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    nearest = np.array([0, 1, 2])
    copies = bank[:3].clone()
    copies[1] = (copies[1].float() * 0.5 + 64).to(torch.uint8)
    copies[2] = bank[3]
    same, flatter, other = fidelity.nearest_ssim(copies, bank, nearest)
    assert same == pytest.approx(1) and other < 0.3 < flatter < 1
    assert fidelity.nearest_ssim(copies[:0], bank, nearest[:0]).shape == (0,)


def test_table_names_what_is_missing() -> None:
    images = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8)
    table = fidelity.fidelity_table(
        {"good": (GOOD, images), "none": (GOOD[:0], images[:0])}, (TRAIN, images), REAL
    ).set_index(["set", "metric"])
    assert np.isfinite(table.loc[("good", "FD-FCMAE"), "value"]) and table.loc[("good", "C_T"), "n"] == 300
    assert "too few" in table.loc[("none", "FD-FCMAE"), "note"]
    for metric in ("LPIPS to nearest", "FID, KID, IS (Inception)"):
        row = table.loc[("all", metric)]
        assert np.isnan(row["value"]) and row["note"].startswith(fidelity.MISSING)
    assert not any("FID" in metric for _, metric in table.index if metric != "FID, KID, IS (Inception)")


def test_lpips_from_a_path(tmp_path: Path) -> None:
    """With AlexNet's weights given by path (random ones here): zero for a copy, more for another image."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path / "alexnet.pth"
    torch.save(alexnet(weights=None).state_dict(), path)
    bank = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    same, other = fidelity.nearest_lpips(bank[[0, 0]], bank, np.array([0, 1]), path)
    assert same == pytest.approx(0, abs=1e-6) and other > 1e-4
    with pytest.raises(LeukError, match="no such file"):
        fidelity.nearest_lpips(bank, bank, np.array([0, 1]), tmp_path / "nothing.pth")
