"""Notebooks of any wrong shape are refused in one line by whatever reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from book.toys import notebook
from damage import OTHER_FILES, TIMES, fuzz_json, one_line
from leuk_lib.book.chapters import clean
from leuk_lib.book.gate import execution_problem, glue_problem, is_of_card
from leuk_lib.book.reading import page_minutes
from leuk_lib.runs import code
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import write_json
from leuk_lib.runs.notebooks import read_notebook

METRICS = {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}
CARD = {"started": "2026-01-01T10:00:00+0100", "finished": "2026-01-01T10:00:30+0100"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An executed notebook with a picture, a table and a number for the book."""
    content = notebook("data", executed=True, metrics={"accuracy": 0.5, "accuracy.n": 9})
    content["metadata"]["papermill"] = {"start_time": "2026-01-01T08:59:59+00:00", "end_time": "2026-01-01T09:00:31"}
    return write_json(tmp_path / "01_data.ipynb", content)


def every_reader(path: Path) -> None:
    """What the gate, the chapters of the book and the hashes of the code read."""
    content = read_notebook(path)
    execution_problem(content)
    glue_problem("data", content, METRICS)
    is_of_card(content, CARD)
    json.dumps(clean(content))
    page_minutes(path)
    code.notebook_hash(path)
    code.code_cells(path)
    code.tagged_cells(path, "parameters")


def test_a_whole_notebook_is_read(file: Path):
    every_reader(file)
    assert read_notebook(file) == json.loads(file.read_text())
    assert glue_problem("data", read_notebook(file), METRICS) is None


@pytest.mark.parametrize("times", TIMES)
def test_mutated_notebooks_are_one_line(file: Path, times: int):
    assert 0 < fuzz_json(file, lambda: every_reader(file), times) < times


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files_are_one_line(file: Path, content: bytes):
    file.write_bytes(content)
    refusal = one_line(lambda: every_reader(file))
    assert isinstance(refusal, LeukError) and file.name in str(refusal)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"cells": {}}, "cells"),
        ({"cells": [5]}, r"cells\.0"),
        ({"cells": [{"cell_type": "code", "source": 5}]}, r"cells\.0\.source"),
        ({"cells": [{"cell_type": "code", "source": "", "metadata": {"mystnb": []}}]}, r"cells\.0\.metadata\.mystnb"),
        ({"metadata": None}, "metadata"),
        ({"metadata": {"papermill": {"start_time": "soon"}}}, r"metadata\.papermill"),
    ],
)
def test_the_wrong_entry_is_named_with_what_to_do(file: Path, change: dict[str, Any], where: str):
    write_json(file, json.loads(file.read_text()) | change)
    with pytest.raises(LeukError, match=f"01_data.ipynb: not a notebook .{where}.*restore it from git"):
        read_notebook(file, "restore it from git")


def test_a_missing_notebook_and_a_folder_are_one_line(tmp_path: Path):
    for path in (tmp_path / "none.ipynb", tmp_path):
        with pytest.raises(LeukError, match=r"no such file|not a readable notebook \(Is a directory\)"):
            read_notebook(path)
