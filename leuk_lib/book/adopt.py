"""Add notebooks that plain papermill or Jupyter executed to the run that they made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leuk_lib.book.gate import executed_notebook, execution_problem, glue_problem, is_of_card
from leuk_lib.runs import files, paths
from leuk_lib.runs.card import read_card, seal
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.notebooks import RESTORE, read_notebook
from leuk_lib.runs.records import glued_name, read_metrics
from leuk_lib.stages import StageSpec

PARAMETER_TAGS = {"parameters", "injected-parameters"}


def adopt(run: str, notebooks: Sequence[Path], stages: Sequence[StageSpec]) -> list[Path]:
    """Copy executed notebooks into the run's stages, where the book and references need them; all or none.

    Args:
        run: Name of the run.
        notebooks: Executed notebooks, in any order.
        stages: The project's stages.

    Returns:
        The copies.

    Raises:
        LeukError: If a notebook is not one of the project's, was not executed completely, or is not that of the execution
            which wrote the stage's results; with exit code 2.
    """
    found = [(path, _stage_of(path, stages)) for path in notebooks]
    for path, stage in found:
        if problem := _problem(run, stage, read_notebook(path)):
            raise LeukError(f"{path}: {problem}", exit_code=2)
    copies = []
    for path, stage in found:
        target = executed_notebook(run, stage)
        partial = target.with_name(".adopted.ipynb")
        with files.refusals(partial):
            shutil.copyfile(path, partial)
            # As after an execution by `leuk run`: first the hash in the card, then the notebook.
            seal(run, stage.name, partial)
            partial.replace(target)
        copies.append(target)
    return copies


def _stage_of(path: Path, stages: Sequence[StageSpec]) -> StageSpec:
    """Return the stage whose notebook has the same cells but for the parameters."""
    cells = _fixed_cells(read_notebook(path, "name an executed notebook"))
    sources = paths.stage_notebooks()
    for stage in stages:
        if stage.name in sources and _fixed_cells(read_notebook(sources[stage.name], RESTORE)) == cells:
            return stage
    raise LeukError(
        f"{path}: none of the project's notebooks has these cells; execute the notebooks as they are now, and change "
        "parameters only",
        exit_code=2,
    )


def _fixed_cells(notebook: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Kind and source of each cell without those that set parameters."""
    return [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in notebook["cells"]
        if not PARAMETER_TAGS & set(cell.get("metadata", {}).get("tags", []))
    ]


def _problem(run: str, stage: StageSpec, notebook: dict[str, Any]) -> str | None:
    """Return why a notebook is not the one that wrote the stage's results, or None if it is.

    Papermill's clock decides; Jupyter keeps none, and then the numbers that the notebook recorded.
    """
    if problem := execution_problem(notebook):
        return problem
    card = read_card(run, stage.name)
    if card is None or card["state"] != "finished":
        return f"run {run!r} has no finished stage {stage.name}"
    again = f"name the notebook of the execution that wrote {paths.stage_folder(run, stage.name)}"
    if not is_of_card(notebook, card):
        return f"was executed at another time than the card of stage {stage.name} says; {again}"
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    if not any(glued_name(output).startswith(f"{stage.name}.") for output in outputs):
        return f"recorded no number of stage {stage.name}; {again}"
    if problem := glue_problem(stage.name, notebook, read_metrics(paths.stage_folder(run, stage.name))):
        return f"{problem}; {again}"
    return None
