"""Training: resume equals an uninterrupted run, only learnable classes are drawn, errors are readable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from leuk_lib.gan import train as training
from leuk_lib.gan.generate import generate
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.train import GanResult, train_gan
from leuk_lib.runs.checkpoint import Checkpoint
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.fabric import make_fabric

PARAMS = AcdbGanParams(
    gan_size=16, patch=1, width=4, max_width=8, steps=6, batch_size=6, checkpoint_every=2, min_count=3,
    accelerator="cpu", penalty_every=2, latent=8,
)  # fmt: skip


def cells(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three classes of flat grey levels, 8, 5 and 1 cells."""
    labels = torch.tensor([0] * 8 + [1] * 5 + [2])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 20, (14, 3, 20, 20), generator=generator)
    return (noise + 80 * labels[:, None, None, None]).to(torch.uint8), labels


def run(folder: Path, params: AcdbGanParams = PARAMS, recall: list[float] | None = None) -> GanResult:
    return train_gan(*cells(), 3, params, folder, "id", make_fabric(params), recall)


class Killed(Exception):
    """Replaces a lost process."""


def test_resume_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    real_batch = training._batch

    def dies(loop, sampler, ada, params, step, network, fabric):  # type: ignore[no-untyped-def]
        if step == 3 and network == "g":
            raise Killed
        return real_batch(loop, sampler, ada, params, step, network, fabric)

    monkeypatch.setattr(training, "_batch", dies)
    with pytest.raises(Killed):
        run(tmp_path / "cut")
    monkeypatch.setattr(training, "_batch", real_batch)
    torch.manual_seed(12345)  # the global state does not matter
    again = run(tmp_path / "cut")
    for one, other in ((whole.generator, again.generator), (whole.discriminator, again.discriminator)):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key
    assert torch.equal(whole.snapshots, again.snapshots) and whole.history.equals(again.history)


def test_result(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.learned.tolist() == [True, True, False] and done.sampling_weights[2] == 0
    assert done.snapshots.shape == (len(done.snapshot_steps), 3, 4, 3, 16, 16) and (done.snapshots[:, 2] == 255).all()
    assert {"loss_d", "loss_g", "r1", "r2", "r_0", "p_1", "ramp"} <= set(done.history) and "r_2" not in done.history
    assert done.history["r1"].notna().sum() == 3  # every second step
    assert not done.generator.training
    whole = generate(done.generator, 1, 5, 8, seed=0, batch=2)
    assert whole.dtype == torch.uint8
    torch.testing.assert_close(whole[3:], generate(done.generator, 1, 2, 8, seed=0, start=3), atol=1, rtol=0)
    assert torch.equal(done.snapshots[-1, 1], generate(done.generator, 1, 4, 8, seed=0))


def test_recall_changes_the_sampling(tmp_path: Path) -> None:
    plain, weak = run(tmp_path / "a"), run(tmp_path / "b", recall=[0.9, 0.1, 0.5])
    assert weak.sampling_weights[1] > plain.sampling_weights[1] and weak.sampling_weights.sum() == pytest.approx(1)


def test_the_seed_is_the_run(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", PARAMS.model_copy(update={"seed": 1}))
    assert not torch.equal(a.snapshots, b.snapshots)


def test_sampled_cells_are_of_the_sampled_class() -> None:
    images, labels = cells()
    sampler = training._RealSampler(images, labels, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    positions, y = sampler.draw(200, torch.Generator().manual_seed(0))
    assert torch.equal(labels[positions], y) and set(y.tolist()) == {0, 1}
    assert len(set(positions.tolist())) == 13


def test_no_class_large_enough_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LeukError, match="min_count = 9"):
        run(tmp_path, PARAMS.model_copy(update={"min_count": 9}))


def test_a_checkpoint_of_an_older_version_is_one_line(tmp_path: Path) -> None:
    names = ("generator", "discriminator", "optimizer_g", "optimizer_d", "ema", "ada", "looks")
    state = {"step": 2, "objects": {name: {} for name in names}, "history": [], "stopped": False}
    Checkpoint(tmp_path, "id").save(state)
    with pytest.raises(LeukError, match=r"state\.safetensors: .*looks.*snapshots.*delete") as error:
        run(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("steps", "every", "lost", "kept"), [(6, 2, 4, 4), (400, 4, 7, 4)])
def test_diverged_training_stops_before_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, every: int, lost: int, kept: int
) -> None:
    """The discriminator becomes NaN in a logged step, or in one that is not logged but precedes a checkpoint."""
    real_batch = training._batch

    def poisoned(loop, sampler, ada, params, step, network, fabric):  # type: ignore[no-untyped-def]
        if step == lost and network == "g":
            with torch.no_grad():
                next(loop._objects["discriminator"].parameters()).fill_(float("nan"))
        return real_batch(loop, sampler, ada, params, step, network, fabric)

    monkeypatch.setattr(training, "_batch", poisoned)
    with pytest.raises(LeukError, match=rf"diverged at step {lost} \(loss_g nan\); lower lr"):
        run(tmp_path, PARAMS.model_copy(update={"checkpoint_every": every, "steps": steps}))
    state = Checkpoint(tmp_path, "id").load()
    assert state is not None and state["step"] == kept
    for name in ("generator", "discriminator"):
        assert all(value.isfinite().all() for value in state["objects"][name].values())


def test_classes_are_named_where_the_training_diverged() -> None:
    row = {"loss_d": float("nan"), "loss_g": 0.7, "r_0": 0.1, "p_0": 0.0, "r_2": float("nan"), "p_2": float("nan")}
    with pytest.raises(LeukError, match=r"step 9, class number 2 \(loss_d nan\).*lr"):
        training._require_finite(row, 9, 0.1)


def test_bfloat16_trains_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    """CPU autocast stays near the float32 run at the start and finite to the end."""
    whole = run(tmp_path / "32")
    mixed = run(tmp_path / "16", PARAMS.model_copy(update={"precision": "bf16-mixed"}))
    assert all(value.dtype == torch.float32 for value in mixed.generator.state_dict().values())
    for key in ("loss_d", "loss_g"):
        assert mixed.history[key].notna().all() and mixed.history[key].abs().max() < 10
        assert mixed.history[key].iloc[0] == pytest.approx(whole.history[key].iloc[0], abs=0.05)
    assert not whole.history["loss_d"].equals(mixed.history["loss_d"])  # the precision did differ
    assert mixed.snapshots.dtype == torch.uint8


def gradient_descent(parameters, lr, **_):  # type: ignore[no-untyped-def]
    return torch.optim.SGD(parameters, lr)


WHOLE = PARAMS.model_copy(
    update={
        "batch_size": 32,
        "steps": 3,
        "penalty_every": 1,
        "ada_images": 40,
        "ada_target": -0.5,
        "lr": 0.01,
        "threads": 1,
    }
)


@pytest.mark.parametrize("groups", [0, 2])
def test_passes_equal_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """Losses, penalties, relativistic pairs, the comparison within groups, augmentation and its adaptation."""
    # Adam's first steps have the size of the rate even for a gradient that is rounding.
    monkeypatch.setattr(torch.optim, "Adam", gradient_descent)
    params = WHOLE.model_copy(update={"groups": groups})
    whole = run(tmp_path / "1", params)
    parts = run(tmp_path / "2", params.model_copy(update={"accumulate": 2}))
    for name in ("generator", "discriminator"):
        for key, value in getattr(whole, name).state_dict().items():
            torch.testing.assert_close(getattr(parts, name).state_dict()[key], value, rtol=1e-4, atol=1e-6, msg=key)
    for column in whole.history:
        torch.testing.assert_close(
            torch.tensor(parts.history[column]), torch.tensor(whole.history[column]), rtol=1e-4, atol=1e-6, msg=column
        )
    assert whole.history["p_0"].iloc[-1] > 0 and whole.history["r1"].iloc[-1] > 0


@pytest.mark.parametrize(("batch", "accumulate"), [(32, 4), (24, 2), (48, 2)])
def test_passes_with_parts_of_groups_are_one_line(tmp_path: Path, batch: int, accumulate: int) -> None:
    params = WHOLE.model_copy(update={"batch_size": batch, "accumulate": accumulate})
    with pytest.raises(LeukError, match=f"accumulate {accumulate} cuts batch_size {batch}.*multiple of 16 images"):
        run(tmp_path, params)
