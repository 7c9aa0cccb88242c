"""Chapter 2: samples, cases, trade-off, timing, and the figures drawn from them; its text agrees with the study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from leuk_lib.alhe import baselines, quality
from leuk_lib.alhe.params import AlheParams
from leuk_lib.chapters import alhe as chapter
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures import alhe as figures
from leuk_lib.studies.record import StudyRecord, load_record, record_file

PARAMS = AlheParams(batch_size=16, quality_cells=12, cells_per_class=2)


@pytest.fixture(scope="module")
def cells() -> CellSet:
    return smear_cells(120, patients=3, size=32, seed=0)


def test_sample_is_training_cells_with_the_classes_in_turn(cells):
    sample = chapter.draw_sample(cells, 8, seed=0)
    train = {image.tobytes() for image in chapter.to_arrays(cells.images[cells.indices("train")])}
    assert all(image.tobytes() in train for image in sample.images)
    counts = [sample.labels.count(name) for name in set(cells.table["label"][cells.parts == "train"])]
    assert max(counts) - min(counts) <= 1
    assert sample.images.shape == (8, 32, 32, 3) and sample.masks is not None and sample.masks.shape == (8, 32, 32)
    np.testing.assert_array_equal(sample.images, chapter.draw_sample(cells, 8, seed=0).images)


def test_every_cell_is_enhanced_in_its_place(cells):
    enhanced, milliseconds = chapter.enhance_all(cells, PARAMS)
    assert enhanced.shape == cells.images.shape and enhanced.dtype == torch.uint8 and milliseconds > 0
    reversed_order = chapter.enhance_all(replace(cells, images=cells.images.flip(0)), PARAMS)[0]
    assert torch.equal(reversed_order.flip(0), enhanced)
    assert 0.9 < chapter.changed_share(cells.images, enhanced) <= 1


def test_most_active_tile_is_clipped_at_its_limit(cells):
    sample = chapter.draw_sample(cells, 10, seed=0)
    image, enhanced, maps = chapter.most_active_cell(sample, PARAMS)
    tile = chapter.most_active_tile(maps, PARAMS)
    assert (image != enhanced).any() and 1 < tile["clip_limit"] <= PARAMS.clip_limit
    assert (tile["slopes"] <= tile["clip_limit"] + 1e-6).all() and (tile["slopes"] >= tile["floor"] - 1e-6).all()
    assert tile["slopes"].sum() == pytest.approx(256) and tile["histogram"].sum() == pytest.approx(256)
    assert_drawn(figures.one_tile(image, **tile))
    assert_drawn(figures.maps(image, maps.clip_limits, maps.gain, maps.shift, enhanced))


@pytest.mark.parametrize("masked", [True, False])
def test_tables_figures_and_records(cells, masked):
    cells = cells if masked else replace(cells, masks=None)
    sample = chapter.draw_sample(cells, 10, seed=0)
    table = quality.compare(sample.images, sample.masks, baselines.methods(PARAMS), sample.labels, sample.groups)
    summary = quality.summarise(table, 0)
    trade_off = chapter.trade_off(sample, PARAMS, 0)
    assert len(trade_off) == 3 * len(chapter.CLIP_LIMITS)
    # At a clip limit of 1 the image is the input: its similarity, and its contrast over the input's, are 1.
    assert np.allclose(trade_off.loc[trade_off["clip_limit"] == 1, "y"], 1)
    measures = chapter.trade_off_measures(sample)
    goals = (1.25, 1.0) if masked else None
    assert_drawn(figures.trade_off(trade_off, tuple(measures.values()), PARAMS.clip_limit, goals))
    assert_drawn(figures.entropy_against_quality(summary, list(measures)[1], "quality"))

    recorded: dict[str, float] = {}

    class Stage:
        def record(self, key: str, value: float, low: float, high: float, n: int) -> None:
            assert low <= value + 1e-9 and value <= high + 1e-9 and n > 0
            recorded[key] = value

    chapter.record_quality(Stage(), summary)
    assert {"ssim_alhe", "ssim_input", "ssim_clahe_2"} <= set(recorded)
    assert ("cnr_cytoplasm_alhe" in recorded) == masked


def test_every_method_is_shown_described_and_timed(cells):
    sample = chapter.draw_sample(cells, 10, seed=0)
    names = list(baselines.methods())
    rows = chapter.by_method(sample, PARAMS)
    assert set(rows) == set(sample.labels) and all(list(row) == names for row in rows.values())
    sheet = figures.side_by_side(rows, most=2)
    assert_drawn(sheet)
    shown = [ax.images[0].get_array() for ax in sheet.axes]
    expected = [rows[cell][name] for name in names for cell in list(rows)[:2]]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
    images, captions, descriptions = chapter.switch_images(sample, PARAMS, limit=4)
    assert list(images) == names == list(descriptions) and len(captions) == 4
    assert all(stack.shape == (4, 32, 32, 3) for stack in images.values())
    many = replace(sample, images=np.tile(sample.images, (2, 1, 1, 1)))
    assert len(chapter.switch_images(many, PARAMS, limit=99)[0]["input"]) == 15  # what a page holds
    costs = chapter.cost(sample.images[0], 32, PARAMS, rounds=1)
    assert set(names) - {"input"} < set(costs["method"]) and (costs["ms"] > 0).all()
    assert costs.set_index("method").at["CLAHE 2", "over_clahe"] == 1
    assert_drawn(figures.cost(costs, 32))


def test_headlines_say_what_the_numbers_say():
    table = pd.DataFrame(
        [("x", "ALHE", 0.02, 0.01, 0.03), ("x", "CLAHE 2", -0.02, -0.03, -0.01), ("y", "ALHE", 0.0, -0.01, 0.01),
         ("y", "CLAHE 2", -0.04, -0.05, -0.03)], columns=["condition", "arm", "value", "low", "high"],
    )  # fmt: skip
    figure = figures.ablation(table)
    assert " ".join(figure.get_suptitle().split()) == "Of 4 differences, 1 lie clearly above zero and 2 below"
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert colours["ALHE"] == figures.COLOURS["ALHE"]  # as in every other figure
    values = {
        "entropy": {"ALHE": 6.0, "CLAHE 2": 7.0, "gamma 1.5": 5.0},
        "cnr": {"ALHE": 3.0, "CLAHE 2": 1.0, "gamma 1.5": 2.0},
    }
    rows = [(method, measure, v, v, v) for measure, row in values.items() for method, v in row.items()]
    summary = pd.DataFrame(rows, columns=["method", "measure", "value", "low", "high"])
    said = figures.entropy_against_quality(summary, "cnr", "contrast").get_suptitle()
    assert " ".join(said.split()) == "CLAHE 2 has the highest entropy and is number 3 of 3 in quality"
    costs = pd.DataFrame([("ALHE", 3.0, 1.5), ("CLAHE 2", 2.0, 1.0)], columns=["method", "ms", "over_clahe"])
    assert figures.cost(costs, 64).get_suptitle() == "ALHE takes 1.5 times as long as CLAHE"


def test_the_trade_off_headline_compares_with_and_without_the_floor():
    ends = dict.fromkeys(("x", "x_low", "x_high"), 1.0)
    rows = [
        {"variant": name, "clip_limit": limit, **ends, "y": y, "y_low": y, "y_high": y}
        for name, ys in {"ALHE": (1.0, 0.98), "no contrast floor": (1.0, 0.71)}.items()
        for limit, y in zip((1.0, 2.0), ys, strict=True)
    ]
    for chosen, said in (
        (2.0, "Kept at clip limit 2: 0.98 with the contrast floor, 0.71 without"),
        (2.5, "What the clip limit"),
    ):
        title = figures.trade_off(pd.DataFrame(rows), ("gained", "kept"), chosen, None).get_suptitle()
        assert " ".join(title.split()).startswith(said)


def assert_drawn(figure: Figure) -> None:
    """Every visible panel has data, and what it shows is finite."""
    for ax in figure.axes:
        if ax.get_visible():
            assert ax.has_data()
            assert all(
                np.isfinite(line.get_xydata().astype(float)).all() for line in ax.lines if len(line.get_xydata())
            )
    figure.canvas.draw()


# -- the section "Does it help a classifier?" ------------------------------------------------------------------

STAIN = ("stain 0.3", "stain 0.5", "stain 0.7")
LIGHT = ("light 0.2", "light 0.4", "light 0.6")


@pytest.fixture(scope="module")
def study(root: Path) -> StudyRecord:
    return load_record(root / record_file("enhancement", "pbc_barcelona_128"))


@pytest.mark.parametrize(
    ("arm", "helps", "harms"),
    [
        ("ALHE", (), LIGHT),
        ("ALHE, no jitter", STAIN, ()),
        ("CLAHE 2", (), ("same", STAIN[0], *LIGHT[:2])),
        ("ALHE as augmentation", (), ()),
    ],
)
def test_the_text_says_what_the_study_found(study, arm, helps, harms):
    differences = study.table("differences")
    part = differences[differences["arm"] == arm]
    assert set(part.loc[part["low"] > 0, "condition"]) == set(helps)
    assert set(part.loc[part["high"] < 0, "condition"]) == set(harms)


def test_the_text_says_how_large_the_effects_are(study):
    differences = study.table("differences").set_index(["arm", "condition"])
    clear = differences[differences["p_holm"] < 0.05]
    assert clear.index.tolist() == [("ALHE, no jitter", STAIN[0])]  # "one is below 0.05"
    small = differences.loc["ALHE, no jitter"].loc[list(STAIN), "value"]
    assert small.between(0.01, 0.08).all()  # "by a few points at each strength"
    assert (differences.loc["ALHE"].loc[list(LIGHT), "value"] <= -0.05).all()  # "by five points and more"
    scores = study.table("scores").set_index(["arm", "condition"])
    for condition in STAIN:  # "the jitter helps more"
        assert scores.at[("none", condition), "value"] > scores.at[("ALHE, no jitter", condition), "value"]
    values = scores["value"].unstack("arm")
    gain = values["none"] - values["none, no jitter"]
    assert (gain[[*LIGHT[1:], "other source"]] > 0.1).all()  # "more than ten points higher in both"
    assert gain["same"] < 0  # "the network without jitter is the better one"
    sources = study.table("sources").set_index("source")
    chance = 1 / sources.at["tecom_wbc", "classes"]
    plain = scores.loc[("none, no jitter", "other source")]
    assert plain["low"] < chance < plain["high"]  # "near guessing"
