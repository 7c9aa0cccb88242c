"""What a function needs of a stage that takes numbers and notes; ``leuk_lib.runs.stage.Stage`` is one."""

from __future__ import annotations

from typing import Any, Protocol


class Notes(Protocol):
    """Takes lines for the run card."""

    def note(self, text: str) -> Any:
        """Put one line into the run card."""


class Recorder(Notes, Protocol):
    """Takes numbers for ``metrics.json`` and lines for the run card."""

    def record(
        self,
        key: str,
        value: float,
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        unit: str = "",
    ) -> Any:
        """Put a number with its 95 % interval and sample size into ``metrics.json``."""
