"""Notebooks executed by papermill or Jupyter become part of the run that they made, and of no other."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from book import toys as fake
from leuk_lib.book.adopt import adopt
from leuk_lib.book.gate import check_run
from leuk_lib.runs import card as cards
from leuk_lib.runs import files, paths
from leuk_lib.runs.card import read_card, write_card
from leuk_lib.runs.errors import LeukError

STAGES = (fake.spec("data"), fake.spec("fcmae", ("data",)))
METRICS = {"data": {"cells": 3.0}, "fcmae": {"loss": 0.5}}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A run whose executed notebooks lie elsewhere: those notebooks."""
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path / "a {project}'s"))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    fake.make_project(tmp_path / "a {project}'s", STAGES)
    moved = []
    for stage in STAGES:
        fake.finish_stage(stage, metrics=METRICS[stage.name])
        kept = paths.stage_folder(fake.RUN, stage.name) / "notebook.ipynb"
        moved.append(kept.replace(tmp_path / f"out {stage.name}.ipynb"))
        card = read_card(fake.RUN, stage.name)
        assert card is not None
        write_card(fake.RUN, stage.name, {**card, "executed": None})
    return moved


def change(path: Path, **changes: Any) -> dict[str, Any]:
    """Change the metadata or cells of a notebook file."""
    notebook = files.read_json(path)
    notebook.update(copy.deepcopy(changes))
    files.write_json(path, notebook)
    return notebook


def test_the_gate_names_the_command_and_lets_the_run_pass_after_it(given: list[Path]):
    with pytest.raises(LeukError, match=f"`leuk adopt {fake.RUN} NOTEBOOK.ipynb` adds one"):
        check_run(fake.RUN, STAGES)
    copies = adopt(fake.RUN, given[::-1], STAGES)
    assert [path.parent.name for path in copies] == ["fcmae", "data"] and all(path.exists() for path in given)
    check_run(fake.RUN, STAGES)


def test_a_notebook_written_beside_the_results_is_adopted_there(given: list[Path]):
    beside = paths.stage_folder(fake.RUN, "data") / "notebook.ipynb"
    given[0].replace(beside)
    with pytest.raises(LeukError, match=r"no hash of the executed notebook \(`leuk adopt .*notebook\.ipynb"):
        check_run(fake.RUN, STAGES[:1])
    assert adopt(fake.RUN, [beside], STAGES) == [beside]
    check_run(fake.RUN, STAGES[:1])


def test_injected_parameters_and_an_edited_parameters_cell_may_differ(given: list[Path]):
    notebook = files.read_json(given[0])
    cells = notebook["cells"]
    cells[1]["source"] = "seed = 5"
    cells.insert(2, fake.code_cell("# Parameters\nseed = 5", [], 2, tags=["injected-parameters"]))
    change(given[0], cells=cells)
    adopt(fake.RUN, given, STAGES)
    check_run(fake.RUN, STAGES)


def no_outputs(notebook: dict[str, Any]) -> None:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)


def another_number(notebook: dict[str, Any]) -> None:
    text = json.dumps(notebook["cells"]).replace('"0.5"', '"0.6"')
    notebook["cells"] = json.loads(text)


def another_time(notebook: dict[str, Any]) -> None:
    notebook["metadata"]["papermill"] = {"start_time": "2026-01-01T08:00:00", "end_time": "2026-01-01T08:01:00"}


def another_cell(notebook: dict[str, Any]) -> None:
    notebook["cells"][3]["source"] += "\nprint('mine')"


def no_number(notebook: dict[str, Any]) -> None:
    notebook["cells"][-1]["outputs"] = []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_outputs, "was never executed"),
        (another_number, r"shows fcmae\.loss = 0\.6, but metrics\.json has 0\.5; name the notebook of the execution"),
        (another_time, "was executed at another time"),
        (another_cell, "none of the project's notebooks has these cells"),
        (no_number, "recorded no number of stage fcmae"),
    ],
)
def test_another_notebook_is_refused_and_nothing_is_written(given: list[Path], damage: Any, message: str):
    notebook = files.read_json(given[1])
    damage(notebook)
    files.write_json(given[1], notebook)
    with pytest.raises(LeukError, match=message) as caught:
        adopt(fake.RUN, given, STAGES)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not list(paths.run_folder(fake.RUN).glob("*/*.ipynb"))
    assert not (cards.read_card(fake.RUN, "data") or {}).get("executed")


def test_a_run_without_the_stage_is_refused(given: list[Path]):
    with pytest.raises(LeukError, match="run 'other' has no finished stage data"):
        adopt("other", given, STAGES)
