"""One writer: whoever writes a stage's folder holds its lock, whatever else was killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leuk_lib import workflow
from leuk_lib.runs import card, execute, lock
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import LOCK, Stage
from leuk_lib.stages import STAGES
from leuk_lib.workflow import refuse_second_writer, results_lock
from processes import soon
from project import toy_project

WRITER = """
import sys, time
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import Stage
stage = Stage.begin("data", StageParams, {"run": "r"})
print("begun", flush=True)
time.sleep(60)
"""
PARENT = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); print(child.pid, flush=True); child.wait()"


def begin() -> Stage[StageParams]:
    return Stage.begin("data", StageParams, {"run": "r"})


def test_the_writer_outlives_its_killed_parent_and_keeps_the_folder(results: Path):
    """As with ``kill -9`` of ``leuk`` and Snakemake: the notebook's kernel goes on writing."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, WRITER], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert "begun\n" in iter(parent.stdout.readline, "")
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        os.kill(child, 0)
        before = (results / "r/data/card.json").read_bytes()
        with pytest.raises(LeukError, match=f"stage data of run 'r' is being written by process {child} on"):
            begin()
        with pytest.raises(LeukError, match=f"stage data of run 'r' is still being written by process {child}"):
            refuse_second_writer(["r"], STAGES)
        assert (results / "r/data/card.json").read_bytes() == before
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while lock.writer(results / "r/data", LOCK):
        assert time.monotonic() < deadline, "the lock of a dead process must not stay"
        time.sleep(0.02)
    refuse_second_writer(["r"], STAGES)
    with begin() as stage:
        stage.record("x", 1)
    assert card.stage_state("r", "data")[0] == "fresh"


def second_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_same_kernel_may_begin_again_and_the_end_frees_the_folder(results: Path):
    begin()
    stage = begin()
    probe = f"from leuk_lib.runs import lock; from pathlib import Path; print(lock.writer(Path({str(stage.folder)!r}), {LOCK!r}))"
    assert f"process {os.getpid()}" in second_process(probe).stdout
    stage.record("x", 1)
    stage.finish()
    assert second_process(probe).stdout.strip() == ""
    stage.save_json("again", {})  # a cell that is run again after the end
    assert f"process {os.getpid()}" in second_process(probe).stdout
    stage.finish()


def test_a_second_notebook_is_not_executed_beside_the_first(results: Path, tmp_path: Path):
    code = (
        "import time; from pathlib import Path; from leuk_lib.runs import execute, lock;"
        f"lock.hold(Path({str(tmp_path)!r}), lock.NOTEBOOK_LOCK, 'x'); print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(
            LeukError, match=f"the notebook of stage data in .* is being written by process {first.pid}"
        ):
            execute.execute("data", {"run": "r"}, tmp_path / "notebook.ipynb")
        assert not (tmp_path / execute.PARTIAL).exists()
    finally:
        first.kill()


def test_a_stage_of_a_killed_run_does_not_start_once_another_run_has_begun(
    results: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = results / "r" / "data"
    with results_lock(results) as handle:
        monkeypatch.setenv(execute.CALLER, lock.sign(handle, ", call 1"))
        execute._refuse_second_writer("r", "data", folder)
        lock.sign(handle, ", call 2")
        with pytest.raises(LeukError, match="not started; its run has ended"):
            execute.execute("data", {"run": "r"}, folder / "notebook.ipynb")
    assert [path.name for path in folder.iterdir()] == [lock.NOTEBOOK_LOCK]


def test_leuk_run_signs_the_results_before_it_looks_for_writers(results: Path, monkeypatch: pytest.MonkeyPatch):
    """Otherwise a stage that is about to lock its folder, and the new run, could each find nothing."""
    seen = []

    def look(*_: object) -> None:
        seen.append(lock.owner(results / lock.RESULTS_LOCK))
        raise LeukError("enough")

    monkeypatch.setattr(workflow, "refuse_second_writer", look)
    for _ in range(2):
        with pytest.raises(LeukError, match="enough"):
            workflow.run_stages("smear", "smoke", [0])
    assert len(set(seen)) == 2 and all(text.startswith(f"process {os.getpid()} on") for text in seen)


def test_a_notebook_is_not_executed_beside_one_that_runs_in_jupyter(results: Path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert "begun\n" in iter(writer.stdout.readline, "")
        before = sorted(path.name for path in (results / "r/data").iterdir())
        with pytest.raises(LeukError, match=f"stage data of run 'r' is still being written by process {writer.pid}"):
            execute.execute("data", {"run": "r"}, results / "r/data/notebook.ipynb")
        assert sorted({path.name for path in (results / "r/data").iterdir()} - {lock.NOTEBOOK_LOCK}) == before
    finally:
        writer.kill()


KERNEL = """
import signal, time
from pathlib import Path
from leuk_lib.runs.parent import end_is_sigterm
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with end_is_sigterm():
    Path("started").touch()
    while not Path("end").exists():
        time.sleep(0.05)
"""


@pytest.mark.notebooks
def test_the_kernel_of_a_killed_notebook_keeps_others_out(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also before its first cell begins the stage."""
    toy_project(tmp_path, "run = 'r'", KERNEL)
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    folder = results / "r" / "toy"
    command = [sys.executable, "-m", "leuk_lib.runs.execute", "toy", "--parameters", "{}", "--out"]
    process = subprocess.Popen([*command, str(folder / "notebook.ipynb")], stderr=subprocess.DEVNULL)
    try:
        soon((tmp_path / "started").exists, 300)
    finally:
        process.kill()
        process.wait()
    try:
        assert lock.writer(folder, lock.NOTEBOOK_LOCK) == f"process {process.pid} on {socket.gethostname()}"
        with pytest.raises(LeukError, match=r"the notebook of stage toy in .* is being written"):
            execute.execute("toy", {"run": "r"}, folder / "notebook.ipynb")
    finally:
        (tmp_path / "end").touch()
    soon(lambda: not lock.writer(folder, lock.NOTEBOOK_LOCK))


def test_what_killed_processes_left_is_removed_and_nothing_else(results: Path):
    folder = results / "r" / "data"
    left = [".card.12.tmp.json", ".a b.c.3456.tmp", "figures/.x.12.tmp.svg", ".progress.json.7.tmp"]
    kept = ["card.12.tmp.json", ".x.tmp.svg", ".tmp", ".partial.ipynb", "figures/x.svg"]
    (folder / "figures").mkdir(parents=True)
    for name in (*left, *kept):
        (folder / name).touch()
    begin()
    assert not any((folder / name).exists() for name in left)
    assert all((folder / name).exists() for name in kept)


def test_a_link_to_itself_in_place_of_results_or_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for place, results in (("loop", "loop"), ("results/r", "results")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).symlink_to((tmp_path / place).name)
        monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / results))
        with pytest.raises(LeukError, match="cannot be written"):
            begin()
        refuse_second_writer(["r"], STAGES)


def test_a_file_in_place_of_the_results_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "results").write_text("")
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / "results"))
    with pytest.raises(LeukError, match="cannot be written"):
        begin()
