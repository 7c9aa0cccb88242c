"""The study of the training budget: equal rules for both models, tables with known answers, every job in the canary."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from leuk_lib.figures import comparison as draw
from leuk_lib.studies import budget, ladder_summary
from leuk_lib.studies import record as records
from leuk_lib.studies.budget import Budget, BudgetParams, name_of
from leuk_lib.studies.ladder import PUBLISHED_FULL
from studies.test_ladder import packed
from studies.toys import made_record

PLAIN = "resnet10t"


def test_steps_must_ascend():
    for steps in ((4, 2), (2, 2), (0, 2)):
        with pytest.raises(ValueError, match="ascending"):
            BudgetParams(dataset="cells", steps=steps)


def test_both_models_have_the_rules_of_the_ladder():
    params = BudgetParams(dataset="cells", steps=(2, 4), published=PLAIN)
    few, many = (params.ladder(steps).params for steps in params.steps)
    assert set(params.arms) <= set(many.trained) and many.seeds[0] in many.tuned
    assert few.model_copy(update={"steps": 4}) == many


@pytest.fixture
def tables():
    study = Budget(
        BudgetParams(dataset="cells", seeds=(0, 1), steps=(2, 4), rates=(1e-3, 2e-3), published=PLAIN, resamples=200)
    )
    right = {
        (PUBLISHED_FULL, 2): [1, 1, 0, 1],
        (PLAIN, 2): [0, 1, 0, 1],
        (PUBLISHED_FULL, 4): [1] * 4,
        (PLAIN, 4): [1] * 4,
    }
    rows = {"cells": [{"source": "cells", "cells": 8, "classes": "a,b"}]}
    for arm in study.params.arms:
        for loss, rate in enumerate(study.params.rates):
            rows[f"rate-{rate:g}-{budget.slug(arm)}"] = [{"arm": arm, "rate": rate, "loss": loss}]
    for (arm, steps), hits in right.items():
        for seed in (0, 1):
            about = {"arm": name_of(arm, steps), "seed": seed}
            rows[f"{budget.slug(arm)}-{steps}-{seed}"] = [
                about | {"condition": "training", "cpu seconds": 10.0 * steps, "best step": steps, "parameters": 1},
                packed(name_of(arm, steps), seed, "val", [0, 1], [0, 0]),
                packed(name_of(arm, steps), seed, "test", [0, 0, 1, 1], hits),
            ]
    return study.tables(rows)


def test_tables_hold_the_known_answers(tables):
    scores = tables["scores"].set_index("arm")["value"].to_dict()
    few, many = ((name_of(PUBLISHED_FULL, steps), name_of(PLAIN, steps)) for steps in (2, 4))
    assert scores == {few[0]: 0.75, few[1]: 0.5, many[0]: 1.0, many[1]: 1.0}
    gains = tables["gains"].set_index(["arm", "against"])["value"].to_dict()
    assert gains == {few: 0.25, many: 0.0, (few[0], many[1]): -0.25}
    assert tables["rates"].groupby("arm")["chosen"].sum().tolist() == [1, 1]


def test_the_summary_names_the_goal_each_difference_and_its_cost(tables):
    record = made_record("budget", tables, {"steps": [2, 4], "published": PLAIN})
    text = budget.summary(record)
    assert "100.0" in text.splitlines()[0] and "goal set before the study, 97.5 %, is reached" in text
    assert "-25.0" in text and "0.50 times the processor time" in text
    assert text.endswith(f"{name_of(PUBLISHED_FULL, 4)}: 4, {name_of(PLAIN, 4)}: 4.")
    cost = budget.cost_table(record)
    assert cost["cpu seconds"].tolist() == [20.0, 20.0, 40.0, 40.0]
    figure = draw.accuracy_and_cost(cost, budget.curves(record), draw.BUDGET_COLOURS)
    lines = figure.axes[0].lines[:2]
    assert [list(line.get_ydata()) for line in lines] == [[75, 100], [50, 100]]
    assert [line.get_color() for line in lines] == list(draw.BUDGET_COLOURS)


def test_scores_and_differences_go_into_the_metrics(tables):
    kept = {}
    ladder_summary.record_models(
        SimpleNamespace(record=lambda key, *entry: kept.update({key: entry})), made_record("budget", tables)
    )
    assert len(kept) == 4 + 3 and kept["budget_published_alhe_2_steps"][0] == 0.75
    assert kept["budget_published_alhe_2_steps_minus_resnet10t_4_steps"][0] == -0.25
    assert all(n == 8 and low <= value <= high for value, low, high, n in kept.values())


def test_the_committed_record_is_this_studys(root: Path):
    record = records.load_record(root / records.record_file("budget", "pbc_barcelona_128"))
    assert record.table("scores")["arm"].tolist() == [
        name for names in zip(*budget.curves(record), strict=True) for name in names
    ]
    assert set(record.table("rates").groupby("arm").size()) == {len(record.params["rates"])}
    of_ladder = records.load_record(root / records.record_file("ladder", "pbc_barcelona_128"))
    assert record.params["image_size"] == of_ladder.params["image_size"]  # chapter 6: the ladder's cells and rules
    assert record.params["steps"][0] < of_ladder.params["steps"] < record.params["steps"][-1]


def test_every_kind_of_job_runs(canary):
    whole, folder = canary("budget")
    study, tables = whole.study, whole.tables
    assert tables["scores"]["arm"].tolist() == [name_of(arm, n) for n in (2, 4) for arm in study.params.arms]
    assert len(tables["gains"]) == 3 and tables["rates"]["chosen"].sum() == 2
    tests = {job: [row["cell"] for row in rows if row.get("condition") == "test"] for job, rows in whole.rows.items()}
    of_seed = [cells for job, cells in tests.items() if job.endswith("-0") and cells]
    assert len(of_seed) == 4 and all(cells == of_seed[0] for cells in of_seed)  # the same test cells for all
    # Checkpoints of different budgets are in different folders.
    assert len({path.parent for path in folder.glob("*/checkpoints")}) == 2 + 4 * 2
