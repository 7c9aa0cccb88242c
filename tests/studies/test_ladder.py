"""The ladder study: equal budgets, tables with known answers, and every kind of job in the canary."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from leuk_lib.evaluation.robustness import STRENGTHS, UNITS
from leuk_lib.figures import comparison as draw
from leuk_lib.figures import trust
from leuk_lib.studies import ladder, ladder_summary
from leuk_lib.studies import record as records
from leuk_lib.studies.ladder import FULL, PUBLISHED_FULL, PUBLISHED_STEPS, STEPS, LadderParams, SplitCells
from leuk_lib.studies.study import slug
from studies.toys import made_record


def test_the_models_differ_in_their_learning_rate_alone():
    params = LadderParams(dataset="cells")
    ours, baseline = params.wpat(0, 1e-3, params.steps), params.wpat(0, 3e-3, params.steps)
    assert ours.model_copy(update={"lr": baseline.lr}) == baseline
    assert [name for name in STEPS if STEPS[name].wpat][-1] == FULL


def packed(arm: str, seed: int, condition: str, labels: list[int], right: list[int], sure: float = 0.9):
    labels_ = torch.tensor(labels)
    answers = [label if hit else 1 - label for label, hit in zip(labels, right, strict=True)]
    probs = np.full((len(labels), 2), 1 - sure)
    probs[np.arange(len(labels)), answers] = sure
    cells = [f"{100 * seed + k}" for k in range(len(labels))]
    return {"arm": arm, "seed": seed} | ladder.pack(condition, probs, labels_, cells, cells)


def test_probabilities_survive_a_row():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 7)
    row = ladder.pack("test", probs, torch.arange(7) % 3, list("abcdefg"), list("abcdefg"))
    back = ladder.unpack(row, ("x", "y", "z"))
    np.testing.assert_allclose(back.probs, probs, atol=1e-4)
    assert back.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and back.groups.tolist() == list("abcdefg")


def test_tables_hold_the_known_answers():
    labels = [0, 1, 0, 1]
    hits = {"a": [1, 1, 0, 0], "b": [1, 1, 1, 0], "c": [1, 1, 1, 1], "weak": [0, 0, 1, 0], "fair": [1, 1, 0, 0]}
    rows = []
    for seed in (0, 1):
        for arm, right in hits.items():
            # The best baseline is chosen on the validation part, whatever it does on the test part.
            sure = 0.95 if arm == "weak" else 0.6
            rows.append(packed(arm, seed, "val", labels, [1, 1, 1, 1], sure))
            rows.append(packed(arm, seed, "test", labels, right))
            parameters = 0 if arm == "weak" else 7
            rows.append(
                {"arm": arm, "seed": seed, "condition": "training", "cpu seconds": 1.0, "parameters": parameters}
            )
    tables = ladder.outcome_tables(rows, [["a", "b", "c"]], ["weak", "fair"], ("x", "y"), 0.3, 200, 0)
    value = tables["scores"].set_index("arm")["value"]
    assert value.to_dict() == {"a": 0.5, "b": 0.75, "c": 1.0, "weak": 0.25, "fair": 0.5}
    steps = tables["steps"].set_index(["arm", "against"])["value"]
    assert steps.to_dict() == {("b", "a"): 0.25, ("c", "b"): 0.25}
    assert tables["baselines"].set_index("against")["value"].to_dict() == {"weak": 0.75, "fair": 0.5}
    assert tables["best_baseline"]["arm"].tolist() == ["weak"]
    calibration = tables["calibration"]
    assert (calibration["n"] == 8).all() and not (calibration["low"] > calibration["high"]).any()
    one = calibration[calibration["arm"] == "b"].set_index(["measure", "moment"])["value"]
    assert one["nll", "before"] == pytest.approx(-0.75 * np.log(0.9) - 0.25 * np.log(0.1))
    curve = tables["abstention"]
    assert set(curve["arm"]) == {"c", "weak"} and (curve[curve["arm"] == "c"]["accuracy"] == 1).all()
    assert "shifts" not in tables and len(tables["training"]) == 10


@pytest.fixture(scope="module")
def record() -> records.StudyRecord:
    """A made-up outcome: the full model beats one baseline, loses to another, and blur harms it."""
    rng = np.random.default_rng(0)
    columns, baselines = [list(STEPS), list(PUBLISHED_STEPS)], ["weak", "strong"]
    rates = dict(
        zip([*columns[0], *columns[1], *baselines], (0.5, 0.8, 0.8, 0.8, 0.8, 0.9, 1.0, 0.4, 1.0), strict=True)
    )
    rows = []
    for seed in (0, 1):
        labels = [k % 2 for k in range(60)]
        conditions = ["val", "test", "shift none 0", "other elsewhere"]
        conditions += [f"shift {kind} {strength:g}" for kind in STRENGTHS for strength in STRENGTHS[kind]]
        for arm, rate in rates.items():
            parameters = 0 if arm == "weak" else 7
            rows.append(
                {"arm": arm, "seed": seed, "condition": "training", "cpu seconds": 1.0, "parameters": parameters}
            )
            for condition in conditions:
                lowered = 0.0 if condition == "shift blur 4" and arm == FULL else rate
                right = np.arange(60) < round(60 * lowered)
                rows.append(packed(arm, seed, condition, labels, rng.permutation(right).astype(int).tolist(), 0.9))
    for arm, right in ((FULL, "110110"), ("strong", "111111")):
        cells = {"cell": "0,1,2,3,4,5", "group": "p,p,q,q,r,s", "label": "x,x,y,y,x,y", "right": right}
        rows += [{"arm": arm, "seed": seed, "condition": "small ours", **cells} for seed in (0, 1)]
    tables = ladder.outcome_tables(rows, columns, baselines, ("x", "y"), 0.3, 200, 0)
    tables["pretraining"] = pd.DataFrame({"seed": [0, 1], "cpu seconds": [2.0, 4.0]})
    tables["rates"] = ladder.chosen_rates(
        pd.DataFrame(
            [{"arm": arm, "rate": rate, "loss": abs(rate - 1e-3)} for arm in rates for rate in (5e-4, 1e-3, 2e-3)]
        )
    )
    tables["sources"] = pd.DataFrame({"source": ["elsewhere"], "cells": [60], "tested classes": [2]})
    return made_record("ladder", tables, {"seeds": [0, 1], "rate_steps": 9})


def test_sentences_say_what_the_numbers_say(record):
    steps = ladder_summary.steps_summary(record).splitlines()
    assert "+ FCMAE over backbone: +30.0 [" in steps[0] and "helps" in steps[0] and "inconclusive" in steps[2]
    full = ladder_summary.full_model_summary(record)
    assert "ahead of weak; behind strong" in full and "95.0 %, is missed" in full and "strong, with 100.0" in full
    published = ladder_summary.full_model_summary(record, PUBLISHED_FULL)
    assert "ahead of weak; not clearly different from strong" in published and "97.5 %, is reached" in published
    columns = ladder_summary.columns_summary(record).splitlines()
    assert "published over + FCMAE: +0.0" in columns[0] and "helps" in columns[2]
    robust = ladder_summary.robustness_summary(record)
    assert f"{FULL} against strong, of 30 shifts: ahead under 0, behind under 30" in robust
    assert f"{PUBLISHED_FULL} against strong, of 30 shifts: ahead under 0, behind under 0" in robust
    assert f"{FULL}, change from none (80.0 %)" in robust and "blur -80" in robust
    assert "strong: temperature" in ladder_summary.calibration_summary(record)
    rates = ladder_summary.rates_summary(record)
    assert "3 tries: 9 steps" in rates and "0.0005, 0.001, 0.002" in rates and "repetition 0" in rates
    assert "the lowest for 0, the highest for 0 of 9 models" in rates
    assert (ladder_summary.rates_table(record)["chosen"] == 1e-3).all()
    assert "better than they are" in ladder_summary.test_cells_summary(record)


def test_tables_and_metrics_are_made_of_the_record(record):
    wide = ladder_summary.external_table(record)
    assert wide[["source", "cells"]].to_numpy().tolist() == [["elsewhere", 60]] and wide["strong"][0].startswith(
        "100.0"
    )
    small = ladder_summary.small_sets_table(record)
    assert small[["set", "cells", "patients"]].to_numpy().tolist() == [["ours", 6, 4]]
    assert small[FULL][0].startswith("66.7 [") and small["strong"][0].startswith("100.0 [")
    differences = ladder_summary.difference_table(record.table("baselines"))
    assert differences["comparison"].tolist() == [f"{FULL} over weak", f"{FULL} over strong"]
    cost = ladder_summary.cost_table(record).set_index("arm")["cpu seconds"]
    assert cost["+ WPAT"] == 4.0 and cost["published"] == 1.0 and "weak" not in cost
    kept: dict[str, float] = {}

    class Stage:
        def record(
            self, key: str, value: float, low: float | None = None, high: float | None = None, n: int | None = None
        ) -> None:
            assert n == 120 and low <= value <= high
            kept[key] = value

    ladder_summary.record_models(Stage(), record)
    assert kept["ladder_alhe"] == pytest.approx(0.8) and kept["ladder_alhe_minus_strong"] == pytest.approx(-0.2)
    assert len(kept) == 9 + 5 + 3 + 4


def test_scores_are_drawn_at_their_values_with_the_steps_first(record):
    table = record.table("scores").set_index("arm")
    (ax,) = draw.ladder_scores(record.table("scores"), [list(STEPS), list(PUBLISHED_STEPS)]).axes
    order = [label.get_text() for label in ax.get_yticklabels()]
    assert order == [*STEPS, *PUBLISHED_STEPS, "strong", "weak"]
    points = [line.get_xydata()[0] for line in ax.lines if line.get_marker() != "None"]
    np.testing.assert_allclose(points, [(100 * table.loc[arm, "value"], place) for place, arm in enumerate(order)])
    intervals = [bar.get_segments()[0][:, 0] for bar in ax.collections]
    np.testing.assert_allclose(intervals, 100 * table.loc[order, ["low", "high"]])


def test_markers_of_differences_show_their_sign(record):
    table = record.table("baselines").assign(value=[0.2, -0.1], low=[0.1, -0.3], high=[0.3, 0.1])
    (ax,) = draw.ladder_differences({"baselines": table}).axes
    markers = [line for line in ax.lines if line.get_marker() != "None"]
    assert [(line.get_marker(), round(line.get_xdata()[0])) for line in markers] == [("^", 20), ("o", -10)]
    assert markers[0].get_mfc() == markers[0].get_mec() and markers[1].get_mfc() != markers[1].get_mec()


def test_figures_are_drawn_with_named_axes(record):
    drawn = [
        draw.ladder_scores(record.table("scores"), [list(STEPS), list(PUBLISHED_STEPS)]),
        draw.accuracy_and_cost(ladder_summary.cost_table(record), [list(STEPS), list(PUBLISHED_STEPS)]),
        draw.ladder_differences({"steps": record.table("steps"), "baselines": record.table("baselines")}),
        trust.robustness(ladder_summary.shift_curves(record), UNITS, FULL, "balanced accuracy"),
        trust.calibration(record.table("calibration"), FULL),
    ]
    for figure in drawn:
        figure.canvas.draw()
        assert all(ax.get_xlabel() for ax in figure.axes)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_names_beside_points_are_all_there_and_leave_each_other_room(spread: float):
    arms = ["backbone", "published + ALHE, 100 steps", "efficientnet_lite0@pretrained", "colour"]
    value = 0.6 + spread * 0.05 * np.arange(4)
    table = pd.DataFrame({"arm": arms, "value": value, "low": value - 0.05, "high": value + 0.05})
    figure = draw.accuracy_and_cost(table.assign(**{"cpu seconds": 100 * 2 ** (spread * np.arange(4))}), [arms[:2]])
    figure.canvas.draw()
    names = figure.axes[0].texts
    assert [name.get_text().replace("\n@", "@").replace("\n", " ") for name in names] == arms
    boxes = [name.get_window_extent() for name in names]
    if spread:  # where all points are the same, names cannot but overlap
        assert all(box.count_overlaps(boxes) == 1 for box in boxes)


def test_cells_on_which_settings_were_chosen_are_in_no_test_part(canary):
    folder = canary("ladder")[1] / "cells"
    apart, mixed = ([SplitCells.read(folder, seed, tuned) for seed in (0, 1, 2)] for tuned in ((0, 1), ()))
    chosen = set(apart[0].val.tolist()) | set(apart[1].val.tolist())
    assert any(chosen & set(part.test.tolist()) for part in mixed)
    for ours, theirs in zip(apart, mixed, strict=True):
        assert ours.train.equal(theirs.train) and ours.val.equal(theirs.val)
        assert set(ours.test.tolist()) == set(theirs.test.tolist()) - chosen


def test_every_kind_of_job_runs_and_the_outcome_has_all_models(canary):
    whole, folder = canary("ladder")
    params, tables = whole.study.params, whole.tables
    assert set(tables["scores"]["arm"]) == set(params.arms)
    assert len(tables["steps"]) == len(STEPS) - 1 and len(tables["baselines"]) == 5 and "columns" not in tables
    assert len(tables["shifts"]) == 2 * 31 and set(tables["shifts_gaps"]["arm"]) == {FULL}
    assert set(tables["external"]["condition"]) == {"other elsewhere"}
    assert set(tables["small_sets"]["arm"]) == {*STEPS, "colour", "test_resnet"}
    assert (tables["small_sets"]["groups"] == 12).all() and set(tables["small_sets_gaps"]["arm"]) == {FULL}
    assert (tables["training"].set_index("arm")["parameters"].loc[list(STEPS)] > 0).all()
    rates = tables["rates"]
    assert len(rates) == len(params.trained) * len(params.rates) and rates["chosen"].sum() == len(params.trained)
    used = whole.study._rate("+ WPAT", folder)
    assert used == rates[(rates["arm"] == "+ WPAT") & rates["chosen"]]["rate"].item()
    again = whole.study.run("majority-0", folder, "canary")[1:]
    assert [row["probs"] for row in again] == [row["probs"] for row in whole.rows["majority-0"][1:]]
    record = made_record("ladder", tables, params.model_dump())
    fewest, most = tables["pretraining"]["test"].min(), tables["pretraining"]["test"].max()
    summary = ladder_summary.test_cells_summary(record)
    assert "repetitions 0, 1" in summary and f"{fewest} to {most} cells" in summary


@pytest.mark.parametrize("arm", list(PUBLISHED_STEPS))
def test_the_second_column_starts_from_another_network(canary, arm: str):
    whole, folder = canary("ladder")
    params = whole.study.params.model_copy(update={"published": "test_resnet"})
    study = ladder.Ladder(params)
    for rate in params.rates:
        study.run(ladder.trial_name(arm, rate), folder, "canary")
    rows = study.run(f"{slug(arm)}-0", folder, "canary")
    trained, *conditions = rows
    assert trained["arm"] == arm and trained["parameters"] > 0
    own = next(row for row in whole.rows["wpat-0"] if row["condition"] == "test")
    test = next(row for row in conditions if row["condition"] == "test")
    assert test["cell"] == own["cell"] and test["probs"] != own["probs"]
    assert set(params.arms) - set(whole.study.params.arms) == set(PUBLISHED_STEPS)


def test_the_committed_record_is_this_studys(root: Path):
    record = records.load_record(root / records.record_file("ladder", "pbc_barcelona_128"))
    scores = record.table("scores")
    assert record.study == "ladder" and set(STEPS) <= set(scores["arm"])
    assert (scores["seeds"] == len(record.params["seeds"])).all() and scores["value"].between(0, 1).all()
    assert set(record.table("baselines")["against"]) == {*record.params["probes"], *record.params["networks"]}
    assert record.params["tuned"] == [0, 1]  # chapter 6: "the first two repetitions"


def test_the_lead_under_shifts_counts_clear_wins_minus_clear_losses_against_the_hardest_baseline():
    def gap(baseline: str, low: float, high: float, condition: str = "shift blur 1") -> dict:
        return {"condition": condition, "arm": FULL, "against": baseline, "value": (low + high) / 2, "low": low, "high": high}  # fmt: skip

    rows = [gap("a", 0.1, 0.2), gap("a", 0.1, 0.2), gap("a", -0.1, 0.1), gap("a", -0.2, -0.1)]
    rows += [gap("b", -0.2, -0.1), gap("b", 0.1, 0.2), gap("b", -0.1, 0.1), gap("b", -0.2, -0.1)]
    rows += [gap("b", -0.3, -0.2, "shift none 0")]  # no shift

    class Record:
        def table(self, name: str) -> pd.DataFrame:
            return {"shifts_gaps": pd.DataFrame(rows)}[name]

    assert ladder_summary.shifts_lead(Record()) == (-0.25, None, None, 4)
    kept = {}
    ladder_summary.record_shifts(SimpleNamespace(record=lambda key, *entry: kept.update({key: entry})), Record())
    assert kept == {"ladder_shifts_lead": (-0.25, None, None, 4)}
