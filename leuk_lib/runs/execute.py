"""Execute one stage's notebook with papermill. This is the job that Snakemake starts on a laptop or a cluster.

``python -m leuk_lib.runs.execute fcmae --parameters '{"run": "r", …}' --out results/r/fcmae/notebook.ipynb``
"""

from __future__ import annotations

import _thread
import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from leuk_lib.quoting import papermill_path
from leuk_lib.runs import card, code, files, lock, paths, progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.processes import ENDED, STOPPED
from leuk_lib.runs.schedule import PROGRESS, Plan
from leuk_lib.runs.stage import LOCK as WRITER
from leuk_lib.runs.threads import prepare_libraries

PARTIAL = "partial.ipynb"
CHECK_EVERY = 0.5  # s between two looks for a request to stop
CALLER = "LEUK_CALLER"  # environment variable: what the `leuk run` that starts stages wrote into the results' lock


def execute(stage: str, parameters: dict[str, Any], out: Path) -> float:
    """Execute the notebook of ``stage`` and write it to ``out`` if it succeeds.

    While it runs, and after a failure, the cells executed so far are in ``partial.ipynb`` next to ``out``. What it does
    is shown in the terminal (``runs.progress``). If a stop is requested, a running training writes a checkpoint first.

    Returns:
        The time it took, in seconds.

    Raises:
        LeukError: If the stage has no notebook, a cell fails (with the error of that cell), the kernel dies, or a stop
            was requested (exit code 130).
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook = paths.stage_notebooks().get(stage)
    if notebook is None:
        raise LeukError(f"stage {stage}: no notebook notebooks/??_{stage}.ipynb")
    if (tagged := code.tagged_cells(notebook, "parameters")) > 1:
        raise LeukError(
            f"{notebook}: {tagged} cells have the tag 'parameters'; papermill sets the parameters after the first, and the "
            "others would undo that: keep one"
        )
    partial = out.with_name(PARTIAL)
    run = parameters.get("run", "default")
    handle = lock.hold(partial.parent, lock.NOTEBOOK_LOCK, f"the notebook of stage {stage} in {partial.parent}")
    _refuse_second_writer(run, stage, partial.parent)
    start = time.perf_counter()
    state = partial.with_name(PROGRESS)
    with files.refusals(state):
        state.write_bytes(b"")
        progress.forget(state, progress.JOB)
    named = {progress.PROGRESS: str(state)}  # for the kernel, which inherits the environment
    stop = Path(os.environ.get(progress.STOP) or partial.with_name("stop"))
    if progress.STOP not in os.environ:  # not started by `leuk run`
        stop.unlink(missing_ok=True)
        named[progress.STOP] = str(stop)
    plan = Plan.from_environment()
    monitor = progress.Monitor(state, f"{run}: {stage}", time_left=plan.time_left if plan else None)
    drawn = plan is not None and sys.stderr.isatty()  # by `leuk run`, for all stages
    shown = nullcontext() if drawn else progress.shown(monitor)
    try:
        with files.refusals(partial), progress.environment(named), shown, _stoppable(monitor):
            papermill.execute_notebook(
                papermill_path(notebook),
                papermill_path(partial),
                parameters=parameters,
                kernel_name="python3",
                cwd=paths.project_root(),
                progress_bar=False,
                extra_arguments=["--IPKernelApp.log_level=50"],
                kernel_manager_class=_manager_of_kernels_that_inherit(handle),
            )
    except KeyboardInterrupt as error:
        raise LeukError(f"stage {stage} stopped; the same command runs it again", STOPPED) from error
    except PapermillExecutionError as error:
        if error.ename == "SystemExit" and error.evalue in map(str, ENDED):
            done = monitor.read() or {}
            raise LeukError(
                f"stage {stage} stopped: {done.get('what')} at step {done.get('step')} of {done.get('total')}, saved; the "
                "same command continues from there",
                STOPPED,
            ) from error
        raise LeukError(f"stage {stage} failed: {error.ename}: {error.evalue} (notebook so far: {partial})") from error
    except DeadKernelError as error:
        if stop.exists():  # a signal to all processes of a job ends a kernel that does not train
            raise LeukError(f"stage {stage} stopped; the same command runs it again", STOPPED) from error
        raise LeukError(
            f"stage {stage} failed: the kernel died (out of memory?); free some memory and run again: "
            f"training continues from its last checkpoint (notebook so far: {partial})"
        ) from error
    finally:
        progress.forget(state, "", progress.JOB)
    # The card, which the kernel has written, gets the notebook's hash before the notebook gets its name: whatever is
    # interrupted here, the book never shows a notebook that does not fit its card.
    card.seal(run, stage, partial)
    with files.refusals(out):
        partial.replace(out)
    lock.release(partial.parent, lock.NOTEBOOK_LOCK)
    return time.perf_counter() - start


def _refuse_second_writer(run: str, stage: str, folder: Path) -> None:
    """Raise ``LeukError`` if another process writes ``folder`` or is about to.

    ``leuk run`` signs the results' lock before it looks for processes that an earlier, killed call has left; such a
    process locks its folder before it looks for the signature. So one of the two finds the other.
    """
    caller = os.environ.get(CALLER)
    if caller and lock.owner(paths.results_root() / lock.RESULTS_LOCK) != caller:
        raise LeukError(f"stage {stage}: not started; its run has ended, and another has begun")
    if owner := lock.writer(folder, WRITER):  # a notebook that was executed in another way
        raise LeukError(f"stage {stage} of run {run!r} is still being written by {owner}; wait for it or end it")


def _manager_of_kernels_that_inherit(handle: int) -> type:
    """Class of kernel managers whose kernel gets the descriptor ``handle``, so that it holds a lock until its own end."""
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **settings: Any) -> None:  # type: ignore[override]
            await super().start_kernel(**settings, pass_fds=(handle,))

    return Manager


@contextmanager
def _stoppable(monitor: progress.Monitor) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a request to stop, and interrupt what does not check for one.

    A training ends by itself after its present step. Anything else is interrupted, and so is a training by a second SIGINT.
    """
    previous = {}

    def handler(number: int, frame: FrameType | None) -> None:
        # SLURM sends SIGTERM twice at a time limit: to all processes of a job, and by its srun.
        if progress.stop_requested() and number == signal.SIGINT:
            raise KeyboardInterrupt
        Path(os.environ[progress.STOP]).touch()
        _leave_reports_to_this_module()

    def interrupt() -> bool:
        due = progress.stop_requested() and not monitor.training
        if due:
            _leave_reports_to_this_module()
            _thread.interrupt_main()
        return due

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with progress.repeated(interrupt, CHECK_EVERY):
            yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


def _leave_reports_to_this_module() -> None:
    """Silence asyncio and papermill, which add a traceback when a stop ends the kernel before its cell."""
    for name in ("asyncio", "papermill"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def without_grammar() -> None:
    """Spare the next import of papermill 1.3 s: jsonschema builds a parser of international addresses if it finds this one.

    No field of a notebook has that format.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # a module that cannot be found


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("--parameters", type=json.loads, required=True, help="papermill parameters as JSON")
    parser.add_argument("--out", type=Path, required=True, help="file of the executed notebook")
    arguments = parser.parse_args()
    run = arguments.parameters.get("run", "default")
    if progress.stop_requested():
        return STOPPED
    progress.say(f"{run}: {arguments.stage} …")
    prepare_libraries()
    without_grammar()
    # Start the kernel of the environment that runs this module.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        seconds = execute(arguments.stage, arguments.parameters, arguments.out.resolve())
    except LeukError as error:
        progress.say(f"{run}: {error}")
        return error.exit_code
    progress.say(f"{run}: {arguments.stage} done in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
