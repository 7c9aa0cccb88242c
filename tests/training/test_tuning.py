"""Few trained weights of a vision transformer: which are trained, what stays, and that merging changes nothing."""

import importlib.util

import pytest
import torch

from leuk_lib.runs.errors import LeukError
from leuk_lib.training import pretrained, tuning
from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.optimisers import build_optimisers, set_learning_rate

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="the package peft is not installed")
WAYS = [pytest.param("lora", marks=needs_peft), "last"]


def _build(classes: int = 3, side: int = 32) -> torch.nn.Module:
    """test_vit with its input of 160 px, for images of ``side`` px."""
    torch.manual_seed(0)
    spec = pretrained.NetworkSpec("test_vit", 160, settings={"img_size": 160})
    return pretrained.build(spec, classes, side)


def _train(model: torch.nn.Module, classes: int = 3, side: int = 32, steps: int = 3) -> torch.nn.Module:
    """Train with both optimisers, and return the averaged copy as fine-tuning does."""
    average = WeightAverage(model)
    optimisers = build_optimisers(model, 0.05, 5.0, lambda name, layer: layer.out_features == classes)
    set_learning_rate(optimisers, 1e-2, 5.0)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        x, y = torch.randn(6, 3, side, side, generator=generator), torch.arange(6) % classes
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        for optimiser in optimisers.values():
            optimiser.step()
        average.update(model, 0.5)
    return average.model.eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", [32, 160])
def test_few_weights_are_trained_and_the_others_do_not_move(way: str, side: int):
    before = _build(side=side).state_dict()
    model = tuning.restrict(_build(side=side), way)
    trained, total = tuning.trained_share(model)
    print(f"{way}: {trained:,} of {total:,} parameters are trained ({trained / total:.1%})")
    assert 0 < trained < total / 4
    plain = tuning.merged(_train(model, side=side))
    after = plain.state_dict()
    assert after.keys() == before.keys()
    prefix = "" if side == 160 else "model."
    moved = {name.removeprefix(prefix) for name in before if not torch.equal(before[name], after[name])}
    if way == "lora":
        blocks = {f"blocks.{i}.attn.{layer}.weight" for i in range(6) for layer in ("qkv", "proj")}
        assert moved == blocks | {"head.weight", "head.bias"}
    else:
        inside = {name for name in moved if name.startswith("blocks.")}
        assert inside and all(name.startswith("blocks.5.") for name in inside)
        assert {name.split(".")[0] for name in moved - inside} in ({"norm", "head"}, {"fc_norm", "head"})


@needs_peft
def test_lora_starts_unchanged_and_its_updates_have_the_rank():
    import peft

    original = _build()
    state = {name: value.clone() for name, value in original.state_dict().items()}
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = original.eval()(x)
        model = tuning.restrict(original, "lora")
        assert isinstance(model, peft.PeftModel)
        torch.testing.assert_close(model.eval()(x), expected)
        with torch.enable_grad():
            wrapped = _train(model)
        outputs = wrapped(x)
        plain = tuning.merged(wrapped)
        assert (outputs - expected).abs().max() > 1e-3  # training did change it
        torch.testing.assert_close(plain(x), outputs, atol=1e-5, rtol=1e-5)
    assert plain.spec == pretrained.NetworkSpec("test_vit", 160, settings={"img_size": 160})
    update = plain.state_dict()["model.blocks.2.attn.qkv.weight"] - state["model.blocks.2.attn.qkv.weight"]
    values = torch.linalg.svdvals(update)
    assert values[0] > 0 and (values[tuning.RANK :] < 1e-4 * values[0]).all()
    assert tuning.merged(plain) is plain


@needs_peft
def test_the_same_generator_gives_the_same_start():
    first, second = (tuning.restrict(_build(), "lora").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("base", ["resnet18", "test_convnext"])
def test_networks_without_attention_blocks_are_one_line(way: str, base: str):
    with pytest.raises(LeukError, match=rf"^it: {base} cannot be tuned by '{way}': it has no attention blocks"):
        tuning.check("it", base, way)


@needs_peft
def test_layers_whose_adapter_would_have_no_effect_are_refused():
    """EVA02 multiplies with the weight of ``qkv`` itself, so that an adapter of that layer is never called."""
    with pytest.raises(LeukError, match=r"12 of its 24 attention layers cannot take an adapter .*write last:eva02"):
        tuning.check("it", "eva02_tiny_patch14_224", "lora")
    tuning.check("it", "eva02_tiny_patch14_224", "last")
    tuning.check("it", "test_vit", "lora")


def test_batch_statistics_are_refused():
    assert "batch normalisation" in tuning.obstacle("xcit_nano_12_p8_224", "last")


def test_a_missing_library_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LeukError, match=r"it: LoRA needs the package peft.*pip install 'leuk-lib\[lora\]'"):
        tuning.check("it", "test_vit", "lora")
    tuning.check("it", "test_vit", "last")
