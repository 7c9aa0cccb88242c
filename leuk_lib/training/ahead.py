"""Trainings of a stage that run at the same time on a CPU, each beyond the first in a process of its own.

Networks this small gain little from more than two threads, and some little from a second one. Such a process leaves only
its checkpoint. The stage then calls the same training, which continues from there and finds all steps done. So results
are the same whether a training ran in another process or not, and a process that dies costs time only.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from leuk_lib.runs import lock, progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.parallel import available_cores
from leuk_lib.runs.processes import END_WITHIN

if TYPE_CHECKING:
    from leuk_lib.runs.params import SeveralTrainings
    from leuk_lib.training.fabric import Fabric

Result = TypeVar("Result")
WATCH_EVERY = 0.5  # seconds between two checks that the process that started this one still runs

_running: dict[Path, subprocess.Popen[bytes]] = {}  # folder of the checkpoint -> process that trains in it


@dataclass(frozen=True)
class Training(Generic[Result]):
    """A training that can be handed to another process.

    Attributes:
        run: Trains, called with ``fabric=``: a function of a module with arguments that can be pickled
            (``functools.partial``).
        folder: Folder of its checkpoint.
        params: Device, precision and threads; ``side_by_side``.
    """

    run: Callable[..., Result]
    folder: Path
    params: SeveralTrainings

    def __call__(self, fabric: Fabric) -> Result:
        """Train in this process, or continue from where another process has got to."""
        return self.run(fabric=fabric)

    def begin(self, fabric: Fabric) -> bool:
        """Begin in another process, if ``params.side_by_side`` and the cores leave room for one; return whether.

        The training runs on a CPU then, and this process computes too.
        """
        busy = 1 + sum(process.poll() is None for process in _running.values())
        room = min(self.params.side_by_side, available_cores() // self.params.threads)
        if busy >= room or fabric.device.type != "cpu" or fabric.world_size > 1:
            return False
        wait(self.folder)
        with tempfile.TemporaryFile() as handed_over:
            pickle.dump((self.run, self.params), handed_over)
            handed_over.seek(0)
            _running[self.folder] = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid())], stdin=handed_over, stdout=subprocess.DEVNULL,
                start_new_session=True, pass_fds=lock.held(), env={**os.environ, progress.IN_COMMAND: "1"},
            )  # fmt: skip
        return True


def side_by_side(trainings: Mapping[str, Training[Result]], fabric: Fabric) -> dict[str, Result]:
    """Do several trainings and return their results by name.

    Those after the first begin in other processes where there is room.
    """
    for training in list(trainings.values())[:0:-1]:
        training.begin(fabric)
    return {name: training(fabric) for name, training in trainings.items()}


def wait(folder: Path) -> None:
    """Wait until no process that this one has started trains in ``folder``.

    An interrupt ends all such processes, with a checkpoint each.
    """
    process = _running.get(folder)
    if process is None:
        return
    try:
        process.wait()
    except BaseException:
        end()
        raise
    del _running[folder]


@atexit.register
def end() -> None:
    """Ask all processes that this one has started to write a checkpoint and end; wait for them."""
    for process in _running.values():
        process.terminate()
    deadline = time.monotonic() + END_WITHIN
    while _running:
        _, process = _running.popitem()
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _end_with(parent: int) -> None:
    """Send SIGTERM to this process when its parent is gone; its training then writes a checkpoint."""
    while os.getppid() == parent:
        time.sleep(WATCH_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Train what the parent process hands over, and return the exit code."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    run, params = pickle.load(sys.stdin.buffer)
    from leuk_lib.training.fabric import make_fabric

    try:
        with progress.of_job():
            run(fabric=make_fabric(params))
    except LeukError:  # the stage meets the same error and reports it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
