import numpy as np
import pytest
import torch

from fcmae.toys import cells, encoder, generator
from leuk_lib.fcmae.probe import (
    ENCODER,
    PROBES,
    Probe,
    colour_histogram,
    encode,
    knn_correct,
    linear_correct,
    pixel_pca,
    probe_steps,
    whiten,
)
from leuk_lib.runs.errors import LeukError


def coloured(n=60, seed=0):
    """Two classes that differ in colour."""
    g = generator(seed)
    labels = torch.arange(n) % 2
    images = torch.randint(0, 90, (n, 3, 16, 16), generator=g)
    images[:, 0] += 120 * labels[:, None, None]
    return images.to(torch.uint8), labels


def probe(**values):
    images, labels = coloured()
    groups = np.repeat(np.arange(20), 3).astype(str)
    settings = {"groups": groups, "train": torch.arange(40), "val": torch.arange(40, 60)}
    return Probe(images, labels, steps=(0, 5), k=5, **(settings | values))


def test_histogram_counts_every_pixel_once():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[1, :, :2] = 255
    h = colour_histogram(images, bins=4) ** 2
    assert h.shape == (2, 64) and np.allclose(h.sum(1), 1)
    assert h[0, 0] == 1 and h[1, 0] == h[1, 63] == pytest.approx(0.5)


def test_probes_separate_what_differs_and_not_noise():
    images, labels = coloured()
    x, y = colour_histogram(images), labels.numpy()
    for correct in (lambda *a: knn_correct(*a, k=5), linear_correct):
        assert correct(x[:40], y[:40], x[40:], y[40:]).all()
    rng = np.random.default_rng(0)
    noise, random_y = rng.normal(size=(400, 8)), rng.integers(0, 2, 400)
    assert 0.35 < knn_correct(noise[:200], random_y[:200], noise[200:], random_y[200:], 20).mean() < 0.65


def test_encode_is_the_pooled_feature_and_leaves_the_mode_alone():
    model = encoder("zepto", 1).train()
    images = cells(5)
    together, chunks = encode(model, images), encode(model, images, batch_size=2)
    assert model.training and together.shape == (5, 256)
    assert np.allclose(together, chunks, atol=1e-5)


def test_pca_is_fitted_on_train_only():
    images, _ = coloured()
    a, b = pixel_pca(images[:40], images[40:], 8)
    again, _ = pixel_pca(images[:40], images[:3], 8)
    assert a.shape == (40, 8) and b.shape == (20, 8) and np.array_equal(a, again)


def test_whitening_gives_unit_deviation_on_train_and_uncovers_small_directions():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 2
    # The label is in a direction of small variance; one of large variance is noise.
    x = np.stack([100 * rng.normal(size=300), labels + 0.1 * rng.normal(size=300), np.full(300, 50.0)], axis=1)
    train, other = whiten(x[:200], x[200:])
    assert np.allclose(train.std(axis=0, ddof=1)[:2], 1)
    plain = knn_correct(x[:200], labels[:200], x[200:], labels[200:], 5).mean()
    assert knn_correct(train[:, :2], labels[:200], other[:, :2], labels[200:], 5).mean() > 0.95 > plain


def with_outcomes(correct, groups):
    """A probe of random features and of an encoder that classifies the given validation cells correctly."""
    n = len(correct)
    images, labels = torch.zeros(n + 2, 3, 16, 16, dtype=torch.uint8), torch.zeros(n + 2)
    p = Probe(images, labels, np.append(groups, ["x", "x"]), torch.arange(n, n + 2), torch.arange(n), (0,))
    p.load_state_dict({f"{ENCODER}|{name}|0": torch.from_numpy(correct) for name in PROBES})
    return p


def test_interval_is_wider_when_cells_come_in_groups():
    patients = np.repeat(np.arange(20), 10)
    # All cells of a patient are classified correctly, or none.
    correct = np.repeat(np.random.default_rng(0).integers(0, 2, 20), 10).astype(bool)
    grouped, independent = (
        with_outcomes(correct, groups.astype(str)).table().iloc[0] for groups in (patients, np.arange(200))
    )
    assert grouped["high"] - grouped["low"] > 2 * (independent["high"] - independent["low"])
    assert grouped["low"] < correct.mean() < grouped["high"]
    alone = with_outcomes(correct, np.zeros(200).astype(str)).table()
    assert alone[["low", "high"]].isna().all(axis=None)


def test_tables_hold_every_probe_and_the_difference_is_paired():
    p = probe()
    p.baselines()
    p(0, encoder("zepto", 1))
    p(5, encoder("zepto", 1))
    table, gains = p.table(), p.gains()
    assert len(table) == 12 and set(table["probe"]) == set(PROBES) and (table["n"] == 20).all()
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    same = gains[gains["baseline"] == "random initialisation"]
    assert (same["difference"] == 0).all() and (same["verdict"] == "inconclusive").all()
    assert (same["low"] == -same["high"]).all() and same["high"].nunique() == 1  # none of as many cells as groups
    assert set(gains["baseline"]) == {"random initialisation", "colour histogram", "raw-pixel PCA"}


def test_limited_training_cells_are_evenly_spaced():
    p = probe(limit=10)
    assert len(p.train) == 10 and p.train[0] == 0 and p.train[-1] == 39


def test_one_class_or_a_class_with_one_cell_is_accepted():
    images, labels = coloured()
    for odd in (torch.zeros_like(labels), torch.where(torch.arange(60) == 3, 2, labels)):
        p = Probe(images, odd, np.arange(60).astype(str), torch.arange(40), torch.arange(40, 60), (0,), k=5)
        p.baselines()
        assert len(p.table()) == 6


def test_no_validation_cells_are_refused():
    with pytest.raises(LeukError, match="validation cells"):
        probe(val=torch.arange(0))


def test_probe_steps_start_and_end():
    assert probe_steps(300, 4) == (0, 75, 150, 225, 300)
    assert probe_steps(2, 4)[0] == 0 and probe_steps(2, 4)[-1] == 2
