"""The command ``leuk``, which Ctrl-C ends without a traceback even while its modules are loaded."""

from __future__ import annotations


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from leuk_lib.cli.main import main as leuk

        return leuk()
    except KeyboardInterrupt:  # before the command has begun, so there is nothing to continue
        return 130
