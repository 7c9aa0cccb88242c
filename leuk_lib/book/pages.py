"""Pages made from run cards, metrics and parameter models, as functions that return Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from leuk_lib.audit.reference import portable, public_card
from leuk_lib.book.chapters import chapter_link, chapter_name
from leuk_lib.book.markdown import duration, number, table
from leuk_lib.quoting import code
from leuk_lib.quoting import markdown as escape
from leuk_lib.stages import StageSpec

Card = Mapping[str, Any]
Metrics = Mapping[str, Any]

STATES = {
    "fresh": "fresh: nothing that it depends on has changed",
    "stale": "stale: something has changed since it ran",
    "failed": "failed",
    "running": "running",
    "interrupted": "interrupted",
    "missing": "never ran",
}


def chapter(stage: StageSpec) -> str:
    """Return a link to a stage's chapter."""
    return f"[{escape(stage.title)}]({chapter_link(stage)})"


def _shown(value: Any) -> str:
    """Format a parameter's value without the folders of the machine that it ran on."""
    name = portable(value)
    return "(empty)" if value == "" else code(name if name == value else f"…/{name}")


def commit(card: Card) -> str:
    """Return the commit of a card, and whether there were uncommitted changes."""
    git = card.get("git") or {}
    if not git.get("commit"):
        return "no git checkout"
    return code(git["commit"][:10]) + (" with uncommitted changes" if git.get("dirty") else "")


def _files(hashes: Mapping[str, str]) -> str:
    return table(
        ("file", "SHA-256"), [(code(name), code(f"{digest[:16]}…")) for name, digest in sorted(hashes.items())]
    )


def run_card(stage: StageSpec, card: Card) -> str:
    """Return one section: when and where the stage ran, its parameters, its inputs and outputs."""
    gpu = card.get("peak_gpu_mb")
    facts = [
        ("run", code(card["run"])),
        ("data set", code(card["dataset"])),
        ("profile", escape(card["profile"])),
        ("state", escape(card["state"])),
        ("started", escape(card["started"])),
        ("time", duration(card.get("seconds"))),
        ("peak memory", f"{number(card.get('peak_rss_mb'))} MB" + (f", GPU {number(gpu)} MB" if gpu else "")),
        ("device", escape(card.get("device") or "–")),
        ("commit", commit(card)),
        ("identity", code((card.get("identity") or "–")[:16])),
    ]
    parts = [f"## {escape(stage.title)}\n", f"Chapter: {chapter(stage)}.\n", table(("fact", "value"), facts)]
    if card.get("notes"):
        parts.append("**Notes**\n")
        parts.append("\n".join(f"- {escape(note)}" for note in card["notes"]) + "\n")
    params = [(code(name), _shown(value)) for name, value in (card.get("params") or {}).items()]
    parts += [_dropdown("Parameters", table(("parameter", "value"), params))] if params else []
    inputs = public_card(card).get("inputs", {})
    reads = {f"{name}/{file}": sha for name, files in inputs.items() for file, sha in files.items()}
    parts += [_dropdown("Input files", _files(reads))] if reads else []
    parts += [_dropdown("Output files", _files(card["outputs"]))] if card.get("outputs") else []
    versions = [(code(name), code(version)) for name, version in (card.get("versions") or {}).items()]
    parts += [_dropdown("Versions", table(("package", "version"), versions))] if versions else []
    return "\n".join(parts)


def _dropdown(title: str, body: str) -> str:
    return f":::{{dropdown}} {title}\n{body}:::\n"


def run_cards(stages: Sequence[StageSpec], cards: Mapping[str, Card]) -> str:
    """Return one section per stage with a card."""
    return "\n".join(run_card(stage, cards[stage.name]) for stage in stages if stage.name in cards)


def cost_table(stages: Sequence[StageSpec], cards: Mapping[str, Card]) -> str:
    """Return a table of the time, memory and device of each chapter, with totals."""
    finished = [(stage, cards[stage.name]) for stage in stages if stage.name in cards]
    rows = [
        (chapter(stage), escape(card["profile"]), duration(card.get("seconds")),
         f"{number(card.get('peak_rss_mb'))} MB", f"{number(card.get('peak_gpu_mb') or 0)} MB",
         escape(card.get("device") or "–"))
        for stage, card in finished
    ]  # fmt: skip
    if finished:
        total = sum(card.get("seconds") or 0.0 for _, card in finished)
        memory = max(card.get("peak_rss_mb") or 0.0 for _, card in finished)
        gpu = max(card.get("peak_gpu_mb") or 0.0 for _, card in finished)
        profiles = ", ".join(sorted({card["profile"] for _, card in finished}))
        rows.append(("**all chapters**", escape(profiles), f"**{duration(total)}**", f"{number(memory)} MB peak",
                     f"{number(gpu)} MB peak", ""))  # fmt: skip
    return table(("chapter", "profile", "time", "memory", "GPU memory", "device"), rows, "llrrrl")


def status_table(stages: Sequence[StageSpec], states: Mapping[str, tuple[str, Sequence[str]]]) -> str:
    """Return a table of the state of each stage (``leuk_lib.runs.card.stage_state``) and its reasons."""
    rows = []
    for stage in stages:
        state, reasons = states[stage.name]
        why = "; ".join(escape(reason) for reason in reasons if reason)
        reads = ", ".join(code(name) for name in stage.inputs) or "the data set"
        rows.append((chapter(stage), reads, STATES.get(state, escape(state)), why or "–"))
    return table(("chapter", "reads", "state", "why"), rows)


def _allowed(field: FieldInfo) -> str:
    """Describe the range that a field's constraints allow."""
    limits = {}
    for item in field.metadata:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern", "multiple_of"):
            if getattr(item, name, None) is not None:
                limits[name] = getattr(item, name)
    words = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {} long",
             "max_length": "at most {} long", "multiple_of": "a multiple of {}"}  # fmt: skip
    parts = [words[name].format(f"{limit:g}" if isinstance(limit, float) else limit)
             for name, limit in limits.items() if name in words]  # fmt: skip
    if "pattern" in limits:
        parts.append(code(limits["pattern"]))
    if choices := _choices(field.annotation):
        parts.append(" ".join(code(choice) for choice in choices))
    return ", ".join(parts) or "–"


def _choices(annotation: Any) -> list[str]:
    """Return the values that a ``Literal`` allows, also inside ``… | None`` or a tuple."""
    choices: list[str] = []
    for argument in get_args(annotation):
        choices += [str(argument)] if isinstance(argument, (str, int, float, bool)) else _choices(argument)
    return list(dict.fromkeys(choices))


def parameter_table(model: type[BaseModel], leave_out: Sequence[str] = ()) -> str:
    """Return a table of the name, default, allowed values and meaning of every parameter of a model."""
    rows = []
    for name, field in model.model_fields.items():
        if name not in leave_out:
            default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
            rows.append((code(name), default, _allowed(field), escape(field.description or "")))
    return table(("parameter", "default (laptop)", "allowed", "meaning"), rows)


def parameters(stages: Sequence[StageSpec]) -> str:
    """Return the parameters that all stages share, then one section per stage."""
    models = [(stage, stage.params_model()) for stage in stages]
    if not models:
        return "No stages.\n"
    first = models[0][1].model_fields
    shared = [name for name, field in first.items()
              if all(name in model.model_fields and repr(model.model_fields[name]) == repr(field) for _, model in models)]  # fmt: skip
    others = [name for name in first if name not in shared]
    parts = ["## All stages\n", parameter_table(models[0][1], leave_out=others)]
    for stage, model in models:
        own = [name for name in model.model_fields if name not in shared]
        parts.append(f"\n## {escape(stage.title)}\n")
        parts.append(f"Stage {code(stage.name)}, notebook {code(f'{chapter_name(stage)}.ipynb')}.\n")
        parts.append(parameter_table(model, leave_out=shared) if own else "No parameters of its own.\n")
    return "\n".join(parts)


def seeds_table(runs: Mapping[str, Metrics], keys: Sequence[str], left_out: Mapping[str, str] | None = None) -> str:
    """Return a table of the same numbers over several seeds, with mean and sample standard deviation.

    ``runs`` maps a run's name to the metrics of its stage ``results``, ``left_out`` the name of a run that is not shown to
    the reason. A key that no run has is left out.
    """
    names = sorted(runs)
    shown = [key for key in keys if any(key in runs[name] for name in names)]
    if not names or not shown:
        return "No finished run of this data set and profile yet.\n"
    rows = []
    for key in shown:
        values = [runs[name][key]["value"] if key in runs[name] else None for name in names]
        present = [float(value) for value in values if value is not None]
        spread = number(statistics.stdev(present), 2) if len(present) > 1 else "–"
        rows.append(
            (escape(key.replace("_", " ")), *(number(v) for v in values), number(statistics.fmean(present)), spread)
        )
    header = ("number", *(code(name) for name in names), "mean", "standard deviation")
    others = "; ".join(f"{code(name)} ({escape(why)})" for name, why in sorted((left_out or {}).items()))
    return table(header, rows, "l" + "r" * (len(header) - 1)) + (f"\nNot shown: {others}.\n" if others else "")


def headline_keys(metrics: Metrics, limit: int = 12) -> list[str]:
    """Return the keys of the seeds table: those with an interval, or else the first ones."""
    with_interval = [key for key, entry in metrics.items() if "low" in entry and "high" in entry]
    return (with_interval or list(metrics))[:limit]


HEADLINE = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy (mean recall over classes)",
    "macro_f1": "Macro F1",
    "macro_auc": "Macro AUC, one class against the rest",
    "margin": "Accuracy minus that of the strongest baseline",
    "patient_accuracy": "Accuracy of majority votes per group",
}
VERDICTS = {
    "reproduced": "reproduced",
    "not_reproduced": "not reproduced",
    "reached_on_another_public_set": "reached on another public set",
    "not_reached_on_another_public_set": "not reached on another public set",
    "cannot_be_tested_here": "cannot be tested on these data",
}


def answers_summary(found: pd.DataFrame) -> str:
    """Return how many questions on real cells have which answer, and the answers to the first two, which are the widest.

    Args:
        found: Columns question, cells ("real" or "rendered"), points, answer, agree (whether all differences have
            this answer), target (notebook of the chapter).
    """
    real = found[found["cells"] == "real"]
    plain = real["answer"].where(real["agree"], "depends on the comparison")
    counts = ", ".join(f"{word} in {count}" for word, count in plain.value_counts().items())
    first = " ".join(
        f"{escape(row['question'])} *{row['answer'].capitalize()}* ({row['points']} points)."
        for row in real.head(2).to_dict("records")
    )
    return f"**On real cells**, photographed from healthy donors, {len(real)} questions were studied: {counts}. {first}"


def answers_table(found: pd.DataFrame) -> str:
    """Return the landing page's answers from studies: a row per question on real cells, then a line per other question.

    Args:
        found: As for :func:`answers_summary`.
    """
    linked = found.assign(
        link=[f"[{escape(q)}](chapters/{at})" for q, at in zip(found["question"], found["target"], strict=True)]
    )
    real, rendered = linked[linked["cells"] == "real"], linked[linked["cells"] != "real"]
    text = table(
        ("question", "answer", "differences, points"),
        list(real[["link", "answer", "points"]].itertuples(index=False, name=None)),
    )
    for row in rendered.to_dict("records"):
        text += f"\nOn rendered cells, whose patients are known: {row['link']} *{row['answer'].capitalize()}* ({row['points']} points).\n"
    return text


def summary(
    found: pd.DataFrame | None, results: Metrics, claims: Metrics, facts: Mapping[str, Any], addresses: Sequence[str]
) -> str:
    """Return what the landing page says first: what real cells show, what this run shows, and what cannot be known.

    Args:
        found: As for :func:`answers_summary`; None for a book that reads no study.
        results: Metrics of stage ``results``.
        claims: Metrics of stage ``claims``.
        facts: Facts of the run: rendered, dataset.
        addresses: Addresses of the chapters of results and of claims.
    """
    lines = [] if found is None else [answers_summary(found)]
    whose = "rendered cells, drawn by a program" if facts["rendered"] else f"the cells of {code(facts['dataset'])}"
    if main := main_result(results, addresses[0]):
        lines.append(f"**This run**, on {whose}: {main}")
    open_claims = claims.get("cannot_be_tested_here", {}).get("value", 0)
    unknown = (
        "**Not known**: how well the four leukemias of the paper are recognised, because its images are not public"
    )
    if open_claims:
        unknown += (
            f"; {glued(addresses[1], 'claims.cannot_be_tested_here')} of its claims cannot be tested on these data"
        )
    lines.append(f"{unknown}.")
    return "".join(f"- {line}\n" for line in lines)


def whose_cells(rendered: bool, dataset: str) -> str:
    """Say whether the numbers that follow are of rendered cells."""
    if rendered:
        return "The cells of this run are *rendered*, which means drawn by a program: these numbers are about no patient.\n\n"
    return f"The cells of this run are those of {code(dataset)}.\n\n"


def glued(chapter: str, key: str, form: str = ":.0f") -> str:
    """Return a role that shows a number of a chapter."""
    return f"{{glue:text}}`{chapter}::{key}{form}`"


def headline(results: Metrics, claims: Metrics, results_chapter: str, claims_chapter: str) -> str:
    """Return the landing page's numbers, each glued from its chapter. Numbers that the run lacks are left out.

    Args:
        results: Metrics of stage ``results``.
        claims: Metrics of stage ``claims``.
        results_chapter: Address of the results chapter as seen from the landing page.
        claims_chapter: Address of the claims chapter as seen from the landing page.
    """
    rows = []
    for key, name in HEADLINE.items():
        if key not in results:
            continue
        entry, full = results[key], f"results.{key}"
        interval = "–"
        if "low" in entry and "high" in entry:
            low, high = (glued(results_chapter, f"{full}.{bound}", ":.3f") for bound in ("low", "high"))
            interval = f"{low} to {high}"
        count = glued(results_chapter, f"{full}.n") if "n" in entry else "–"
        rows.append((name, glued(results_chapter, full, ":.3f"), interval, count))
    text = table(("on the test part", "value", "95 % interval", "n"), rows, "lrrr")
    verdicts = [f"{glued(claims_chapter, f'claims.{key}')} {word}" for key, word in VERDICTS.items() if key in claims]
    if verdicts:
        text += f"\nThe paper's claims and published figures: {', '.join(verdicts)}.\n"
    return text


def main_result(results: Metrics, chapter: str) -> str:
    """State the run's main result. The words follow from the interval of the margin; the numbers are glued."""
    if not {"accuracy", "margin"} <= set(results) or "low" not in results["margin"]:
        return ""
    margin = results["margin"]
    baseline = next((key for key, entry in results.items() if key.startswith("ahead_of_") and entry == margin), None)
    if baseline is None:
        return ""
    baseline = baseline.removeprefix("ahead_of_")
    verdict = (
        "the full sequence is better" if margin["low"] > 0
        else "the baseline is better" if margin["high"] < 0
        else "neither is shown to be better, as the interval of the difference includes zero"
    )  # fmt: skip
    pipeline_accuracy, baseline_accuracy = (
        glued(chapter, f"results.{key}", ":.3f") for key in ("accuracy", f"accuracy_of_{baseline}")
    )
    return (
        f"accuracy {pipeline_accuracy} for the full sequence, {baseline_accuracy} for the strongest baseline "
        f"({code(baseline)}, selected on these test cells): {verdict}."
    )


def reading_line(times: Mapping[str, int]) -> str:
    """Return the reading time of the landing page, the chapters and all written pages."""
    chapters = [minutes for page, minutes in times.items() if page.startswith("book/chapters/")]
    return (
        f"Reading time: {times.get('book/index', 1)} min for this page, about {sum(chapters)} min for the "
        f"{len(chapters)} chapters, about {sum(times.values())} min for all pages except the API reference.\n"
    )
