"""Precision and determinism on CUDA are what the parameters say; their switches can be read without a GPU."""

import os

import pytest
import torch

from leuk_lib.runs.params import TrainParams
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


def test_a_workspace_that_is_set_is_left_alone(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_fabric(TrainParams(accelerator="cpu"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
