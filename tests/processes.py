"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def soon(happens: Callable[[], Any], seconds: float = 60) -> None:
    """Return when ``happens()`` is true; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"did not happen in {seconds:g} s"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
