"""Delivery: a good generator fills its quota, a failing one gets a class-weighted loss instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan.toys import toy
from leuk_lib.gan.deliver import FALLBACK, Delivery, deliver
from leuk_lib.gan.gate import Gate
from leuk_lib.gan.params import AcdbGanParams

PARAMS = AcdbGanParams(pilot=32, max_candidates=200)


@pytest.fixture(scope="module")
def delivery() -> Delivery:
    """A toy generator that samples two classes from their true distribution and fails at the third."""
    x, y = toy(200, 0)
    keep = (y != 1) | (np.cumsum(y == 1) <= 40)
    x, y = x[keep], y[keep]
    h, z = toy(60, 1)
    gate = Gate.fit(x, y, h, z, n_classes=3)
    features, labels = toy(240, 5)

    def generate(label: int, start: int, count: int) -> torch.Tensor:
        """Images (count,3,1,1) that hold the label and the number of the sample."""
        number = torch.arange(start, start + count, dtype=torch.uint8)
        return torch.stack([torch.full_like(number, label), number, number], dim=1)[..., None, None]

    def embed(images: torch.Tensor) -> np.ndarray:
        label, number = images[:, 0, 0, 0].numpy(), images[:, 1, 0, 0].numpy()
        good = np.stack([features[labels == c][i] for c, i in zip(label, number, strict=True)])
        return np.where(label[:, None] == 2, np.float32(50), good)

    counts, recall = np.array([200, 40, 150]), np.array([0.9, 0.5, 0.8])
    return deliver(generate, embed, gate, counts, [True, True, True], recall, (x, y), (h, z), PARAMS)


def test_a_class_that_lacks_nothing_has_no_quota(delivery: Delivery) -> None:
    row = delivery.classes.set_index("class_number").loc[0]
    assert row["quota"] == 0 and row["candidates"] == 0 and row["instead"] == "nothing needed"


def test_a_good_generator_fills_its_quota(delivery: Delivery) -> None:
    row = delivery.classes.set_index("class_number").loc[1]
    assert row["delivered"] == row["quota"] > 0 and row["acceptance"] > 0.5 and row["instead"] == ""
    assert delivery.labels.tolist() == [1] * int(row["delivered"]) and len(delivery.images) == len(delivery.labels)


def test_a_failed_generator_delivers_nothing(delivery: Delivery) -> None:
    row = delivery.classes.set_index("class_number").loc[2]
    assert row["delivered"] == 0 and row["instead"] == FALLBACK and delivery.fallbacks == [2]
    assert row["candidates"] <= max(PARAMS.pilot, row["quota"])  # stopped after the first batch


def test_every_candidate_is_listed(delivery: Delivery) -> None:
    assert len(delivery.candidates) == len(delivery.gate) and delivery.gate["delivered"].sum() == len(delivery.images)
    assert (delivery.gate["delivered"] <= delivery.gate["accepted"]).all()
    assert set(delivery.rounds["round"]) == {1, 2}


def test_a_class_that_was_not_learned_falls_back() -> None:
    x, y = toy(60, 0)
    gate = Gate.fit(x, y, *toy(30, 1), n_classes=3)
    none = deliver(
        lambda c, start, n: torch.zeros(n, 3, 4, 4, dtype=torch.uint8), lambda images: np.zeros((len(images), 6)),
        gate, [5, 60, 60], [False, False, False], [0.1, 0.5, 0.5], (x, y), toy(30, 1), AcdbGanParams(),
    )  # fmt: skip
    assert none.fallbacks == [0] and none.images.shape == (0, 3, 4, 4) and len(none.gate) == 0
