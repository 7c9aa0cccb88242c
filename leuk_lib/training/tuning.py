"""Training few of a vision transformer's weights: LoRA through the library peft, or its last block alone.

Both leave the rest of a published network as it is. They fit encoders whose attention has linear layers named as timm
names them (``qkv`` or ``q_proj``, ``k_proj``, ``v_proj``; and ``proj``): ViT, DINOv2, DeiT, Swin and others.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from leuk_lib.runs.errors import LeukError
from leuk_lib.training import pretrained

LORA, LAST = "lora", "last"
RANK, ALPHA = 8, 16  # of LoRA: the update of a matrix is ALPHA / RANK * B A, with B (out, RANK) and A (RANK, in)
_IN, _OUT = ("qkv", "q_proj", "k_proj", "v_proj"), "proj"


def attention_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers of all attention modules, in the order of the blocks.

    Example:
        >>> import timm
        >>> attention_layers(timm.create_model("test_vit"))[:3]
        ['blocks.0.attn.qkv', 'blocks.0.attn.proj', 'blocks.1.attn.qkv']
    """
    names = []
    for prefix, module in model.named_modules():
        linear = {name for name, child in module.named_children() if isinstance(child, nn.Linear)}
        if _OUT in linear and linear.intersection(_IN):
            names += [f"{prefix}.{name}" for name in (*_IN, _OUT) if name in linear]
    return names


@functools.cache
def obstacle(base: str, way: str) -> str:
    """Say why a network cannot be tuned in this way; "" if it can. No weights are read or drawn.

    Args:
        base: A key of ``pretrained.PUBLISHED`` or a timm model.
        way: ``LORA`` or ``LAST``.
    """
    side = pretrained.FIXED_SIDE
    with torch.device("meta"):  # shapes without arithmetic
        model = pretrained.build(pretrained.NetworkSpec.of(base, side, True), 2, side).eval()
        names = attention_layers(model)
        if not names:
            return "it has no attention blocks; choose a vision transformer"
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            return "its batch statistics would change beside the frozen weights; choose one without batch normalisation"
        if way == LAST:
            return ""
        called: set[str] = set()
        for name in names:
            model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name))
        model(torch.zeros(1, 3, side, side))
    if unused := [name for name in names if name not in called]:
        # The network multiplies with the layer's weight itself: an adapter of the layer would have no effect.
        return f"{len(unused)} of its {len(names)} attention layers cannot take an adapter ({unused[0]}, …)"
    return ""


def check(name: str, base: str, way: str) -> None:
    """Check that a network can be tuned in this way, before anything is trained.

    Raises:
        LeukError: If LoRA's library is not installed, or the network is unsuitable; the line begins with ``name``.
    """
    if way == LORA and importlib.util.find_spec("peft") is None:
        raise LeukError(f"{name}: LoRA needs the package peft, which is not installed: pip install 'leuk-lib[lora]'", 2)
    if reason := obstacle(base, way):
        other = f", or write {LAST}:{base}@…" if way == LORA and not obstacle(base, LAST) else ""
        raise LeukError(f"{name}: {base} cannot be tuned by {way!r}: {reason}{other}", 2)


def restrict(model: nn.Module, way: str) -> nn.Module:
    r"""Freeze a network except for what is tuned; the classifier always is.

    LoRA adds to each attention matrix :math:`W` the update :math:`\Delta W = \frac{\alpha}{r} B A` of rank r = 8 with
    :math:`\alpha = 16`; B starts at 0, so that the network starts unchanged, and A comes from torch's global generator.
    ``LAST`` trains the last block and all that follows it.

    Args:
        model: From ``pretrained.create``; it is changed in place.
        way: ``LORA`` or ``LAST``.

    Returns:
        The network to train; of LoRA, peft's wrapper, which `merged` removes.

    References:
        Hu et al. 2022 (LoRA); He et al. 2022, section 4.3 (partial fine-tuning).
    """
    targets = attention_layers(model)
    inner = model.model if isinstance(model, pretrained.OwnInput) else model
    config: Any = inner.pretrained_cfg
    heads = config["classifier"]
    classifiers = [inner.get_submodule(name) for name in ([heads] if isinstance(heads, str) else heads)]
    if way == LORA:
        import peft

        model = peft.get_peft_model(
            model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, lora_dropout=0.0, bias="none")
        )
    else:
        block = targets[-1].rpartition(".")[0].rpartition(".")[0] + "."
        names = [name for name, _ in model.named_parameters()]
        first = next(i for i, name in enumerate(names) if name.startswith(block))
        for i, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(i >= first)
    for classifier in classifiers:
        classifier.requires_grad_(True)
    return model


def merged(model: nn.Module) -> nn.Module:
    """Add LoRA's updates to the weights, and return the plain network; any other network is returned as it is."""
    merge: Any = getattr(model, "merge_and_unload", None)
    return model if merge is None else merge()


def trained_share(model: nn.Module) -> tuple[int, int]:
    """Number of parameters that are trained, and of all parameters."""

    def count(parameters: list[Tensor]) -> int:
        return sum(p.numel() for p in parameters)

    parameters = list(model.parameters())
    return count([p for p in parameters if p.requires_grad]), count(list(parameters))
