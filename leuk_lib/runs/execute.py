"""Execute one stage's notebook with papermill. This is the job that Snakemake starts on a laptop or a cluster.

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
from leuk_lib.runs.threads import wait_passively

PARTIAL = "partial.ipynb"


def execute(stage: str, parameters: dict[str, Any], out: Path) -> float:
    """Execute the notebook of ``stage`` and write it to ``out`` if it succeeds.

    While it runs, and after a failure, the cells executed so far are in ``partial.ipynb`` next to ``out``.

    Returns:
        The time it took, in seconds.

    Raises:
        LeukError: If the stage has no notebook, a cell fails (with the error of that cell), or the kernel dies.
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
        raise LeukError(f"stage {stage} failed: {error.ename}: {error.evalue} (notebook so far: {partial})") from error
    except DeadKernelError as error:
        raise LeukError(
            f"stage {stage} failed: the kernel died (out of memory?); free some memory and run again: "
            f"training continues from its last checkpoint (notebook so far: {partial})"
        ) from error
    partial.replace(out)
    return time.perf_counter() - start


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("--parameters", type=json.loads, required=True, help="papermill parameters as JSON")
    parser.add_argument("--out", type=Path, required=True, help="file of the executed notebook")
    arguments = parser.parse_args()
    run = arguments.parameters.get("run", "default")
    print(f"{run}: {arguments.stage} …", file=sys.stderr, flush=True)
    wait_passively()
    # Start the kernel of the environment that runs this module.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        seconds = execute(arguments.stage, arguments.parameters, arguments.out.resolve())
    except LeukError as error:
        print(f"{run}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(f"{run}: {arguments.stage} done in {seconds:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
