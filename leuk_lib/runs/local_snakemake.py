"""Snakemake for jobs on this machine: ``python -m leuk_lib.runs.local_snakemake`` and Snakemake's own arguments.

Snakemake imports the plugins of all executors before it does anything. Those for clusters take as long as the rest of it.
"""

from __future__ import annotations

import os

from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry


def main() -> None:
    """Run Snakemake, without plugins unless a profile of the user's may name one; it ends the process with its exit code."""
    if "SNAKEMAKE_PROFILE" not in os.environ:
        ExecutorPluginRegistry.module_prefix = "no_executor_plugin_"
    from snakemake.cli import main as snakemake

    snakemake()


if __name__ == "__main__":
    main()
