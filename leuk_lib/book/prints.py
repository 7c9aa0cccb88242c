"""The page of figures to print: what each stage drew, with its chapter, and the PDF where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leuk_lib.book.markdown import code, escape, table
from leuk_lib.book.pages import chapter, commit
from leuk_lib.runs import paths
from leuk_lib.stages import StageSpec

FOLDER = "figures"


def figures_of(card: Mapping[str, Any]) -> dict[str, list[str]]:
    """Name -> endings of every figure that a stage's card lists, in alphabetical order."""
    found: dict[str, list[str]] = {}
    for name in sorted(card.get("outputs") or {}):
        path = Path(name)
        if path.parent.name == FOLDER:
            found.setdefault(path.stem, []).append(path.suffix.removeprefix("."))
    return found


def copy_prints(folder: Path, run: str, stages: Sequence[StageSpec], cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Put every PDF of ``run`` into ``folder`` as ``<stage>-<figure>.pdf``; anything else there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for stage in stages:
        for name, endings in figures_of(cards.get(stage.name, {})).items():
            if "pdf" in endings:
                source = paths.stage_folder(run, stage.name) / FOLDER / f"{name}.pdf"
                shutil.copyfile(source, folder / f"{stage.name}-{name}.pdf")


def figures_page(stages: Sequence[StageSpec], cards: Mapping[str, Mapping[str, Any]], prints: str) -> str:
    """One table over all stages; ``prints`` is the folder of the PDFs, seen from the page."""
    rows: list[tuple[str, ...]] = []
    made: dict[tuple[str, str], None] = {}
    for stage in stages:
        card = cards.get(stage.name, {})
        for name, endings in figures_of(card).items():
            made[code(card["run"]), commit(card)] = None
            form = (
                f"{{download}}`PDF <{prints}/{stage.name}-{name}.pdf>`"
                if "pdf" in endings
                else "PNG in the run's folder"
            )
            rows.append((escape(name.replace("_", " ").replace("-", " ")), chapter(stage), code(stage.name), form))
    if not rows:
        return "This run has drawn no figure yet.\n"
    told = "; ".join(f"run {run}, commit {of}" for run, of in made)
    return f"Made by {told}.\n\n" + table(("figure", "chapter", "stage", "to print"), rows)
