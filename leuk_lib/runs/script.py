"""Run a notebook's code as a script, so that ``torchrun`` can start it in several processes.

``torchrun --nproc-per-node 4 -m leuk_lib.runs.script fcmae -f notebooks/profiles/paper.yml -p run r -p devices 4``

Every process runs the same cells; the first alone keeps the card. The training's checkpoint is the notebook's own, so that
executing the notebook afterwards (``leuk run``) finds the training finished and only draws.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import INJECTED, StageParams, nearest, parse_value


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


def read_parameters(file: Path | None, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a profile's file, then those typed as NAME VALUE; a folder of images by its absolute path.

    Raises ``LeukError`` for a file or a value that is not YAML.
    """
    try:
        values: dict[str, Any] = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file else {}
    except (OSError, yaml.YAMLError) as error:
        raise LeukError(f"{file}: cannot be read ({error})") from error
    for name, text in pairs:
        field = StageParams.model_fields.get(name)
        # What is text stays as it was typed: in YAML "my set #2" ends before the #, and 007 is a number.
        values[name] = text if field and field.annotation is str else parse_value(f"{name} {text}", text)
    # Stages of one run must name the same data set, and `leuk run` names it so.
    if (dataset := str(values.get("dataset", "smear"))) != "smear" and Path(dataset).expanduser().is_dir():
        values["dataset"] = str(Path(dataset).expanduser().resolve())
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("-f", "--parameters_file", type=Path, help="a profile, as for papermill")
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = parser.parse_args()
    try:
        run_cells(given.stage, read_parameters(given.parameters_file, given.parameters))
    except (LeukError, OSError) as error:
        print(f"{given.stage}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
