"""Runs of plain papermill and of Jupyter in a folder with an odd name are as good as those of `leuk run`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leuk_lib.book.adopt import adopt
from leuk_lib.book.gate import chapter_problem
from leuk_lib.runs.card import read_card
from leuk_lib.stages import STAGES
from project import copy_stage_files

pytestmark = [pytest.mark.notebooks, pytest.mark.long]

VALUES = {"run": "mine", "cells": 60, "patients": 3, "image_size": 40}  # of stage data


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / """a {b} "c" d's %e"""
    shutil.copytree(root / "notebooks", folder / "notebooks")
    for name in ("_config.yml", "requirements.lock"):
        shutil.copy(root / name, folder / name)
    copy_stage_files(root, folder)
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    monkeypatch.delenv("LEUK_ROOT", raising=False)
    return folder


def execute(project: Path, *command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=os.environ | {"PATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_papermill_and_nbconvert(project: Path, monkeypatch: pytest.MonkeyPatch):
    parameters = [word for name, value in VALUES.items() for word in ("-p", name, str(value))]
    execute(project, "papermill", "notebooks/01_data.ipynb", "it's out.ipynb", "-k", "python3", *parameters)
    source = project / "notebooks" / "01_data.ipynb"
    notebook = json.loads(source.read_text())
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    lines = "".join(cell["source"]).splitlines()
    changed = {**VALUES, "run": "jupyter"}
    cell["source"] = "\n".join(
        f"{name} = {changed[name]!r}" if (name := line.partition(" =")[0]) in changed else line for line in lines
    )
    (project / "edited 01_data.ipynb").write_text(json.dumps(notebook))
    execute(project, "jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace", "edited 01_data.ipynb")
    monkeypatch.setenv("LEUK_ROOT", str(project))
    for run, executed in {"mine": "it's out.ipynb", "jupyter": "edited 01_data.ipynb"}.items():
        card = read_card(run, "data")
        assert card and card["state"] == "finished" and card["params"]["image_size"] == 40
        adopt(run, [project / executed], STAGES)
        assert chapter_problem(run, STAGES[0]) is None
