"""The time left of a run: the rest of its stages, scheduled over the notebooks that run at the same time.

``leuk run`` writes what it was asked for into the environment of its stages, each of which shows the time left.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from leuk_lib.runs import lock, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.records import Reference, read_record

Task = TypeVar("Task")

PLAN = "LEUK_PLAN"  # environment variable: a `Plan` as JSON
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
        """Return the environment variable; none if the reference run lacks a stage."""
        return {PLAN: json.dumps(asdict(self))} if self.inputs.keys() <= self.seconds.keys() else {}

    @classmethod
    def from_environment(cls) -> Plan | None:
        """Return the plan of the `leuk run` that started this process, or None."""
        text = os.environ.get(PLAN)
        return cls(**json.loads(text)) if text else None

    def time_left(self, run: str, stage: str, elapsed: float, now: float | None = None) -> float:
        """Return the seconds until all stages are done, if the rest is as fast as what this call has finished.

        A stage is done if its notebook is there and is newer than those that it reads. Which other stages changed code or
        parameters will repeat, only Snakemake knows; they count as done until then.

        Args:
            run: The run of the asking stage.
            stage: The asking stage.
            elapsed: Seconds since it began.
            now: The present time, seconds since 1970.
        """
        now = time.time() if now is None else now
        after = {
            (name, each): [(name, read) for read in self.inputs[each]] for name in self.runs for each in self.inputs
        }
        running, done, rest, measured, expected = {(run, stage): elapsed}, {}, [], 0.0, 0.0
        for task, inputs in after.items():
            folder = paths.stage_folder(*task)
            began, ended = modified(folder / lock.NOTEBOOK_LOCK), modified(folder / "notebook.ipynb")
            if task not in running and lock.writer(folder, lock.NOTEBOOK_LOCK):
                running[task] = now - began
            if task in running or not ended or any(done.get(each, now) > ended for each in inputs):
                rest.append(task)
                continue
            done[task] = ended
            if began >= self.began:
                measured += ended - began
                expected += START + self.seconds[task[1]]
        pace = measured / expected if expected else 1.0
        seconds = {task: pace * (START + self.seconds[task[1]]) for task in rest}
        left = {task: max(each - running.get(task, 0.0), 0.0) for task, each in seconds.items()}
        return makespan(left, after, self.jobs, running)


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
