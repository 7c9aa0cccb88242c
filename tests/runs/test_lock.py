"""One writer: whoever writes a stage's folder holds its lock, whatever else was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leuk_lib.runs import card, execute, lock
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import LOCK, Stage
from leuk_lib.stages import STAGES
from leuk_lib.workflow import refuse_second_writer

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
        f"lock.hold(Path({str(tmp_path)!r}), execute.LOCK, 'x'); print('held', flush=True); time.sleep(60)"
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


def test_a_file_in_place_of_the_results_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "results").write_text("")
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / "results"))
    with pytest.raises(LeukError, match="cannot be written"):
        begin()
