"""A chapter as it is downloaded runs by itself: from top to bottom, twice, and each cell once more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from leuk_lib.book.chapters import clean
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.runs.card import stage_state
from leuk_lib.runs.files import sha256_file
from leuk_lib.stages import STAGES, StageSpec

pytestmark = [pytest.mark.notebooks, pytest.mark.long]
RUN = "smear-smoke-s0"


@pytest.fixture(scope="module")
def finished(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a copy of the finished smoke run."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copytree(smoke_run, folder / smoke_run.name)
    return folder


def contents(folder: Path) -> dict[str, Any]:
    """The numbers of a stage, and the hashes of its outputs."""
    card = json.loads((folder / "card.json").read_text())
    numbers = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert card["state"] == "finished"
    assert {name: sha256_file(folder / name) for name in card["outputs"]} == card["outputs"]
    return {"numbers": numbers, "outputs": set(card["outputs"])}


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_a_downloaded_chapter_runs_twice_and_its_cells_again(
    finished: Path, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LEUK_RESULTS", str(finished))
    folder = finished / RUN / spec.name
    before = contents(folder)
    downloaded = json.dumps(clean(json.loads((folder / "notebook.ipynb").read_text())))
    notebook: Any = nbformat.reads(downloaded, as_version=4)  # type: ignore[no-untyped-call]
    code = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    (begin,) = [place for place, (_, cell) in enumerate(code) if "Stage.begin(" in cell.source]
    hollow = nbformat.v4.new_code_cell("stage.finish()")  # type: ignore[no-untyped-call]
    notebook.cells.append(hollow)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3")
    with client.setup_kernel():

        def run(cells: list[tuple[int, Any]], times: int = 1) -> None:
            for index, cell in cells:
                for _ in range(times):
                    client.execute_cell(cell, index)

        run(code[: begin + 1])
        with pytest.raises(CellExecutionError, match="has written and recorded nothing: run all cells"):
            client.execute_cell(hollow, len(notebook.cells) - 1)
        run(code)
        assert contents(folder) == before
        run(code[: begin + 1])
        run(code[begin + 1 :], times=2)
        assert contents(folder) == before
        run([code[(begin + len(code)) // 2]])  # after the end
        assert contents(folder) == before
    assert stage_state(RUN, spec.name, fingerprint) == ("fresh", [])
