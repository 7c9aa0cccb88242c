"""Killed with -9 at a random step and started again: the same weights to the bit. Two processes: the same losses."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_one.py")
METHODS = ["fcmae", "gan", "wpat"]


def start(method: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), method, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, list[dict[str, float]], list[int]]:
    """``(hashes of the weights and of the monitor, losses, steps done in this process)``."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lines = [line.split(" ", 1) for line in out.splitlines()]
    last = {word: rest for word, rest in lines if word in ("hash", "losses", "probe")}
    return (
        last["hash"] + last.get("probe", ""),
        json.loads(last["losses"]),
        [int(rest) for word, rest in lines if word == "step"],
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[dict[str, float]], list[int]]]:
    return {method: finish(start(method, tmp_path_factory.mktemp(method))) for method in METHODS}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_restarted_training_ends_with_the_same_weights(uninterrupted: dict, tmp_path: Path, method: str):
    whole, losses, steps = uninterrupted[method]
    victim_step = random.randint(4, steps[-1] - 1)
    print(f"{method}: killed at step {victim_step} of {steps[-1]}")
    process = start(method, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step") and int(line.split()[1]) >= victim_step:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    again, continued, redone = finish(start(method, tmp_path))
    assert 0 < redone[0] <= victim_step + 1 and len(redone) < len(steps), "it did not continue from a checkpoint"
    assert continued == losses
    assert again == whole


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_gloo_processes_give_the_single_process_losses(uninterrupted: dict, tmp_path: Path, method: str):
    _, losses, _ = uninterrupted[method]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
            "--master-port", str(port), str(SCRIPT), method, str(tmp_path), "--processes", "2",
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("losses ")]
    probes = [line for line in done.stdout.splitlines() if line.startswith("probe ")]
    # One process looks at the encoder; both must know what it saw.
    assert len(probes) == (2 if method == "fcmae" else 0) and len(set(probes)) <= 1
    together = json.loads(line.removeprefix("losses "))
    assert len(together) == len(losses)
    for one, two in zip(losses, together, strict=True):
        for key in one:
            assert two[key] == pytest.approx(one[key], abs=1e-5, rel=1e-5), (method, key, one, two)
