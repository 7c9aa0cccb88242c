"""SIGTERM and SIGINT in every way of running: a training writes its checkpoint, and ends in seconds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from leuk_lib.runs import execute, progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.processes import STOPPED
from processes import soon
from project import toy_project

pytestmark = pytest.mark.notebooks

PARAMETERS = "dataset = 'smear'\nprofile = 'laptop'\nseed = 0\nrun = 'r'\nthreads = 1\ndevices = 1\nstages = {}"
BEGIN = """
from leuk_lib.runs.params import TrainParams
from leuk_lib.runs.stage import Stage
stage = Stage.begin("toy", TrainParams, globals())
"""
# A million steps and one checkpoint at the end of them: what is found earlier, a signal has caused.
LOOP = """
import time
from pathlib import Path
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.loop import TrainingLoop
loop = TrainingLoop(make_fabric(stage.params), Path("checkpoints").absolute(), "toy", 10**6, 0, "toy", 10**6)
for step in loop:
    time.sleep(0.02)
    if step == 3:
        Path(f"step.{loop.fabric.global_rank}").touch()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one notebook, which trains until it is stopped; also the working directory."""
    toy_project(tmp_path, PARAMETERS, BEGIN, LOOP)
    for name in (progress.PROGRESS, progress.STOP, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(command: list[str], first: int = 1) -> subprocess.Popen:
    """Start ``command`` and wait until its ``first`` training processes are in the middle of their steps."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if tests run in the background
    )  # fmt: skip
    soon(lambda: all(Path(f"step.{rank}").exists() for rank in range(first)) or process.poll() is not None, 300)
    assert process.poll() is None, process.communicate()[0]
    return process


def family(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=120)
    for process in alive:
        process.kill()
    assert alive == []


PAPERMILL = [sys.executable, "-m", "papermill", "notebooks/01_toy.ipynb", "out.ipynb", "-k", "python3"]
SCRIPT = [sys.executable, "-m", "leuk_lib.runs.script", "toy"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_to_plain_papermill_saves_the_training(project: Path, number: signal.Signals):
    process = started(PAPERMILL)
    kernels = family(process)
    assert kernels
    process.send_signal(number)
    process.communicate(timeout=240)
    ended(kernels)
    assert (project / "checkpoints" / "state.safetensors").exists()


@pytest.mark.long
def test_a_killed_papermill_saves_the_training_and_leaves_no_kernel(project: Path):
    process = started(PAPERMILL)
    kernels = family(process)
    process.kill()
    process.communicate(timeout=240)
    ended(kernels)
    assert (project / "checkpoints" / "state.safetensors").exists()


@pytest.mark.parametrize("asked", ["interrupt", pytest.param("shutdown", marks=pytest.mark.long)])
def test_jupyter_saves_the_training(project: Path, asked: str):
    """ "Interrupt" and "Shut down" of the kernel menu."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        for cell in (PARAMETERS, BEGIN, LOOP):
            client.execute(cell)
        soon((project / "step.0").exists, 300)
        if asked == "interrupt":
            manager.interrupt_kernel()
        else:
            manager.shutdown_kernel()
        soon((project / "checkpoints" / "state.safetensors").exists, 120)
        assert manager.is_alive() == (asked == "interrupt")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, STOPPED, marks=pytest.mark.long)]
)
def test_a_signal_to_the_script_saves_the_training(project: Path, number: signal.Signals, code: int):
    process = started(SCRIPT)
    process.send_signal(number)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code and "Traceback" not in output
    assert (project / "checkpoints" / "state.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_several_processes_end_after_the_same_step_with_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    holder = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("MASTER_PORT", str(holder.getsockname()[1]))  # taken: the script uses a free one
    with holder:
        process = started([*SCRIPT, "-p", "devices", "2"], first=2)
    others = family(process)
    assert len(others) >= 2
    process.send_signal(number)
    output, _ = process.communicate(timeout=240)
    ended(others)
    assert process.returncode == STOPPED and "Traceback" not in output
    assert output.rstrip().endswith("the same command continues from there")
    assert (project / "checkpoints" / "state.safetensors").exists()


@pytest.mark.parametrize(("stop", "said"), [(True, "stopped; the same command"), (False, "the kernel died")])
def test_a_signal_to_a_whole_job_is_no_dead_kernel(
    project: Path, monkeypatch: pytest.MonkeyPatch, stop: bool, said: str
):
    """As SLURM's scancel sends it, to papermill's process and the kernel alike."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    def execute_notebook(*arguments: object, **settings: object) -> None:
        if stop:
            Path(os.environ[progress.STOP]).touch()
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    with pytest.raises(LeukError, match=said) as caught:
        execute.execute("toy", {"run": "r"}, project / "results" / "r" / "toy" / "notebook.ipynb")
    assert (caught.value.exit_code == STOPPED) == stop


@pytest.mark.parametrize(
    ("world", "devices", "said"),
    [
        (
            2,
            1,
            "2 processes were started, but devices = 1: each would train alone and write the same files; add -p devices 2",
        ),
        (2, 4, "processes started: 2, but devices = 4: give the same number to torchrun"),
        (1, 4, "processes started: 1, but devices = 4: give the same number to torchrun"),
        (2, None, "stage toy trains nothing and runs in one process, not in 2"),
    ],
)
def test_another_number_of_processes_is_refused_before_anything_is_written(
    project: Path, monkeypatch: pytest.MonkeyPatch, world: int, devices: int | None, said: str
):
    from leuk_lib.runs.params import StageParams, TrainParams
    from leuk_lib.runs.stage import Stage

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(world))
    params = StageParams() if devices is None else TrainParams(devices=devices)
    with pytest.raises(LeukError, match=said.replace("(", r"\(")):
        Stage("toy", params)
    assert not (project / "results").exists()


def test_torchrun_without_devices_is_one_line_of_the_first_process(project: Path):
    """torchrun adds lines of its own after it."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
         "--nproc-per-node", "2", "-m", "leuk_lib.runs.script", "toy"],
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("toy: ")]
    assert lines == [
        "toy: stage toy: 2 processes were started, but devices = 1: each would train alone and write the same files; "
        "add -p devices 2"
    ]
    assert not (project / "checkpoints").exists()
