"""Parameter groups, AdamW and Muon.

Why not timm's ``param_groups_weight_decay`` and ``param_groups_layer_decay``: they decay the gain and bias of GRN,
which have four dimensions, and order the groups differently, so that the norm of the clipped gradient differs in its
last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from leuk_lib.training.backbones import Backbone

ADAMW, MUON = "optimizer", "muon"  # names of the optimisers, also in checkpoints


def layer_scale(model: nn.Module, name: str, layer_decay: float) -> float:
    """Factor of the learning rate of the parameter ``name``.

    It is ``layer_decay ** (L - k)`` for a parameter of the model's ``encoder`` on which the feature map k (from 0) of L is
    the first to depend, and 1 elsewhere.
    """
    encoder = getattr(model, "encoder", None)
    own = name.removeprefix("encoder.")
    if not isinstance(encoder, Backbone) or own == name:
        return 1.0
    return layer_decay ** (len(encoder.channels) - encoder.level_of(own))


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    no_weight_decay: Container[str] = (),
    only: Container[str] | None = None,
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters for an optimiser, each with ``lr_scale`` and ``weight_decay``.

    Vectors (biases, norms, GRN, a mask token) do not decay, whatever their number of dimensions.

    Args:
        model: The network.
        weight_decay: Decay of matrices and kernels.
        layer_decay: Base of `layer_scale`; 1 trains all stages at one rate.
        no_weight_decay: Names of further parameters that do not decay.
        only: Names to which the groups are limited; default: all.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or (only is not None and name not in only):
            continue
        scale = 1.0 if layer_decay == 1 else layer_scale(model, name, layer_decay)
        is_vector = parameter.squeeze().ndim < 2
        decay = 0.0 if is_vector or name in no_weight_decay else weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


class Muon(torch.optim.Muon):
    """torch's Muon with the iteration in float32 and updates scaled to the size of AdamW's ("match_rms_adamw").

    In bfloat16, which torch's own class uses, a difference in the last digit of a gradient, which depends on the processor
    and on the number of processes, changes an update by up to 0.4 %, and on a processor without bfloat16 instructions a
    step takes 20 times as long.
    """

    def __init__(self, parameters: ParamsT, lr: float, weight_decay: float = 0.1) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        from timm.optim.muon import zeropower_via_newtonschulz  # here: it loads the compiler of torch

        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            steps, coefficients = group["ns_steps"], [tuple(group["ns_coefficients"])]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"]
                average.lerp_(parameter.grad, 1 - momentum)
                update = parameter.grad.lerp(average, momentum) if group["nesterov"] else average
                update = zeropower_via_newtonschulz(update, steps, coefficients, group["eps"], dtype=torch.float32)
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-0.2 * math.sqrt(max(parameter.shape)) * rate)
        return loss


def build_optimisers(
    model: nn.Module,
    weight_decay: float,
    muon: float,
    is_output: Callable[[str, nn.Linear], bool],
    *,
    layer_decay: float = 1.0,
    no_weight_decay: Container[str] = (),
    betas: tuple[float, float] = (0.9, 0.999),
) -> dict[str, torch.optim.Optimizer]:
    """AdamW for all parameters, or Muon for the inner linear layers' weights and AdamW for the rest; by name.

    Muon makes all singular values of an update equal. As its authors advise, the output layer stays with AdamW, and
    so do the kernels of convolutions. The learning rate is 0 until `set_learning_rate` is called.

    Args:
        model: The network.
        weight_decay: Decay of matrices and kernels.
        muon: 0 trains everything with AdamW.
        is_output: Whether a linear layer, given by name and module, is an output layer.
        layer_decay: As in `parameter_groups`.
        no_weight_decay: As in `parameter_groups`.
        betas: AdamW's.

    References:
        Jordan et al. 2024 (Muon).
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inner: set[str] = set()
    if muon:
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        inner = trained & {f"{name}.weight" for name, module in linear.items() if not is_output(name, module)}

    def groups(only: set[str]) -> list[dict[str, Any]]:
        return parameter_groups(model, weight_decay, layer_decay, no_weight_decay, only)

    adamw = torch.optim.AdamW(groups(trained - inner), lr=0.0, betas=betas)
    if not inner:
        return {ADAMW: adamw}
    return {ADAMW: adamw, MUON: Muon(groups(inner), lr=0.0)}


def set_learning_rate(optimisers: Mapping[str, torch.optim.Optimizer], rate: float, muon: float) -> None:
    """Set ``rate`` times each group's ``lr_scale``, and times ``muon`` for Muon."""
    for name, optimiser in optimisers.items():
        for group in optimiser.param_groups:
            group["lr"] = rate * group["lr_scale"] * (muon if name == MUON else 1.0)
