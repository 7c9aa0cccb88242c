"""The canary of each study, run once for all tests of studies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from leuk_lib.studies.canary import Canary, run_canary


@pytest.fixture(scope="session")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Canary, Path]]:
    """Name of a study -> its canary and the folder that it ran in."""

    @cache
    def run(name: str) -> tuple[Canary, Path]:
        folder = tmp_path_factory.mktemp(name)
        return run_canary(name, folder), folder / "jobs"

    return run
