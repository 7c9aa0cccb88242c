"""The deployed module includes standardisation and temperature; the ONNX file gives the same outputs."""

import importlib.util
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from leuk_lib.cli.main import main as cli
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.backbones import TimmBackbone
from leuk_lib.training.pretrained import NetworkSpec, build
from leuk_lib.wpat import export
from leuk_lib.wpat.export import deployed, export_onnx, largest_difference
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.model_card import Facts, text, write
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.predict import describe, load_model, probabilities, read_card, save_model

CLASSES = ("ALL", "AML", "none of them")
HAS_ONNX = all(importlib.util.find_spec(name) for name in export.REQUIRED)


@pytest.fixture
def saved(tiny, tmp_path):
    """A model file with logits large enough to distinguish models."""
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 2), 3, tiny).eval()
    with torch.no_grad():
        model.head_weight.mul_(50)
    return save_model(model, describe(model, CLASSES, tiny, 32, None, temperature=1.7), tmp_path)


def test_deployed_equals_leuk_predict(saved):
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model, card = load_model(saved)
    logits, probs = deployed(saved)(images.float() / 255)
    torch.testing.assert_close(probs, probabilities(model, images, card.temperature), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits.softmax(dim=1), probs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_deployed_in_other_precisions(saved, dtype):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    module = deployed(saved)
    with torch.no_grad():
        expected = module(images)[1]
        for given in (images, images.to(dtype)):
            torch.testing.assert_close(module.to(dtype)(given)[1].float(), expected, atol=0.05, rtol=0)
    with pytest.raises(LeukError, match="uint8"):
        module((images * 255).byte())


def test_logits_that_are_not_finite_are_no_agreement(saved, tmp_path, monkeypatch):
    """max(0, nan) is 0, which once passed as agreement."""

    class Session:
        def __init__(self, *_args, **_kwargs):
            pass

        def run(self, _names, inputs):
            return [np.full((len(inputs["images"]), 3), np.nan, np.float32)]

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    assert not largest_difference(deployed(saved), tmp_path / "m.onnx") <= export.TOLERANCE


@pytest.mark.skipif(not HAS_ONNX, reason="the packages of the extra 'onnx' are not installed")
def test_onnx_equals_torch_for_any_batch_size(saved, tmp_path, capsys):
    import onnx
    import onnxruntime

    target = tmp_path / "m.onnx"
    assert cli(["export", str(saved), "--onnx", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    onnx.checker.check_model(str(target), full_check=True)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert isinstance(session.get_inputs()[0].shape[0], str) and session.get_inputs()[0].shape[1:] == [3, 32, 32]
    module, card = deployed(saved), json.loads(session.get_modelmeta().custom_metadata_map["card"])
    assert tuple(card["classes"]) == CLASSES and card["temperature"] == 1.7
    for size in (1, 3, 8):
        images = torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(7 * size))
        with torch.no_grad():
            logits, probs = module(images)
        outputs = session.run(["logits", "probabilities"], {"images": images.numpy()})
        assert np.ptp(logits.numpy()) > 0.1  # else any model would agree
        np.testing.assert_allclose(outputs[0], logits.numpy(), atol=1e-4, rtol=0)
        np.testing.assert_allclose(outputs[1], probs.numpy(), atol=1e-4, rtol=0)
    module.model.head_bias.data[0] += 0.01
    assert largest_difference(module, target) > 1e-3  # the comparison detects another model


@pytest.mark.long
@pytest.mark.skipif(not HAS_ONNX, reason="the packages of the extra 'onnx' are not installed")
@pytest.mark.parametrize("side", [32, 192])
@pytest.mark.parametrize("kind", ["wpat", "network"])
@pytest.mark.parametrize("base", ["test_resnet", "test_vit"])
def test_networks_with_their_own_input_are_exported(kind, base, side, tiny, tmp_path):
    """Mean and deviation of their own, and for the vision transformer images enlarged or reduced to 160 px."""
    torch.manual_seed(0)
    fixed = {"img_size": 160} if base == "test_vit" else {}
    spec = NetworkSpec(base, 160 if fixed else side, (0.5, 0.4, 0.5), (0.5, 0.5, 0.6), fixed)
    model = build(spec, 3, side) if kind == "network" else WPAT(TimmBackbone(spec, side), 3, tiny)
    saved = save_model(model.eval(), describe(model, CLASSES, tiny, side, None, temperature=0.05), tmp_path)
    assert export_onnx(saved, tmp_path / "m.onnx") <= export.TOLERANCE
    with torch.no_grad():
        assert np.ptp(deployed(saved)(torch.rand(2, 3, side, side))[0].numpy()) > 0.1


def test_export_errors(saved, tmp_path, monkeypatch, capsys):
    with pytest.raises(LeukError, match="no such folder"):
        export_onnx(saved, tmp_path / "nowhere" / "m.onnx")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(saved.read_bytes()[:500])
    assert cli(["export", str(bad), "--onnx", str(tmp_path / "m.onnx")]) == 2
    assert "bad.safetensors" in capsys.readouterr().err and not (tmp_path / "m.onnx").exists()
    monkeypatch.setattr(export, "REQUIRED", ("no_such_package_here",))
    with pytest.raises(LeukError, match="pip install 'leuk-lib"):
        export_onnx(saved, tmp_path / "m.onnx")


def _facts(kind="rendered", profile="laptop"):
    scores = pd.DataFrame(
        [("test", "balanced_accuracy", 0.8123, 0.7, 0.9, 40, 8)],
        columns=["split", "metric", "value", "low", "high", "n", "groups"],
    )
    nan = float("nan")
    recalls = pd.DataFrame(
        [("ALL", 0.5, 0.25, 0.75, 8, 2), ("AML", 0.75, nan, nan, 4, 1), ("none of them", nan, nan, nan, 0, 0)],
        columns=["class", "recall", "low", "high", "n", "groups"],
    )
    counts = {"class": list(CLASSES), "train": [5, 6, 7], "synthetic": [0, 0, 1], "val": [1, 1, 1]}
    return Facts("smear", kind, profile, "a-run", 3, counts, scores, recalls, 12345)


def test_the_model_card_has_the_facts_and_the_limits(saved, tmp_path):
    card = deployed(saved).card
    markdown = text(card, _facts())
    for needed in (
        "Not a medical device", "never trained on a micrograph", "ALL, AML, none of them", "32 x 32 px", "not enhanced",
        "divided by 1.700", "12,345 parameters", "| none of them | 7 | 1 | 1 |", "81.2 [70.0, 90.0] | 40 | 8 |",
        "| ALL | 50.0 [25.0, 75.0] | 8 | 2 |", "| AML | 75.0 | 4 | 1 |", "| none of them | – | 0 | 0 |",
    ):  # fmt: skip
        assert needed in markdown, needed
    assert "nan" not in markdown.lower() and "Smoke run" not in markdown
    real = text(card, _facts("micrographs", "smoke"))
    assert "never trained" not in real and "Smoke run" in real
    assert write(card, _facts(), tmp_path).read_text() == markdown


def test_the_model_card_names_external_test_sets(saved):
    card, facts = deployed(saved).card, _facts("micrographs")
    assert "others were not tested" in text(card, facts)
    scores = pd.concat([facts.scores, facts.scores.assign(split="external:TestB")], ignore_index=True)
    with_external = text(card, replace(facts, scores=scores))
    assert "others were not tested" not in with_external and "external:TestB" in with_external


def test_the_model_card_names_the_weights_that_the_encoder_was_started_from(saved):
    origin = {
        "name": "convnextv2_tiny.fcmae", "source": "the hub", "revision": "f00", "sha256": "ab" * 32,
        "licence": "CC BY-NC 4.0 (no commercial use)", "trained_on": ["bccd"],
    }  # fmt: skip
    card = deployed(saved).card
    markdown = text(card, replace(_facts(), encoder_origin=origin))
    for needed in ("convnextv2_tiny.fcmae", "the hub", "f00", "ab" * 32, "CC BY-NC 4.0", "trained on bccd"):
        assert needed in markdown, needed
    assert "CC BY-NC" not in text(card, _facts())
    model = load_model(saved)[0]
    described = describe(model, CLASSES, WpatParams(**card.sizes), 32, None, 1.0, origin)
    assert described.use.startswith(card.use) and "CC BY-NC 4.0" in described.use
    assert read_card(save_model(model, described, saved.parent)) == described


def test_the_python_of_the_model_card_runs(saved, monkeypatch, capsys):
    card = deployed(saved).card
    monkeypatch.chdir(saved.parent)
    snippet = text(card, _facts()).split("```python\n")[1].split("```")[0]
    exec(snippet, {})
    assert "ALL" in capsys.readouterr().out
