"""Schedules as functions of the step, and the running average of weights; nothing here remembers a step."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


def cosine(progress: float, first: float, last: float) -> float:
    """Half a cosine from ``first`` at progress 0 to ``last`` at 1; constant outside."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def ramp(progress: float, start: float, end: float) -> float:
    """Weight of the labels: 0 up to ``start``, 1 from ``end``, a straight line between."""
    if end <= start:
        return float(progress >= end)
    return min(max((progress - start) / (end - start), 0.0), 1.0)


def ema_decay(batch_size: int, halflife: float) -> float:
    """Decay a step that halves a weight's memory every ``halflife`` images; 0 for a half-life of 0."""
    return 0.0 if halflife <= 0 else 0.5 ** (batch_size / halflife)


class Ema:
    """Exponential moving average of a model's parameters, in a copy (``.model``, eval, without gradients)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """average <- decay average + (1 - decay) model."""
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The average's weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.model.load_state_dict(state)
