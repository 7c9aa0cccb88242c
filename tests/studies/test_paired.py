"""Paired arms: differences and their intervals by hand, and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from leuk_lib.statistics.intervals import clopper_pearson
from leuk_lib.statistics.significance import t_corrected
from leuk_lib.studies import paired

BASE = {"none": "none", "ours": "none"}


def outcomes(
    rights: dict[str, list[list[int]]],
    cells: list[list[int]],
    labels: list[str],
    condition: str = "same",
    patient: int = 1,
):
    """Arm -> a list of hits a seed; ``cells``: which cells each seed tests; ``labels``: of every cell.

    patient: cells that a patient has.
    """
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "condition": condition,
            "cell": cell,
            "group": cell // patient,
            "label": labels[cell],
            "right": hit,
        }
        for arm, seeds in rights.items()
        for seed, hits in enumerate(seeds)
        for cell, hit in zip(cells[seed], hits, strict=True)
    ]
    return paired.Outcomes(pd.DataFrame(rows), 500, 0)


def test_balanced_accuracy_and_difference_by_hand():
    # Seed 0: class a 1/2, class b 1/1 -> .75; seed 1: a 1/1, b 0/2 -> .5. Ours: 1 and .75.
    cells, labels = [[0, 1, 2], [3, 4, 5]], ["a", "a", "b", "a", "b", "b"]
    scored = outcomes({"none": [[1, 0, 1], [1, 0, 0]], "ours": [[1, 1, 1], [1, 1, 0]]}, cells, labels)
    table = paired.scores(scored).set_index("arm")
    assert table.at["none", "value"] == pytest.approx(0.625) and table.at["ours", "value"] == pytest.approx(0.875)
    assert table.at["none", "n"] == 6 and table.at["none", "groups"] == 6 and table.at["none", "seeds"] == 2
    row = paired.differences(scored, BASE, 2 / 7).iloc[0]
    assert row["value"] == pytest.approx(0.25) and row["low"] <= 0.25 <= row["high"]
    # Both seeds gain the same quarter: their variance is unknown, and so is p.
    assert math.isnan(row["p"])


@pytest.mark.parametrize("patient", [1, 8])
def test_p_is_nadeau_and_bengios_over_the_splits(patient: int):
    rng = np.random.default_rng(0)
    cells = [list(range(k * 40, k * 40 + 40)) for k in range(5)]
    labels = ["ab"[k % 2] for k in range(200)]
    none = [rng.integers(0, 2, 40).tolist() for _ in range(5)]
    ours = [[int(hit or rng.random() < 0.3) for hit in hits] for hits in none]
    scored = outcomes({"none": none, "ours": ours}, cells, labels, patient=patient)
    by_seed = scored.measured("same").by_seed
    row = paired.differences(scored, BASE, 2 / 7).iloc[0]
    assert row["p"] == pytest.approx(t_corrected(by_seed["ours"], by_seed["none"], 2 / 7).p)
    if patient == 1:
        assert row["low"] > 0 and paired.verdict(row["low"], row["high"]) == "helps"


def test_another_source_is_no_split_and_gets_no_p():
    hits = np.random.default_rng(0).integers(0, 2, (2, 4, 30)).tolist()
    scored = outcomes({"none": hits[0], "ours": hits[1]}, [list(range(30))] * 4, ["ab"[k % 2] for k in range(30)])
    assert math.isnan(paired.differences(scored, BASE, 2 / 7).iloc[0]["p"])


def test_the_same_arm_twice_differs_by_no_more_than_none_of_as_many_cells_as_groups():
    hits = np.random.default_rng(1).integers(0, 2, (3, 50)).tolist()
    scored = outcomes({"none": hits, "ours": hits}, [list(range(50))] * 3, ["abc"[k % 3] for k in range(50)])
    row = paired.differences(scored, BASE, 2 / 7).iloc[0]
    assert row["value"] == 0 and row["low"] == -row["high"]
    assert row["high"] == pytest.approx(clopper_pearson(0, 48)[1])  # three classes, the smallest of 16 groups


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Crossed effects of seeds and cells, true difference .1: the 95 % interval covers it in at least 35 of 40."""
    covered = 0
    for trial in range(40):
        rng = np.random.default_rng(trial)
        cells = [rng.choice(150, 60, replace=False).tolist() for _ in range(5)]
        ease, luck = rng.normal(0, 0.15, 150), rng.normal(0, 0.03, (2, 5))
        rights = {
            arm: [(rng.random(60) < 0.55 + gain + ease[cells[s]] + luck[a, s]).astype(int).tolist() for s in range(5)]
            for a, (arm, gain) in enumerate((("none", 0.0), ("ours", 0.1)))
        }
        scored = outcomes(rights, cells, ["a"] * 150)
        row = paired.unadjusted(scored, BASE, 2 / 7).iloc[0]
        covered += bool(row["low"] <= 0.1 <= row["high"])
    assert covered >= 35


def test_as_people_read_it():
    table = pd.DataFrame(
        {
            "condition": ["same", "dark"], "arm": "ours", "against": "none", "value": [0.012, -0.3],
            "low": [-0.01, -0.4], "high": [0.03, -0.2], "p": [0.2, np.nan], "p_holm": [0.2, np.nan],
        }
    )  # fmt: skip
    read = paired.read_differences(table)
    assert read["test images"].tolist() == ["same", "dark"]
    assert read["ours − none"].tolist() == ["+1.2 [-1.0, +3.0], p 0.2", "-30.0 [-40.0, -20.0]"]
    sentence = paired.summary(table)
    assert "ours against none" in sentence and "harms in 1 (dark); inconclusive in 1" in sentence
    kept = {}

    class Stage:
        def record(self, key: str, value: float, low: float, high: float, n: int) -> None:
            kept[key] = (value, low, high, n)

    paired.record_differences(Stage(), table, pd.DataFrame({"condition": ["same", "dark"], "n": [7, 9]}))
    assert kept == {"gain_ours_same": (0.012, -0.01, 0.03, 7), "gain_ours_dark": (-0.3, -0.4, -0.2, 9)}
    kept.clear()
    both = pd.concat([table, table.assign(against="nobody", value=0.5)], ignore_index=True)
    paired.record_differences(Stage(), both, pd.DataFrame({"condition": ["same", "dark"], "n": [7, 9]}))
    assert set(kept) == {f"gain_ours_over_{other}_{on}" for other in ("none", "nobody") for on in ("same", "dark")}
