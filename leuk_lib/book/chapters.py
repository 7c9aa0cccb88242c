"""Chapters of the book: executed notebooks, cleaned of what papermill adds for itself."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from leuk_lib.runs.errors import LeukError
from leuk_lib.stages import StageSpec

# Cells that papermill adds to show where a run failed; a finished chapter has no use for them.
NOISE = {"papermill-error-cell-tag"}
INJECTED = "injected-parameters"
CHAPTER = re.compile(r'(?<=<a href=")(\d\d_\w+)\.ipynb(?=["#])')  # a link from a table to another chapter


def chapter_name(stage: StageSpec) -> str:
    """The chapter's file name without ending: ``04_fcmae``."""
    return stage.notebook.stem


def chapter_link(stage: StageSpec) -> str:
    """The chapter's address from a page in ``book/<part>/``."""
    return f"../chapters/{chapter_name(stage)}.ipynb"


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as a dictionary; a damaged file is one readable line."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LeukError(f"{path}: not a readable notebook ({error}); delete it and run its stage again") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise LeukError(f"{path}: not a notebook (no cells); delete it and run its stage again")
    return notebook


def clean(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without papermill's error cells and bookkeeping; metadata that the book uses stays.

    The parameters cells fold away, progress bars keep their last state, and what a cell wrote to the error stream
    (progress, library chatter) is left out, and so are bare paths of the machine that it ran on, which a cell shows when
    it ends in a save; links to other notebooks become links to pages. The run folder keeps the notebook as it was.
    """
    shown = copy.deepcopy(notebook)
    shown["metadata"].pop("papermill", None)
    cells = [cell for cell in shown["cells"] if not NOISE & set(cell.get("metadata", {}).get("tags", []))]
    for cell in cells:
        metadata = cell.setdefault("metadata", {})
        metadata.pop("papermill", None)
        if cell["cell_type"] != "code":
            continue
        tags = metadata.setdefault("tags", [])
        if {"parameters", INJECTED} & set(tags) and "hide-input" not in tags:
            tags.append("hide-input")
        cell["outputs"] = [
            output for output in cell.get("outputs", []) if output.get("name") != "stderr" and not _is_path(output)
        ]
        for output in cell["outputs"]:
            if output.get("output_type") == "stream":
                output["text"] = _last_states("".join(output["text"]))
            elif "text/html" in output.get("data", {}):
                output["data"]["text/html"] = CHAPTER.sub(r"\g<1>.html", "".join(output["data"]["text/html"]))
    shown["cells"] = cells
    return shown


def _is_path(output: dict[str, Any]) -> bool:
    """True for a result that is nothing but ``PosixPath('…')``."""
    return "".join(output.get("data", {}).get("text/plain", "")).startswith(("PosixPath(", "WindowsPath("))


def _last_states(text: str) -> str:
    """Lines as a terminal leaves them: what a carriage return overwrote is gone."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
