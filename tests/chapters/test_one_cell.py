"""The same cell in all chapters: the rule that chooses it, what each chapter shows of it, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from fcmae.toys import encoder, generator
from leuk_lib.chapters import alhe, data, fcmae, results, trust, wpat
from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.data.cellset import CellSet, from_arrays
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.fcmae.autoencoder import MaskedAutoencoder
from leuk_lib.figures import acdb_gan as gan_figures
from leuk_lib.figures import alhe as alhe_figures
from leuk_lib.figures import data as data_figures
from leuk_lib.figures import fcmae as fcmae_figures
from leuk_lib.figures import results as result_figures
from leuk_lib.figures import trust as trust_figures
from leuk_lib.figures.one_cell import most_probable, no_cell

SIZE = 32
ROWS = [  # label, split: b has the fewest training cells, c fewer still but no test cell
    ("a", "test"), ("a", "train"), ("a", "train"), ("a", "train"), ("b", "val"), ("b", "test"), ("b", "test"),
    ("b", "train"), ("b", "train"), ("c", "train"), ("c", "external:X"),
]  # fmt: skip


class Stage:
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def stage() -> Any:
    return Stage()


def cell_set(rows: list[tuple[str, str]] = ROWS, masks: bool = True) -> CellSet:
    """Grey cells with a dark disc, which is their nucleus, in a ring of cytoplasm."""
    labels, splits = zip(*rows, strict=True)
    table = pd.DataFrame({"label": labels, "split": splits, "path": [f"{i}.png" for i in range(len(rows))]})
    table["group"] = [f"p{i}" for i in range(len(rows))]
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    mask = np.where(x**2 + y**2 < 36, 255, np.where(x**2 + y**2 < 100, 128, 0)).astype(np.uint8)
    grain = np.random.default_rng(0).integers(0, 30, (len(rows), SIZE, SIZE, 3))
    images = (np.where(mask == 255, 60, np.where(mask == 128, 150, 220))[None, ..., None] + grain).astype(np.uint8)
    classes = ("a", "b", "c")
    numbers = [classes.index(name) for name in labels]
    return from_arrays(images, numbers, classes, table, "micrographs", np.stack([mask] * len(rows)) if masks else None)


def said(figure: Figure) -> tuple[str, str]:
    """Message of a figure and its line for what is missing, after drawing."""
    figure.draw_without_rendering()
    return figure.get_suptitle().replace("\n", " "), figure.get_supxlabel()


def pictures(figure: Figure) -> int:
    return sum(bool(ax.images) for ax in figure.axes)


def test_the_rule_takes_the_first_test_cell_of_the_rarest_class_that_has_one(stage: Any):
    cell = find_cell(cell_set(), stage)
    assert cell is not None
    assert (cell.position, cell.label, cell.group, cell.path) == (5, "b", "p5", "5.png")
    assert cell.mask is not None and (cell.mask == 255).any()
    assert stage.notes == ["shown as an example, not learned from: test cell 5.png of class b"]


def test_the_rule_reads_no_image_and_takes_the_first_of_equally_rare_classes(stage: Any):
    cells = cell_set()
    other = find_cell(replace(cells, images=255 - cells.images), stage)
    assert other is not None and other.position == 5
    tied = find_cell(cell_set([("b", "test"), ("a", "test"), ("b", "train"), ("a", "train")]), stage)
    assert tied is not None and tied.label == "a"


def test_without_test_cells_there_is_nothing_to_follow(stage: Any):
    cells = cell_set([("a", "train"), ("b", "val"), ("c", "external:X")])
    model = MaskedAutoencoder(encoder("zepto", 1), 16)
    assert find_cell(cells, stage) is None and stage.notes == []
    assert data.one_cell(cells, stage) is alhe.one_cell(cells, cells.images, stage) is None
    assert fcmae.one_cell(model, cells, 0.5, True, stage) is results.one_cell(cells, {}, stage) is None
    assert wpat.one_cell(None, cells, stage) is None  # type: ignore[arg-type]
    assert "no cell that could be followed" in no_cell().axes[0].texts[0].get_text()


@pytest.mark.parametrize("masks", [True, False])
def test_chapter_1_shows_the_raw_cell_and_what_is_known_of_it(stage: Any, masks: bool):
    cells = cell_set(masks=masks)
    shown = data.one_cell(cells, stage)
    assert shown is not None
    assert np.array_equal(shown["image"], cells.images[5].permute(1, 2, 0).numpy())
    known = {"class": "b", "group": "p5", "file": "5.png"}
    assert shown["known"] == known | ({"nucleus / cell area": f"{112 / 316:.2f}"} if masks else {})
    figure = data_figures.one_cell(**shown)
    title, missing = said(figure)
    assert "class b" in title and pictures(figure) == 1 + masks and ("masks" in missing) != masks


@pytest.mark.parametrize("masks", [True, False])
def test_chapter_2_counts_the_changed_pixels_and_draws_the_lightness(stage: Any, masks: bool):
    cells = cell_set(masks=masks)
    enhanced = cells.images.clone()
    enhanced[5, :, : SIZE // 4] = 0
    shown = alhe.one_cell(cells, enhanced, stage)
    assert shown is not None and shown["changed"] == 0.25 and shown["whole_image"] != masks
    assert [len(values) for values in shown["lightness"]] == [316 if masks else SIZE**2] * 2
    title, missing = said(alhe_figures.one_cell(**shown))
    assert "changes 25 %" in title and ("whole image" in missing) != masks


def test_chapter_3_compares_distances_and_leaves_out_what_was_not_delivered():
    image = np.zeros((4, 4, 3), np.uint8)
    near, far = ("a", image, 1.0), ("b", image, 3.0)
    figure = gan_figures.one_cell(("b", image), far, near, far, 0.5)
    assert said(figure) == ("The nearest synthetic cell is nearer to this cell than the nearest training cell is", "")
    assert pictures(figure) == 4
    assert [bar.get_width() for bar in figure.axes[-1].patches] == [3, 1, 3]
    assert "farther from" in said(gan_figures.one_cell(("b", image), near, far, near, 0.5))[0]
    figure = gan_figures.one_cell(("b", image), near)
    assert "No synthetic cell was accepted" in said(figure)[1] and pictures(figure) == 2


@pytest.mark.parametrize("trained", [True, False])
def test_chapter_4_measures_the_hidden_part_against_one_plain_colour(stage: Any, trained: bool):
    model = MaskedAutoencoder(encoder("zepto", 1), 16)
    model.init_decoder(generator())
    cells, state = cell_set(), torch.get_rng_state()
    shown = fcmae.one_cell(model, cells, 0.5, trained, stage)
    assert shown is not None and torch.equal(torch.get_rng_state(), state)
    image, visible = shown["image"], shown["visible"]
    plain = image[visible].mean(axis=0)
    assert visible.mean() == 0.5
    assert shown["errors"][1] == pytest.approx(np.sqrt(((image[~visible] - plain) ** 2).mean()))
    figure = fcmae_figures.one_cell(**shown)
    title, missing = said(figure)
    assert pictures(figure) == 2 + trained and ("steps = 0" in missing) != trained
    assert ("nearer to this cell" in title) == trained


def test_chapter_8_says_whether_the_shift_changes_the_prediction():
    images, maps = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8), 1 / 64)
    sure, unsure = [0.8, 0.1, 0.1], [0.1, 0.7, 0.2]
    outcomes = {
        "stays right (a)": ([sure, sure], "a"), "turns wrong (b)": ([sure, unsure], "a"),
        "turns right (a)": ([unsure, sure], "a"), "is wrong both times (a, then b)": ([sure, unsure], "c"),
        "is wrong both times (b)": ([unsure, unsure], "a"),
    }  # fmt: skip
    for outcome, (probs, truth) in outcomes.items():
        figure = trust_figures.one_cell(images, maps, np.array(probs), ("a", "b", "c"), truth, "stain shift of 0.7")
        assert said(figure)[0] == f"Under a stain shift of 0.7, the prediction for this cell {outcome}"
        assert f"{truth} (truth)" in [tick.get_text() for tick in figure.axes[2].get_yticklabels()]


def test_chapter_9_takes_the_row_of_the_cell_and_admits_a_wrong_prediction(stage: Any):
    cells = cell_set()
    probs = np.array([[0.9, 0.05, 0.05], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])  # of the test cells 0, 5 and 6
    test = Predictions(np.array([0, 1, 1]), probs, np.array(["p0", "p5", "p6"]), cells.classes)
    right = test.with_probs(probs[:, [0, 2, 1]])
    shown = results.one_cell(cells, {"wpat": test, "other": right}, stage)
    assert shown is not None and shown["truth"] == "b"
    assert shown["probs"]["wpat"].tolist() == [0.2, 0.3, 0.5] and shown["probs"]["other"].tolist() == [0.2, 0.5, 0.3]
    figure = result_figures.one_cell(**shown)
    assert said(figure)[0] == "1 of 2 models recognise this cell as b; wpat says c (50 %)"
    assert [text.get_text() for text in figure.axes[1].texts] == ["20", "30", "50", "20", "50", "30"]
    shown["probs"]["wpat"] = shown["probs"]["other"]
    assert "so does wpat (50 %)" in said(result_figures.one_cell(**shown))[0]


def test_of_many_classes_the_most_probable_ones_and_the_truth_are_drawn():
    probs = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.0], [0.0, 0.1, 0.2, 0.4, 0.3, 0.0]])
    assert most_probable(probs, "abcdef", "f", 3) == [3, 4, 5]
    assert most_probable(probs, "abcdef", "d", 9) == list(range(6))


def test_the_shift_of_chapter_8_is_that_of_one_image_and_scaled(stage: Any, monkeypatch: pytest.MonkeyPatch):
    cells = cell_set()
    stage.params, stage.input = SimpleNamespace(seed=0), Path
    monkeypatch.setattr(trust, "read_card", lambda path: SimpleNamespace(temperature=2.0))
    monkeypatch.setattr(trust, "network_scorer", lambda model: lambda images, masks: np.array([[0.8, 0.2, 0.0]] * 2))
    monkeypatch.setattr(trust, "attention_maps", lambda model, images, targets: torch.zeros(2, SIZE, SIZE))
    shown = trust.one_cell(None, cells, lambda images: 255 - images, stage)  # type: ignore[arg-type]
    assert shown is not None and shown["truth"] == "b" and shown["shift"] == "stain shift of 0.7"
    assert np.array_equal(shown["images"][0], 255 - cells.images[5].permute(1, 2, 0).numpy())
    assert not np.array_equal(shown["images"][0], shown["images"][1])
    np.testing.assert_allclose(shown["probs"][0], [2 / 3, 1 / 3, 0], atol=1e-6)
