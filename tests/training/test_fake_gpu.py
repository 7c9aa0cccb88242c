"""The fake GPU counts what a real one would hold, and sees what would make the host wait or fail on it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training import train_one
from training.fake_gpu import BLOCK, GPU, fake_gpu, used

MB = 1 << 20  # bytes


def megabytes(count: int, **options) -> torch.Tensor:
    return torch.ones(count, MB // 4, device=GPU, **options)


def test_bytes_are_those_alive_at_once():
    with fake_gpu() as gpu:
        a = megabytes(3)
        b = a + 1
        del a
        c = b * 2  # b and c
        del b, c
        small = torch.zeros(1, device=GPU)
    assert gpu.usage.peak == 6 * MB and gpu.usage.live == BLOCK and small.device == GPU


def test_views_take_no_memory():
    with fake_gpu() as gpu:
        a = megabytes(2)
        views = [a[1:], a.flatten(), a.t()]
    assert gpu.usage.peak == 2 * MB and len(views) == 3


def test_a_backward_pass_holds_what_the_forward_pass_saved():
    with fake_gpu() as gpu:
        x = megabytes(1, requires_grad=True)
        y = x.exp().exp()  # each saves its result
        assert gpu.usage.live == 3 * MB
        y.sum().backward()
        assert x.grad is not None and x.grad.device == GPU
        del y
    assert gpu.usage.live == 2 * MB


def test_double_backward_runs():
    with fake_gpu() as gpu:
        x = torch.ones(2, 3, 8, 8, device=GPU, requires_grad=True)
        network = nn.Conv2d(3, 4, 3).to(GPU)
        (gradient,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    assert network.weight.grad is not None and network.weight.grad.device == GPU
    assert gpu.usage.peak > 0


def test_parameters_stay_the_objects_that_an_optimiser_knows():
    with fake_gpu():
        network = nn.Linear(2, 2)
        optimiser = torch.optim.AdamW(network.parameters())
        network.to(GPU)
        network(torch.ones(1, 2, device=GPU)).sum().backward()
        optimiser.step()
        assert optimiser.state[network.weight]["exp_avg"].device == GPU


def test_values_on_the_cpu_are_real():
    with fake_gpu() as gpu:
        assert torch.arange(3).tolist() == [0, 1, 2] and gpu.usage.peak == 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.mean()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).all()),
        lambda x: torch.ones(3).to(GPU),
        lambda x: torch.tensor([1.0, 2.0], device=GPU),
        lambda x: x[torch.tensor([0])],
    ],
)
def test_what_makes_the_host_wait_is_counted(wait):
    with fake_gpu() as gpu:
        x = torch.ones(4, device=GPU)
        before = len(gpu.usage.waits)
        wait(x)
        assert len(gpu.usage.waits) > before


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x * 2 + x.sum(),
        lambda x: torch.ones(3).to(GPU, non_blocking=True),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: torch.rand(4, device=GPU) + x,
    ],
)
def test_work_for_which_the_host_does_not_wait_is_not(work):
    with fake_gpu() as gpu:
        x = torch.ones(4, device=GPU)
        before = len(gpu.usage.waits)
        work(x)
        assert len(gpu.usage.waits) == before


def test_tensors_on_two_devices_are_an_error():
    with fake_gpu(), pytest.raises(RuntimeError, match=r"cpu|device"):
        torch.ones(2, device=GPU) + torch.ones(2)


def test_products_in_float32_are_named_and_those_in_bfloat16_are_not():
    with fake_gpu() as gpu:
        gpu.step = 0
        x = torch.ones(2, 2, device=GPU)
        with torch.autocast("cuda", torch.bfloat16):
            assert (x @ x).dtype == torch.bfloat16 and not gpu.usage.wide
        assert (x @ x).dtype == torch.float32
    assert list(gpu.usage.wide) == ["mm elsewhere"]


#: So that no row is logged, no network evaluated and no checkpoint written in the second step.
SPARSE = {"fcmae": {}, "gan": {"steps": 400}, "wpat": {"evaluations": 1}}


@pytest.mark.parametrize("method", ["fcmae", "gan", pytest.param("wpat", marks=pytest.mark.long)])
def test_no_step_of_a_training_makes_the_host_wait_and_convolutions_are_in_bfloat16(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {**train_one.SETTINGS[method], "checkpoint_every": 50, **SPARSE[method]}
    monkeypatch.setitem(train_one.SETTINGS, method, settings)
    usage = used(lambda fabric: train_one.train(method, tmp_path, fabric), "bf16-mixed")
    assert usage.waits_of(1) == [] and usage.waits  # the images were copied before the first step
    assert not [place for place in usage.wide if place.startswith("convolution")]
