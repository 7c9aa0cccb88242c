"""Copies of the project for tests that change something in it, and a project of one notebook."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat

from leuk_lib.stages import STAGES


def copy_stage_files(root: Path, copy: Path) -> None:
    """Copy the project's files that stages read besides their inputs (claims, records of studies)."""
    for name in {name for spec in STAGES for name in spec.files}:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name)


def toy_project(root: Path, *cells: str) -> Path:
    """Make a project of one notebook, stage ``toy``, of these code cells; the first of several has the parameters."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    if len(cells) > 1:
        notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    (root / "notebooks").mkdir()
    (root / "_config.yml").touch()
    nbformat.write(notebook, root / "notebooks" / "01_toy.ipynb")
    return root
