"""Settings of native libraries that must be in the environment before torch is loaded."""

from __future__ import annotations

import os


def prepare_libraries() -> None:
    """Let OpenMP's threads sleep while they wait, and torch's profiler be silent; what is set already stands.

    A spinning thread keeps a core busy that the thread it waits for may need: with other work on the machine, a stage
    then takes many times as long. The profiler, which measures memory in chapter 4, writes about missing GPUs into the
    terminal. Libraries read the variables when they are loaded, so call this before importing torch; child processes
    inherit them. Results do not depend on them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
