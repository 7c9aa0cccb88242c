"""The exponential moving average of a model's weights that every training loop of the library may keep."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Average of a model's parameters and floating-point buffers, in a copy (``.model``, eval, without gradients)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """average <- decay average + (1 - decay) model; whole-number buffers are copied."""
        mine = self.model.state_dict()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                mine[name].lerp_(value.to(mine[name].dtype), 1 - decay)
            else:
                mine[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The average's weights."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.model.load_state_dict(state, strict=True)
