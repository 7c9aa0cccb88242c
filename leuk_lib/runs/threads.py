"""Threads of native libraries: settings that must precede the import of torch, and torch's own number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def prepare_libraries() -> None:
    """Let OpenMP's threads sleep while they wait, and torch's profiler be silent; what is set already stands.

    A spinning thread keeps a core busy that the thread it waits for may need: with other work on the machine, a stage
    then takes many times as long. The profiler, which measures memory in chapter 4, writes about missing GPUs into the
    terminal. Libraries read the variables when they are loaded, so call this before importing torch; child processes
    inherit them. Results do not depend on them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch compute on ``number`` threads, also in Python threads that start in the meantime."""
    import torch  # here: `prepare_libraries` comes first

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
