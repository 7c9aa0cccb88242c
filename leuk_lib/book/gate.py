"""The gate: no book is built from a chapter that is missing, not executed, failed or stale."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from leuk_lib.book.chapters import chapter_name
from leuk_lib.runs import paths
from leuk_lib.runs.card import read_card, stage_state
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file
from leuk_lib.runs.notebooks import read_notebook
from leuk_lib.runs.records import glued_name, read_metrics
from leuk_lib.stages import StageSpec

SLACK = timedelta(seconds=2)  # cards and papermill round their clocks


def executed_notebook(run: str, stage: StageSpec) -> Path:
    """Return the path of a stage's executed notebook, ``results/<run>/<stage>/notebook.ipynb``."""
    return paths.stage_folder(run, stage.name) / "notebook.ipynb"


def execution_problem(notebook: dict[str, Any]) -> str | None:
    """Return why a notebook does not count as fully executed, or None if it does.

    Every code cell with source must have run without an error, and at least one must have an output.
    """
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    for position, cell in enumerate(code, 1):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                return f"failed in code cell {position}: {output.get('ename', 'error')}: {output.get('evalue', '')}"
    ran = [cell for cell in code if cell.get("execution_count") is not None]
    if not ran:
        return "was never executed: it has no outputs"
    if len(ran) < len(code):
        return f"was executed only in part: {len(ran)} of its {len(code)} code cells ran"
    if not any(cell.get("outputs") for cell in code):
        return "has no outputs: they were stripped after it ran"
    return None


def is_of_card(notebook: dict[str, Any], card: dict[str, Any]) -> bool:
    """Return whether notebook and card come from the same execution, by papermill's clock.

    If someone runs a notebook by hand into another file, the card is newer than the kept notebook.
    """
    clock = notebook["metadata"].get("papermill") or {}
    if not (clock.get("start_time") and clock.get("end_time") and card.get("started") and card.get("finished")):
        return True
    begin, end = (_moment(clock[name]) for name in ("start_time", "end_time"))
    started, finished = (_moment(card[name]) for name in ("started", "finished"))
    return begin - SLACK <= started and finished <= end + SLACK


def glue_problem(stage: str, notebook: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Describe the first number for the pages that differs between a notebook and ``metrics.json``, or return None."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            name = glued_name(output)
            if not name.startswith(f"{stage}."):
                continue
            key = name.removeprefix(f"{stage}.")
            part = "value"
            if key not in metrics and (tail := key.rpartition("."))[2] in ("low", "high", "n"):
                key, part = tail[0], tail[2]
            expected = metrics.get(key, {}).get(part)
            texts = [text for kind, text in output.get("data", {}).items() if kind.endswith("text/plain")]
            try:
                shown = [ast.literal_eval("".join(text)) for text in texts]
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                shown = [None]
            if expected is None or any(value != expected for value in shown):
                return f"shows {name} = {shown[0] if shown else None!r}, but metrics.json has {expected!r}"
    return None


def _moment(text: str) -> datetime:
    """Parse a time. Papermill's times without a zone are UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _adopt(run: str, notebook: Path) -> str:
    """Say how a notebook that papermill or Jupyter executed becomes part of its run."""
    return f"`leuk adopt {shlex.quote(run)} {shlex.quote(str(notebook))}` adds one that papermill or Jupyter executed"


def chapter_problem(run: str, stage: StageSpec, fingerprint: Callable[[str], str] | None = None) -> str | None:
    """Return why the book cannot show a stage's chapter, or None if it can.

    ``fingerprint`` maps a data set to its content hash (see ``leuk_lib.runs.card.stale_reasons``).
    """
    path = executed_notebook(run, stage)
    state, reasons = stage_state(run, stage.name, fingerprint)
    why = "; ".join(reason for reason in reasons if reason)
    if state == "missing" and not path.exists():
        return "is missing: this stage never ran"
    unfinished = {
        "running": "is still running", "interrupted": "was interrupted", "failed": "failed", "damaged": "is damaged",
    }  # fmt: skip
    if state in unfinished:
        return ": ".join(filter(None, (unfinished[state], why)))
    if not path.exists():
        return (
            f"is missing: the stage ran, but its executed notebook was not kept ({_adopt(run, Path('NOTEBOOK.ipynb'))})"
        )
    notebook = read_notebook(path)
    if problem := execution_problem(notebook):
        return problem
    card = read_card(run, stage.name)
    if card is None:
        return "has no run card"
    if not is_of_card(notebook, card):
        return "is stale: its notebook was executed at another time than its run card says"
    if not card.get("executed"):
        return f"is stale: its run card has no hash of the executed notebook ({_adopt(run, path)})"
    if sha256_file(path) != card["executed"]:
        return "was edited: its executed notebook is not the one whose hash is in the run card"
    if state == "fresh" and (problem := glue_problem(stage.name, notebook, read_metrics(path.parent))):
        return f"was edited: its executed notebook {problem}"
    return f"is stale: {why}" if state == "stale" else None


def check_run(run: str, stages: Sequence[StageSpec], fingerprint: Callable[[str], str] | None = None) -> None:
    """Raise ``LeukError`` if a chapter of ``run`` cannot be shown. It names the chapter, the reason and the remedy."""
    problems = {stage.name: chapter_problem(run, stage, fingerprint) for stage in stages}
    broken = [stage for stage in stages if problems[stage.name]]
    if not broken:
        return
    first, others = broken[0], [stage.name for stage in broken[1:]]
    raise LeukError(
        f"chapter {chapter_name(first)} of run {run!r} {problems[first.name]}. "
        f"The book shows only executed chapters: run `make book` again with the same DATA, PROFILE and SEEDS, or "
        f"`leuk run {first.name} --run {run}` with the run's --dataset, --profile and --seed"
        + (f" (also not ready: {', '.join(others)})" if others else "")
    )
