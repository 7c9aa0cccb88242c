"""Precision, determinism and processes are what the parameters say; the switches of CUDA can be read without a GPU."""

import os
import socket
from typing import Any

import pytest
import torch

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import TrainParams
from leuk_lib.training import fabric
from leuk_lib.training.fabric import make_fabric, set_tf32


@pytest.fixture(autouse=True)
def restored():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("precision", "tf32"), [("32-true", False), ("tf32", True), ("bf16-mixed", False)])
def test_float32_is_float32_unless_tf32_is_asked_for(precision: str, tf32: bool):
    set_tf32(not tf32)
    make_fabric(TrainParams(accelerator="cpu", precision=precision))
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")


def test_cublas_has_the_workspace_that_determinism_needs(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    make_fabric(TrainParams(accelerator="cpu"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and torch.are_deterministic_algorithms_enabled()


def test_no_new_tensor_is_filled_before_it_is_written():
    make_fabric(TrainParams(accelerator="cpu"))
    assert torch.are_deterministic_algorithms_enabled() and not torch.utils.deterministic.fill_uninitialized_memory


def test_a_training_keeps_the_memory_that_it_has_freed(monkeypatch):
    kept = []
    monkeypatch.setattr(fabric, "keep_freed_memory", lambda: kept.append(True))
    make_fabric(TrainParams(accelerator="cpu"))
    assert kept == [True]


def test_a_workspace_that_is_set_is_left_alone(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_fabric(TrainParams(accelerator="cpu"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def started_by_a_launcher(monkeypatch: pytest.MonkeyPatch, world: int, here: int, port: int = 0) -> None:
    """Set what torchrun sets in the first process."""
    values = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": here, "MASTER_PORT": port}
    for name, value in {**values, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))


def test_each_machine_uses_its_own_processes_only(monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}

    class Asked:
        def __init__(self, **settings: Any) -> None:
            asked.update(settings)

        def launch(self) -> None:
            pass

    monkeypatch.setattr(fabric, "fabric_class", lambda: Asked)
    started_by_a_launcher(monkeypatch, world=4, here=2)
    make_fabric(TrainParams(accelerator="cpu", devices=4))
    assert (asked["devices"], asked["num_nodes"], asked["strategy"]) == (2, 2, "ddp")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(LeukError, match="devices = 4: 3 processes on this machine; start equally many on each"):
        make_fabric(TrainParams(accelerator="cpu", devices=4))


def test_a_port_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        started_by_a_launcher(monkeypatch, world=2, here=2, port=port)
        with pytest.raises(
            LeukError, match=rf"devices = 2: the processes cannot meet at 127\.0\.0\.1:{port} \(.+; name"
        ):
            make_fabric(TrainParams(accelerator="cpu", devices=2, threads=1))
