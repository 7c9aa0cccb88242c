"""The end of the process that started a kernel, as a signal.

A Jupyter kernel ends itself, at once, when papermill or the server that started it is gone; a training would lose all
steps since its last checkpoint. SIGTERM to papermill alone does this, and so does a kill of either.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Any(int):
    """A process number that differs from none."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


@contextmanager
def end_is_sigterm() -> Iterator[None]:
    """While the body runs in a kernel, the end of the kernel's parent sends SIGTERM and ends nothing.

    After the body, a kernel without a parent ends itself as before. Nothing changes outside of a kernel, nor on systems
    other than Linux, nor with an ipykernel older than 7, whose check for the parent cannot be changed.
    """
    poller = _poller()
    if poller is None:
        yield
        return
    parent, watched = os.getppid(), poller.parent_pid
    send = ctypes.CDLL(None, use_errno=True).prctl
    send(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    poller.parent_pid = _Any(watched)
    try:
        if os.getppid() != parent:  # it ended a moment ago
            os.kill(os.getpid(), signal.SIGTERM)
        yield
    finally:
        send(PR_SET_PDEATHSIG, 0, 0, 0, 0)
        poller.parent_pid = watched


def _poller() -> Any:
    """Return the thread with which ipykernel watches this kernel's parent, if what it watches can be changed."""
    application = getattr(sys.modules.get("ipykernel.kernelapp"), "IPKernelApp", None)
    if sys.platform != "linux" or application is None or not application.initialized():
        return None
    poller = application.instance().poller
    watches_parent = getattr(poller, "parent_pid", 0) == os.getppid()
    return poller if watches_parent else None
