"""Strict parameters: a mistyped name or value is an error in one line before any work starts."""

from __future__ import annotations

import pytest
from pydantic import Field

from leuk_lib.data.params import DataParams
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams, check, from_namespace, parse_value
from leuk_lib.stages import STAGES


class Toy(StageParams):
    epochs: int = Field(10, ge=1, le=100, description="passes over the data")
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="fraction of patches hidden")
    scales: tuple[int, ...] = Field((8, 16), description="strides, px")


KNOWN = ["toy", "other"]


def read(cells: list[str], **values: object) -> Toy:
    """Return the parameters of a notebook after these cells were executed."""
    return from_namespace("toy", Toy, {"In": ["", *cells, "stage = …"], **values}, KNOWN)


def test_defaults_then_profile_section_then_injected_name_win():
    defaults = "epochs = 10\nmask_ratio = 0.6\nstages = {}"
    assert read([defaults], epochs=10, mask_ratio=0.6, stages={}).epochs == 10
    injected = '# Parameters\nstages = {"toy": {"epochs": 2, "mask_ratio": 0.5}}\nepochs = 3'
    params = read([defaults, injected], epochs=3, mask_ratio=0.6, stages={"toy": {"epochs": 2, "mask_ratio": 0.5}})
    assert (params.epochs, params.mask_ratio) == (3, 0.5)


def test_unknown_name_that_papermill_injected_is_an_error_with_the_nearest_name():
    with pytest.raises(LeukError, match=r"unknown parameter 'epohcs' \(value 3\); did you mean 'epochs'\?"):
        read(["epochs = 10", "# Parameters\nepohcs = 3"], epochs=10, epohcs=3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", "3", "epochs = '3': input should be a valid integer"),
        ("epochs", 0, "epochs = 0: input should be greater than or equal to 1 .passes over the data."),
        ("epochs", True, "epochs = True: input should be a valid integer"),
        ("mask_ratio", 1.0, "mask_ratio = 1.0: input should be less than 1"),
        ("mask_ratio", float("nan"), "mask_ratio = nan"),
        ("run", "../up", "run = '../up'"),
        ("seed", -1, "seed = -1"),
        ("profile", "huge", "profile = 'huge': input should be 'smoke', 'laptop', 'gpu' or 'paper'"),
    ],
)
def test_wrong_values_are_named(name: str, value: object, message: str):
    with pytest.raises(LeukError, match=message):
        check("toy", Toy, {name: value})


def test_lists_from_yaml_become_tuples_and_models_are_frozen():
    params = check("toy", Toy, {"scales": [4, 8]})
    assert params.scales == (4, 8)
    with pytest.raises(ValueError, match="frozen"):
        params.epochs = 3  # type: ignore[misc]


def test_a_profile_without_its_values_is_refused():
    with pytest.raises(LeukError, match=r"add -f notebooks/profiles/smoke.yml"):
        read(["epochs = 10", '# Parameters\nprofile = "smoke"'], epochs=10, profile="smoke")


def test_an_unknown_stage_in_a_profile_is_named():
    with pytest.raises(LeukError, match="unknown stage 'tyo'; did you mean 'toy'"):
        read(["epochs = 1\nstages = {}"], epochs=1, stages={"tyo": {}})


def test_other_stages_sections_are_left_alone():
    assert read(["epochs = 1\nstages = {}"], epochs=1, stages={"other": {"x": 1}}).epochs == 1


def test_outside_a_notebook_plain_public_names_count():
    params = from_namespace("toy", Toy, {"epochs": 4, "_private": 1, "module": pytest, "__name__": "x"}, KNOWN)
    assert params.epochs == 4


FIRST = "# Parameters of this stage\nseed = 0\nepochs = 10\nstages = {}"
BEGIN = "stage = Stage.begin('toy', Toy, globals())"


def test_the_first_cells_may_be_run_again_after_the_chapters_own():
    work = "model = build(stage)\nlosses = []"
    rerun = read(
        [FIRST, BEGIN, work, "seed = 1\nepochs = 10\nstages = {}"], seed=1, epochs=10, stages={}, stage=0, model=0
    )
    assert rerun.seed == 1
    alone = read([FIRST, BEGIN, work], seed=0, epochs=7, stages={}, stage=0, model=0, losses=[])
    assert alone.epochs == 7


def test_a_mistyped_name_is_an_error_until_its_cell_is_corrected():
    wrong = "seed = 0\nepohcs = 10"
    assert read([wrong, BEGIN, FIRST], seed=0, epochs=10, epohcs=10, stages={}).epochs == 10
    with pytest.raises(LeukError, match="unknown parameter 'epohcs'"):
        read([wrong, BEGIN], seed=0, epohcs=10)
    with pytest.raises(LeukError, match="unknown parameter 'epohcs'"):
        read([FIRST, BEGIN, wrong], seed=0, epochs=10, epohcs=10, stages={})


def test_an_injected_cell_run_again_still_overrides_the_profile():
    sections = {"toy": {"epochs": 2}}
    injected = f"# Parameters\nstages = {sections}\nepochs = 3"
    assert read([FIRST, injected, BEGIN, injected], seed=0, epochs=3, stages=sections).epochs == 3


def test_a_value_that_is_not_yaml_is_one_line():
    assert parse_value("x=[1, 2]", "[1, 2]") == [1, 2]
    with pytest.raises(LeukError, match=r"setting 'x=\{a: b': the value is not YAML \(expected ',' or '\}'"):
        parse_value("x={a: b", "{a: b")
    for text in ("\x01", "[" * 5000, "x" * (1 << 21)):
        with pytest.raises(LeukError, match="the value is not YAML") as caught:
            parse_value(f"x={text}", text)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_parameter_of_any_stage_takes_nan_or_infinity(value: float):
    for spec in STAGES:
        model = spec.params_model()
        for name in model.model_fields:
            for given in (value, (value, 0.5, 0.5), {"x": value}):
                with pytest.raises(LeukError, match=f"parameter {name}"):
                    check(f"stage {spec.name}", model, {name: given})


def test_values_of_one_profile_under_the_name_of_another_are_refused(root):
    import yaml

    sections = yaml.safe_load((root / "notebooks" / "profiles" / "smoke.yml").read_text())["stages"]
    cells = ["epochs = 10", '# Parameters\nprofile = "paper"\nstages = {}']
    with pytest.raises(
        LeukError, match=r"profile 'paper' was named, but the values are those of notebooks/profiles/smoke.yml"
    ):
        from_namespace(
            "data", DataParams, {"In": ["", *cells, "Stage.begin("], "profile": "paper", "stages": sections}, sections
        )


def test_a_second_cell_with_parameters_does_not_undo_the_injected_ones():
    with pytest.raises(LeukError, match=r"parameter 'epochs' is set once more after the injected parameters"):
        read(["epochs = 10", "# Parameters\nepochs = 3", "epochs = 10"], epochs=10)
