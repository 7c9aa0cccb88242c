"""Runs Jupyter Book, and with it Sphinx, as a child process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from leuk_lib.runs.errors import LeukError

MESSAGE = re.compile(r"WARNING|ERROR|CRITICAL|Exception|Traceback|error:", re.IGNORECASE)


def run_sphinx(root: Path, out: Path, *options: str) -> None:
    """Run ``jupyter-book build . --all --keep-going`` as a child process; by default HTML, in which any warning is an error.

    Args:
        root: The project's folder.
        out: Folder that gets ``_build``.
        options: Options of ``jupyter-book build`` in place of ``-W -n``.

    Raises:
        LeukError: If Sphinx fails. Its warnings and errors are printed first.
    """
    command = [
        sys.executable, "-c", "from jupyter_book.cli.main import main; main()",
        "build", ".", "--path-output", str(out), "--all", "--keep-going", "-q", *(options or ("-W", "-n")),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "NO_COLOR": "1", "LEUK_ROOT": str(root)}
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    if process.returncode == 0:
        return
    output = re.sub(r"\x1b\[[0-9;]*m", "", process.stdout + process.stderr).replace(f"{root}{os.sep}", "")
    lines = [line for line in output.splitlines() if line.strip()]
    messages = [line for line in lines if MESSAGE.search(line)] or lines[-20:]
    print("\n".join(messages[:60]), file=sys.stderr)
    raise LeukError(f"the book could not be built: Sphinx stopped with {len(messages)} messages (above)")
