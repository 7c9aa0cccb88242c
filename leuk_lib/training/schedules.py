"""Schedules as functions of the step; nothing here remembers a step."""

from __future__ import annotations

import math


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
