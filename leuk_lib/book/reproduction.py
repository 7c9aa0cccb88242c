"""The page "Did it reproduce?" and what follows from committed references: pure functions, markdown out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.audit.compare import VERDICTS, by_stage, compare_runs, counts, sentence
from leuk_lib.audit.reference import Rules, reference_file
from leuk_lib.book.markdown import code, duration, escape, number, table

Card = Mapping[str, Any]
PAGE = "reproduce/did_it_reproduce.md"
KINDS = {
    "half_interval": "half the width of the reference's interval",
    "proportion": "half the width of Wilson's interval of a share of so many",
    "count": "the square root of the reference's value",
    "relative": "{size:.0%} of the reference's value",
    "exact": "nothing but rounding",
}


def made_by(card: Card) -> tuple[str, str, str, str, str]:
    """What a reader compares first of two runs: day, device, threads, versions, commit."""
    git, versions = card.get("git") or {}, card.get("versions") or {}
    commit = code((git.get("commit") or "none")[:10]) + (" with uncommitted changes" if git.get("dirty") else "")
    told = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy") if name in versions)
    threads = (card.get("params") or {}).get("threads")
    return (
        escape(str(card.get("started") or "–")[:10]), escape(card.get("device") or "–"), number(threads), escape(told or "–"), commit,
    )  # fmt: skip


def side_by_side(ours: Card, theirs: Card) -> str:
    """The two runs and where they were made."""
    header = ("fact", "this run", "reference")
    names = ("run", "started", "device", "threads", "versions", "commit")
    rows = zip(names, (code(ours["run"]), *made_by(ours)), (code(theirs["run"]), *made_by(theirs)), strict=True)
    return table(header, rows)


def number_rows(frame: pd.DataFrame) -> str:
    """The numbers of a comparison, one a row."""
    rows = [
        (code(f"{row['stage']}.{row['metric']}"), number(row["value"], 6), number(row["reference"], 6),
         number(row["difference"], 3), number(row["tolerance"], 3), escape(": ".join(filter(None, (row["verdict"], row["detail"])))))
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return table(("number", "this run", "reference", "difference", "tolerance", "verdict"), rows, "lrrrrl")


def outcome(frame: pd.DataFrame, ours: Card, theirs: Card) -> str:
    """The body of the page where there is a reference."""
    parts = [f"**{escape(sentence(frame))}**\n", side_by_side(ours, theirs)]
    stages = by_stage(frame)
    rows = [
        (code(row["stage"]), *(number(row[verdict]) for verdict in VERDICTS), escape(row["likely cause"]) or "–")
        for row in stages.to_dict("records")
    ]
    parts += ["## By stage\n", table(("stage", *VERDICTS, "likely cause of what differs"), rows, "lrrrrl")]
    for verdict, title in (
        ("outside", "Numbers outside their tolerance"),
        ("missing", "Numbers that only one of the two has"),
    ):
        found = frame[frame["verdict"] == verdict]
        if len(found):
            parts += [f"## {title}\n", number_rows(found)]
    parts.append("## All numbers\n")
    for stage, part in frame.groupby("stage", sort=False):
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts(part).items() if count)
        parts.append(f":::{{dropdown}} {stage}: {told}\n{number_rows(part)}:::\n")
    return "\n".join(parts)


def no_reference(dataset: str, profile: str, known: Sequence[str]) -> str:
    """The body of the page where there is none for this data set and profile."""
    others = (
        f"There are references for {', '.join(code(name) for name in known)}."
        if known
        else "There are none yet at all."
    )
    return (
        f"**There is no reference of the data set {code(dataset)} in the profile {code(profile)} in this version of the book**, "
        f"so the run that these pages show cannot be set beside one. {others}\n"
    )


def agreement(run_folder: Path, cards: Mapping[str, Card], known: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """``(body of the page, one line for the landing page)`` of the run in ``run_folder``; ``known``: all references."""
    first = next(iter(cards.values()))
    path = reference_file(first["dataset"], first["profile"])
    if path.stem not in known:
        line = f"No reference of this data set and profile has been recorded yet ([Did it reproduce?]({PAGE})).\n"
        return no_reference(first["dataset"], first["profile"], sorted(known)), line
    frame = compare_runs(run_folder, path)
    theirs = next(iter(known[path.stem]["cards"].values()))
    line = f"Beside the recorded reference run: {sentence(frame)[0].lower()}{sentence(frame)[1:]} [Did it reproduce?]({PAGE})\n"
    return outcome(frame, first, theirs), line


def tolerance_rules(rules: Rules) -> str:
    """The stated rules as a table, in the order in which they are tried."""
    rows = [
        (str(position), ", ".join(code(pattern) for pattern in rule.numbers), KINDS[rule.kind].format(size=rule.size), escape(rule.why))
        for position, rule in enumerate(rules.rules, 1)
    ]  # fmt: skip
    return table(("rule", "numbers", "largest difference that agrees", "why"), rows, "rlll")


def expected(cards: Mapping[str, Mapping[str, Card]]) -> str:
    """Time and memory of whole runs; ``cards`` maps what a run is called to its cards."""
    rows = []
    for name, run in cards.items():
        known = list(run.values())
        longest = max(known, key=lambda card: card.get("seconds") or 0.0)
        gpu = max(card.get("peak_gpu_mb") or 0.0 for card in known)
        rows.append((
            escape(name), code(known[0]["dataset"]), escape(known[0]["profile"]), escape(longest.get("device") or "–"),
            duration(sum(card.get("seconds") or 0.0 for card in known)),
            f"{code(longest['stage'])} {duration(longest.get('seconds'))}",
            f"{number(max(card.get('peak_rss_mb') or 0.0 for card in known))} MB", f"{number(gpu)} MB" if gpu else "–",
        ))  # fmt: skip
    return table(
        ("run", "data set", "profile", "device", "all stages", "longest stage", "memory", "GPU memory"),
        rows,
        "llllrlrr",
    )
