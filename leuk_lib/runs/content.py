"""What a project folder holds beside the library. Read while a wheel is built, so it imports nothing of the library."""

from __future__ import annotations

import os
from pathlib import Path

CONTENT = ("_config.yml", "_toc.yml", "notebooks", "book", "data/README.md", "requirements.lock", "CHANGELOG.md", "CITATION.cff")  # fmt: skip
MADE = {"_build", "chapters", "generated", "__pycache__", ".ipynb_checkpoints", ".snakemake"}  # by runs, not in git


def files(root: Path) -> list[str]:
    """List the files of a project folder, relative to it, without those that runs made."""
    found = []
    for name in CONTENT:
        if (root / name).is_file():
            found.append(name)
        for folder, folders, names in os.walk(root / name):
            folders[:] = sorted(set(folders) - MADE)
            found += [(Path(folder) / file).relative_to(root).as_posix() for file in sorted(names)]
    return found
