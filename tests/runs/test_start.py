"""What a start does not load: packages that take seconds and that it does not need."""

import os
import subprocess
import sys

import pytest

ASKS = "import sys; print(*sorted(sys.modules))"
HELP = """
import sys
from leuk_lib.runs.local_snakemake import main
sys.argv[1:] = ["--version"]
try:
    main()
except SystemExit:
    pass
"""


def loaded(code: str) -> set[str]:
    """Names of the modules that a new process has loaded after ``code``."""
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    command = [sys.executable, "-c", f"{code}\n{ASKS}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split())


def test_a_run_of_rendered_cells_is_checked_without_torch_and_pandas():
    assert not {"torch", "pandas"} & loaded("from leuk_lib import workflow; workflow.understood('smear', {})")


def test_snakemake_runs_here_without_the_executors_of_clusters():
    names = loaded(HELP)
    assert "snakemake.cli" in names and not {"kubernetes", "snakemake_executor_plugin_slurm"} & names


@pytest.mark.parametrize("module", ["studies.enhancement", "studies.leakage", "chapters.wpat", "wpat.predict"])
def test_the_compiler_of_torch_is_not_loaded_before_a_training(module: str):
    names = loaded(f"import leuk_lib.{module}")
    assert "torch" in names and not {"lightning_fabric", "torch._dynamo"} & names
