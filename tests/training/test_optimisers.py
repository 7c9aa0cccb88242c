"""Parameter groups, AdamW and Muon: each parameter once, decay and rate by kind and depth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from leuk_lib.training.backbones import Backbone
from leuk_lib.training.optimisers import Muon, build_optimisers, parameter_groups, set_learning_rate


class Maps(Backbone):
    """A backbone of two feature maps, whose coarser one has a layer of its own."""

    channels, strides = (3, 3), (1, 2)

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Linear(3, 3), nn.Conv2d(3, 3, 3)])
        self.downsample_layers = nn.ModuleList([nn.Conv2d(3, 3, 2)])

    def level_of(self, parameter):
        return int(parameter.split(".")[1])


class Network(nn.Module):
    """A backbone, a token, a frozen layer and an output layer."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4, 3))
        self.encoder = Maps()
        self.gain = nn.Parameter(torch.zeros(1, 1, 1, 3))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 2)


def is_head(name, layer):
    return name == "head"


def by_name(model, groups, key):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group[key] for group in groups for parameter in group["params"]}


def test_vectors_and_named_parameters_do_not_decay():
    model = Network()
    decay = by_name(model, parameter_groups(model, 0.1, no_weight_decay=("token",)), "weight_decay")
    assert {name for name, value in decay.items() if value == 0.1} == {
        "encoder.stages.0.weight", "encoder.stages.1.weight", "encoder.downsample_layers.0.weight", "head.weight",
    }  # fmt: skip
    assert decay["gain"] == decay["token"] == decay["head.bias"] == 0
    assert set(decay) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_earlier_stages_learn_more_slowly():
    model = Network()
    scale = by_name(model, parameter_groups(model, 0.1, layer_decay=0.5), "lr_scale")
    assert scale["encoder.stages.0.bias"] == scale["encoder.downsample_layers.0.weight"] == 0.5**2
    assert scale["encoder.stages.1.weight"] == 0.5
    assert scale["head.weight"] == scale["token"] == 1


def test_muon_takes_inner_matrices_and_adamw_the_rest():
    model = Network()
    optimisers = build_optimisers(model, 0.1, 10.0, is_head)
    names = {key: set(by_name(model, each.param_groups, "lr")) for key, each in optimisers.items()}
    assert names["muon"] == {"encoder.stages.0.weight"}
    assert names["muon"].isdisjoint(names["optimizer"])
    assert names["muon"] | names["optimizer"] == {n for n, p in model.named_parameters() if p.requires_grad}


def test_adamw_alone_without_muon_or_without_inner_matrices():
    assert set(build_optimisers(Network(), 0.1, 0.0, is_head)) == {"optimizer"}
    assert set(build_optimisers(nn.Linear(3, 2), 0.1, 10.0, lambda *_: True)) == {"optimizer"}


def test_rates_are_scaled_by_depth_and_for_muon():
    model = Network()
    optimisers = build_optimisers(model, 0.1, 10.0, is_head, layer_decay=0.5, betas=(0.9, 0.95))
    set_learning_rate(optimisers, 0.01, 10.0)
    rates = {}
    for optimiser in optimisers.values():
        rates |= by_name(model, optimiser.param_groups, "lr")
    assert rates["encoder.stages.0.weight"] == pytest.approx(0.01 * 10 * 0.5**2)
    assert rates["encoder.stages.0.bias"] == pytest.approx(0.01 * 0.5**2)
    assert rates["head.weight"] == 0.01
    assert optimisers["optimizer"].defaults["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("shape", [(6, 6), (48, 12), (12, 48)])
def test_muon_is_that_of_torch_in_float32(shape: tuple[int, int]):
    def trained(kind: Callable[..., torch.optim.Muon]) -> torch.Tensor:
        parameter = nn.Parameter(torch.full(shape, 0.1))
        optimiser = kind([parameter], lr=0.1, weight_decay=0.2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            parameter.grad = torch.randn(shape, generator=generator)
            optimiser.step()
        assert set(optimiser.state[parameter]) == {"momentum_buffer"}
        return parameter.detach()

    ours, theirs = trained(Muon), trained(partial(torch.optim.Muon, adjust_lr_fn="match_rms_adamw"))
    assert 0 < (ours - theirs).norm() / theirs.norm() < 0.02  # bfloat16 has three digits


def test_muon_makes_all_directions_of_an_update_alike():
    parameter = nn.Parameter(torch.zeros(8, 32))
    u, _, v = torch.linalg.svd(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    parameter.grad = u @ torch.diag(torch.logspace(0, -2, 8)) @ v
    Muon([parameter], lr=1.0).step()
    values = torch.linalg.svdvals(parameter) / (0.2 * 32**0.5)
    assert (values > 0.6).all() and (values < 1.3).all()


def test_muon_amplifies_a_change_in_the_last_digit_little():
    def trained(scale: float) -> torch.Tensor:
        parameter = nn.Parameter(torch.zeros(16, 48))
        parameter.grad = scale * torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
        Muon([parameter], lr=1.0).step()
        return parameter.detach()

    torch.testing.assert_close(trained(1.0), trained(1.0 + 2**-23), rtol=1e-5, atol=1e-6)
