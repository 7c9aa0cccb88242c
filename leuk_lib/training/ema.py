r"""Exponential moving average (EMA) of a model's weights, :math:`\bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta`.

The decay d is given at each update, as our schedules change it with the step (`leuk_lib.training.schedules`). That is
why `torch.optim.swa_utils.AveragedModel` and timm's `ModelEmaV3` are not used: they fix the decay, or its warm-up.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Average of a model's parameters and floating-point buffers.

    Attributes:
        model: Copy of the model with the averaged weights, in evaluation mode and without gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Average with the weights of `model` in one operation; integer buffers are copied. `decay` in [0, 1]."""
        average = self.model.state_dict()
        pairs = [(average[name], value) for name, value in model.state_dict().items()]
        floating = [(own, value.to(own.dtype)) for own, value in pairs if own.is_floating_point()]
        torch._foreach_lerp_([own for own, _ in floating], [value for _, value in floating], 1 - decay)
        for own, value in pairs:
            if not own.is_floating_point():
                own.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Averaged weights."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; strict."""
        self.model.load_state_dict(state, strict=True)
