"""Threads that wait without spinning and a silent profiler: set before torch is loaded, and left to the user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = "import os, sys; from leuk_lib.cli.main import main; main(['--help']); print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_the_command_line_lets_threads_sleep_before_torch_is_loaded(given: str | None, expected: str):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{expected} False"


def test_the_profiler_of_a_run_without_a_gpu_writes_nothing():
    program = "from leuk_lib.runs.threads import prepare_libraries; prepare_libraries(); import torch\n"
    program += "with torch.profiler.profile(profile_memory=True): torch.rand(3).sum()"
    environment = {key: value for key, value in os.environ.items() if key != "KINETO_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
