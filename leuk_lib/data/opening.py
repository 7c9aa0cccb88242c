"""Opening what calls itself an image and may be a pipe, a device or a link to nothing. Imports nothing heavy."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from leuk_lib.data.containers import Unreadable


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Yield a regular file, open for reading. Raises ``Unreadable`` for pipes, devices and what cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would wait for ever
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable("not a regular file")
            with os.fdopen(handle, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(handle)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error
