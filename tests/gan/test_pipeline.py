"""The chapter's steps on a tiny rendered set: what is read, what is delivered, what happens when the GAN fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gan.toys import Colours, toy
from leuk_lib.data.loading import CellSet
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures import acdb_gan as figures
from leuk_lib.gan.deliver import FALLBACK, deliver
from leuk_lib.gan.gate import Gate
from leuk_lib.gan.inner import paths_digest
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.pipeline import Chapter, judge_network, judge_settings
from leuk_lib.runs.errors import LeukError

PARAMS = AcdbGanParams(
    gan_size=16, patch=1, width=4, max_width=8, steps=4, batch_size=4, min_count=4, pilot=8, max_candidates=24,
    accelerator="cpu", latent=8,
)  # fmt: skip


class Recorder:
    """Takes what a stage would take."""

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self.tables: dict[str, pd.DataFrame] = {}
        self.numbers: dict[str, float] = {}
        self.notes: list[str] = []

    def save_tensors(self, name: str, tensors: dict[str, Any]) -> None:
        self.tensors[name] = tensors

    def save_table(self, name: str, table: pd.DataFrame) -> None:
        self.tables[name] = table

    def record(self, key: str, value: float, **_: Any) -> None:
        self.numbers[key] = value

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def cells() -> CellSet:
    return smear_cells(cells=320, patients=6, size=32)


@pytest.fixture(scope="module")
def room(cells: CellSet, tmp_path_factory: pytest.TempPathFactory) -> Chapter:
    room = Chapter.open(cells, PARAMS)
    encoder = Colours()
    room.fit_gate(encoder, encoder)
    room.train(tmp_path_factory.mktemp("gan"), "id")
    room.deliver()
    return room


def test_only_training_cells_are_read(cells: CellSet, room: Chapter) -> None:
    train = set(cells.indices("train").tolist())
    inner, held = set(room.inner.train.tolist()), set(room.inner.held.tolist())
    assert inner | held == train and not inner & held
    assert not set(cells.groups[list(inner)]) & set(cells.groups[list(held)])
    record = room.record()
    assert record["sha256"] == paths_digest(cells, cells.indices("train").numpy())
    assert record["inner_train"]["cells"] + record["inner_held_out"]["cells"] == len(train)
    assert room.inner.digest in room.inner.evidence()


def test_the_judge_is_trained_on_inner_training_cells(cells: CellSet, room: Chapter) -> None:
    """Its cells are the GAN's; held-out cells are looked at once, when its training has ended."""
    x, y, held, of = room.judge_cells()
    assert torch.equal(x, room.images_train) and y.tolist() == cells.labels[room.inner.train].tolist()
    assert torch.equal(held, room.images_held) and of.tolist() == cells.labels[room.inner.held].tolist()
    settings = judge_settings(PARAMS)
    assert (
        settings["evaluations"] == 1 and settings["balance"] == "sampling" and settings["steps"] == PARAMS.judge_steps
    )
    one, two = (judge_network(PARAMS, 3).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_gate_with_a_judge_asks_the_judge(cells: CellSet, room: Chapter) -> None:
    """A judge that knows the answer (painted into a corner pixel) makes test (i) perfect."""

    class Oracle(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            corners = torch.stack([x[:, :, i, j].mean(dim=1) for i in (0, -1) for j in (0, -1)], dim=1)
            value = corners.amin(dim=1)  # wherever the picture was turned to
            known = torch.stack([-(value - c).abs() for c in LEVELS], dim=1)
            return 50 * known

    from leuk_lib.training.augment import normalise

    images = cells.images.clone()
    images[:, :, 0:6, 0:6] = (9 * cells.labels[:, None, None, None]).to(torch.uint8)
    LEVELS = [
        float(normalise(torch.full((1, 3, 1, 1), 9 * c, dtype=torch.uint8)).mean()) for c in range(len(cells.classes))
    ]
    other = Chapter.open(replace(cells, images=images), PARAMS)
    encoder = Colours()
    other.fit_gate(encoder, encoder, Oracle())
    p = other.gate.probabilities(other.gate.whitening(other.features_held), other.images_held)
    assert (p.argmax(axis=1) == other.labels_held).all()
    traded = other.trade_off()
    assert set(traded["class"]) <= set(cells.classes) and traded["other"].max() < 0.05
    figures.trade_off(traded, other.controls(Recorder())).canvas.draw()


def test_weights_that_are_not_there_stop_the_chapter_before_it_begins(cells: CellSet) -> None:
    for key in ("inception_weights", "lpips_weights"):
        with pytest.raises(LeukError, match=r"nothing\.pth: no such file"):
            Chapter.open(cells, PARAMS.model_copy(update={key: "nothing.pth"}))


def test_other_parts_change_nothing(cells: CellSet, room: Chapter) -> None:
    """Validation and test pictures painted over: the gate is the same to the last bit."""
    images = cells.images.clone()
    images[torch.from_numpy(cells.parts != "train")] = 0
    other = Chapter.open(replace(cells, images=images), PARAMS)
    encoder = Colours()
    other.fit_gate(encoder, encoder)
    assert other.gate.limits == room.gate.limits and np.array_equal(other.recall, room.recall)


def test_an_untrained_generator_is_not_passed_off(cells: CellSet, room: Chapter) -> None:
    stage = Recorder()
    room.save(stage)
    synthetic = stage.tensors["synthetic"]
    assert synthetic["images"].shape == (0, 3, 32, 32) and synthetic["images"].dtype == torch.uint8
    assert synthetic["labels"].dtype == torch.int64 and stage.numbers["delivered"] == 0
    owed = room.summary()["quota"] > 0
    assert owed.any() and (room.summary().loc[owed, "instead"] == FALLBACK).all()
    for c, name in enumerate(cells.classes):
        assert stage.numbers[f"fallback_{c}"] == int(owed[c])
        assert any(name in note for note in stage.notes) == bool(owed[c])


def test_tables_and_figures(cells: CellSet, room: Chapter) -> None:
    assert room.counts()["training"].sum() == len(cells.indices("train"))
    table = room.gate_table()
    assert (table.iloc[:, 2:].sum(axis=1) == table["candidates"]).all()
    stage = Recorder()
    assert len(room.controls(stage)) == len(stage.numbers) == 9 and stage.numbers["gate_exact"] == 0
    assert {"accepted", "all candidates", "real (inner training)"} <= set(room.fidelity()["set"])
    drawn = [
        figures.imbalance(room.counts()),
        figures.game(),
        figures.curves(room.trained.history, cells.classes, 0.6),
        figures.looks(*room.looks(), cells.classes),
        figures.judged(room.judged_examples()),
        figures.neighbours(room.neighbours()),
        figures.delivered(room.summary()),
    ]
    for figure in drawn:
        figure.canvas.draw()


@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's, of a legend of nothing
@pytest.mark.parametrize("why", ["rho 0", "held out too few to judge by"])
def test_the_chapter_goes_on_where_no_class_draws_a_candidate(
    cells: CellSet, room: Chapter, tmp_path: Path, why: str
) -> None:
    """Every call that the notebook makes after the training, with nothing to show."""
    values = {"rho": 0.0} if why == "rho 0" else {}
    inner = room.inner if values else replace(room.inner, held=room.inner.held[:3])
    other = Chapter(cells, PARAMS.model_copy(update=values), inner, room.fabric)
    encoder, stage = Colours(), Recorder()
    other.fit_gate(encoder, encoder)
    figures.trade_off(other.trade_off(), other.controls(stage)).canvas.draw()
    other.train(tmp_path, "id")
    done = other.deliver()
    other.save(stage)
    assert len(done.gate) == 0 and set(stage.tables["gate"]) == {"class", *room.delivery.gate.columns}
    assert other.neighbours() == [] and stage.numbers["candidates"] == 0
    assert (other.gate_table()["candidates"] == 0).all() and len(other.gate.table(cells.classes).columns)
    drawn = [
        figures.imbalance(other.counts()),
        figures.judged(other.judged_examples()),
        figures.neighbours(other.neighbours()),
        figures.delivered(other.summary()),
    ]
    for figure in drawn:
        figure.canvas.draw()
    assert set(other.fidelity()["set"]) <= {
        "all",
        "accepted",
        "all candidates",
        "real (inner training)",
        "real (held out)",
    }


def test_steps_in_the_wrong_order_are_named(cells: CellSet) -> None:
    with pytest.raises(LeukError, match="fit_gate"):
        Chapter.open(cells, PARAMS).controls(Recorder())


def test_a_good_generator_delivers_its_quota() -> None:
    """A toy generator that draws from the true distribution of two classes, and fails at the third."""
    x, y = toy(200, 0)
    keep = (y != 1) | (np.cumsum(y == 1) <= 40)
    x, y = x[keep], y[keep]
    h, z = toy(60, 1)
    gate = Gate.fit(x, y, h, z, n_classes=3)

    def draw(label: int, start: int, count: int) -> torch.Tensor:
        rows = torch.arange(start, start + count, dtype=torch.uint8)
        return torch.stack(
            [torch.stack([torch.full((1, 1), label, dtype=torch.uint8), r.view(1, 1), r.view(1, 1)]) for r in rows]
        )

    fresh, of = toy(240, 5)

    def embed(images: torch.Tensor) -> np.ndarray:
        label, row = images[:, 0, 0, 0].numpy(), images[:, 1, 0, 0].numpy()
        good = np.stack([fresh[of == c][r] for c, r in zip(label, row, strict=True)])
        return np.where(label[:, None] == 2, np.float32(50), good)

    params = AcdbGanParams(pilot=32, max_candidates=200)
    counts, recall = np.array([200, 40, 150]), np.array([0.9, 0.5, 0.8])
    done = deliver(draw, embed, gate, counts, [True, True, True], recall, (x, y), (h, z), params)
    rows = done.classes.set_index("class_number")
    assert rows.loc[0, "quota"] == 0 and rows.loc[0, "instead"] == "nothing needed"
    assert rows.loc[1, "delivered"] == rows.loc[1, "quota"] > 0 and rows.loc[1, "acceptance"] > 0.5
    assert rows.loc[2, "delivered"] == 0 and rows.loc[2, "instead"] == FALLBACK and done.fallbacks == [2]
    assert done.labels.tolist() == [1] * int(rows.loc[1, "delivered"]) and len(done.images) == len(done.labels)
    assert len(done.candidates) == len(done.gate) and done.gate["delivered"].sum() == len(done.images)
    assert set(done.rounds["round"]) == {1, 2}


def test_a_class_that_was_not_learned_falls_back() -> None:
    x, y = toy(60, 0)
    gate = Gate.fit(x, y, *toy(30, 1), n_classes=3)
    done = deliver(
        lambda c, start, n: torch.zeros(n, 3, 4, 4, dtype=torch.uint8), lambda images: np.zeros((len(images), 6)),
        gate, [5, 60, 60], [False, False, False], [0.1, 0.5, 0.5], (x, y), toy(30, 1), AcdbGanParams(),
    )  # fmt: skip
    assert done.fallbacks == [0] and len(done.images) == 0 and len(done.gate) == 0


def test_params_import_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, leuk_lib.gan.params; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_notebook_matches_the_parameters(root: Path) -> None:
    import nbformat

    notebook = nbformat.read(root / "notebooks" / "03_acdb_gan.ipynb", 4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    scope: dict[str, Any] = {}
    exec(cell.source, scope)
    given = {name: scope[name] for name in AcdbGanParams.model_fields}
    assert AcdbGanParams(**given) == AcdbGanParams()
