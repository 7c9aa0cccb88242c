"""The study of explanations: every table of the canary is there, and the checks that must fail do."""

from pathlib import Path

import pytest

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies.explanation import ATTENTION, GRADIENTS, IMAGE, SENSITIVITY, Explanation, ExplanationParams
from leuk_lib.wpat.model import WPAT, parts_of
from leuk_lib.wpat.params import WpatParams


def test_the_parts_cover_every_parameter_once():
    model = WPAT(build_encoder("zepto", 4), 3, WpatParams())
    for name, _ in model.named_parameters():
        assert sum(name.startswith(tuple(prefixes)) for prefixes in parts_of(model).values()) == 1, name


def test_a_fold_of_rendered_cells(canary):
    whole, _ = canary("explanation")
    assert whole.study.waves() == [["fold-0-0", "fold-0-1"]]
    attribution, sanity = whole.tables["attribution"], whole.tables["sanity"]
    assert set(attribution["method"]) == {ATTENTION, GRADIENTS, SENSITIVITY, IMAGE}
    assert set(attribution["region"]) == {"cell", "nucleus"}
    assert attribution["value"].between(0, 1).all()
    value = sanity.set_index(["method", "randomised"])["value"]
    assert value[IMAGE].to_numpy() == pytest.approx([1] * 4)  # it depends on no model, so it must fail the check
    assert value[ATTENTION].iloc[-1] < 0.9
    tested = [row for row in whole.rows["fold-0-0"] if row["fact"] == "answer"]
    assert 90 < len(tested) < 150 and 200 < whole.tables["scores"]["n"].iloc[0] <= 240


def test_cells_without_masks_are_refused(tmp_path: Path, real_data: Path):
    study = Explanation(ExplanationParams(dataset=str(real_data / "cnmc2019")))
    with pytest.raises(LeukError, match="no masks"):
        study.run("fold-0-0", tmp_path, "id")
