"""Two runs side by side, number by number: equal to the bit, within tolerance, outside, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.audit.reference import Rules, load_run, read_rules
from leuk_lib.runs.code import is_presentation

COLUMNS = ["stage", "metric", "value", "reference", "difference", "tolerance", "rule", "verdict", "cause", "detail"]
VERDICTS = ("equal", "within", "outside", "missing")
NOT_A_CAUSE = {"run", "accelerator", "devices", "checkpoint_every", "threads", "dataset"}
NO_CAUSE = "none in the cards: same parameters, data, code, versions and device"


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def _few(words: list[str], limit: int = 3) -> str:
    return ", ".join(words[:limit]) + (f" and {len(words) - limit} more" if len(words) > limit else "")


def card_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What differs between two cards of one stage and can change a number, the likeliest cause first."""
    found = []
    params, other = ours.get("params", {}), theirs.get("params", {})
    changed = [key for key in _changed(params, other) if key not in NOT_A_CAUSE]
    if changed:
        found.append("parameters: " + _few([f"{key} {params.get(key)!r} not {other.get(key)!r}" for key in changed]))
    data = [(card.get("inputs", {}).get("dataset") or {}).get("content") for card in (ours, theirs)]
    if ours.get("dataset") != theirs.get("dataset"):
        found.append(f"data: {ours.get('dataset')} not {theirs.get('dataset')}")
    elif data[0] != data[1]:
        found.append("data: other files")
    code, code_then = (card.get("hashes", {}).get("code") or {} for card in (ours, theirs))
    if modules := [name for name in _changed(code, code_then) if not is_presentation(name)]:
        found.append("code: " + _few([name.removeprefix("leuk_lib.") for name in modules]))
    if ours.get("hashes", {}).get("notebook") != theirs.get("hashes", {}).get("notebook"):
        found.append("notebook: changed")
    versions, versions_then = ours.get("versions", {}), theirs.get("versions", {})
    if changed := _changed(versions, versions_then):
        found.append("versions: " + _few([f"{n} {versions.get(n)} not {versions_then.get(n)}" for n in changed]))
    elif ours.get("hashes", {}).get("lock") != theirs.get("hashes", {}).get("lock"):
        found.append("versions: other packages (requirements.lock differs)")
    if ours.get("device") != theirs.get("device"):
        found.append(f"device: {ours.get('device')} not {theirs.get('device')}")
    if (count := params.get("threads")) != (count_then := other.get("threads")):
        found.append(f"threads: {count} not {count_then}")
    return found


def likely_cause(stage: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Why a number of ``stage`` may differ: what differs in its own cards, else in those of what it reads.

    ``ours`` and ``theirs`` map stages to cards.
    """
    if stage not in ours or stage not in theirs:
        return "no card to read the cause from"
    own = card_differences(ours[stage], theirs[stage])
    above: list[str] = []
    pending, seen = [stage], {stage}
    while pending:
        for name in ours[pending.pop()].get("inputs", {}):
            if name in seen or name not in ours or name not in theirs:
                continue
            seen.add(name)
            pending.append(name)
            above += [text for line in card_differences(ours[name], theirs[name]) if (text := f"{line} (stage {name})")]
    told = set(own)
    above = [line for line in above if line.rsplit(" (stage", 1)[0] not in told]
    return "; ".join([*own, *above][:4]) or NO_CAUSE


def compare_runs(run: Path, reference: Path, rules: Rules | None = None) -> pd.DataFrame:
    """One row a number: stage, metric, value, reference, difference, tolerance, rule, verdict, cause, detail.

    ``run`` and ``reference`` are run folders or reference files. Verdicts: "equal" (value, interval and sample size to
    the bit), "within" tolerance, "outside", "missing" (in one of the two). A reference file brings its tolerances; for a
    run, ``rules`` (default: the stated ones) give them. The cause (one for all
    unequal numbers of a stage) is empty for equal ones. Raises ``LeukError`` for a
    source that is neither.
    """
    ours, theirs = load_run(run), load_run(reference)
    rows: list[tuple[Any, ...]] = []
    for stage in dict.fromkeys([*theirs["metrics"], *ours["metrics"]]):
        mine, other = ours["metrics"].get(stage, {}), theirs["metrics"].get(stage, {})
        cause = likely_cause(stage, ours["cards"], theirs["cards"])
        for key in dict.fromkeys([*other, *mine]):
            if key not in mine or key not in other:
                value, wanted = (float(part[key]["value"]) if key in part else math.nan for part in (mine, other))
                detail = f"not in {'the run' if key not in mine else 'the reference'}"
                rows.append((stage, key, value, wanted, math.nan, math.nan, "", "missing", cause, detail))
                continue
            value, wanted = float(mine[key]["value"]), float(other[key]["value"])
            told = theirs["tolerances"].get(f"{stage}.{key}")
            if told is None:
                rules = rules or read_rules()
                allowed, rule = rules.tolerance(f"{stage}.{key}", other[key])
            else:
                allowed, rule = float(told["value"]), str(told["rule"])
            equal = dict(mine[key]) == dict(other[key])
            verdict = "equal" if equal else "within" if abs(value - wanted) <= allowed else "outside"
            detail = "" if equal else _entry_difference(mine[key], other[key])
            why = "" if equal else cause
            rows.append((stage, key, value, wanted, value - wanted, allowed, rule, verdict, why, detail))
    return pd.DataFrame(rows, columns=COLUMNS)


def _entry_difference(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What besides the value differs: the sample size, or the interval alone."""
    if mine.get("n") != other.get("n"):
        return f"n {mine.get('n')} not {other.get('n')}"
    return "the interval alone differs" if mine["value"] == other["value"] else ""


def counts(table: pd.DataFrame) -> dict[str, int]:
    """How many numbers have each verdict, all verdicts named."""
    return {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}


def by_stage(table: pd.DataFrame) -> pd.DataFrame:
    """One row a stage: how many numbers have each verdict, and the cause that its unequal numbers share."""
    rows = []
    for stage, part in table.groupby("stage", sort=False):
        causes = [cause for cause in part["cause"] if cause]
        rows.append((stage, *counts(part).values(), causes[0] if causes else ""))
    return pd.DataFrame(rows, columns=["stage", *VERDICTS, "likely cause"])


def sentence(table: pd.DataFrame) -> str:
    """The outcome of a comparison in one sentence."""
    found, whole = counts(table), len(table)
    if found["equal"] == whole:
        return f"All {whole} numbers are equal to the bit."
    told = [f"{found['equal']} equal to the bit", f"{found['within']} within tolerance", f"{found['outside']} outside"]
    told += [f"{found['missing']} in one of the two only"] if found["missing"] else []
    return f"Of {whole} numbers: {', '.join(told)}."
