"""The canary of each study, run once for all tests of studies, in whichever of several workers needs it first."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from leuk_lib.studies.canary import Canary, run_canary


@pytest.fixture(scope="session")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Canary, Path]]:
    """Name of a study -> its canary and the folder that it ran in."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker's folder is in that of the whole session
        shared = shared.parent

    @cache
    def run(name: str) -> tuple[Canary, Path]:
        kept = shared / f"{name}.canary"
        with kept.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for a worker that runs it
            if not kept.stat().st_size:
                folder = tmp_path_factory.mktemp(name)
                file.write(pickle.dumps((run_canary(name, folder), folder / "jobs")))
            file.seek(0)
            return pickle.load(file)

    return run
