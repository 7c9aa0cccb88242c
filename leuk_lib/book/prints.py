"""The page of figures to print: each stage's figures, their chapter, and a PDF of line art."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leuk_lib.book.markdown import table
from leuk_lib.book.pages import chapter, commit
from leuk_lib.quoting import code
from leuk_lib.quoting import markdown as escape
from leuk_lib.runs import paths
from leuk_lib.stages import StageSpec

FOLDER = "figures"


def figures_of(card: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return ``{name: suffixes}`` of every figure in a stage's card, in alphabetical order."""
    figures: dict[str, list[str]] = {}
    for name in sorted(card.get("outputs") or {}):
        path = Path(name)
        if path.parent.name == FOLDER:
            figures.setdefault(path.stem, []).append(path.suffix.removeprefix("."))
    return figures


def copy_prints(folder: Path, run: str, stages: Sequence[StageSpec], cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the content of ``folder`` by every PDF of ``run``, named ``<stage>-<figure>.pdf``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for stage in stages:
        for name, suffixes in figures_of(cards.get(stage.name, {})).items():
            if "pdf" in suffixes:
                source = paths.stage_folder(run, stage.name) / FOLDER / f"{name}.pdf"
                shutil.copyfile(source, folder / f"{stage.name}-{name}.pdf")


def figures_page(stages: Sequence[StageSpec], cards: Mapping[str, Mapping[str, Any]], prints: str) -> str:
    """Return a table of all figures. ``prints`` is the folder of the PDFs as seen from the page."""
    rows: list[tuple[str, ...]] = []
    sources: dict[tuple[str, str], None] = {}
    for stage in stages:
        card = cards.get(stage.name, {})
        for name, suffixes in figures_of(card).items():
            sources[code(card["run"]), commit(card)] = None
            form = (
                f"{{download}}`PDF <{prints}/{stage.name}-{name}.pdf>`"
                if "pdf" in suffixes
                else f"{suffixes[0].upper()} in the run's folder"
            )
            rows.append((escape(name.replace("_", " ").replace("-", " ")), chapter(stage), code(stage.name), form))
    if not rows:
        return "This run has no figures yet.\n"
    origin = "; ".join(f"run {run}, commit {commit}" for run, commit in sources)
    return f"Made by {origin}.\n\n" + table(("figure", "chapter", "stage", "print version"), rows)
