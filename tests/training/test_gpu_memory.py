"""Memory of the trainings of profile *paper* on a GPU: the count is right, the table is the count, the page is the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import gpu_memory
from training.fake_gpu import BLOCK, GPU, fake_gpu

PAGE = Path(__file__).parents[2] / "book/use/gpu.md"
TRAININGS = {f"{training.stage} {training.name}": training for training in gpu_memory.trainings()}
KEPT = pd.read_csv(gpu_memory.TABLE)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.GroupNorm(4, 64), nn.GELU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(2),
        nn.Linear(30 * 30, 500), nn.LayerNorm(500), nn.Softmax(dim=2),
    )  # fmt: skip


def rounded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def test_a_step_of_adam_holds_weights_gradients_and_two_moments():
    with fake_gpu() as gpu:
        model = network().to(GPU)
        weights = sum(rounded(parameter.nbytes) for parameter in model.parameters())
        assert gpu.usage.live == weights
        optimiser = torch.optim.AdamW(model.parameters())
        x = torch.ones(2, 3, 32, 32, device=GPU)
        model(x).sum().backward()
        assert gpu.usage.live == 2 * weights + x.nbytes
        optimiser.step()
        assert gpu.usage.live == 4 * weights + x.nbytes
        optimiser.zero_grad(set_to_none=True)
        assert gpu.usage.live == 3 * weights + x.nbytes


def test_a_forward_pass_holds_what_pytorch_saves_in_a_real_one():
    saved: dict[int, int] = {}
    model, x = network(), torch.ones(2, 3, 32, 32)
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *model.parameters())}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = rounded(storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    saved[y.untyped_storage().data_ptr()] = rounded(y.nbytes)
    with fake_gpu() as gpu:
        model, x = network().to(GPU), x.to(GPU)
        before = gpu.usage.live
        y = model(x)
        assert gpu.usage.live - before == sum(saved.values()) > 1e6
        assert y.device == GPU


def row_of(name: str) -> pd.Series:
    """The row of a training with the profile's number of passes."""
    training = TRAININGS[name]
    rows = KEPT[(KEPT["stage"] == training.stage) & (KEPT["training"] == training.name)]
    return rows[rows["accumulate"] == training.params.accumulate].iloc[0]


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_fits_80_gb_by_the_table(name: str):
    row = row_of(name)
    assert row["batch_size"] == TRAININGS[name].params.batch_size
    assert gpu_memory.fits(row["GB"] * 1e9, 80)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TRAININGS)
def test_the_table_is_what_is_counted_and_no_step_waits_or_convolves_in_float32(name: str):
    usage = TRAININGS[name].count()
    assert usage.peak / 1e9 == pytest.approx(row_of(name)["GB"], rel=0.02)
    assert usage.waits_of(1) == []
    if TRAININGS[name].params.precision == "bf16-mixed":
        assert not [place for place in usage.wide if place.startswith("convolution")]


def test_the_script_writes_counted_rows_and_keeps_those_of_other_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = list(TRAININGS.values())[:3]

    def rows(training: gpu_memory.Training) -> Iterator[dict[str, Any]]:
        own = KEPT[(KEPT["stage"] == training.stage) & (KEPT["training"] == training.name)]
        yield from own.to_dict("records")

    monkeypatch.setattr(gpu_memory, "TABLE", tmp_path / "table.csv")
    monkeypatch.setattr(gpu_memory, "trainings", lambda: chosen)
    monkeypatch.setattr(gpu_memory, "rows", rows)
    gpu_memory.main()
    written = gpu_memory.TABLE.read_text()
    assert written == KEPT.head(4).to_csv(index=False)  # three trainings, one in two rows
    gone = KEPT.tail(1).to_csv(index=False, header=False)
    gpu_memory.TABLE.write_text(written.replace("0.31", "9.99") + gone)
    gpu_memory.main("class verifier")
    assert gpu_memory.TABLE.read_text() == written


def test_the_page_has_the_rows_of_the_table():
    stated = [
        line
        for line in PAGE.read_text().splitlines()
        if line.startswith(("| `acdb", "| `fcmae", "| `wpat", "| `comparison"))
    ]
    assert stated == gpu_memory.page_rows(KEPT)
