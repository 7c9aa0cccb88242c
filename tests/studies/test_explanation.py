"""The study of explanations, run once, small: every table is there, and the checks that must fail do."""

from pathlib import Path

import pytest

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies.explanation import ATTENTION, GRADIENTS, IMAGE, SENSITIVITY, Explanation, ExplanationParams
from leuk_lib.wpat.model import WPAT, parts_of
from leuk_lib.wpat.params import WpatParams

SMALL = {"cells": 240, "image_size": 32, "stem_stride": 1, "folds": 2, "steps": 2, "gradient_steps": 2, "checked": 6, "resamples": 100}  # fmt: skip


def test_the_parts_cover_every_parameter_once():
    model = WPAT(build_encoder("zepto", 4), 3, WpatParams())
    for name, _ in model.named_parameters():
        assert sum(name.startswith(tuple(prefixes)) for prefixes in parts_of(model).values()) == 1, name


def test_a_fold_of_rendered_cells(tmp_path: Path):
    study = Explanation(ExplanationParams(**SMALL))
    assert study.waves() == [["fold-0-0", "fold-0-1"]]
    rows = {"fold-0-0": study.run("fold-0-0", tmp_path, "id")}
    tables = study.tables(rows)
    attribution, sanity = tables["attribution"], tables["sanity"]
    assert set(attribution["method"]) == {ATTENTION, GRADIENTS, SENSITIVITY, IMAGE}
    assert set(attribution["region"]) == {"cell", "nucleus"}
    assert attribution["value"].between(0, 1).all()
    value = sanity.set_index(["method", "randomised"])["value"]
    assert value[IMAGE].to_numpy() == pytest.approx([1] * 4)  # it knows no model, so it must fail the check
    assert value[ATTENTION].iloc[-1] < 0.9
    n = tables["scores"]["n"].iloc[0]
    assert n == len([row for row in rows["fold-0-0"] if row["fact"] == "answer"])
    assert 90 < n < 150


def test_cells_without_masks_are_refused(tmp_path: Path, real_data: Path):
    study = Explanation(ExplanationParams(**SMALL | {"dataset": str(real_data / "cnmc2019")}))
    with pytest.raises(LeukError, match="no masks"):
        study.run("fold-0-0", tmp_path, "id")
