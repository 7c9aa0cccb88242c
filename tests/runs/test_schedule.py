"""The time left of a run: at least the longest chain and the work per job, and from the stages that are still to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.runs import lock, paths, schedule
from leuk_lib.runs.schedule import START, Plan, makespan
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


def finished(stage: str, began: float, ended: float) -> None:
    folder = paths.stage_folder("r", stage)
    folder.mkdir(parents=True, exist_ok=True)
    for name, moment in ((lock.NOTEBOOK_LOCK, began), ("notebook.ipynb", ended)):
        (folder / name).touch()
        os.utime(folder / name, (NOW + moment, NOW + moment))


def test_stages_that_run_beside_each_other_count_once(plan: Plan):
    finished("data", -50, -30)
    assert plan.time_left("r", "gan", 30, NOW) == 370 + 300
    assert plan.time_left("r", "fcmae", 30, NOW) == 400 + 300  # the GAN has not begun
    finished("fcmae", -160, -10)
    assert plan.time_left("r", "gan", 150, NOW) == 250 + 300
    assert plan.time_left("r", "gan", 999, NOW) == 300


def test_another_running_stage_is_known_by_its_lock(plan: Plan):
    finished("data", -130, -110)
    folder = paths.stage_folder("r", "gan")
    hold = (
        f"import sys; from pathlib import Path; from leuk_lib.runs import lock;"
        f"lock.hold(Path({str(folder)!r}), lock.NOTEBOOK_LOCK, 'x'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        os.utime(folder / lock.NOTEBOOK_LOCK, (NOW - 100, NOW - 100))
        assert plan.time_left("r", "fcmae", 0, NOW) == 300 + 300


def test_what_was_made_before_its_inputs_will_run_again(plan: Plan):
    finished("wpat", -90, -80)
    finished("fcmae", -200, -150)
    finished("data", -50, -30)
    assert plan.time_left("r", "gan", 0, NOW) == 400 + 300


def test_this_machine_is_as_fast_as_it_was_so_far(plan: Plan):
    finished("data", -70, -30)  # twice as long as in the reference
    assert plan.time_left("r", "gan", 30, NOW) == 770 + 600
    finished("data", -1040, -30)  # by an earlier call: says nothing
    assert plan.time_left("r", "gan", 30, NOW) == 370 + 300


def test_jobs_are_shared_by_all_runs(plan: Plan):
    both = Plan(["r", "s"], INPUTS, SECONDS, 2, NOW)
    # The GAN of r ends at 420 s, its FCMAE at 170, then the GAN of s at 570, its FCMAE and WPAT of r at 720.
    assert both.time_left("r", "data", 0, NOW) == 720 + 300
    alone = Plan(["r"], INPUTS, SECONDS, 1, NOW)
    assert alone.time_left("r", "data", 0, NOW) == 20 + 400 + 150 + 300


def test_a_plan_reaches_the_stages_only_if_every_stage_has_a_time(plan: Plan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(schedule.PLAN, raising=False)
    assert Plan.from_environment() is None
    for name, value in plan.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Plan.from_environment() == plan
    assert Plan(["r"], INPUTS, {"data": 1.0}, 2, NOW).to_environment() == {}
    assert set(schedule.reference_seconds("smear", "laptop")) == {spec.name for spec in STAGES}
    assert schedule.reference_seconds("/none", "laptop") == {}
