"""Lays down what the book is made of: executed chapters in ``book/chapters/``, generated pages in ``book/generated/``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leuk_lib.audit.reference import all_references, read_rules
from leuk_lib.book import architecture, pages, pipeline, prints, reading, reproduction
from leuk_lib.book.chapters import chapter_name, clean, read_notebook
from leuk_lib.book.gate import executed_notebook
from leuk_lib.runs import paths
from leuk_lib.runs.card import read_card, stage_state
from leuk_lib.runs.files import read_json, write_json, write_text
from leuk_lib.stages import StageSpec


def copy_chapters(root: Path, run: str, stages: Sequence[StageSpec]) -> list[Path]:
    """Put the cleaned executed notebooks of ``run`` into ``book/chapters/``; anything else there is removed."""
    folder = root / "book" / "chapters"
    wanted = {folder / f"{chapter_name(stage)}.ipynb": stage for stage in stages}
    for old in folder.glob("*") if folder.exists() else ():
        if old not in wanted:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for path, stage in wanted.items():
        notebook = clean(read_notebook(executed_notebook(run, stage)))
        write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return list(wanted)


def sibling_runs(run: str, profile: str) -> dict[str, dict[str, Any]]:
    """Metrics of the results stage of every run that differs from ``run`` in its seed alone (by its name)."""
    stem = run.rsplit("-s", 1)[0] if f"-{profile}-s" in run else None
    folders = sorted(paths.results_root().glob(f"{stem}-s*")) if stem else [paths.run_folder(run)]
    found = {}
    for folder in folders:
        path, card = folder / "results" / "metrics.json", read_card(folder.name, "results")
        if path.exists() and card and card["state"] == "finished":
            found[folder.name] = read_json(path)["metrics"]
    return found


def run_facts(run: str, cards: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What every page must know of the run: its profile, its data set, whether its cells are rendered, its commit."""
    first = next(iter(cards.values()))
    git = first.get("git") or {}
    return {
        "run": run,
        "profile": first["profile"],
        "dataset": first["dataset"],
        "rendered": first["params"].get("dataset", first["dataset"]) == "smear",
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
    }


def _headline(run: str, stages: Sequence[StageSpec]) -> str:
    """The landing page's figures, from the stages ``results`` and ``claims`` of ``run``."""
    metrics, chapters = {}, {}
    for stage in stages:
        if stage.name in ("results", "claims"):
            metrics[stage.name] = read_json(paths.stage_folder(run, stage.name) / "metrics.json")["metrics"]
            chapters[stage.name] = f"chapters/{chapter_name(stage)}.ipynb"
    if set(metrics) != {"results", "claims"}:
        return "This run has no results yet.\n"
    return pages.headline(metrics["results"], metrics["claims"], chapters["results"], chapters["claims"])


def generate_pages(
    root: Path, run: str, stages: Sequence[StageSpec], fingerprint: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """Write ``book/generated/*.md`` and ``run.json``; returns the facts of the run."""
    folder = root / "book" / "generated"
    cards = {stage.name: card for stage in stages if (card := read_card(run, stage.name)) is not None}
    states = {stage.name: stage_state(run, stage.name, fingerprint) for stage in stages}
    siblings = sibling_runs(run, next(iter(cards.values()))["profile"])
    keys = pages.headline_keys(next(iter(siblings.values()), {}))
    known = all_references()
    reproduced, agreement = reproduction.agreement(paths.run_folder(run), cards, known)
    times = reading.reading_times(root)
    texts = {
        "pipeline.md": pipeline.page_figure(
            stages, {spec.name: f"chapters/{chapter_name(spec)}.html" for spec in stages}
        ),
        "reading.md": pages.reading_line(times),
        "headline.md": _headline(run, stages),
        "agreement.md": agreement,
        "reproduction.md": reproduced,
        "tolerances.md": reproduction.tolerance_rules(read_rules()),
        "expected.md": reproduction.expected(
            {"this book's": cards, **{f"reference {name}": whole["cards"] for name, whole in known.items()}}
        ),
        "architecture.md": architecture.architecture_page(),
        "run_cards.md": pages.run_cards(stages, cards),
        "figures.md": prints.figures_page(stages, cards, "../generated/prints"),
        "cost.md": pages.cost_table(stages, cards),
        "status.md": pages.status_table(stages, states),
        "parameters.md": pages.parameters(stages),
        "seeds.md": pages.seeds_table(siblings, keys),
    }
    prints.copy_prints(folder / "prints", run, stages, cards)
    shutil.rmtree(folder / "api", ignore_errors=True)  # Sphinx's autosummary writes these pages
    for name, text in texts.items():
        write_text(folder / name, text)
    facts = {
        **run_facts(run, cards),
        "reading": {page: minutes for page, minutes in times.items() if page != "book/index"},
    }
    write_json(folder / "run.json", facts)
    return facts
