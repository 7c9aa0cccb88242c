"""The exception for users: one readable line and an exit code."""

from __future__ import annotations

from leuk_lib.quoting import one_line, terminal


class LeukError(ValueError):
    """An error in one line that names the cause and the remedy. IPython prints it without a traceback.

    Args:
        message: The line. Line breaks and repeated spaces become single spaces, other control codes become visible.
        exit_code: Exit code of the command line; 2 means "unusable input".
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(terminal(one_line(message)))
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
