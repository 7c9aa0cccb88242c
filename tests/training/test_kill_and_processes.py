"""Training that is killed and resumed ends with the same weights to the bit; two processes give the same losses.

Every run kills and doubles one method. The tests of each method interrupt and resume it in one process.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_one.py")
# Checkpoints are written every third step: one method is killed right after one, one later, one before the next.
KILLED_AT = {"fcmae": 9, "gan": 7, "wpat": 11}
EARLY_STEPS = 6

Reference = tuple[str, str, list[dict[str, float]], list[int]]


def run(method: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), method, str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def train(method: str, folder: Path, *options: str) -> tuple[str, list[dict[str, float]], list[int]]:
    """Hashes of the weights and of the monitor, losses, and the steps taken in this process."""
    done = run(method, folder, *options)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    last = {word: rest for word, rest in lines if word in ("hash", "losses", "probe")}
    return (
        last["hash"] + last.get("probe", ""),
        json.loads(last["losses"]),
        [int(rest) for word, rest in lines if word == "step"],
    )


def train_in_two_processes(method: str, folder: Path, *options: str) -> tuple[list[dict[str, float]], list[str]]:
    """Losses of the first process, and what each says of its monitor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
            "--master-port", str(port), str(SCRIPT), method, str(folder), "--processes", "2", *options,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("losses ")]
    return json.loads(line.removeprefix("losses ")), [
        line for line in done.stdout.splitlines() if line.startswith("probe ")
    ]


def assert_equal_losses(losses: list[dict[str, float]], together: list[dict[str, float]]) -> None:
    """Two processes round differently, and Adam amplifies the difference from step to step."""
    assert len(together) == len(losses)
    for step, (single, double) in enumerate(zip(losses, together, strict=True)):
        tolerance = 1e-5 if step < EARLY_STEPS else 1e-4
        for key in single:
            assert double[key] == pytest.approx(single[key], abs=tolerance, rel=tolerance), (key, single, double)


METHODS = ["gan", *(pytest.param(method, marks=pytest.mark.long) for method in ("fcmae", "wpat"))]


@pytest.fixture(scope="module", params=METHODS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A method, and the outcome of its uninterrupted training in a single process."""
    return request.param, *train(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.slow
def test_killed_and_restarted_training_ends_with_the_same_weights(reference: Reference, tmp_path: Path):
    method, hashes, losses, steps = reference
    killed_at = KILLED_AT[method]
    assert killed_at < steps[-1]
    killed = run(method, tmp_path, "--kill-at", str(killed_at))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed_hashes, resumed_losses, resumed_steps = train(method, tmp_path)
    assert resumed_steps == steps[killed_at // 3 * 3 :], "it did not continue from the last checkpoint"
    assert resumed_losses == losses
    assert resumed_hashes == hashes


@pytest.mark.slow
def test_two_gloo_processes_give_the_single_process_losses(reference: Reference, tmp_path: Path):
    method, _, losses, _ = reference
    together, probes = train_in_two_processes(method, tmp_path)
    # One process probes the encoder; both must know the result.
    assert len(probes) == (2 if method == "fcmae" else 0) and len(set(probes)) <= 1
    assert_equal_losses(losses, together)


@pytest.mark.long
def test_two_machines_with_a_process_each_give_the_single_process_losses(reference: Reference, tmp_path: Path):
    """Two launchers that meet on the loopback, as on the page about GPUs."""
    method, _, losses, _ = reference
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1", str(SCRIPT), method, str(tmp_path),
        "--processes", "2",
    ]  # fmt: skip
    machines = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [line for machine in machines for line in machine.communicate(timeout=500)[0].splitlines()]
    assert [machine.returncode for machine in machines] == [0, 0]
    (together,) = [line.removeprefix("losses ") for line in lines if line.startswith("losses ")]
    assert_equal_losses(losses, json.loads(together))


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fcmae", {"contrast": 0.0}),  # the contrastive term needs the whole batch at once
        ("gan", {"batch_size": 64}),  # 16 images, which the discriminator compares, in each pass
        ("wpat", {}),
    ],
)
def test_two_gloo_processes_with_two_passes_each_give_the_losses_of_one_pass(
    method: str, settings: dict[str, float], tmp_path: Path
):
    settings = {**settings, "steps": 8}
    _, losses, steps = train(method, tmp_path / "one", "--settings", json.dumps(settings))
    together, _ = train_in_two_processes(
        method, tmp_path / "two", "--settings", json.dumps({**settings, "accumulate": 2})
    )
    assert len(steps) == 8
    assert_equal_losses(losses, together)
