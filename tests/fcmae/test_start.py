"""Weights to start from: where they come from, what they need, the resampled stem, and pretraining from them."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fcmae.test_weights import as_sparse
from fcmae.toys import cells, encoder, small_params, stir, timm_model
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import build_autoencoder, pretrain
from leuk_lib.fcmae.probe import ENCODER, GIVEN_START, RANDOM_START, Probe
from leuk_lib.fcmae.start import load_start
from leuk_lib.fcmae.weights import ORIGIN, origin_sentence, read_origin, save_backbone, with_stem_stride
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file
from leuk_lib.runs.params import check
from leuk_lib.training.augment import normalise
from leuk_lib.training.fabric import make_fabric

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NON_COMMERCIAL = "CC BY-NC 4.0 (no commercial use)"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one repository per name in `folder`; `asked` lists what was fetched."""
    folder, asked = tmp_path / "hub", []

    def fetch(repository, file, revision=None):
        asked.append((repository, file, revision))
        path = folder / repository / "snapshots" / COMMIT / file
        if not path.is_file():
            raise OSError(f"404: no {file}\nand a second line")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)

    def publish(repository, state):
        path = folder / repository / "snapshots" / COMMIT / "model.safetensors"
        path.parent.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in state.items()}, path)
        return path

    publish.asked = asked
    return publish


@pytest.mark.parametrize("tag", ["fcmae", "fcmae_ft_in1k"])
def test_a_timm_name_is_fetched_and_gives_timms_features(hub, tag):
    theirs = timm_model("atto")
    state = theirs.state_dict()
    if tag == "fcmae":  # published without a classifier
        state = {name: value for name, value in state.items() if not name.startswith("head.fc.")}
    path = hub(f"timm/convnextv2_atto.{tag}", state)
    start = load_start(FcmaeParams(weights=f"convnextv2_atto.{tag}", weights_revision=COMMIT, stem_stride=4))
    assert hub.asked == [(f"timm/convnextv2_atto.{tag}", "model.safetensors", COMMIT)]
    assert start.params.variant == "atto" and start.file_stride == 4
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        torch.testing.assert_close(start.encoder.eval().pool(x), expected, atol=1e-5, rtol=1e-5)
    facts = start.facts()
    assert facts["sha256"] == sha256_file(path) and facts["revision"] == COMMIT
    assert facts["licence"] == NON_COMMERCIAL and str(path.parent) not in json.dumps(facts)


@pytest.mark.parametrize("readme", [None, "---\nlicense: mit\n---\n# A network", "---\nlicense: cc-by-nc-4.0\n---\n"])
def test_a_repository_of_the_hub_states_its_licence_in_its_readme(hub, readme):
    path = hub("somebody/cells", timm_model("atto").state_dict())
    if readme:
        (path.parent / "README.md").write_text(readme)
    start = load_start(FcmaeParams(weights="hf-hub:somebody/cells"))
    expected = "not stated" if readme is None else "MIT" if "mit" in readme else NON_COMMERCIAL
    assert start.weights.licence == expected and start.weights.revision == COMMIT
    assert "somebody/cells" in origin_sentence(start.facts())


@pytest.mark.parametrize("layout", ["official", "sparse", "timm", "own"])
def test_files_of_every_layout_start_the_same_encoder(tmp_path, monkeypatch, layout):
    model = encoder("zepto", 4)
    path = tmp_path / "weights.pth"
    if layout == "own":
        save_backbone(model, path)
    else:
        state = model.state_dict() if layout == "official" else as_sparse(model)
        torch.save({"model": state} if layout != "timm" else timm_model("zepto").state_dict(), path)
    monkeypatch.chdir(tmp_path)
    start = load_start(FcmaeParams(weights="weights.pth", stem_stride=4))
    assert start.weights.licence == "not stated" and start.weights.sha256 == sha256_file(path)
    if layout != "timm":
        ours = {name: value for name, value in start.encoder.state_dict().items() if not name.startswith("norm.")}
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in ours.items())
    else:
        assert torch.equal(
            start.encoder.stages[0][0].pwconv1.bias, timm_model("zepto").stages[0].blocks[0].mlp.fc1.bias
        )


def test_a_file_that_was_brought_by_hand_has_the_licence_of_its_name(tmp_path, hub):
    save_file(timm_model("atto").state_dict(), tmp_path / "model.safetensors")
    start = load_start(FcmaeParams(weights=f"convnextv2_atto.fcmae@{tmp_path}/model.safetensors"))
    assert start.weights.licence == NON_COMMERCIAL and not hub.asked
    assert "timm/convnextv2_atto.fcmae" in start.weights.source


def test_a_file_must_be_of_the_variant_that_its_name_states(tmp_path):
    save_file(timm_model("atto").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(LeukError, match="holds variant atto, not tiny as named") as caught:
        load_start(FcmaeParams(weights=f"convnextv2_tiny.fcmae@{tmp_path}/model.safetensors"))
    assert caught.value.exit_code == 2


def test_the_licence_follows_an_encoder_that_was_trained_further(tmp_path):
    origin = {"name": "convnextv2_atto.fcmae", "source": "the hub", "licence": NON_COMMERCIAL, "sha256": "ab" * 32}
    path = save_backbone(encoder("atto", 2), tmp_path / "encoder.safetensors", {ORIGIN: origin})
    assert read_origin(path) == origin
    start = load_start(FcmaeParams(weights=str(path)))
    assert start.weights.licence == NON_COMMERCIAL and "convnextv2_atto.fcmae" in start.weights.source
    assert "training cells of an earlier run" in origin_sentence(start.facts())
    assert read_origin(save_backbone(encoder(), tmp_path / "random.safetensors")) is None


def test_random_weights_have_no_start():
    assert load_start(FcmaeParams()) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weights": "convnextv2_tiny.fcmae", "variant": "atto"}, "are a tiny, but parameter variant = 'atto'"),
        ({"weights": "convnextv2_huge.fcmae"}, "'huge' is none of"),
        ({"weights": "convnextv2_atto.fcmea"}, "did you mean 'convnextv2_atto.fcmae'"),
        ({"weights": "resnet18"}, "no file and no such model"),
        ({"weights": "there/is/none.safetensors"}, "no such file"),
        ({"weights": "hf-hub:nobody"}, "OWNER/REPO"),
        ({"weights": "convnextv2_atto.fcmae@none.pth"}, "no such file none.pth"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_anything_is_fetched(hub, values, words):
    with pytest.raises(LeukError, match=words) as caught:
        load_start(FcmaeParams(**values))
    assert "\n" not in str(caught.value) and not hub.asked


def test_the_variant_of_a_file_must_agree_too(tmp_path):
    path = save_backbone(encoder("zepto", 2), tmp_path / "convnextv2_mine.safetensors")
    assert load_start(FcmaeParams(weights=str(path))).params.variant == "zepto"
    with pytest.raises(LeukError, match="are a zepto, but parameter variant = 'tiny'"):
        load_start(FcmaeParams(weights=str(path), variant="tiny"))


def test_without_a_network_the_line_names_the_file_and_where_to_put_it(hub):
    with pytest.raises(LeukError, match=r"model\.safetensors of .*timm/convnextv2_atto\.fcmae.*copy it here") as caught:
        load_start(FcmaeParams(weights="convnextv2_atto.fcmae"))
    assert "\n" not in str(caught.value) and "convnextv2_atto.fcmae@PATH" in str(caught.value)


def test_foreign_and_damaged_files_and_a_revision_of_a_file_are_one_line(tmp_path, hub):
    hub("somebody/resnet", {"conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(LeukError, match="none of the ConvNeXt V2 variants"):
        load_start(FcmaeParams(weights="hf-hub:somebody/resnet"))
    path = save_backbone(encoder(), tmp_path / "e.safetensors")
    with pytest.raises(LeukError, match="a file has no revision"):
        load_start(FcmaeParams(weights=str(path), weights_revision="abc"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LeukError, match="damaged or foreign"):
        load_start(FcmaeParams(weights=str(path)))


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"steps": 1}, {"weights": "a", "steps": 1}, {"weights_revision": "a"}]
)
def test_parameters_that_contradict_each_other_are_one_line(values):
    with pytest.raises(LeukError, match=r"parameter (steps|weights_revision) = ") as caught:
        check("stage fcmae", FcmaeParams, values)
    assert "\n" not in str(caught.value)


def smooth_stem(model):
    """Kernels as training makes them: without the noise of random ones."""
    weight = model.downsample_layers[0][0].weight
    weight.data = F.interpolate(F.interpolate(weight.data, size=(2, 2), mode="area") * 2, size=(4, 4), mode="bicubic")
    return model


def relative_error(ours, expected):
    spread = expected - expected.mean((0, 2, 3) if expected.ndim == 4 else 0, keepdim=True)
    return float((ours - expected).norm() / spread.norm())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_resampled_stem_sees_an_image_as_the_old_one_its_enlargement(stride):
    old = smooth_stem(encoder("zepto", 4))
    new = with_stem_stride(old, stride)
    assert new.stem_stride == stride and with_stem_stride(old, 4) is old
    x = normalise(cells(6, 16 * stride))
    enlarged = F.interpolate(x, size=(64, 64), mode="bicubic")
    with torch.no_grad():
        # The kernels keep a quarter or a sixteenth of their values: agreement within 20 % of the spread, not to rounding.
        assert relative_error(new.downsample_layers[0][0](x), old.downsample_layers[0][0](enlarged)) < 0.2
        assert relative_error(new.pool(x), old.pool(enlarged)) < 0.2
        naive = F.interpolate(old.downsample_layers[0][0].weight, size=(stride, stride), mode="area")
        naive = F.conv2d(x, naive, old.downsample_layers[0][0].bias, stride)
        assert relative_error(naive, old.downsample_layers[0][0](enlarged)) > 1


def test_a_larger_stem_responds_to_enlarged_patches_to_rounding():
    old = encoder("zepto", 4)
    new = with_stem_stride(old, 8)
    patches = torch.randn(5, 3, 4, 4)
    enlarged = F.interpolate(patches, size=(8, 8), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = old.downsample_layers[0][0](patches)
        torch.testing.assert_close(new.downsample_layers[0][0](enlarged), expected, atol=1e-4, rtol=1e-4)


def probe_of(images, start=GIVEN_START, steps=(0,)):
    labels = torch.arange(len(images)) % 3
    groups = np.arange(len(images)).astype(str)
    half = len(images) // 2
    return Probe(images, labels, groups, torch.arange(half), torch.arange(half, len(images)), steps, k=3, start=start)


def test_no_steps_take_the_weights_as_they_are(tmp_path):
    path = save_backbone(encoder("zepto", 1, seed=3), tmp_path / "e.safetensors")
    start = load_start(small_params(weights=str(path), steps=0))
    images = cells(24)
    probe = probe_of(images)
    result = pretrain(
        images, start.params, tmp_path / "run", "id", make_fabric(start.params), probe, start=start.encoder
    )
    assert result.history == []
    ours, theirs = result.encoder.state_dict(), start.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(parameter.requires_grad for parameter in result.encoder.parameters())
    probe.baselines(random=build_autoencoder(start.params).encoder)
    gains, table = probe.gains(), probe.table()
    assert set(gains["baseline"]) == {RANDOM_START, "colour histogram", "raw-pixel PCA"}
    assert set(table.loc[table["features"] == ENCODER, "step"]) == {0}


def test_pretraining_continues_from_the_weights_and_resumes(tmp_path):
    model = encoder("zepto", 1)
    stir(model.norm)
    path = save_backbone(model, tmp_path / "e.safetensors")
    start = load_start(small_params(weights=str(path), steps=4, light=0.2))
    images = cells(24)

    def run(folder, first):
        probe = probe_of(images, steps=(0, 4))
        result = pretrain(images, start.params, tmp_path / folder, "id", make_fabric(start.params), probe, start=first)
        return result, probe

    (from_weights, probe), (random, _) = run("a", start.encoder), run("b", None)
    repeated, _ = run("a", start.encoder)  # finished, so the checkpoint is read

    def kernel(result):
        return result.encoder.stages[0][0].dwconv.weight

    assert torch.equal(kernel(from_weights), kernel(repeated))
    before = start.encoder.stages[0][0].dwconv.weight
    assert 0 < (kernel(from_weights) - before).norm() < (kernel(random) - before).norm() / 2
    probe.baselines(random=build_autoencoder(start.params).encoder)
    assert {GIVEN_START, RANDOM_START} <= set(probe.gains()["baseline"])


def test_the_light_moves_pretraining_only_if_it_is_on(tmp_path):
    def losses(folder, **values):
        params = small_params(steps=2, contrast=0.0, **values)
        return pretrain(cells(), params, Path(tmp_path / folder), "id", make_fabric(params)).history

    assert losses("a", light=0.0) == losses("b", light=0.0) != losses("c", light=0.3)
