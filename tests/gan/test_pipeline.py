"""The method on a tiny rendered set: which cells are read, and what the gate depends on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gan.toys import Colours
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.pipeline import AcdbGan, paths_digest
from leuk_lib.gan.verifier import verifier_network, verifier_settings
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.augment import normalise

PARAMS = AcdbGanParams(gan_size=16, patch=1, width=4, max_width=8, min_count=4, accelerator="cpu", latent=8)


@pytest.fixture(scope="module")
def cells() -> CellSet:
    return smear_cells(cells=320, patients=6, size=32)


def fitted(cells: CellSet, verifier: torch.nn.Module | None = None) -> AcdbGan:
    gan = AcdbGan.from_cells(cells, PARAMS)
    encoder = Colours()
    gan.freeze(encoder, encoder)
    gan.fit_gate(verifier)
    return gan


@pytest.fixture(scope="module")
def gan(cells: CellSet) -> AcdbGan:
    return fitted(cells)


def test_only_training_cells_are_read(cells: CellSet, gan: AcdbGan) -> None:
    train = set(cells.indices("train").tolist())
    inner, holdout = set(gan.split.train.tolist()), set(gan.split.holdout.tolist())
    assert inner | holdout == train and not inner & holdout
    assert not set(cells.groups[list(inner)]) & set(cells.groups[list(holdout)])
    assert gan.split.digest == paths_digest(cells, cells.indices("train").numpy())


def test_other_parts_change_nothing(cells: CellSet, gan: AcdbGan) -> None:
    """With validation and test images blanked, the gate is the same to the last bit."""
    images = cells.images.clone()
    images[torch.from_numpy(cells.parts != "train")] = 0
    other = fitted(replace(cells, images=images))
    assert other.gate.limits == gan.gate.limits and np.array_equal(other.recall, gan.recall)


def test_the_verifier_is_trained_on_inner_training_cells(cells: CellSet, gan: AcdbGan) -> None:
    """Held-out cells are evaluated once, at the end of its training."""
    x, y, holdout, z = gan.verifier_data()
    assert torch.equal(x, gan.images_train) and y.tolist() == cells.labels[gan.split.train].tolist()
    assert torch.equal(holdout, gan.images_holdout) and z.tolist() == cells.labels[gan.split.holdout].tolist()
    settings = verifier_settings(PARAMS)
    assert settings["evaluations"] == 1 and settings["steps"] == PARAMS.verifier_steps
    first, second = (verifier_network(PARAMS, 3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


class Oracle(torch.nn.Module):
    """Reads the class from a painted corner, wherever the image was rotated to."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        painted = 9 * torch.arange(n_classes, dtype=torch.uint8)
        self.levels = normalise(painted[:, None, None, None].expand(-1, 3, 1, 1)).mean(dim=(1, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = torch.stack([x[:, :, i, j].mean(dim=1) for i in (0, -1) for j in (0, -1)], dim=1)
        return -50 * (corners.amin(dim=1)[:, None] - self.levels).abs()


def test_a_verifier_that_knows_the_class_makes_test_one_perfect(cells: CellSet) -> None:
    images = cells.images.clone()
    images[:, :, 0:6, 0:6] = (9 * cells.labels[:, None, None, None]).to(torch.uint8)
    gan = fitted(replace(cells, images=images), Oracle(len(cells.classes)))
    p = gan.gate.probabilities(gan.gate.whitening(gan.features_holdout), gan.images_holdout)
    assert (p.argmax(axis=1) == gan.labels_holdout).all()
    curves = gan.gate.trade_off(gan.features_holdout, gan.labels_holdout, gan.images_holdout)
    assert curves["other"].max() < 0.05


def test_steps_in_the_wrong_order_name_the_missing_step(cells: CellSet) -> None:
    gan = AcdbGan.from_cells(cells, PARAMS)
    for step, missing in (("gate", "fit_gate"), ("trained", "train"), ("delivery", "deliver")):
        with pytest.raises(LeukError, match=rf"{missing}\(\)"):
            getattr(gan, step)


def test_a_training_part_of_one_cell_is_an_error(cells: CellSet) -> None:
    table = cells.table.assign(split="test")
    table.loc[0, "split"] = "train"
    with pytest.raises(LeukError, match="1 training cells"):
        AcdbGan.from_cells(replace(cells, table=table), PARAMS)
