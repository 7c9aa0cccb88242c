"""Chapter 3 on a tiny rendered set: records, tables and figures, also where no class delivers anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gan.toys import Colours
from leuk_lib.chapters import acdb_gan as chapter
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures import acdb_gan as figures
from leuk_lib.gan.deliver import FALLBACK
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.pipeline import AcdbGan
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies.balancing import (
    BOTH,
    BOTH_GATED,
    FILLED,
    FILLED_GATED,
    GATED,
    NOTHING,
    OVERSAMPLING,
    TAIL,
    UNGATED,
    WEIGHTS,
)
from leuk_lib.studies.record import StudyRecord, load_record, record_file

PARAMS = AcdbGanParams(
    gan_size=16, patch=1, width=4, max_width=8, steps=4, batch_size=4, min_count=4, pilot=8, max_candidates=24,
    accelerator="cpu", latent=8,
)  # fmt: skip


class Recorder:
    """Keeps what a stage would save."""

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self.tables: dict[str, pd.DataFrame] = {}
        self.documents: dict[str, Any] = {}
        self.numbers: dict[str, float] = {}
        self.notes: list[str] = []

    def save_tensors(self, name: str, tensors: dict[str, Any]) -> None:
        self.tensors[name] = tensors

    def save_table(self, name: str, table: pd.DataFrame) -> None:
        self.tables[name] = table

    def save_json(self, name: str, content: Any) -> None:
        self.documents[name] = content

    def record(self, key: str, value: float, **_: Any) -> None:
        self.numbers[key] = value

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def stage() -> Any:
    return Recorder()


@pytest.fixture(scope="module")
def cells() -> CellSet:
    return smear_cells(cells=320, patients=6, size=32)


def run(gan: AcdbGan, folder: Path) -> AcdbGan:
    encoder = Colours()
    gan.freeze(encoder, encoder)
    gan.fit_gate()
    gan.train(folder, "id")
    gan.deliver()
    return gan


@pytest.fixture(scope="module")
def gan(cells: CellSet, tmp_path_factory: pytest.TempPathFactory) -> AcdbGan:
    return run(chapter.open_gan(cells, PARAMS), tmp_path_factory.mktemp("gan"))


def drawn(stage: Any, gan: AcdbGan) -> None:
    """Draw the figures that depend on gate and delivery."""
    for figure in (
        figures.trade_off(chapter.trade_off(gan), chapter.gate_controls(stage, gan)),
        figures.screened(chapter.screened_examples(gan)),
        figures.nearest_real(chapter.nearest_real(gan)),
        figures.delivered(chapter.quota_table(gan)),
    ):
        figure.canvas.draw()


def test_missing_weights_stop_the_chapter_before_it_begins(cells: CellSet) -> None:
    for key in ("inception_weights", "lpips_weights"):
        with pytest.raises(LeukError, match=r"nothing\.pth: no such file"):
            chapter.open_gan(cells, PARAMS.model_copy(update={key: "nothing.pth"}))


def test_the_cells_read_are_recorded(stage: Any, gan: AcdbGan) -> None:
    chapter.record_cells_read(stage, gan)
    read = stage.documents["read"]
    assert read["sha256"] == gan.split.digest and gan.split.digest in stage.notes[0]
    assert read["inner_train"]["cells"] + read["inner_held_out"]["cells"] == len(gan.cells.indices("train"))


def test_an_untrained_generator_delivers_nothing(stage: Any, gan: AcdbGan) -> None:
    chapter.save_delivery(stage, gan)
    synthetic = stage.tensors["synthetic"]
    assert synthetic["images"].shape == (0, 3, 32, 32) and synthetic["images"].dtype == torch.uint8
    assert synthetic["labels"].dtype == torch.int64 and stage.numbers["delivered"] == 0
    quotas = chapter.quota_table(gan)
    needed = quotas["quota"] > 0
    assert needed.any() and (quotas.loc[needed, "instead"] == FALLBACK).all()
    for c, name in enumerate(gan.cells.classes):
        assert stage.numbers[f"fallback_{c}"] == int(needed[c])
        assert any(name in note for note in stage.notes) == bool(needed[c])


def test_tables(stage: Any, gan: AcdbGan) -> None:
    counts = chapter.class_counts(gan)
    assert counts["training"].sum() == len(gan.cells.indices("train"))
    assert (counts["inner training"] + counts["held out"] == counts["training"]).all()
    rejections = chapter.rejection_table(gan)
    assert (rejections.iloc[:, 2:].sum(axis=1) == rejections["candidates"]).all()
    assert len(chapter.gate_controls(stage, gan)) == len(stage.numbers) == 9 and stage.numbers["gate_exact"] == 0
    assert {"accepted", "all candidates", "real (inner training)"} <= set(chapter.fidelity_table(gan)["set"])


def test_figures(stage: Any, gan: AcdbGan) -> None:
    drawn(stage, gan)
    figures.gan_schematic().canvas.draw()


def test_bars_of_the_delivery_start_at_the_real_cells(gan: AcdbGan) -> None:
    table = pd.DataFrame({"class": ["a", "b"], "real": [10, 4], "quota": [0, 6], "delivered": [0, 3]})
    figure = figures.delivered(table)
    (ax,) = figure.axes
    real, made, quota = ([(bar.get_x(), bar.get_width()) for bar in bars] for bars in ax.containers)
    assert real == [(0, 10), (0, 4)] and made == [(10, 0), (4, 3)] and quota == [(10, 0), (4, 6)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert said(figure) == "3 of 6 synthetic cells of the quotas are delivered"


def said(figure: Any) -> str:
    """The title of a figure, in one line."""
    return " ".join(figure.get_suptitle().split())


def test_titles_say_the_numbers() -> None:
    controls = pd.DataFrame({"image": ["held-out, own class", "held-out, another class"], "accepted": [0.7, 0.175]})
    curve = pd.DataFrame({"class": ["a", "a"], "own": [0.0, 1.0], "other": [0.0, 1.0]})
    figure = figures.trade_off(curve, controls)
    assert said(figure) == "The gate accepts 70 % of the class's real cells, 18 % of others"
    copies = pd.DataFrame({"image": ["training cells, exact", "training cells, mirrored"], "accepted": [0.0, 0.02]})
    assert said(figures.trade_off(curve, pd.concat([controls, copies]))).endswith("18 % of others, 1 % of copies")
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((17.5, 70))
    assert "70 %" not in said(figures.trade_off(curve, controls.assign(accepted=np.nan)))
    image = np.zeros((1, 4, 4, 3), np.uint8)
    assert (
        said(figures.screened({"accepted": (image, 3), "duplicate": (image, 7)}))
        == "3 of 10 candidates pass all four tests"
    )


def test_a_remedy_is_drawn_on_its_line_and_hollow_where_its_interval_includes_zero() -> None:
    rows = [
        (score, arm, value, value - half, value + half)
        for score, factor in (("tail recall", 1.0), ("macro F1", 0.5))
        for arm, value, half in (
            (OVERSAMPLING, 0.5 * factor, 0.1), (UNGATED, 0.02, 0.1), (GATED, 0.4 * factor, 0.1),
        )
    ]  # fmt: skip
    figure = figures.remedies(pd.DataFrame(rows, columns=["condition", "arm", "value", "low", "high"]))
    figure.canvas.draw()
    assert said(figure) == f"Of all remedies, {OVERSAMPLING} adds most to tail recall: +50 points"
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == [OVERSAMPLING, UNGATED, GATED]
    for ax, expected in ((left, (50, 2, 40)), (right, (25, 2, 20))):
        points = [line for line in ax.lines if len(line.get_xdata()) == 1]
        assert [line.get_xdata()[0] for line in points] == pytest.approx(expected)
        assert [line.get_ydata()[0] for line in points] == [0, 1, 2]
        hollow = [line.get_markerfacecolor() != line.get_markeredgecolor() for line in points]
        assert hollow == [False, True, False]
    colours = [line.get_markeredgecolor() for line in left.lines if len(line.get_xdata()) == 1]
    assert len(set(colours)) == 3  # without a GAN, ungated and gated


def test_curves_are_those_of_the_history(gan: AcdbGan) -> None:
    history = gan.trained.history
    figure = figures.curves(history, gan.cells.classes, 0.6)
    figure.canvas.draw()
    losses, penalties, signs, probabilities = figure.axes
    raw = [line.get_ydata() for line in losses.lines[:4:2]]  # the smoothed curve follows each
    np.testing.assert_array_equal(raw, history[["loss_d", "loss_g"]].T)
    for line, name in zip(penalties.lines, ("r1", "r2"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), history[name].dropna())
    for ax, name in ((signs, "r"), (probabilities, "p")):
        lines = {line.get_label(): line.get_ydata() for line in ax.lines}
        for c, of_class in enumerate(gan.cells.classes):
            np.testing.assert_array_equal(lines[of_class], history[f"{name}_{c}"])


def test_snapshots_are_shown_in_rows_of_classes_and_end_with_real_cells(gan: AcdbGan) -> None:
    images, steps, real = chapter.snapshots(gan)
    figure = figures.snapshots(images, steps, real, gan.cells.classes)
    figure.canvas.draw()
    axes = np.array(figure.axes).reshape(len(gan.cells.classes), len(steps) + 1)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == list(gan.cells.classes)
    assert [ax.get_title() for ax in axes[0]] == [*(f"step {step}" for step in steps), "real"]
    side = real.shape[2]
    for c in range(len(axes)):
        np.testing.assert_array_equal(axes[c, -1].images[0].get_array()[:side, :side], real[c, 0])
        np.testing.assert_array_equal(axes[c, 0].images[0].get_array()[:side, :side], images[0, c, 0])


@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib warns of a legend without entries
@pytest.mark.parametrize("why", ["rho is 0", "too few held-out cells"])
def test_the_chapter_runs_without_any_candidate(stage: Any, gan: AcdbGan, tmp_path: Path, why: str) -> None:
    params = PARAMS.model_copy(update={"rho": 0.0} if why == "rho is 0" else {})
    split = gan.split if why == "rho is 0" else replace(gan.split, holdout=gan.split.holdout[:3])
    empty = run(AcdbGan(gan.cells, params, split, gan.fabric), tmp_path)
    chapter.save_delivery(stage, empty)
    assert stage.numbers["candidates"] == 0 and set(stage.tables["gate"]) == {"class", *gan.delivery.gate.columns}
    assert (chapter.rejection_table(empty)["candidates"] == 0).all() and chapter.nearest_real(empty) == []
    assert len(empty.gate.table(gan.cells.classes).columns)
    assert not chapter.fidelity_table(empty).query("set == 'accepted'")["value"].notna().any()
    drawn(stage, empty)


# -- the section "Does it help?": its text agrees with the study ------------------------------------------------


@pytest.fixture(scope="module")
def study(root: Path) -> StudyRecord:
    return load_record(root / record_file("balancing", "pbc_barcelona_128"))


def test_every_remedy_helps_and_oversampling_most(study: StudyRecord) -> None:
    differences, scores = study.table("differences"), study.table("scores")
    assert (differences["low"] > 0).all()
    for _, part in scores.groupby("condition"):
        order = part.sort_values("value")["arm"].tolist()
        assert order[0] == NOTHING and order[1] == FILLED and order[-1] == OVERSAMPLING
    assert scores.query("condition == @TAIL and arm == @NOTHING")["value"].item() < 0.25  # "mostly missed"


def test_gated_cells_never_beat_the_remedy_they_are_added_to(study: StudyRecord) -> None:
    simple = study.table("baselines")
    simple = simple[simple["against"].isin([OVERSAMPLING, WEIGHTS])]
    assert len(simple) == 10 and (simple["low"] <= 0).all()


def test_the_gate_matters_only_where_many_cells_are_requested(study: StudyRecord) -> None:
    baselines = study.table("baselines").set_index(["arm", "against", "condition"])
    assert (baselines.loc[(FILLED_GATED, FILLED)]["low"] > 0).all()  # "both measures are higher"
    at_quota = baselines.loc[(GATED, UNGATED)]
    assert (at_quota["low"] < 0).all() and (at_quota["high"] > 0).all()  # "not clearly better"
    added = baselines.loc[(BOTH_GATED, BOTH), "low"]
    assert added[TAIL] > 0 > added["macro F1"]  # "the higher tail recall, not clearly the higher macro F1"


def test_the_gate_delivers_rare_cells_in_a_minority_of_cases(study: StudyRecord) -> None:
    delivery = study.table("delivery")
    rare = delivery[delivery["class"].isin(study.params["tail"])]
    assert 0 < (rare["delivered"] > 0).mean() < 0.5
    kept = rare["real"].mean() * (1 - AcdbGanParams().inner_fraction)
    assert kept == pytest.approx(16, abs=1)  # "about sixteen cells"
    assert (rare["drawn to fill up"] / rare["real"]).mean() == pytest.approx(9, abs=0.5)  # "nine per real one"


def test_the_same_cell_and_its_neighbours(stage: Any, gan: AcdbGan) -> None:
    """Without a delivery it has a real neighbour only; a delivered copy of a training cell is shown as one."""
    shown = chapter.one_cell(gan, stage)
    assert shown is not None and set(shown) == {"cell", "real"}
    figures.one_cell(**shown).canvas.draw()
    copied = next(i for i, c in enumerate(gan.labels_train) if c in gan.gate.limits)
    delivery = replace(
        gan.delivery, images=gan.images_train[copied : copied + 1],
        labels=torch.from_numpy(gan.labels_train[copied : copied + 1]), features=gan.features_train[copied : copied + 1],
    )  # fmt: skip
    other = AcdbGan.__new__(AcdbGan)
    other.__dict__.update(gan.__dict__, _delivery=delivery)
    shown = chapter.one_cell(other, stage)
    assert shown is not None and shown["source"][2] < min(1e-3, shown["copy_below"])
    assert shown["real"][2] <= shown["synthetic"][2] + 1e-6  # the copied cell is a training cell itself
    figures.one_cell(**shown).canvas.draw()
