"""Execute one stage's notebook with papermill: the job that Snakemake, a laptop or a cluster runs.

``python -m leuk_lib.runs.execute fcmae --parameters '{"run": "r", …}' --out results/r/fcmae/notebook.ipynb``
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError

PARTIAL = "partial.ipynb"


def execute(stage: str, parameters: dict[str, Any], out: Path) -> float:
    """Run the notebook of ``stage`` and move it to ``out`` when it has succeeded; returns the seconds it took.

    While it runs, and after a failure, what was executed so far is ``partial.ipynb`` beside ``out``.
    Raises ``LeukError`` with the failing cell's last line, or where the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook = paths.stage_notebooks().get(stage)
    if notebook is None:
        raise LeukError(f"stage {stage}: no notebook notebooks/??_{stage}.ipynb")
    partial = out.with_name(PARTIAL)
    partial.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        papermill.execute_notebook(
            notebook,
            partial,
            parameters=parameters,
            kernel_name="python3",
            cwd=paths.project_root(),
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
    except PapermillExecutionError as error:
        raise LeukError(
            f"stage {stage} failed: {error.ename}: {error.evalue} (the notebook so far: {partial})"
        ) from error
    except DeadKernelError as error:
        raise LeukError(
            f"stage {stage} failed: the kernel died (out of memory?); free some memory and run again, "
            f"training continues after its last checkpoint (the notebook so far: {partial})"
        ) from error
    partial.replace(out)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("--parameters", type=json.loads, required=True, help="papermill parameters as JSON")
    parser.add_argument("--out", type=Path, required=True, help="where the executed notebook goes")
    given = parser.parse_args()
    run = given.parameters.get("run", "default")
    print(f"{run}: {given.stage} …", file=sys.stderr, flush=True)
    # The kernel is started by name; the environment that runs this is the one whose kernel is meant.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        seconds = execute(given.stage, given.parameters, given.out.resolve())
    except LeukError as error:
        print(f"{run}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(f"{run}: {given.stage} done in {seconds:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
