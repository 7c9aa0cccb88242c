"""Executing one stage's notebook: every failure is one line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from leuk_lib.runs import progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.execute import _stoppable, execute
from project import toy_project

pytestmark = pytest.mark.notebooks


def test_a_kernel_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LEUK_ROOT", str(toy_project(tmp_path, "import os\nos.kill(os.getpid(), 9)")))
    with pytest.raises(LeukError, match=r"stage toy failed: the kernel died \(out of memory\?\)"):
        execute("toy", {}, tmp_path / "results" / "notebook.ipynb")
    assert not (tmp_path / "results" / "notebook.ipynb").exists()


def test_papermill_is_imported_without_a_parser_that_takes_a_second_to_build():
    code = (
        "from leuk_lib.runs.execute import without_grammar; without_grammar(); import papermill, sys; "
        "assert 'jsonschema' in sys.modules and 'lark' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


LOOP = """
import time
from pathlib import Path
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.loop import TrainingLoop
from leuk_lib.wpat.params import WpatParams
loop = TrainingLoop(make_fabric(WpatParams(accelerator="cpu", threads=1)), Path("checkpoints"), "toy", 10**6, 0, "toy", 10**5)
for step in loop:
    loop.log(loss=1.0)
    time.sleep(0.01)
"""


def reported(state: Path) -> bool:
    return state.exists() and state.stat().st_size > 0


@pytest.mark.parametrize("code", [LOOP, "import time\nPath = None\ntime.sleep(600)"], ids=["training", "anything else"])
def test_one_signal_stops_with_a_line_and_saves_a_training(tmp_path: Path, code: str):
    toy_project(tmp_path, code)
    out = tmp_path / "results" / "notebook.ipynb"
    command = [sys.executable, "-m", "leuk_lib.runs.execute", "toy", "--parameters", "{}", "--out", str(out)]
    environment = os.environ | {"LEUK_ROOT": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        state, partial = out.with_name("progress.json"), out.with_name("partial.ipynb")
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (reported(state) if code == LOOP else partial.exists()):
            time.sleep(0.2)
        time.sleep(1)
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert children  # the kernel
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in errors
    assert ("saved; the same command continues from there" in errors) == (code == LOOP)
    assert (tmp_path / "checkpoints").is_dir() == (code == LOOP)
    psutil.wait_procs([psutil.Process(pid) for pid in children if psutil.pid_exists(pid)], timeout=20)
    assert not any(psutil.pid_exists(pid) for pid in children)


def test_sigterm_may_come_twice_and_sigint_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SLURM sends SIGTERM twice at a time limit; a training that is about to write its checkpoint goes on."""
    monitor = progress.Monitor(tmp_path / "progress.json", "toy")
    monkeypatch.setattr(progress.Monitor, "training", True)
    monkeypatch.setenv(progress.STOP, str(tmp_path / "stop"))
    monkeypatch.setattr("leuk_lib.runs.execute._leave_reports_to_this_module", lambda: None)
    with pytest.raises(KeyboardInterrupt), _stoppable(monitor):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert progress.stop_requested()
        (tmp_path / "survived").touch()
        os.kill(os.getpid(), signal.SIGINT)
    assert (tmp_path / "survived").exists()


def test_a_stop_is_reported_by_this_module_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    loggers = [logging.getLogger(name) for name in ("asyncio", "papermill")]
    levels = [logger.level for logger in loggers]
    monitor = progress.Monitor(tmp_path / "progress.json", "toy")
    request = tmp_path / "stop"
    try:
        with progress.environment({progress.STOP: str(request)}), pytest.raises(KeyboardInterrupt), _stoppable(monitor):
            loggers[0].error("before")
            request.touch()
            for _ in range(300):  # an interrupt of the main thread waits for a call of sleep to end
                time.sleep(0.1)
        for logger in loggers:
            logger.error("Task exception was never retrieved")
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert [record.message for record in caplog.records] == ["before"]
