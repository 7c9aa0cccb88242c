"""The exception for users: one readable line and an exit code."""

from __future__ import annotations

from leuk_lib.quoting import one_line, terminal

LONGEST = 2000  # characters of a line


class LeukError(ValueError):
    """An error in one line that names the cause and the remedy. IPython prints it without a traceback.

    Args:
        message: The line. Line breaks and repeated spaces become single spaces, other control codes become visible, and the
            middle of a line of more than ``LONGEST`` characters is left out.
        exit_code: Exit code of the command line; 2 means "unusable input".
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        line = terminal(one_line(message))
        if len(line) > LONGEST:  # a name or value of thousands of characters; cause and remedy stand at the ends
            line = f"{line[: LONGEST * 2 // 3]} … {line[-LONGEST // 3 :]}"
        super().__init__(line)
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
