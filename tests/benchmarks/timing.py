"""Functions that are timed in turns in one process, and the ratios of their times with the spread over rounds.

Other work on the machine slows what runs at the same moment. Functions therefore take turns, the minimum of several calls
counts in each round, and the spread over the rounds shows how far a ratio can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS, CALLS = 7, 3


@dataclass(frozen=True)
class Ratio:
    """How many times as long one function takes as another: over the minima of all rounds, and round by round."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    calls: int = CALLS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, NDArray[np.float64]]:
    """Time functions in turns.

    Returns:
        (rounds,) seconds of each: the minimum of ``calls`` calls per round.
    """
    seconds = {name: np.full(rounds, np.inf) for name in functions}
    for function in functions.values():
        function()
    for number in range(rounds):
        for _ in range(calls):
            for name, function in functions.items():
                start = clock()
                function()
                seconds[name][number] = min(seconds[name][number], clock() - start)
    return seconds


def ratio(ours: NDArray[np.float64], baseline: NDArray[np.float64]) -> Ratio:
    """Ratio of the times of two functions that were timed in turns."""
    each = ours / baseline
    return Ratio(float(ours.min() / baseline.min()), float(each.min()), float(each.max()))
