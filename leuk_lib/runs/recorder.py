"""Protocols for functions that record numbers and notes; ``leuk_lib.runs.stage.Stage`` implements them."""

from __future__ import annotations

from typing import Any, Protocol


class Notes(Protocol):
    """Accepts notes for the run card."""

    def note(self, text: str) -> Any:
        """Add a line to the run card."""


class Recorder(Notes, Protocol):
    """Accepts numbers for ``metrics.json`` and notes for the run card."""

    def record(
        self,
        key: str,
        value: float,
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        unit: str = "",
    ) -> Any:
        """Add a number with its 95 % interval and sample size to ``metrics.json``."""
