r"""Schedules as pure functions of the step or of the progress.

Why not timm's ``CosineLRScheduler``: it adds one increment ``peak / warmup`` per step of the warm-up, which differs
from ``peak * (step + 1) / warmup`` in the last bits, and it keeps its state in the optimiser.
"""

from __future__ import annotations

import math


def cosine(position: float, first: float, last: float, length: float = 1.0) -> float:
    r"""Half a cosine from ``first`` at position 0 to ``last`` at ``length``, constant outside.

    .. math:: v(t) = v_1 + \tfrac12 (v_0 - v_1) \big(1 + \cos(\pi t / T)\big)

    Args:
        position: :math:`t`; a share in [0, 1], or a count of steps together with ``length``.
        first: :math:`v_0`.
        last: :math:`v_1`.
        length: :math:`T` > 0.

    >>> [round(cosine(t, 1.0, 0.0, length=4), 3) for t in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    position = min(max(position, 0.0), length)
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * position / length))


def warmup_cosine(step: int, total: int, peak: float, rise: int, decay_from: int) -> float:
    """Learning rate at ``step``: a linear rise to ``peak``, then half a cosine towards 0 at ``total``.

    Args:
        step: Number of optimiser steps already taken, from 0 to ``total`` - 1.
        total: Number of optimiser steps.
        peak: Largest rate.
        rise: Steps of the rise, at least 1: the rate is ``peak * (step + 1) / rise``.
        decay_from: Step at which the cosine starts; ``rise``, or ``rise - 1`` to visit the peak only once.

    >>> [round(warmup_cosine(step, 6, 1.0, 2, 2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < decay_from:
        return peak * (step + 1) / rise
    return cosine(step - decay_from, peak, 0.0, length=max(1, total - decay_from))


def ramp(progress: float, start: float, end: float) -> float:
    """Linear rise from 0 at ``start`` to 1 at ``end``, constant outside; a step where ``end <= start``.

    >>> [ramp(progress, 0.25, 0.75) for progress in (0.0, 0.5, 1.0)]
    [0.0, 0.5, 1.0]
    """
    if end <= start:
        return float(progress >= end)
    return min(max((progress - start) / (end - start), 0.0), 1.0)


def ema_decay(batch_size: int, halflife: float) -> float:
    r"""Decay per step of a moving average, :math:`2^{-B/h}`, for a half-life in images; 0 for a half-life of 0.

    Args:
        batch_size: :math:`B`, images per step.
        halflife: :math:`h`, images after which a weight's contribution has halved.

    >>> ema_decay(batch_size=10, halflife=10)
    0.5
    """
    return 0.0 if halflife <= 0 else 0.5 ** (batch_size / halflife)


def warming_decay(decay: float, step: int) -> float:
    r"""Decay of a moving average that forgets its random start, :math:`\min(d, (1 + t) / (10 + t))`.

    Args:
        decay: :math:`d` in [0, 1), the decay of a long run.
        step: :math:`t`, from 0.

    References:
        ``num_updates`` of TensorFlow's ``ExponentialMovingAverage``.
    """
    return min(decay, (1 + step) / (10 + step))
