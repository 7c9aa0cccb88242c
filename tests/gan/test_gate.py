"""The gate on toy features and on rendered cells: own class accepted; other classes, copies and noise rejected."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from gan.toys import Colours, toy
from leuk_lib.data.jpeg import recompress
from leuk_lib.gan.controls import controls, noisy, shifted
from leuk_lib.gan.features import FrozenFeatures, Whitening
from leuk_lib.gan.gate import NO_LIMITS, Gate
from leuk_lib.gan.verifier import LinearDiscriminant
from leuk_lib.runs.errors import LeukError


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate.fit(*toy(150, 0), *toy(60, 1), n_classes=3)


def reasons(table: pd.DataFrame) -> pd.Series:
    return table["reason"].value_counts(normalize=True)


def test_held_out_cells_pass(gate: Gate) -> None:
    assert gate.holdout_passed.mean() >= 0.8 and min(gate.holdout_acceptance.values()) >= 0.7
    x, y = toy(100, 2)  # cells that set no limit
    table = gate.screen(x, y)
    assert ((table["accepted"]) | (table["reason"] == "duplicate")).mean() >= 0.8 - 2 * (
        0.8 * 0.2 / len(y)
    ) ** 0.5  # two standard errors


def test_another_class_is_rejected(gate: Gate) -> None:
    x, y = toy(60, 3)
    table = gate.screen(x, (y + 1) % 3)
    assert (~table["accepted"]).mean() >= 0.95 and reasons(table)["wrong class"] > 0.9


def test_copies_are_rejected_as_memorised(gate: Gate) -> None:
    x, y = toy(150, 0)
    near = x + np.random.default_rng(9).normal(scale=0.05, size=x.shape).astype(np.float32)
    for copies in (x, near):
        table = gate.screen(copies, y)
        assert (~table["accepted"]).mean() >= 0.99
        assert (table["nearest_ratio"] < 0.3).all()


def test_noise_is_rejected(gate: Gate) -> None:
    rng = np.random.default_rng(0)
    table = gate.screen(rng.normal(scale=30, size=(100, 6)).astype(np.float32), rng.integers(0, 3, 100))
    assert not table["accepted"].any()


def test_duplicates_are_rejected_within_and_between_calls(gate: Gate) -> None:
    x, y = toy(40, 5)
    first = gate.screen(x, y)
    twice = gate.screen(np.concatenate([x, x + 1e-3]), np.concatenate([y, y]))
    assert twice["accepted"].sum() == first["accepted"].sum()
    kept = first["accepted"].to_numpy()
    assert (twice.iloc[len(x) :][kept]["reason"] == "duplicate").all()
    again = gate.screen(x, y, accepted=(x[kept], y[kept], None))
    assert not again["accepted"].any()


def test_the_table_keeps_the_order_of_candidates(gate: Gate) -> None:
    x, y = toy(10, 6)
    order = np.random.default_rng(0).permutation(len(y))
    table = gate.screen(x[order], y[order])
    assert table["label"].tolist() == y[order].tolist() and table.index.tolist() == list(range(len(y)))


def test_a_class_with_too_few_cells_accepts_no_candidate() -> None:
    x, y = toy(40, 0)
    keep = (y < 2) | (np.cumsum(y == 2) <= 1)  # one single cell of the third class
    gate = Gate.fit(x[keep], y[keep], *toy(20, 1), n_classes=4)
    assert set(gate.limits) == {0, 1}
    table = gate.screen(x[:3], [2, 3, 2])
    assert (table["reason"] == NO_LIMITS).all()


def test_arrays_must_match() -> None:
    x, y = toy(5, 0)
    with pytest.raises(LeukError, match="14 training labels"):
        Gate.fit(x, y[:-1], x, y, n_classes=3)


def test_one_class_alone() -> None:
    x, y = toy(60, 0)
    gate = Gate.fit(x[y == 0], y[y == 0], *(a[:20] for a in toy(20, 1)), n_classes=1)
    assert gate.holdout_acceptance[0] >= 0.75


def test_head_is_calibrated_and_covers_all_labels() -> None:
    x, y = toy(80, 0)
    holdout, truth = toy(80, 1)
    x, holdout = x * 0.3, holdout * 0.3
    noise = np.random.default_rng(0).normal(size=(2, 240, 6))
    white = Whitening.fit(x + noise[0])
    head = LinearDiscriminant.fit(white(x + noise[0]), y, white(holdout + noise[1]), truth, n_classes=5)
    p = head.probabilities(white(holdout + noise[1]))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p[:, 3:] == 0).all()
    assert p.max(axis=1).mean() == pytest.approx((p.argmax(axis=1) == truth).mean(), abs=0.08)
    hits, cells = head.recalled(white(holdout + noise[1]), truth)
    assert cells.tolist() == [80, 80, 80, 0, 0] and (hits <= cells).all()


def test_whitening_makes_unit_variance() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3)) * [1, 2, 0.5] + 5
    np.testing.assert_allclose(Whitening.fit(x)(x).std(axis=0, ddof=1), 1, rtol=1e-6)


def test_rendered_cells_and_their_copies() -> None:
    """Real cells pass; exact, noisy, mirrored, shifted and JPEG copies, noise and blank images do not."""
    from leuk_lib.data.smear.cohort import smear_cells

    cells = smear_cells(cells=400, patients=8, size=32)
    frozen = FrozenFeatures(Colours())
    train = cells.parts == "train"
    (x, y), (h, z) = ((cells.images[torch.from_numpy(m)], cells.labels.numpy()[m]) for m in (train, ~train))
    gate = Gate.fit(frozen.embed(x), y, frozen.embed(h), z, len(cells.classes), x, h)
    table = controls(gate, frozen.embed, (x, y), (h, z), each=48).set_index("image")["accepted"]
    assert table["held-out real cells, own class"] >= 0.75
    for name in table.index:
        if name.startswith(("training", "uniform", "blank")):
            assert table[name] <= 0.03, name


def test_control_images() -> None:
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(shifted(x)[..., 1:, 1:], x[..., :-1, :-1])
    assert noisy(x, 0).shape == x.shape and torch.equal(noisy(x, 0), noisy(x, 0))
    flat = torch.full((1, 3, 16, 16), 120, dtype=torch.uint8)
    assert (recompress(flat, 75).int() - 120).abs().max() <= 2


def test_embed_in_batches_is_embed_at_once() -> None:
    x = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    whole, parts = FrozenFeatures(Colours()).embed(x), FrozenFeatures(Colours(), batch=3, turns=4).embed(x)
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)  # rings have no orientation
    assert FrozenFeatures(Colours()).embed(x[:0]).shape == (0, whole.shape[1])
