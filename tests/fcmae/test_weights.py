import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from damage import survives
from fcmae.toys import encoder, rolled, timm_model
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.fcmae.weights import infer_variant, load_backbone, save_backbone
from leuk_lib.runs.errors import LeukError


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def as_sparse(model):
    """The state dict as the sparse pretraining code writes it, decoder included, final norm absent."""
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith("norm."):
            continue
        value = value.clone()
        stem = key.startswith("downsample_layers.0.")
        if not stem and value.dim() == 4 and "grn" not in key:
            key, value = key.replace("weight", "kernel"), rolled(value)
        elif "dwconv.bias" in key or (key.endswith(".1.bias") and "downsample" in key and not stem):
            value = value[None]
        elif "pwconv" in key:
            key = key.replace(".weight", ".linear.weight").replace(".bias", ".linear.bias")
        elif "grn" in key:
            value = value.flatten()[None]
        elif not stem:  # what is left are layer norms
            head, kind = key.rsplit(".", 1)
            key = f"{head}.ln.{kind}"
        state[f"encoder.{key}"] = value
    return state | {
        "mask_token": torch.zeros(1, 8, 1, 1),
        "proj.weight": torch.zeros(8, 8),
        "pred.bias": torch.zeros(3),
    }


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_own_file_round_trip(tmp_path, stem):
    model = encoder("zepto", stem)
    loaded = load_backbone(save_backbone(model, tmp_path / "encoder.safetensors"))
    assert same(model, loaded) and (loaded.variant, loaded.stem_stride) == ("zepto", stem)
    assert loaded.load_report.loaded == loaded.load_report.total == len(model.state_dict())


def test_same_weights_same_bytes(tmp_path):
    a, b = (save_backbone(encoder(), tmp_path / f"{n}.safetensors") for n in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_official_file_with_head(tmp_path):
    model = encoder("atto", 4)
    state = model.state_dict() | {"head.weight": torch.zeros(10, 320), "head.bias": torch.zeros(10)}
    torch.save({"model": state}, tmp_path / "official.pt")
    loaded = load_backbone(tmp_path / "official.pt")
    assert same(model, loaded) and loaded.variant == "atto"
    assert loaded.load_report.ignored == ("head.bias", "head.weight")


def test_sparse_file(tmp_path):
    model = encoder("zepto", 4)
    torch.save({"model": as_sparse(model)}, tmp_path / "fcmae.pt")
    loaded = load_backbone(tmp_path / "fcmae.pt")
    assert loaded.load_report.not_in_file == ("norm.bias", "norm.weight")
    assert loaded.load_report.loaded == len(model.state_dict()) - 2
    loaded.norm.load_state_dict(model.norm.state_dict())
    assert same(model, loaded)


def test_timm_file(tmp_path):
    theirs = timm_model("zepto")
    save_file(theirs.state_dict(), str(tmp_path / "timm.safetensors"))
    loaded = load_backbone(tmp_path / "timm.safetensors").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        torch.testing.assert_close(loaded.pool(x), expected, atol=1e-5, rtol=1e-5)


def broken(change):
    state = dict(encoder().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("stages.2.1.pwconv1.weight"), "missing keys: 1 .stages.2.1.pwconv1.weight"),
        (lambda s: s.update({"stages.0.0.gamma": torch.zeros(32)}), "unexpected keys: 1 .stages.0.0.gamma"),
        (lambda s: s.update({"stages.1.0.norm.weight": torch.zeros(63)}), "stages.1.0.norm.weight has shape"),
        (lambda s: s.update({"downsample_layers.1.1.weight": torch.zeros(32, 64, 2, 2)}), "has shape"),
    ],
)
def test_missing_extra_and_misshapen_keys_are_one_clear_line(tmp_path, change, words):
    save_file(broken(change), str(tmp_path / "bad.safetensors"))
    with pytest.raises(LeukError, match=words) as caught:
        load_backbone(tmp_path / "bad.safetensors")
    assert "\n" not in str(caught.value)


def test_another_architecture_is_named(tmp_path):
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, str(tmp_path / "resnet.safetensors"))
    with pytest.raises(LeukError, match="none of the ConvNeXt V2 variants"):
        load_backbone(tmp_path / "resnet.safetensors")


def test_requiring_another_variant_or_stem_is_refused(tmp_path):
    path = save_backbone(encoder(), tmp_path / "e.safetensors")
    with pytest.raises(LeukError, match="not the required atto"):
        load_backbone(path, variant="atto")
    with pytest.raises(LeukError, match="stem stride 4"):
        load_backbone(path, stem_stride=4)
    assert load_backbone(path, variant="zepto", stem_stride=2, drop_path=0.1).stages[3][-1].drop_path > 0


class Bomb:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    torch.save({"model": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "bare.pt"):
        with pytest.raises(LeukError, match="not executed"):
            load_backbone(tmp_path / name)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(tmp_path, suffix, share):
    path = tmp_path / f"whole.{suffix}"
    if suffix == "pt":
        torch.save(encoder().state_dict(), path)
    else:
        save_backbone(encoder(), path)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(LeukError, match=r"cut\.(safetensors|pt).*(damaged|cut short)"):
        load_backbone(cut)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_damaged_files_are_one_line(tmp_path, kind):
    path = tmp_path / f"whole.{kind}"
    if kind == "safetensors":
        save_backbone(encoder(), path)
    else:
        torch.save(encoder().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    survives(load_backbone, path, times=12)


@pytest.mark.parametrize(("old", "new"), [("CC-BY", "CC-BX"), ("CC-BY", 'CC"BY'), ("encoder/1", "encoder/7")])
def test_changed_metadata_are_refused(tmp_path, old, new):
    """A wrong licence was believed; a file whose metadata are no JSON counted as foreign, and nothing was checked."""
    path = save_backbone(encoder(), tmp_path / "e.safetensors", {"origin": {"name": "w", "licence": "CC-BY-NC"}})
    content = path.read_bytes()
    assert content.count(old.encode()) == 1
    path.write_bytes(content.replace(old.encode(), new.encode()))
    with pytest.raises(LeukError, match=r"e\.safetensors: damaged"):
        load_backbone(path)


@pytest.mark.parametrize("metadata", ["convnextv2", "[1]", '{"format": "theirs"}'])
def test_metadata_of_a_foreign_file_is_ignored(tmp_path, metadata):
    save_file(encoder().state_dict(), tmp_path / "theirs.safetensors", metadata={"encoder": metadata})
    assert load_backbone(tmp_path / "theirs.safetensors").variant == "zepto"


@pytest.mark.parametrize(
    "wrong", [{"variant": "huge"}, {"variant": ["atto"]}, {"stem_stride": 16}, {"stem_stride": "2"}]
)
def test_metadata_that_name_no_encoder_are_one_line(tmp_path, wrong):
    metadata = {"format": "leuk_lib.fcmae.encoder/1", "variant": "zepto", "stem_stride": 2} | wrong
    save_file(encoder().state_dict(), tmp_path / "odd.safetensors", metadata={"encoder": json.dumps(metadata)})
    with pytest.raises(LeukError, match=r"odd\.safetensors: not an encoder of this library"):
        load_backbone(tmp_path / "odd.safetensors")


def test_an_unsupported_stem_or_kernel_is_one_line(tmp_path):
    state = encoder().state_dict()
    torch.save(state | {"downsample_layers.0.0.weight": torch.zeros(32, 3, 16, 16)}, tmp_path / "stem.pt")
    with pytest.raises(LeukError, match=r"stem\.pt: not an encoder of this library .*16"):
        load_backbone(tmp_path / "stem.pt")
    torch.save(state | {"stages.0.0.dwconv.kernel": torch.tensor(1.0)}, tmp_path / "kernel.pt")
    with pytest.raises(LeukError, match="square convolution"):
        load_backbone(tmp_path / "kernel.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training_are_refused(tmp_path, value):
    model = encoder()
    with torch.no_grad():
        model.stages[1][0].pwconv1.weight[0, 0] = value
    with pytest.raises(LeukError, match=r"stages\.1\.0\.pwconv1\.weight has NaN or infinite values"):
        load_backbone(save_backbone(model, tmp_path / "diverged.safetensors"))


def test_a_missing_file_and_a_file_without_tensors_are_named(tmp_path):
    with pytest.raises(LeukError, match="no such file"):
        load_backbone(tmp_path / "none.safetensors")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(LeukError, match="no state dict"):
        load_backbone(tmp_path / "epoch.pt")


def test_variant_is_inferred_from_shapes():
    assert infer_variant(timm_model("femto").state_dict()) == ("femto", 4)
    assert infer_variant(as_sparse(encoder("zepto", 2))) == ("zepto", 2)


def test_a_changed_weight_and_integers_are_refused(tmp_path):
    path = save_backbone(build_encoder("zepto", 2), tmp_path / "encoder.safetensors")
    tensors = load_file(path)
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    name = "stages.0.0.pwconv1.weight"
    save_file(tensors | {name: tensors[name] + 1e-6}, path, metadata=metadata)
    with pytest.raises(LeukError, match="checksum of its weights"):
        load_backbone(path)
    save_file(tensors | {name: tensors[name].to(torch.int8)}, path)
    with pytest.raises(LeukError, match=r"pwconv1\.weight is of type torch\.int8"):
        load_backbone(path, "zepto", 2)
