"""Executing one stage's notebook: every failure is one line."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.execute import execute

pytestmark = pytest.mark.notebooks


def test_a_kernel_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os\nos.kill(os.getpid(), 9)")])
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "01_toy.ipynb")
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    with pytest.raises(LeukError, match=r"stage toy failed: the kernel died \(out of memory\?\)"):
        execute("toy", {}, tmp_path / "results" / "notebook.ipynb")
    assert not (tmp_path / "results" / "notebook.ipynb").exists()
