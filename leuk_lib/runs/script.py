"""Run a notebook's code as a script, so that ``torchrun`` can start it in several processes.

``torchrun --nproc-per-node 4 -m leuk_lib.runs.script fcmae -f notebooks/profiles/paper.yml -p run r -p devices 4``

Every process runs the same cells; the first alone keeps the card. The training's checkpoint is the notebook's own, so that
executing the notebook afterwards (``leuk run``) finds the training finished and only draws.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import INJECTED, nearest


def code_cells(notebook: Path) -> list[str]:
    """Sources of the code cells, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cells(stage: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Execute the cells of the stage's notebook with ``parameters`` injected as papermill does; returns its names."""
    notebook = paths.stage_notebooks().get(stage)
    if notebook is None:
        raise LeukError(f"unknown stage {stage!r}; {nearest(stage, paths.stage_notebooks())}")
    defaults, *rest = code_cells(notebook)
    injected = "\n".join([INJECTED, *(f"{name} = {value!r}" for name, value in parameters.items())])
    executed: list[str] = [""]
    # ``In`` is what a kernel keeps: Stage.begin tells the notebook's defaults from injected values by it.
    namespace: dict[str, Any] = {"__name__": "__main__", "In": executed}
    for number, cell in enumerate([defaults, injected, *rest]):
        executed.append(cell)
        exec(compile(cell, f"{notebook.name}[{number}]", "exec"), namespace)
    return namespace


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("-f", "--parameters_file", type=Path, help="a profile, as for papermill")
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = parser.parse_args()
    try:
        from_file = yaml.safe_load(given.parameters_file.read_text(encoding="utf-8")) if given.parameters_file else {}
        run_cells(given.stage, {**from_file, **{name: yaml.safe_load(value) for name, value in given.parameters}})
    except (LeukError, OSError) as error:
        print(f"{given.stage}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
