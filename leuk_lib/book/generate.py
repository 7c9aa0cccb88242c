"""Write the sources of the book: executed chapters in ``book/chapters/``, generated pages in ``book/generated/``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leuk_lib.audit.benchmark import read_published
from leuk_lib.audit.reference import all_references, read_rules
from leuk_lib.book import architecture, benchmark, pages, pipeline, prints, reading, reproduction
from leuk_lib.book.chapters import chapter_name, clean
from leuk_lib.book.gate import executed_notebook
from leuk_lib.runs import paths
from leuk_lib.runs.card import read_card, stage_state
from leuk_lib.runs.files import write_json, write_text
from leuk_lib.runs.notebooks import read_notebook
from leuk_lib.runs.records import read_metrics
from leuk_lib.stages import StageSpec
from leuk_lib.studies import answers
from leuk_lib.studies.record import load_record


def copy_chapters(root: Path, run: str, stages: Sequence[StageSpec]) -> list[Path]:
    """Replace the content of ``book/chapters/`` by the cleaned executed notebooks of ``run``."""
    folder = root / "book" / "chapters"
    shutil.rmtree(folder, ignore_errors=True)
    paths = [folder / f"{chapter_name(stage)}.ipynb" for stage in stages]
    for path, stage in zip(paths, stages, strict=True):
        write_json(path, clean(read_notebook(executed_notebook(run, stage))))
    return paths


def sibling_runs(run: str, profile: str) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Read the numbers of stage ``results`` of the runs whose names differ from ``run`` only in their seed.

    Returns:
        The numbers of the fresh ones, and why the other ones that have finished are left out.
    """
    stem = run.rsplit("-s", 1)[0] if f"-{profile}-s" in run else None
    folders = sorted(paths.results_root().glob(f"{stem}-s*")) if stem else [paths.run_folder(run)]
    metrics, left_out = {}, {}
    for folder in folders:
        state, reasons = stage_state(folder.name, "results")
        if state == "fresh":
            metrics[folder.name] = read_metrics(folder / "results")
        elif state in ("stale", "damaged"):
            left_out[folder.name] = f"{state}: {reasons[0]}" if state == "stale" else state
    return metrics, left_out


def run_facts(run: str, cards: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the banner of every page says about the run: profile, data set, rendered or not, commit."""
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


def _landing(run: str, stages: Sequence[StageSpec], facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what the landing page includes: a summary, the answers of the studies, and the figures of ``run``.

    Args:
        run: Its stages ``results`` and ``claims`` hold the figures.
        stages: Stages of the book; the records of studies that they read hold the answers.
        facts: Facts of the run.
    """
    found = None
    if set(answers.files()) <= {file for stage in stages for file in stage.files}:
        records = {file: load_record(paths.project_root() / file) for file in answers.files()}
        found = answers.short_answers(answers.differences(records))
    metrics, chapters = {}, {}
    for stage in stages:
        if stage.name in ("results", "claims"):
            metrics[stage.name] = read_metrics(paths.stage_folder(run, stage.name))
            chapters[stage.name] = f"chapters/{chapter_name(stage)}.ipynb"
    answered = "This book reads no study.\n" if found is None else pages.answers_table(found)
    if set(metrics) != {"results", "claims"}:
        return {"summary.md": "", "answers.md": answered, "headline.md": "This run has no results yet.\n"}
    read = (metrics["results"], metrics["claims"])
    addresses = (chapters["results"], chapters["claims"])
    return {
        "summary.md": pages.summary(found, *read, facts, addresses),
        "answers.md": answered,
        "headline.md": pages.whose_cells(facts["rendered"], facts["dataset"]) + pages.headline(*read, *addresses),
    }


def generate_pages(
    root: Path, run: str, stages: Sequence[StageSpec], fingerprint: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """Write ``book/generated/*.md`` and ``run.json``; returns the facts of the run."""
    folder = root / "book" / "generated"
    cards = {stage.name: card for stage in stages if (card := read_card(run, stage.name)) is not None}
    states = {stage.name: stage_state(run, stage.name, fingerprint) for stage in stages}
    siblings, left_out = sibling_runs(run, next(iter(cards.values()))["profile"])
    keys = pages.headline_keys(next(iter(siblings.values()), {}))
    path = paths.stage_folder(run, "results") / "metrics.json"
    results = read_metrics(path.parent) if path.is_file() else {}
    references = all_references()
    reproduced, agreement = reproduction.agreement(paths.run_folder(run), cards, references)
    times = reading.reading_times(root)
    facts = run_facts(run, cards)
    texts = {
        "pipeline.md": pipeline.page_figure(
            stages, {spec.name: f"chapters/{chapter_name(spec)}.html" for spec in stages}
        ),
        "reading.md": pages.reading_line(times),
        **_landing(run, stages, facts),
        "agreement.md": agreement,
        "reproduction.md": reproduced,
        "tolerances.md": reproduction.tolerance_rules(read_rules()),
        "expected.md": reproduction.expected(
            {"this book": cards, **{f"reference {name}": record["cards"] for name, record in references.items()}}
        ),
        "architecture.md": architecture.architecture_page(),
        "run_cards.md": pages.run_cards(stages, cards),
        "figures.md": prints.figures_page(stages, cards, "../generated/prints"),
        "cost.md": pages.cost_table(stages, cards),
        "status.md": pages.status_table(stages, states),
        "parameters.md": pages.parameters(stages),
        "benchmark.md": benchmark.page(
            read_published(root / "book" / "published.yml"), benchmark.run_facts(run, cards, len(siblings)), results
        ),
        "seeds.md": pages.seeds_table(siblings, keys, left_out),
    }
    prints.copy_prints(folder / "prints", run, stages, cards)
    shutil.rmtree(folder / "api", ignore_errors=True)  # Sphinx's autosummary writes these pages
    for name, text in texts.items():
        write_text(folder / name, text)
    facts["reading"] = {page: minutes for page, minutes in times.items() if page != "book/index"}
    write_json(folder / "run.json", facts)
    return facts
