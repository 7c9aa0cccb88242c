"""A notebook's code as a script: the same parameters, the same cells, for torchrun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.script import read_parameters, run_cells
from project import toy_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one notebook whose stage records what it was given."""
    toy_project(
        tmp_path,
        "dataset = 'smear'\nprofile = 'laptop'\nseed = 0\nrun = 'default'\nthreads = 2\nstages = {}",
        "from leuk_lib.runs.params import StageParams\nfrom leuk_lib.runs.stage import Stage\n"
        "stage = Stage.begin('toy', StageParams, globals())",
        "stage.record('seed', stage.params.seed)\nstage.finish()",
    )
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / "results"))
    return tmp_path


def test_cells_run_with_injected_parameters(project: Path):
    run_cells("toy", {"run": "r", "seed": 5})
    metrics = json.loads((project / "results" / "r" / "toy" / "metrics.json").read_text())
    assert metrics["metrics"]["seed"] == {"value": 5}


def test_only_the_first_process_keeps_the_card(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    run_cells("toy", {"run": "r"})
    assert not (project / "results" / "r" / "toy" / "card.json").exists()


def test_an_unknown_stage_or_parameter_is_named(project: Path):
    with pytest.raises(LeukError, match="unknown stage 'tyo'; did you mean 'toy'"):
        run_cells("tyo", {})
    with pytest.raises(LeukError, match="unknown parameter 'sede'"):
        run_cells("toy", {"sede": 1})


def test_a_folder_is_named_by_its_absolute_path_as_leuk_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my set #2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_parameters(None, [("dataset", "my set #2")]) == {"dataset": str(tmp_path.resolve() / "my set #2")}
    assert read_parameters(None, [("dataset", "smear")]) == {"dataset": "smear"}


def test_text_stays_as_it_was_typed_and_a_damaged_value_or_file_is_named(tmp_path: Path):
    profile = tmp_path / "own.yml"
    profile.write_text("profile: smoke\nseed: 1\n")
    pairs = [("run", "007"), ("seed", "2"), ("scales", "[4, 8]")]
    assert read_parameters(profile, pairs) == {"profile": "smoke", "seed": 2, "run": "007", "scales": [4, 8]}
    with pytest.raises(LeukError, match="the value is not YAML"):
        read_parameters(None, [("scales", "[4, 8")])
    profile.write_text("stages: {")
    with pytest.raises(LeukError, match=r"own\.yml: cannot be read"):
        read_parameters(profile, [])
