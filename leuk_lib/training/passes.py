"""Gradient accumulation: several passes forward and back that share one batch, to save memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric


Part = TypeVar("Part")


def passes(parts: Sequence[Part], fabric: Fabric, model: Any) -> Iterator[tuple[Part, AbstractContextManager[None]]]:
    """Yield each part of this process's batch, and a context for its passes forward and back.

    Processes exchange gradients in the backward pass of the last part only.

    Args:
        parts: Equal parts.
        fabric: The processes.
        model: The network as ``fabric.setup`` returned it.
    """
    for position, part in enumerate(parts):
        yield part, nullcontext() if position == len(parts) - 1 else fabric.no_backward_sync(model)


def mean_over_passes(terms: Sequence[Tensor]) -> Tensor:
    """Mean of a number that each pass computed, (); of one pass the number itself, to the bit."""
    return torch.stack(list(terms)).mean()
