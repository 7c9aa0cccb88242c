"""How OpenMP's threads wait for each other."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let OpenMP's threads sleep instead of spin while they wait; a choice in the environment stands.

    A spinning thread keeps a core busy that the thread it waits for may need: with other work on the machine, a stage
    then takes many times as long. Libraries read the variable when they are loaded, so call this before importing
    torch; child processes inherit it. Results do not depend on it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
