"""The training loop: its random draws, and that an interruption changes nothing."""

from __future__ import annotations

import math
import os
import signal
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from damage import survives
from leuk_lib.runs import progress
from leuk_lib.runs.checkpoint import Checkpoint
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import TrainParams
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.loop import TrainingLoop
from training.fake_gpu import GPU, fake_fabric, fake_gpu


@pytest.fixture(scope="module")
def fabric():
    return make_fabric(TrainParams(accelerator="cpu"))


def train(
    fabric, folder: Path, stop_after: int | None = None, identity: str = "id", total: int = 30, noise: bool = True
):
    """A toy with a dropout and step noise; returns the weights, the history and the steps done in this call."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimiser = fabric.setup(model, optimiser)
    data = torch.linspace(-1, 1, 88).reshape(22, 4)
    loop = TrainingLoop(fabric, folder, identity, total, seed=3, label="toy", every=7)
    loop.register(model=model, optimizer=optimiser)
    done = []
    for step in loop:
        batch = data[loop.batch(step, len(data), 8)]
        batch = batch + torch.randn(batch.shape, generator=loop.generator(step, "noise")) * noise
        loss = model(batch).pow(2).mean()
        fabric.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        loop.log(loss=loss.item())
        done.append(step)
        if stop_after is not None and len(done) == stop_after:
            break
    return torch.cat([p.detach().flatten() for p in model.parameters()]), loop.history, done


@pytest.mark.parametrize("stop_after", [1, 7, 12, 29])
def test_a_stopped_and_continued_loop_equals_an_uninterrupted_one(fabric, tmp_path: Path, stop_after: int):
    whole, history, _ = train(fabric, tmp_path / "whole")
    train(fabric, tmp_path / "parts", stop_after)
    parts, continued, done = train(fabric, tmp_path / "parts")
    assert torch.equal(whole, parts)
    assert history == continued
    # The checkpoint of a step is written when the loop starts the next one.
    assert done[0] == (stop_after - 1) // 7 * 7 and done[-1] == 29


def test_a_finished_loop_restores_its_end_without_a_step(fabric, tmp_path: Path):
    whole, history, _ = train(fabric, tmp_path)
    again, kept, done = train(fabric, tmp_path)
    assert done == [] and torch.equal(whole, again) and kept == history


def test_another_identity_starts_from_the_beginning(fabric, tmp_path: Path):
    train(fabric, tmp_path)
    assert train(fabric, tmp_path, identity="other")[2] == list(range(30))


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "request"])
def test_each_way_of_ending_writes_a_checkpoint_first(fabric, tmp_path: Path, monkeypatch, way: str):
    monkeypatch.setenv(progress.STOP, str(tmp_path / "stop"))
    model = torch.nn.Linear(2, 2)
    loop = TrainingLoop(fabric, tmp_path, "id", 100, seed=0, label="toy", every=1000)
    loop.register(model=model)
    earlier = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt if way == "SIGINT" else SystemExit) as ended:
        for step in loop:
            if step == 4 and way == "request":
                (tmp_path / "stop").touch()
            elif step == 4:
                os.kill(os.getpid(), getattr(signal, way))
    if way != "SIGINT":
        assert ended.value.code == {"SIGTERM": 143, "request": 130}[way]
    assert signal.getsignal(signal.SIGINT) is earlier
    again = TrainingLoop(fabric, tmp_path, "id", 100, seed=0, label="toy", every=1000)
    again.register(model=model)
    monkeypatch.delenv(progress.STOP)
    assert next(iter(again)) == 5


def test_a_stop_finds_a_training_in_its_first_step(fabric, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(progress.PROGRESS, str(tmp_path / "progress.json"))
    monitor = progress.Monitor(tmp_path / "progress.json", "toy")
    loop = TrainingLoop(fabric, tmp_path, "id", 100, seed=0, label="toy", every=1000)
    assert not monitor.training
    next(iter(loop))
    assert monitor.training and monitor.read()["step"] == 0


def test_a_second_interrupt_ends_at_once(fabric, tmp_path: Path):
    loop = TrainingLoop(fabric, tmp_path, "id", 100, seed=0, label="toy", every=1000)
    with pytest.raises(KeyboardInterrupt):
        for _ in loop:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the step went on")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x04cposix\nsystem\n(S'true'\ntR."])
def test_a_damaged_or_foreign_checkpoint_is_one_line(fabric, tmp_path: Path, content: bytes):
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(LeukError, match=r"checkpoint .*state\.safetensors: damaged or foreign"):
        train(fabric, tmp_path)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", "5", '{"format": 1}', '{"format": 2}', '{"format": 2, "identity": "id", "state": [9]}']
)
def test_a_file_of_something_else_is_no_checkpoint(tmp_path: Path, content: str | None):
    metadata = {} if content is None else {"leuk_lib": content, "crc": str(zlib.crc32(content.encode()))}
    save_file({"x": torch.zeros(1)}, tmp_path / "state.safetensors", metadata=metadata)
    with pytest.raises(
        LeukError, match=r"state\.safetensors: (not written by this library|of another format).*; delete"
    ):
        Checkpoint(tmp_path, "id").load()


def test_a_damaged_checkpoint_is_one_line_or_read_as_it_was(tmp_path: Path):
    """A checkpoint with changed bytes must never be continued with other weights."""
    checkpoint = Checkpoint(tmp_path, "id")
    checkpoint.save({"step": 3, "objects": {"model": {"weight": torch.linspace(0, 1, 99)}}})
    for state in survives(lambda path: checkpoint.load(), checkpoint.path):
        assert state["step"] == 3 and torch.equal(state["objects"]["model"]["weight"], torch.linspace(0, 1, 99))


def test_a_truncated_checkpoint_is_one_line(fabric, tmp_path: Path):
    train(fabric, tmp_path)
    whole = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "state.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LeukError, match=r"checkpoint .*state\.safetensors: damaged or foreign"):
        train(fabric, tmp_path)


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("step", -5, "step"), ("step", 10**9, "holds step 1000000000 of 30"), ("step", 1.5, "step"), ("step", True, "step"),
        ("history", {}, "history"), ("history", [{"step": "x"}], "history"), ("stopped", 1, "stopped"), ("objects", [], "objects"),
        ("objects", {}, "registered"),
    ],
)  # fmt: skip
def test_a_forged_state_is_one_line(fabric, tmp_path: Path, part: str, value: object, why: str):
    train(fabric, tmp_path)
    checkpoint = Checkpoint(tmp_path, "id")
    state = checkpoint.load()
    assert state is not None
    checkpoint.save({**state, part: value})
    with pytest.raises(LeukError, match=why):
        train(fabric, tmp_path)


@pytest.mark.parametrize("forged", [{}, {"weight": torch.zeros(7)}, {"x": 1}, [1], None, {"weight": "x"}])
def test_a_forged_model_is_one_line(fabric, tmp_path: Path, forged: object):
    train(fabric, tmp_path)
    checkpoint = Checkpoint(tmp_path, "id")
    state = checkpoint.load()
    assert state is not None
    checkpoint.save({**state, "objects": dict.fromkeys(state["objects"], forged)})
    with pytest.raises(LeukError, match="does not fit"):
        train(fabric, tmp_path)


def mutate_checkpoint(tmp_path: Path, times: int) -> None:
    checkpoint = Checkpoint(tmp_path, "id")
    kept = {
        "step": 3,
        "objects": {"m": {"w": torch.linspace(0, 1, 9)}, "o": {"state": {0: [1, 2.5]}, "betas": (0.9, None)}},
    }
    checkpoint.save(kept)
    whole, rng = checkpoint.path.read_bytes(), np.random.default_rng(0)
    for _ in range(times):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        checkpoint.path.write_bytes(bytes(changed))
        try:
            state = checkpoint.load()
        except LeukError as error:
            assert "\n" not in str(error)
            continue
        if state is not None:  # another identity starts from the beginning
            assert state["step"] == 3 and torch.equal(state["objects"]["m"]["w"], kept["objects"]["m"]["w"])
            assert state["objects"]["o"] == kept["objects"]["o"]


def test_changed_bytes_of_a_checkpoint_never_continue(tmp_path: Path):
    mutate_checkpoint(tmp_path, 60)


@pytest.mark.long
def test_two_thousand_changed_bytes_of_a_checkpoint_never_continue(tmp_path: Path):
    mutate_checkpoint(tmp_path, 2000)


def test_a_checkpoint_is_what_was_saved_and_holds_no_pickle(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path, "id")
    (tmp_path / "state.pt").write_bytes(b"earlier")
    wide = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    shared = torch.ones(3)
    state = {
        "none": None, "flags": [True, False], "tuple": (1, (2.5, "x")), 3: {"a": 1}, "nan": float("nan"), "tiny": 5e-324,
        "scalar": torch.tensor(2), "empty": torch.zeros(0, 4), "half": torch.tensor([1.5]).bfloat16(), "rng": torch.get_rng_state(),
        "wide": wide, "one": shared, "two": shared, "view": shared[1:], "text": ["dict", ["tensor"]], "bool": torch.tensor([True]),
    }  # fmt: skip
    checkpoint.save(state)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    read = checkpoint.load()
    assert read is not None and list(read) == list(state)
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            assert read[name].dtype == value.dtype and torch.equal(read[name], value)
            assert read[name].stride() == value.stride()
        elif name != "nan":
            assert read[name] == value and type(read[name]) is type(value)
    assert math.isnan(read["nan"])
    for wrong in ({"x": object()}, {"x": {1.5: 2}}, {"x": np.zeros(2)}):
        with pytest.raises(TypeError, match="a checkpoint"):
            checkpoint.save(wrong)
    torch.save(state, checkpoint.path)
    with pytest.raises(LeukError, match="checkpoint"):
        checkpoint.load()


@settings(max_examples=60, deadline=None)
@given(n_items=st.integers(1, 40), batch_size=st.integers(1, 50), epochs=st.integers(1, 3))
def test_batches_are_epochs_of_permutations(n_items: int, batch_size: int, epochs: int):
    loop = TrainingLoop(make_fabric(TrainParams(accelerator="cpu")), Path("unused"), "id", 1, seed=1, label="order")
    if n_items >= batch_size:
        per_epoch = n_items // batch_size
        for epoch in range(epochs):
            epoch_items = torch.cat([loop.batch(epoch * per_epoch + i, n_items, batch_size) for i in range(per_epoch)])
            assert len(epoch_items.unique()) == len(epoch_items) == per_epoch * batch_size
    else:
        joined = torch.cat([loop.batch(step, n_items, batch_size) for step in range(epochs * n_items)])
        for start in range(0, len(joined), n_items):
            assert sorted(joined[start : start + n_items].tolist()) == list(range(n_items))


def test_no_images_is_one_line(fabric):
    with pytest.raises(LeukError, match="no image to train on"):
        TrainingLoop(fabric, Path("unused"), "id", 1, seed=1, label="toy").batch(0, 0, 4)


def test_losses_are_read_from_a_gpu_every_20_steps_and_no_row_is_lost(tmp_path: Path):
    with fake_gpu() as gpu:
        loop = TrainingLoop(fake_fabric(gpu, "32-true", 100), tmp_path, "id", 45, seed=0, label="toy", every=1000)
        waits = []
        for step in loop:
            before = len(gpu.usage.waits)
            loop.record({"loss": torch.ones((), device=GPU)}, lambda numbers: {"loss": numbers["loss"][0]})
            waits.append((step, len(gpu.usage.waits) - before))
    assert [step for step, count in waits if count] == [19, 39]
    assert [row["step"] for row in loop.history] == list(range(45))


def test_numbers_of_the_cpu_are_read_at_once(fabric: Any, tmp_path: Path):
    loop = TrainingLoop(fabric, tmp_path, "id", 2, seed=0, label="toy")
    for step in loop:
        loop.record(
            {"loss": torch.tensor(0.1 + step), "sums": torch.arange(2)},
            lambda numbers: {"loss": sum(numbers["sums"]) + numbers["loss"][0]},
        )
        assert loop.history[-1] == {"step": step, "loss": pytest.approx(1.1 + step)}
