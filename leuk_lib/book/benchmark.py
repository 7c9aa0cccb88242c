"""The page that compares a run with published figures, and what it needs to know of the run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from leuk_lib.audit.benchmark import (
    METRICS,
    Comparison,
    Figure,
    PublishedBook,
    PublishedSet,
    RunFacts,
    compare,
    differences_of_set,
    sentence,
)
from leuk_lib.audit.claims import format_entry
from leuk_lib.audit.facts import read_facts
from leuk_lib.book.markdown import number, table
from leuk_lib.data.splits import read_split
from leuk_lib.quoting import code
from leuk_lib.quoting import markdown as escape
from leuk_lib.runs import paths

Card = Mapping[str, Any]


def run_facts(run: str, cards: Mapping[str, Card], seeds: int) -> RunFacts | None:
    """Read what a run did from its cards and files; None if it has no results yet.

    Args:
        run: name of the run.
        cards: stage -> run card.
        seeds: runs that differ in their seed only, this one included.
    """
    stated = paths.stage_folder(run, "results") / "facts.json"
    splits = paths.stage_folder(run, "data") / "splits.json"
    if not {"data", "results"} <= set(cards) or not stated.is_file() or not splits.is_file():
        return None
    facts, split = read_facts(stated), read_split(splits)
    return RunFacts(
        run=run,
        dataset=str(facts["dataset"]),
        profile=str(facts["profile"]),
        rendered=facts["kind"] == "rendered",
        classes=tuple(facts["classes"]),
        split=str(split.get("split", "grouped")),
        size=int(cards["data"]["params"]["image_size"]),
        n_test=int(facts["cells"]["test"]),
        n_train=int(facts["cells"]["train"]),
        seeds=max(1, seeds),
        pretraining=str((cards.get("fcmae") or {}).get("params", {}).get("weights") or ""),
    )


def page(book: PublishedBook, facts: RunFacts | None, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page: the run beside the figures of its data set, then the figures of other sets as context.

    Args:
        book: the published figures.
        facts: what the run did; None without results.
        metrics: the run's numbers of stage ``results``.
    """
    if facts is None:
        return f"This run has no results yet.\n\n{_context(book, book.sets)}\n{_sources(book)}"
    own = book.of(facts.dataset)
    others = [entry for entry in book.sets if entry not in own]
    name = "the rendered cells of this run" if facts.rendered else f"the data set {code(facts.dataset)} of this run"
    if not own:
        return (
            f"No published figure is listed for {name}, so there is nothing to compare its numbers with. The tables show "
            f"figures of public sets, as context.\n\n{_context(book, others)}\n{_sources(book)}"
        )
    parts = [_about(facts, metrics)]
    for entry in own:
        rows, blocked = compare(entry, facts, metrics)
        parts.append(_section(book, entry, rows, blocked, differences_of_set(entry, facts, metrics)))
    if others:
        parts.append(f"## Other data sets\n\n{_context(book, others, '###')}")
    return "\n".join([*parts, _sources(book)])


def _about(facts: RunFacts, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    split = {"published": "the official split", "grouped": "a split by groups"}[facts.split]
    start = (
        f"an encoder that starts from {code(facts.pretraining)}"
        if facts.pretraining
        else "an encoder that starts from random weights"
    )
    numbers = [
        f"{METRICS[key]} {escape(format_entry(metrics[key]))}" for key in ("accuracy", "macro_auc") if key in metrics
    ]
    return (
        f"Run {code(facts.run)}: data set {code(facts.dataset)}, profile {escape(facts.profile)}, {split}, "
        f"{facts.n_test:,} test cells, images of {facts.size} px, {start}, "
        f"{facts.seeds} {'seed' if facts.seeds == 1 else 'seeds'}. On its own test part: "
        f"{'; '.join(numbers) or 'no number'}.\n"
    )


def _section(
    book: PublishedBook,
    entry: PublishedSet,
    rows: Sequence[Comparison],
    blocked: Sequence[str],
    different: Sequence[str],
) -> str:
    lines = [f"## {escape(entry.title)}\n", f"{_task(entry)}\n", f"**{_words(sentence(entry, rows, blocked))}**\n"]
    if rows and different:
        lines.append(f"All figures differ from this run in their cells: {escape('; '.join(different))}.\n")
    if rows:
        lines.append(
            table(
                ("model", "measure", "published", "this run", "this run is", "what differs", "source"),
                [_row(book, row, bool(blocked)) for row in rows], "lllllll",
            )
        )  # fmt: skip
    return "\n".join([*lines, *([f"{escape(entry.note)}\n"] if entry.note else [])])


def _words(text: str) -> str:
    """Escape a sentence, but keep the option that it names as code."""
    return re.sub(r"\\`(.*?)\\`", lambda match: code(match[1]), escape(text))


def _row(book: PublishedBook, row: Comparison, blocked: bool) -> tuple[str, ...]:
    why = "" if blocked or not row.why_none else f" ({escape('; '.join(row.why_none))})"
    return (
        *_figure(row.figure),
        "–" if row.ours is None else escape(format_entry(row.ours)),
        escape(row.reading) + why,
        escape("; ".join(row.differences)) or "–",
        _source(book, row.figure),
    )


def _figure(figure: Figure) -> tuple[str, str, str]:
    value = number(figure.value) + ("" if figure.confirmed else " (not confirmed)")
    note = f" ({escape(figure.note)})" if figure.note else ""
    return escape(figure.model) + note, METRICS[figure.metric], value


def _source(book: PublishedBook, figure: Figure) -> str:
    source = book.sources[figure.source]
    return f"[{escape(source.short)}]({source.url})" if source.url else escape(source.short)


def _sources(book: PublishedBook) -> str:
    return (
        "## Sources\n\n"
        + "\n".join(
            f"- {escape(source.short)}: {escape(source.text)}" + (f", <{source.url}>" if source.url else "")
            for source in book.sources.values()
        )
        + "\n"
    )


def _task(entry: PublishedSet) -> str:
    where = {
        "published": "the official test part",
        "external": f"the test set {entry.test}",
        "patients": "a split by patients",
    }
    size = f", {entry.test_n:,} {entry.unit}" if entry.test_n else ""
    return f"{escape(entry.task[:1].upper() + entry.task[1:])}; {entry.classes} classes; {escape(where[entry.split])}{size}."


def _context(book: PublishedBook, entries: Sequence[PublishedSet], level: str = "##") -> str:
    """Return the figures of sets that the run did not use."""
    parts = []
    for entry in entries:
        rows = [
            (
                *_figure(figure),
                f"{figure.size} px" if figure.size else "–",
                str(figure.runs or "–"),
                _source(book, figure),
            )
            for figure in entry.figures
        ]
        head = ("model", "measure", "published", "images", "runs", "source")
        text = [f"{level} {escape(entry.title)}\n", f"{_task(entry)}\n"]
        parts += [*text, *([table(head, rows)] if rows else []), *([f"{escape(entry.note)}\n"] if entry.note else [])]
    return "\n".join(parts)
