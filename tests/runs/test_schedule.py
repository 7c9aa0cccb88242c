"""The time left of a run: at least the longest chain and the work per job, and from the stages that are still to run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.runs import lock, paths, schedule
from leuk_lib.runs.schedule import START, Plan, RunMonitor, makespan
from leuk_lib.stages import STAGES

INPUTS = {"data": [], "gan": ["data"], "fcmae": ["data"], "wpat": ["gan", "fcmae"]}
SECONDS = {"data": 20 - START, "gan": 400 - START, "fcmae": 150 - START, "wpat": 300 - START}
NOW = 1_700_000_000.0


@given(st.lists(st.tuples(st.integers(0, 50), st.sets(st.integers(0, 7))), max_size=8), st.integers(1, 4))
def test_a_schedule_is_as_long_as_its_longest_chain_and_as_its_work_on_one_job(tasks, jobs: int):
    seconds = {number: float(length) for number, (length, _) in enumerate(tasks)}
    after = {number: [each for each in inputs if each < number] for number, (_, inputs) in enumerate(tasks)}
    ends: dict[int, float] = {}
    for number, length in seconds.items():
        ends[number] = length + max((ends[each] for each in after[number]), default=0.0)
    chain, work = max(ends.values(), default=0.0), sum(seconds.values())
    assert max(chain, work / jobs) <= makespan(seconds, after, jobs) + 1e-9
    assert makespan(seconds, after, jobs) <= chain + (work - chain) / jobs + 1e-9  # Graham's bound
    assert makespan(seconds, after, 1) == work and makespan(seconds, after, len(seconds) + 1) == chain


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path))
    return Plan(["r"], INPUTS, SECONDS, 2, NOW - 1000)


def put(stage: str, name: str, moment: float) -> None:
    path = paths.stage_folder("r", stage) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (NOW + moment, NOW + moment))


def runs(stage: str, began: float) -> None:
    put(stage, lock.NOTEBOOK_LOCK, began)
    put(stage, schedule.PROGRESS, 0)
    (paths.stage_folder("r", stage) / "notebook.ipynb").unlink(missing_ok=True)  # as Snakemake does


def finished(stage: str, began: float, ended: float) -> None:
    put(stage, lock.NOTEBOOK_LOCK, began)
    put(stage, "notebook.ipynb", ended)
    (paths.stage_folder("r", stage) / schedule.PROGRESS).unlink(missing_ok=True)


def test_stages_that_run_beside_each_other_count_once(plan: Plan):
    finished("data", -50, -30)
    runs("gan", -30)
    assert plan.time_left(NOW) == 370 + 300
    runs("fcmae", -10)
    assert plan.time_left(NOW) == 370 + 300
    finished("fcmae", -160, -10)
    runs("gan", -150)
    assert plan.time_left(NOW) == 250 + 300
    runs("gan", -999)
    assert plan.time_left(NOW) == 300


def test_a_stage_that_has_not_begun_takes_its_whole_time(plan: Plan):
    assert plan.time_left(NOW) == 20 + 400 + 300
    finished("data", -50, -30)
    runs("fcmae", -30)
    assert plan.time_left(NOW) == 400 + 300


def test_what_was_made_before_its_inputs_will_run_again(plan: Plan):
    finished("wpat", -90, -80)
    finished("fcmae", -200, -150)
    finished("data", -50, -30)
    runs("gan", 0)
    assert plan.time_left(NOW) == 400 + 300


def test_this_machine_is_as_fast_as_it_was_so_far(plan: Plan):
    runs("gan", -30)
    finished("data", -70, -30)  # twice as long as in the reference
    assert plan.time_left(NOW) == 770 + 600
    finished("data", -1040, -30)  # by an earlier call: says nothing
    assert plan.time_left(NOW) == 370 + 300


def test_jobs_are_shared_by_all_runs(plan: Plan):
    # The GAN of r ends at 420 s, its FCMAE at 170, then the GAN of s at 570, its FCMAE and WPAT of r at 720.
    assert Plan(["r", "s"], INPUTS, SECONDS, 2, NOW).time_left(NOW) == 720 + 300
    assert Plan(["r"], INPUTS, SECONDS, 1, NOW).time_left(NOW) == 20 + 400 + 150 + 300


def test_a_run_shows_a_line_per_running_stage_and_the_time_left(plan: Plan):
    monitor = RunMonitor(plan)
    finished("data", -50, -30)
    runs("gan", -30)
    runs("fcmae", -10)
    (paths.stage_folder("r", "gan") / schedule.PROGRESS).write_text(
        json.dumps({"what": "ACDB-GAN", "step": 5, "total": 9, "time": NOW})
    )
    gan, fcmae, left = monitor.lines()
    assert gan.startswith("r: gan ") and gan.endswith(" · ACDB-GAN 5/9") and fcmae.startswith("r: fcmae ")
    assert re.fullmatch(r"all: about [\d:]+ left by the reference's times", left)
    plan.forget()  # all processes were killed, and the next call begins
    assert len(monitor.lines()) == 1 and plan.running() == {}
    for stage in INPUTS:
        finished(stage, -50, -30)
    assert monitor.lines() == []
    assert RunMonitor(Plan(["r"], INPUTS, {}, 2, NOW)).lines() == []  # no reference of this data set


def test_the_plan_reaches_the_stages(plan: Plan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(schedule.PLAN, raising=False)
    assert Plan.from_environment() is None
    for name, value in plan.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Plan.from_environment() == plan
    assert set(schedule.reference_seconds("smear", "laptop")) == {spec.name for spec in STAGES}
    assert schedule.reference_seconds("/none", "laptop") == {}
