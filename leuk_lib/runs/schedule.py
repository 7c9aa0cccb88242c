"""The time left of a run: the rest of its stages, scheduled over the notebooks that run at the same time.

In a terminal ``leuk run`` draws a line per running stage. In a log each stage writes its own, with the time left of the
run: ``leuk run`` writes what it was asked for into their environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from leuk_lib.runs import lock, paths, progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.records import Reference, read_record

Task = TypeVar("Task")

PLAN = "LEUK_PLAN"  # environment variable: a `Plan` as JSON
PROGRESS = "progress.json"  # in a stage's folder, while its notebook is executed
START = 7.0  # s until a kernel has started and imported the libraries, on two idle cores; no card counts them


@dataclass(frozen=True)
class Plan:
    """What a call of ``leuk run`` was asked for.

    Args:
        runs: Names of the runs.
        inputs: Each stage, in order, with the stages that it reads.
        seconds: Seconds of each stage in the reference run.
        jobs: Stages that run at the same time.
        began: When the call began, seconds since 1970.
    """

    runs: list[str]
    inputs: dict[str, list[str]]
    seconds: dict[str, float]
    jobs: int
    began: float

    def to_environment(self) -> dict[str, str]:
        """Return the plan as an environment variable."""
        return {PLAN: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Plan | None:
        """Return the plan of the `leuk run` that started this process, or None."""
        text = os.environ.get(PLAN)
        return cls(**json.loads(text)) if text else None

    def running(self) -> dict[tuple[str, str], float]:
        """Return run and stage of each notebook that is being executed, and when that began, seconds since 1970."""
        tasks = [(run, stage) for run in self.runs for stage in self.inputs]
        folders = {task: paths.stage_folder(*task) for task in tasks}
        return {
            task: modified(folder / lock.NOTEBOOK_LOCK)
            for task, folder in folders.items()
            if (folder / PROGRESS).exists()
        }

    def forget(self) -> None:
        """Remove what stages of a killed call have left, before the first stage of this one."""
        for run in self.runs:
            for stage in self.inputs:
                (paths.stage_folder(run, stage) / PROGRESS).unlink(missing_ok=True)

    def time_left(self, now: float | None = None) -> float | None:
        """Return the seconds until all stages are done, or None if the reference lacks one of them.

        A stage is done if its notebook is there and is newer than those that it reads. Which other stages changed code or
        parameters will repeat, only Snakemake knows; they count as done until then. The rest is as fast, compared with the
        reference, as what this call has finished.

        Args:
            now: The present time, seconds since 1970.
        """
        if not self.inputs.keys() <= self.seconds.keys():
            return None
        now, running = time.time() if now is None else now, self.running()
        after = {
            (run, stage): [(run, each) for each in self.inputs[stage]] for run in self.runs for stage in self.inputs
        }
        done: dict[tuple[str, str], float] = {}
        measured, expected = 0.0, 0.0
        for task, inputs in after.items():
            folder = paths.stage_folder(*task)
            ended = modified(folder / "notebook.ipynb")
            if task in running or not ended or any(done.get(each, now) > ended for each in inputs):
                continue
            done[task] = ended
            if (began := modified(folder / lock.NOTEBOOK_LOCK)) >= self.began:
                measured += ended - began
                expected += START + self.seconds[task[1]]
        pace = measured / expected if expected else 1.0
        left = {
            task: max(pace * (START + self.seconds[task[1]]) - (now - running.get(task, now)), 0.0)
            for task in after
            if task not in done
        }
        return makespan(left, after, self.jobs, running)


class RunMonitor:
    """Describes a call of ``leuk run``: one line per stage that is being executed, and the time left."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._monitors: dict[tuple[str, str, float], progress.Monitor] = {}

    def lines(self) -> list[str]:
        """Describe the present state."""
        present = {(*task, began): began for task, began in self.plan.running().items()}
        self._monitors = {
            key: self._monitors.get(key)
            or progress.Monitor(paths.stage_folder(*key[:2]) / PROGRESS, f"{key[0]}: {key[1]}", began)
            for key, began in present.items()
        }
        left = self.plan.time_left()
        return [monitor.line() for monitor in self._monitors.values()] + ([progress.in_all(left)] if left else [])


def drawn(plan: Plan) -> AbstractContextManager[None]:
    """Draw the stages while the body runs, in a terminal; in a log each stage writes lines of its own."""
    return progress.shown(RunMonitor(plan)) if sys.stderr.isatty() else nullcontext()


def modified(path: Path) -> float:
    """Return when a file was last written, seconds since 1970; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def makespan(
    seconds: Mapping[Task, float], after: Mapping[Task, Sequence[Task]], jobs: int, running: Collection[Task] = ()
) -> float:
    """Return when the last task ends, if each begins as soon as its inputs are there and a job is free.

    >>> makespan({"a": 3, "b": 2, "c": 4}, {"a": [], "b": [], "c": ["a"]}, jobs=2)
    7.0
    >>> makespan({"a": 3, "b": 2, "c": 4}, {"a": [], "b": [], "c": ["a"]}, jobs=1)
    9.0

    Args:
        seconds: Seconds that each task takes, in the order in which they begin.
        after: The tasks that each task waits for; those without seconds are done.
        jobs: Tasks at the same time.
        running: Tasks that have begun.
    """
    now = 0.0
    ends = {task: float(seconds[task]) for task in running}
    waiting = [task for task in seconds if task not in ends]
    while ends or waiting:
        ready = [task for task in waiting if not any(each in ends or each in waiting for each in after[task])]
        for task in ready[: max(jobs - len(ends), 0)]:
            ends[task] = now + seconds[task]
            waiting.remove(task)
        now = min(ends.values())
        ends = {task: end for task, end in ends.items() if end > now}
    return now


def reference_seconds(dataset: str, profile: str) -> dict[str, float]:
    """Return the seconds of each stage in the reference run of a data set and profile; most data sets have none."""
    try:
        record = read_record(paths.reference_file(dataset, profile), Reference, "a reference", "write it again")
    except LeukError:
        return {}
    return {stage: card["seconds"] for stage, card in record.get("cards", {}).items() if card.get("seconds")}
