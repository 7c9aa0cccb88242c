"""Run a notebook's code as a script, in as many processes as its parameter ``devices`` states.

``python -m leuk_lib.runs.script fcmae -f notebooks/profiles/paper.yml -p run r -p devices 4``

On several machines, ``torchrun`` starts the processes, with the same arguments; ``devices`` is then their number. Every
process runs the same cells, and the first writes the card. The checkpoint is that of the notebook: ``leuk run`` finds the
training finished afterwards and only draws the figures.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leuk_lib.runs import paths, processes
from leuk_lib.runs.code import code_cells
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import INJECTED, StageParams, nearest, parse_value
from leuk_lib.runs.threads import prepare_libraries
from leuk_lib.runs.yaml_files import read_plain

SPEAK_LATER = 3.0  # s after which a process other than the first says what is wrong; most often the first has said it


def run_cells(stage: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Execute a stage's notebook with ``parameters`` injected as papermill does, and return its global names.

    Raises:
        LeukError: If there is no such stage.
    """
    notebook = paths.stage_notebooks().get(stage)
    if notebook is None:
        raise LeukError(f"unknown stage {stage!r}; {nearest(stage, paths.stage_notebooks())}")
    defaults, *rest = code_cells(notebook)
    injected = "\n".join([INJECTED, *(f"{name} = {value!r}" for name, value in parameters.items())])
    executed: list[str] = [""]
    # A kernel keeps executed cells in ``In``: Stage.begin distinguishes defaults from injected values by it.
    namespace: dict[str, Any] = {"__name__": "__main__", "In": executed}
    for number, cell in enumerate([defaults, injected, *rest]):
        executed.append(cell)
        exec(compile(cell, f"{notebook.name}[{number}]", "exec"), namespace)
    return namespace


def read_parameters(file: Path | None, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Read the parameters of a profile's file, then those given as ``(name, value)``.

    The path of an image folder becomes absolute, as in ``leuk run``: all stages of a run must name the same data set.

    Raises:
        LeukError: If the file or a value is not YAML.
    """
    values = read_plain(file) if file else {}
    for name, text in pairs:
        field = StageParams.model_fields.get(name)
        # Text stays as typed: in YAML "my set #2" ends before the #, and 007 is a number.
        values[name] = text if field and field.annotation is str else parse_value(f"{name} {text}", text)
    if (dataset := str(values.get("dataset", "smear"))) != "smear" and (folder := paths.user_path(dataset)).is_dir():
        values["dataset"] = str(folder.resolve())
    return values


def processes_asked_for(stage: str, parameters: dict[str, Any]) -> int:
    """Return the parameter ``devices`` of a stage: given, or of the profile's section; 1 if it is neither."""
    sections = parameters.get("stages")
    section = sections.get(stage) if isinstance(sections, dict) else None
    devices = {**(section if isinstance(section, dict) else {}), **parameters}.get("devices", 1)
    return devices if isinstance(devices, int) else 1  # what is wrong with it, the stage says


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("-f", "--parameters_file", type=Path, help="profile, as for papermill")
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    arguments = parser.parse_args()
    prepare_libraries()
    try:
        parameters = read_parameters(arguments.parameters_file, arguments.parameters)
        devices = processes_asked_for(arguments.stage, parameters)
        if devices > 1 and "RANK" not in os.environ:
            return processes.start(devices, "leuk_lib.runs.script", sys.argv[1:])
        run_cells(arguments.stage, parameters)
    except (LeukError, OSError) as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(SPEAK_LATER)
        print(f"{arguments.stage}: {error}", file=sys.stderr, flush=True)
        return error.exit_code if isinstance(error, LeukError) else 1
    except KeyboardInterrupt:
        print(f"{arguments.stage}: stopped; the same command continues", file=sys.stderr, flush=True)
        return processes.STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
