"""The page "Did it reproduce?" and other comparisons with committed references, as functions that return Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.audit.compare import VERDICTS, by_stage, closest_reference, compare_runs, counts, sentence
from leuk_lib.audit.reference import Rules, candidates
from leuk_lib.book.markdown import duration, number, table
from leuk_lib.quoting import code
from leuk_lib.quoting import markdown as escape

Card = Mapping[str, Any]
PAGE = "reproduce/did_it_reproduce.md"
KINDS = {
    "half_interval": "half the width of the reference's interval",
    "proportion": "half the width of Wilson's interval for the proportion",
    "count": "the square root of the reference's value",
    "relative": "{size:.0%} of the reference's value",
    "absolute": "{size:g}",
    "exact": "rounding only",
}


def made_by(card: Card) -> tuple[str, str, str, str, str]:
    """Return the start, device, threads, versions and commit of a run."""
    git, versions = card.get("git") or {}, card.get("versions") or {}
    commit = code((git.get("commit") or "none")[:10]) + (" with uncommitted changes" if git.get("dirty") else "")
    packages = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy") if name in versions)
    threads = (card.get("params") or {}).get("threads")
    return (
        escape(str(card.get("started") or "–")[:10]), escape(card.get("device") or "–"), number(threads), escape(packages or "–"), commit,
    )  # fmt: skip


def side_by_side(card: Card, reference: Card) -> str:
    """Return a table of the two runs: when, where and with what they were made."""
    header = ("fact", "this run", "reference")
    names = ("run", "started", "device", "threads", "versions", "commit")
    rows = [
        *zip(names, (code(card["run"]), *made_by(card)), (code(reference["run"]), *made_by(reference)), strict=True)
    ]
    facts, facts_then = card.get("hardware") or {}, reference.get("hardware") or {}
    for name in sorted({*facts, *facts_then}):
        fact, fact_then = (escape(each.get(name) or "–") for each in (facts, facts_then))
        rows.append((name.replace("_", " "), fact, "the same" if fact == fact_then else fact_then))
    return table(header, rows)


def number_rows(frame: pd.DataFrame) -> str:
    """Return the numbers of a comparison, one per row."""
    rows = [
        (code(f"{row['stage']}.{row['metric']}"), number(row["value"], 6), number(row["reference"], 6),
         number(row["difference"], 3), number(row["tolerance"], 3), escape(": ".join(filter(None, (row["verdict"], row["detail"])))))
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return table(("number", "this run", "reference", "difference", "tolerance", "verdict"), rows, "lrrrrl")


def outcome(frame: pd.DataFrame, card: Card, reference: Card) -> str:
    """Return the body of the page if there is a reference."""
    parts = [f"**{escape(sentence(frame))}**\n", side_by_side(card, reference)]
    stages = by_stage(frame)
    rows = [
        (code(row["stage"]), *(number(row[verdict]) for verdict in VERDICTS), escape(row["likely cause"]) or "–")
        for row in stages.to_dict("records")
    ]
    parts += ["## By stage\n", table(("stage", *VERDICTS, "likely cause of differences"), rows, "lrrrrl")]
    for verdict, title in (
        ("outside", "Numbers outside their tolerance"),
        ("missing", "Numbers of only one run"),
    ):
        rows_of_verdict = frame[frame["verdict"] == verdict]
        if len(rows_of_verdict):
            parts += [f"## {title}\n", number_rows(rows_of_verdict)]
    parts.append("## All numbers\n")
    for stage, part in frame.groupby("stage", sort=False):
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts(part).items() if count)
        parts.append(f":::{{dropdown}} {stage}: {verdicts}\n{number_rows(part)}:::\n")
    return "\n".join(parts)


def no_reference(dataset: str, profile: str, references: Sequence[str]) -> str:
    """Return the body of the page if there is no reference for this data set and profile."""
    others = (
        f"There are references for {', '.join(code(name) for name in references)}."
        if references
        else "There are no references yet."
    )
    return f"**There is no reference for data set {code(dataset)} and profile {code(profile)}.** {others}\n"


def agreement(
    run_folder: Path, cards: Mapping[str, Card], references: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str]:
    """Compare the run in ``run_folder`` with its reference.

    Args:
        run_folder: Folder of the run.
        cards: The run's cards by stage.
        references: All references by name.

    Returns:
        The body of the page, and one line for the landing page.
    """
    first = next(iter(cards.values()))
    path = closest_reference(cards)
    if path is None:
        line = f"There is no reference for this data set and profile ([Did it reproduce?]({PAGE})).\n"
        return no_reference(first["dataset"], first["profile"], sorted(references)), line
    frame = compare_runs(run_folder, path)
    reference = next(iter(references[path.stem]["cards"].values()))
    line = f"Compared with the reference run: {sentence(frame)[0].lower()}{sentence(frame)[1:]} [Did it reproduce?]({PAGE})\n"
    several = candidates(first["dataset"], first["profile"])
    which = f"The reference is {code(path.stem)}, of {len(several)} that of the most similar machine.\n\n"
    return (which if len(several) > 1 else "") + outcome(frame, first, reference), line


def tolerance_rules(rules: Rules) -> str:
    """Return the rules as a table, in the order in which they are tried."""
    rows = [
        (str(position), ", ".join(code(pattern) for pattern in rule.numbers), KINDS[rule.kind].format(size=rule.size), escape(rule.why))
        for position, rule in enumerate(rules.rules, 1)
    ]  # fmt: skip
    return table(("rule", "numbers", "tolerance", "reason"), rows, "rlll")


def expected(cards: Mapping[str, Mapping[str, Card]]) -> str:
    """Return a table of the time and memory of complete runs. ``cards`` maps a run's label to its cards."""
    rows = []
    for name, run in cards.items():
        stages = list(run.values())
        longest = max(stages, key=lambda card: card.get("seconds") or 0.0)
        gpu = max(card.get("peak_gpu_mb") or 0.0 for card in stages)
        rows.append((
            escape(name), code(stages[0]["dataset"]), escape(stages[0]["profile"]), escape(longest.get("device") or "–"),
            duration(sum(card.get("seconds") or 0.0 for card in stages)),
            f"{code(longest['stage'])} {duration(longest.get('seconds'))}",
            f"{number(max(card.get('peak_rss_mb') or 0.0 for card in stages))} MB", f"{number(gpu)} MB" if gpu else "–",
        ))  # fmt: skip
    return table(
        ("run", "data set", "profile", "device", "all stages", "longest stage", "memory", "GPU memory"),
        rows,
        "llllrlrr",
    )
