"""Snakemake for jobs on this machine: ``python -m leuk_lib.runs.local_snakemake`` and Snakemake's own arguments.

Snakemake imports the plugins of all executors first. Those for clusters take as long to import as all else.
"""

from __future__ import annotations

import os

from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry


def main() -> None:
    """Run Snakemake and end the process with its exit code.

    No plugin of an executor is imported, unless ``SNAKEMAKE_PROFILE`` is set: that profile may name one.
    """
    if "SNAKEMAKE_PROFILE" not in os.environ:
        ExecutorPluginRegistry.module_prefix = "no_executor_plugin_"
    from snakemake.cli import main as snakemake

    snakemake()


if __name__ == "__main__":
    main()
