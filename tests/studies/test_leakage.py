"""The study of leakage: how cells are split, what generators see, and tables with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.data.splits import k_folds
from leuk_lib.figures import leakage as figures
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies.generators import GAN, SMOTE, nearest_group, smote
from leuk_lib.studies.leakage import (
    ALIKE,
    DIFFER,
    GROUPED,
    RANDOM,
    REAL,
    Cells,
    Leakage,
    LeakageParams,
    _Synthesis,
    arms_of,
    comparisons,
    inflation_table,
    leaking,
    metric_key,
    units_of,
)  # fmt: skip
from leuk_lib.studies.paired import MODELS, with_model_names
from leuk_lib.studies.record import load_record, record_file
from leuk_lib.studies.study import Row

SMALL = {
    "seeds": (0, 1), "cells": 120, "patients": 4, "folds": 2, "steps": 1, "batch_size": 8, "gan_steps": 1, "gan_width": 4,
    "resamples": 100,
}  # fmt: skip


def test_every_step_compares_two_arms_that_differ_by_one_thing():
    arms = {arm.name: arm for arm in arms_of((SMOTE, GAN))}
    for name, against in comparisons((SMOTE, GAN)):
        assert name in arms and against in arms
    honest = [arm for arm in arms.values() if not arm.random and arm.trained_on != "all"]
    assert {arm.name for arm in honest} == {GROUPED, f"{SMOTE} of training cells", f"{GAN} of training cells"}


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 99))
def test_smote_lies_between_two_cells_of_its_class(each, count, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(2 * each) % 2
    images = torch.randint(0, 100, (2 * each, 3, 2, 2), generator=random, dtype=torch.uint8)
    images[labels == 1] += 150
    synthetic, synthetic_labels = smote(images, labels, torch.tensor([count, 1]), seed)
    assert synthetic_labels.tolist() == [0] * count + [1]
    for sample in synthetic[synthetic_labels == 0].float():
        of_class = images[labels == 0].float()
        a, b = torch.combinations(torch.arange(each), 2).T
        low, high = torch.minimum(of_class[a], of_class[b]), torch.maximum(of_class[a], of_class[b])
        assert bool(((sample >= low - 0.51) & (sample <= high + 0.51)).flatten(1).all(dim=1).any())
    assert torch.equal(smote(images, labels, torch.tensor([count, 1]), seed)[0], synthetic)


def test_smote_of_a_class_without_cells_is_refused_and_of_one_copies_it():
    images, labels = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
    assert smote(images, labels, torch.tensor([2]), 0)[0].unique().tolist() == [7]
    with pytest.raises(LeukError, match="class number 1"):
        smote(images, labels, torch.tensor([1, 1]), 0)
    assert len(smote(images, labels, torch.tensor([0]), 0)[0]) == 0


def _cells(n=24):
    """Cells that differ in colour: pixel value 10 * number."""
    images = (10 * torch.arange(n, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(n, 3, 32, 32).contiguous()
    return Cells(images, torch.arange(n) % 2, torch.arange(n) // 4, 2)


def test_a_generator_of_training_cells_never_sees_the_others(tmp_path: Path):
    cells = _cells()
    train = torch.arange(0, 12)
    synthesis = _Synthesis(LeakageParams(**SMALL), cells, 0, tmp_path, "id")
    made, names = synthesis.make(SMOTE, train, 0, train)
    assert names.bincount().tolist() == [6, 6] and int(made.max()) <= 110
    everything, again = synthesis.make(SMOTE, None, 0, train)
    assert again.bincount().tolist() == [6, 6]  # as many, so that only what it saw differs
    assert int(everything.max()) > 110


def test_synthetic_cells_belong_to_the_nearest_cells_group():
    cells = _cells()
    made = cells.images[[3, 9]] + 1
    assert nearest_group(cells.images, cells.labels, cells.groups, made, cells.labels[[3, 9]]).tolist() == [0, 2]
    whole = cells.join(made, cells.labels[[3, 9]])
    assert len(whole.images) == len(whole.groups) == 26 and whole.groups[-2:].tolist() == [0, 2]


def _row(arm: str, seed: int, condition: str, right: str) -> Row:
    cells = [str(k) for k in range(len(right))]
    return {
        "arm": arm, "seed": seed, "condition": condition, "right": right, "cell": ",".join(cells),
        "group": ",".join(cells), "label": ",".join(str(k % 2) for k in range(len(right))),
    }  # fmt: skip


def test_tables_hold_the_known_answers():
    study = Leakage(LeakageParams(**SMALL))
    rows: dict[str, list[Row]] = {"cells": [{"cohort": DIFFER, "cells": 4}]}
    right = {
        GROUPED: "1000", RANDOM: "1110", "SMOTE of training cells": "1001", "SMOTE of all cells": "1101",
        "SMOTE before the split": "111111",
    }  # fmt: skip
    for seed in (0, 1):
        for model in ("colour", "test_resnet"):
            rows[f"a-{seed}-{model}"] = [_row(arm, seed, f"{DIFFER}, {model}", text) for arm, text in right.items()]
            rows[f"b-{seed}-{model}"] = [_row(arm, seed, f"{ALIKE}, {model}", "1100") for arm in (GROUPED, RANDOM)]
    tables = study.tables(rows)
    inflation = tables["inflation"].set_index(["condition", "arm", "against"])["value"]
    condition = f"{DIFFER}, colour"
    assert inflation[condition, RANDOM, GROUPED] == pytest.approx(0.5)
    assert inflation[condition, "SMOTE of training cells", GROUPED] == pytest.approx(0.25)
    assert inflation[condition, "SMOTE of all cells", "SMOTE of training cells"] == pytest.approx(0.25)
    assert inflation[condition, "SMOTE before the split", RANDOM] == pytest.approx(0.25)
    assert inflation[f"{ALIKE}, colour", RANDOM, GROUPED] == 0
    assert len(tables["inflation"]) == 2 * 5 + 2
    only = leaking(tables["inflation"])
    assert "SMOTE of training cells" not in set(only["arm"]) and len(only) == 2 * 4 + 2
    readable = inflation_table(tables["inflation"])
    assert len(readable) == len(only) and "+50.0" in readable.iloc[0, 3]
    alike = readable[readable["cells, model"] == f"{ALIKE}, colour"].iloc[0]
    assert alike["verdict"] == "inconclusive" and alike.iloc[3].startswith("+0.0")
    named = with_model_names(tables["inflation"])
    assert {name.split(", ")[1] for name in named["condition"]} == set(MODELS.values())
    figures.leakage({"toy": tables["inflation"], "again": tables["inflation"]}).canvas.draw()


def test_a_cohort_and_a_seed_run_and_are_reproducible(canary):
    whole, folder = canary("leakage")
    assert whole.study.waves()[1] == ["slides-differ-0", "slides-alike-0", "slides-differ-1", "slides-alike-1"]
    assert [row["cells"] for row in whole.rows["cells"]] == [100, 100]
    rows = whole.rows["slides-alike-0"]
    assert {row["arm"] for row in rows} == {GROUPED, RANDOM} and len(rows) == 4
    for row in rows:
        cells = row["cell"].split(",")
        assert len(cells) == len(set(cells)) == len(row["right"]) <= 100
    again = whole.study.run("slides-alike-0", folder, "canary")
    assert [row["right"] for row in again] == [row["right"] for row in rows]
    assert not (folder / "slides-alike-0" / "checkpoints").exists()


def test_the_grouped_arms_keep_groups_together_and_the_random_ones_do_not():
    cells = _cells()
    for arm in arms_of((SMOTE, GAN)):
        fold = k_folds(cells.labels.numpy(), units_of(arm, cells), 3, 0)[0]
        parts = [len(np.unique(fold[cells.groups.numpy() == group])) for group in range(6)]
        assert (max(parts) > 1) == (arm.name == RANDOM or arm.pooled)


def test_an_unknown_generator_is_refused():
    with pytest.raises(ValueError, match="unknown generator 'VAE'; allowed: SMOTE, GAN"):
        LeakageParams(**SMALL | {"generators": ("VAE",)})


def test_keys_of_metrics_are_plain_and_differ():
    rows = [{"condition": f"{DIFFER}, colour", "arm": a, "against": b} for a, b in comparisons((SMOTE, GAN))]
    keys = [metric_key("smear", row) for row in rows]
    assert (
        len(set(keys)) == len(keys)
        and keys[0] == "inflation_smear_slides_differ_colour_random_split_over_grouped_split"
    )


# -- what chapter 7 says of the committed records ----------------------------------------------------------------


def test_a_random_split_gains_nothing_where_patients_do_not_differ_or_are_unknown(root: Path):
    records = {data: load_record(root / record_file("leakage", data)) for data in ("smear", "pbc_barcelona_128")}
    for data, cohort in (("smear", ALIKE), ("pbc_barcelona_128", REAL)):
        inflation = records[data].table("inflation")
        split = inflation[(inflation["arm"] == RANDOM) & inflation["condition"].str.startswith(cohort)]
        assert len(split) == 2 and (split["low"] < 0).all() and (split["high"] > 0).all()
        assert (split["value"].abs() < 0.02).all()  # "nearly the same"
    differ = records["smear"].table("inflation").query("arm == @RANDOM").iloc[:2]
    assert differ["condition"].str.startswith(DIFFER).all() and (differ["low"] > 0).all()
    assert all(record.params["generators"] == [SMOTE] for record in records.values())
