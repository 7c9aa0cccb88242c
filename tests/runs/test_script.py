"""A notebook's code as a script: the same parameters, the same cells, for torchrun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.script import run_cells


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one notebook whose stage records what it was given."""
    cells = [
        "dataset = 'smear'\nprofile = 'laptop'\nseed = 0\nrun = 'default'\nthreads = 2\nstages = {}",
        "from leuk_lib.runs.params import StageParams\nfrom leuk_lib.runs.stage import Stage\n"
        "stage = Stage.begin('toy', StageParams, globals())",
        "stage.record('seed', stage.params.seed)\nstage.finish()",
    ]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    notebook = {"cells": [{"cell_type": "code", "source": [cell], "metadata": {}} for cell in cells]}
    (tmp_path / "notebooks" / "01_toy.ipynb").write_text(json.dumps(notebook))
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
