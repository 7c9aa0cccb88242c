"""The one exception a user is meant to see: one readable line and an exit code."""

from __future__ import annotations


class LeukError(ValueError):
    """One readable line that names the thing, what is wrong, and what to do.

    ``exit_code`` is what the command line ends with (1 unless told: 2 means "unusable input").
    In a notebook IPython prints the line alone, without a traceback.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
