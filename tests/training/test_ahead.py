"""Trainings beside each other: the same numbers, whatever happens to the processes."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leuk_lib.runs import lock, progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import SeveralTrainings
from leuk_lib.training import ahead
from leuk_lib.training.ahead import Training, side_by_side
from leuk_lib.training.fabric import make_fabric
from training.trainings import train

TESTS = Path(__file__).parents[1]
PARAMS = SeveralTrainings(accelerator="cpu", threads=1, side_by_side=2)


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(ahead, "available_cores", lambda: 2)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    yield
    ahead.end()


@pytest.fixture(scope="module")
def fabric():
    return make_fabric(PARAMS)


def training(folder: Path, params: SeveralTrainings = PARAMS, **settings) -> Training:
    folder.mkdir(exist_ok=True)
    return Training(functools.partial(train, folder, **settings), folder / "checkpoint", params)


def trainers(folder: Path) -> set[str]:
    return {line.split()[0] for line in (folder / "log").read_text().splitlines()}


def test_two_trainings_beside_each_other_give_the_numbers_of_one_after_the_other(fabric, tmp_path):
    both = {name: training(tmp_path / name) for name in "ab"}
    results = side_by_side(both, fabric)
    assert [result[2] for result in results.values()] == [12, 0]
    assert trainers(tmp_path / "a") == {str(os.getpid())}
    assert len(trainers(tmp_path / "b")) == 1 and trainers(tmp_path / "b") != trainers(tmp_path / "a")
    alone = training(tmp_path / "alone", PARAMS.model_copy(update={"side_by_side": 1}))
    assert not alone.begin(fabric) and alone(fabric)[1] == results["a"][1] == results["b"][1]


@pytest.mark.parametrize(("changes", "cores"), [({"side_by_side": 1}, 8), ({"threads": 2}, 3), ({}, 1)])
def test_a_training_begins_elsewhere_only_if_there_is_room(fabric, tmp_path, monkeypatch, changes, cores):
    monkeypatch.setattr(ahead, "available_cores", lambda: cores)
    assert not training(tmp_path / "a", PARAMS.model_copy(update=changes)).begin(fabric)


def test_of_three_trainings_no_more_run_than_there_is_room_for(fabric, tmp_path):
    results = side_by_side({name: training(tmp_path / name) for name in "abc"}, fabric)
    assert [result[2] for result in results.values()] == [12, 12, 0]


@pytest.mark.parametrize("fault", ["killed", "refused"])
def test_what_ends_a_process_ahead_changes_no_number_and_hides_no_error(fabric, tmp_path, monkeypatch, fault):
    monkeypatch.setenv("SPARED", str(os.getpid()))
    broken = training(tmp_path / "a", fault=fault)
    assert broken.begin(fabric)
    if fault == "refused":
        with pytest.raises(LeukError, match="toy: refused"):
            broken(fabric)
        return
    whole = training(tmp_path / "b")(fabric)
    pid, weight, done = broken(fabric)  # from the checkpoint of step 4
    assert (pid, weight, done) == (os.getpid(), whole[1], 8) and len(trainers(tmp_path / "a")) == 2


def test_a_request_to_stop_ends_both_with_a_checkpoint(fabric, tmp_path, monkeypatch):
    stop = tmp_path / "stop"
    monkeypatch.setenv(progress.STOP, str(stop))
    monkeypatch.setenv(progress.PROGRESS, str(tmp_path / "progress.json"))
    slow = training(tmp_path / "a", steps=1000, pause=0.02)
    assert slow.begin(fabric)
    wait_for(tmp_path / "a" / "log")
    report = json.loads(Path(f"{tmp_path}/progress.json{progress.JOB}").read_text())
    assert report["what"] == "toy" and report["total"] == 1000
    assert progress.Monitor(tmp_path / "progress.json", "").training
    stop.touch()
    with pytest.raises(SystemExit, match="130"):
        slow(fabric)
    steps = [int(line.split()[1]) for line in (tmp_path / "a" / "log").read_text().splitlines()]
    assert steps == list(range(len(steps))) and 0 < len(steps) < 1000  # no step is done twice, none is left out
    assert not Path(f"{tmp_path}/progress.json{progress.JOB}").exists()


def test_a_process_ahead_outlives_its_parent_by_a_checkpoint_only_and_holds_its_lock(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"]}
    )
    try:
        wait_for(tmp_path / "a" / "log")
        assert lock.writer(tmp_path, "lock")
    finally:
        parent.kill()
        parent.wait()
    seen_alive = bool(lock.writer(tmp_path, "lock"))  # the child holds it as long as it can write
    deadline = time.monotonic() + 30
    while lock.writer(tmp_path, "lock") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen_alive and not lock.writer(tmp_path, "lock")
    steps = len((tmp_path / "a" / "log").read_text().splitlines())
    rest = training(tmp_path / "a", steps=steps + 1)(make_fabric(PARAMS))
    assert rest[2] == 1  # the checkpoint has all steps


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


if __name__ == "__main__":  # the parent of the last test
    folder = Path(sys.argv[1])
    lock.hold(folder, "lock", "test")
    ahead.available_cores = lambda: 2
    assert training(folder / "a", steps=100_000, pause=0.02).begin(make_fabric(PARAMS))
    signal.pause()
