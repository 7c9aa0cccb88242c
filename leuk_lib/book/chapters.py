"""Chapters of the book: executed notebooks without papermill's bookkeeping."""

from __future__ import annotations

import copy
import re
from typing import Any

from leuk_lib.stages import StageSpec

METHOD = "method"  # tag of cells that show a method; all other code folds
FOLD = "hide-input"  # tag that Jupyter Book folds
ERROR_CELL = "papermill-error-cell-tag"  # papermill marks where a run failed
INJECTED = "injected-parameters"
CHAPTER = re.compile(r'(?<=<a href=")(\d\d_\w+)\.ipynb(?=["#])')  # a link from a table to another chapter


def chapter_name(stage: StageSpec) -> str:
    """Return the chapter's file name without suffix, such as ``04_fcmae``."""
    return stage.notebook.stem


def chapter_link(stage: StageSpec) -> str:
    """Return the chapter's address as seen from a page in ``book/<part>/``."""
    return f"../chapters/{chapter_name(stage)}.ipynb"


def clean(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook as the book shows it. The notebook in the run's folder stays as it was.

    - All code folds under a one-line summary, except cells that show a method.
    - Progress bars keep their last state.
    - Output on stderr goes, and so do bare paths, which a cell shows when it ends in a save.
    - Links to other notebooks become links to pages.
    """
    cleaned = copy.deepcopy(notebook)
    cleaned["metadata"].pop("papermill", None)
    cells = [cell for cell in cleaned["cells"] if ERROR_CELL not in cell.get("metadata", {}).get("tags", [])]
    for cell in cells:
        metadata = cell.setdefault("metadata", {})
        metadata.pop("papermill", None)
        if cell["cell_type"] != "code":
            continue
        tags = metadata.setdefault("tags", [])
        if METHOD not in tags:
            if FOLD not in tags:
                tags.append(FOLD)
            prompt = f"Code: {summary(cell)}"
            metadata["mystnb"] = {**metadata.get("mystnb", {}), "code_prompt_show": prompt, "code_prompt_hide": prompt}
        cell["outputs"] = [
            output for output in cell.get("outputs", []) if output.get("name") != "stderr" and not _is_path(output)
        ]
        for output in cell["outputs"]:
            if output.get("output_type") == "stream":
                output["text"] = _last_states("".join(output["text"]))
            elif "text/html" in output.get("data", {}):
                output["data"]["text/html"] = CHAPTER.sub(r"\g<1>.html", "".join(output["data"]["text/html"]))
    cleaned["cells"] = cells
    return cleaned


def summary(cell: dict[str, Any]) -> str:
    r"""Say in one line what a code cell does: its first line if that is a comment, else what it shows.

    >>> summary({"source": ["# Draw the loss\n", "stage.show('loss', figure)"]})
    'draw the loss'
    >>> summary({"source": "x = 1\nstage.table(x)"})
    'show a table'
    """
    source = "".join(cell["source"]).lstrip()
    first = source.partition("\n")[0]
    if first.startswith("# "):
        return first[2].lower() + first[3:].rstrip()
    if {"parameters", INJECTED} & set(cell.get("metadata", {}).get("tags", [])):
        return "the parameters of this run"
    shown = {"stage.show(": "draw a figure", ".table(": "show a table", "print(": "print a summary"}
    return next((words for call, words in shown.items() if call in source), "prepare what follows")


def _is_path(output: dict[str, Any]) -> bool:
    """Return whether a result is only ``PosixPath('…')``."""
    return "".join(output.get("data", {}).get("text/plain", "")).startswith(("PosixPath(", "WindowsPath("))


def _last_states(text: str) -> str:
    """Return the lines as a terminal shows them, without what a carriage return overwrote."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
