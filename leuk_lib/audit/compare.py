"""Comparison of two runs, number by number: equal to the bit, within tolerance or outside, and the likely cause."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.audit.reference import Rules, candidates, load_run, read_rules
from leuk_lib.runs.code import is_presentation
from leuk_lib.runs.hardware import NUMERIC_FLAGS

COLUMNS = ["stage", "metric", "value", "reference", "difference", "tolerance", "rule", "verdict", "cause", "detail"]
VERDICTS = ("equal", "within", "outside", "missing")
NOT_A_CAUSE = {"run", "accelerator", "devices", "checkpoint_every", "threads", "dataset"}
NO_CAUSE = "none in the cards: same parameters, data, code, versions and device"


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def _few(words: list[str], limit: int = 3) -> str:
    return ", ".join(words[:limit]) + (f" and {len(words) - limit} more" if len(words) > limit else "")


def _versions(card: Mapping[str, Any]) -> dict[str, str]:
    """The card's versions; ``lightning`` contains ``lightning-fabric`` under the same number."""
    versions = dict(card.get("versions", {}))
    whole = versions.pop("lightning", None)
    return versions if whole is None else {"lightning-fabric": whole, **versions}


def hardware_changes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Facts of the machine (``runs.hardware``) that both cards state and that differ, in words.

    A list of instruction sets is described by those that only one of the two has.
    """
    facts, facts_then = ours.get("hardware") or {}, theirs.get("hardware") or {}
    changed = []
    for name in sorted(set(facts) & set(facts_then)):
        here, there = facts[name], facts_then[name]
        if here == there:
            continue
        if name == "cpu_flags":
            flags, flags_then = (
                {flag for flag in text.split() if NUMERIC_FLAGS.fullmatch(flag)} for text in (here, there)
            )
            if flags == flags_then:  # earlier cards list smep, too, which computes nothing
                continue
            only = {"with": flags - flags_then, "without": flags_then - flags}
            words = [f"{word} {_few(sorted(part))}" for word, part in only.items() if part]
            changed.append(f"instruction sets {', '.join(words)}")
        else:
            changed.append(f"{name.replace('_', ' ')} {here} not {there}")
    return changed


def card_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Differences between two run cards of one stage that can change a number, the likeliest cause first."""
    causes = []
    params, other = ours.get("params", {}), theirs.get("params", {})
    # A parameter that one card lacks came or went with the code, which is a cause of its own.
    changed = [key for key in _changed(params, other) if key not in NOT_A_CAUSE and key in params and key in other]
    if changed:
        causes.append("parameters: " + _few([f"{key} {params.get(key)!r} not {other.get(key)!r}" for key in changed]))
    data = [(card.get("inputs", {}).get("dataset") or {}).get("content") for card in (ours, theirs)]
    if ours.get("dataset") != theirs.get("dataset"):
        causes.append(f"data: {ours.get('dataset')} not {theirs.get('dataset')}")
    elif data[0] != data[1]:
        causes.append("data: other files")
    code, code_then = (card.get("hashes", {}).get("code") or {} for card in (ours, theirs))
    if modules := [name for name in _changed(code, code_then) if not is_presentation(name)]:
        causes.append("code: " + _few([name.removeprefix("leuk_lib.") for name in modules]))
    if ours.get("hashes", {}).get("notebook") != theirs.get("hashes", {}).get("notebook"):
        causes.append("notebook: changed")
    versions, versions_then = _versions(ours), _versions(theirs)
    if changed := _changed(versions, versions_then):
        causes.append("versions: " + _few([f"{n} {versions.get(n)} not {versions_then.get(n)}" for n in changed]))
    elif ours.get("hashes", {}).get("lock") != theirs.get("hashes", {}).get("lock"):
        causes.append("versions: other packages (requirements.lock differs)")
    if ours.get("device") != theirs.get("device"):
        causes.append(f"device: {ours.get('device')} not {theirs.get('device')}")
    if changed := hardware_changes(ours, theirs):
        causes.append("hardware: " + "; ".join(changed))
    if (count := params.get("threads")) != (count_then := other.get("threads")):
        causes.append(f"threads: {count} not {count_then}")
    return causes


def likely_cause(stage: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Differences in the cards of ``stage``, and in those of the stages that it reads.

    Args:
        stage: name of the stage.
        ours: stage -> card of our run.
        theirs: stage -> card of the reference.
    """
    if stage not in ours or stage not in theirs:
        return "no card to read the cause from"
    own = card_differences(ours[stage], theirs[stage])
    inherited: list[str] = []
    pending, seen = [stage], {stage}
    while pending:
        for name in ours[pending.pop()].get("inputs", {}):
            if name in seen or name not in ours or name not in theirs:
                continue
            seen.add(name)
            pending.append(name)
            inherited += [
                f"{cause} (stage {name})" for cause in card_differences(ours[name], theirs[name]) if cause not in own
            ]
    if causes := [*own, *inherited][:4]:
        return "; ".join(causes)
    unknown = "run" if not ours[stage].get("hardware") else "reference" if not theirs[stage].get("hardware") else ""
    return NO_CAUSE + (f" (the {unknown}'s card has no facts of the processor)" if unknown else "")


def machine_distance(ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    """How different the machines of two runs are, as a tuple to sort by; equal machines have zeros.

    In order: stages of which one ran on a GPU and the other did not; facts of the hardware and names of the device, a
    different one counting as two unknown ones; different versions. The numbers of the runs play no part: the reference to
    compare with is chosen before the comparison.
    """
    total = [0] * 3
    for stage in set(ours) & set(theirs):
        one, other = ours[stage], theirs[stage]
        facts, facts_then = one.get("hardware") or {}, other.get("hardware") or {}
        total[0] += bool(one.get("peak_gpu_mb")) != bool(other.get("peak_gpu_mb"))
        total[1] += 2 * len(hardware_changes(one, other)) + len(set(facts) ^ set(facts_then))
        total[1] += 2 * (one.get("device") != other.get("device"))
        total[2] += len(_changed(_versions(one), _versions(other)))
    return tuple(total)


def closest_reference(cards: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """The reference of the data set and profile of a run that was made on the most similar machine; None without one.

    Args:
        cards: stage -> card of the run.
    """
    first = next(iter(cards.values()))
    files = candidates(first["dataset"], first["profile"])
    return min(files, key=lambda file: machine_distance(cards, load_run(file)["cards"]), default=None)


def compare_runs(run: Path, reference: Path, rules: Rules | None = None) -> pd.DataFrame:
    """Compare all numbers of two runs.

    Args:
        run: a run's folder or a reference file.
        reference: the same; a file contains its own tolerances.
        rules: tolerances of a reference that is a folder; default: ``book/reference/tolerances.yml``.

    Returns:
        One row per number: stage, metric, value, reference, difference, tolerance, rule, verdict, cause, detail. The
        verdict is "equal" (value, interval and sample size to the bit), "within" tolerance, "outside", or "missing" (in
        one of the two). All unequal numbers of a stage share one cause.

    Raises:
        LeukError: a source that is neither a run nor a reference.
    """
    ours, theirs = load_run(run), load_run(reference)
    rows: list[tuple[Any, ...]] = []
    for stage in dict.fromkeys([*theirs["metrics"], *ours["metrics"]]):
        entries, reference_entries = ours["metrics"].get(stage, {}), theirs["metrics"].get(stage, {})
        cause = likely_cause(stage, ours["cards"], theirs["cards"])
        for key in dict.fromkeys([*reference_entries, *entries]):
            if key not in entries or key not in reference_entries:
                value, expected = (
                    float(part[key]["value"]) if key in part else math.nan for part in (entries, reference_entries)
                )
                detail = f"not in {'the run' if key not in entries else 'the reference'}"
                rows.append((stage, key, value, expected, math.nan, math.nan, "", "missing", cause, detail))
                continue
            entry, reference_entry = entries[key], reference_entries[key]
            value, expected = float(entry["value"]), float(reference_entry["value"])
            stated = theirs["tolerances"].get(f"{stage}.{key}")
            if stated is None:
                rules = rules or read_rules()
                allowed, rule = rules.tolerance(f"{stage}.{key}", reference_entry)
            else:
                allowed, rule = float(stated["value"]), str(stated["rule"])
            equal = dict(entry) == dict(reference_entry)
            verdict = "equal" if equal else "within" if abs(value - expected) <= allowed else "outside"
            detail = "" if equal else _entry_difference(entry, reference_entry)
            rows.append(
                (stage, key, value, expected, value - expected, allowed, rule, verdict, "" if equal else cause, detail)
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _entry_difference(entry: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Differences besides the value: the sample size, or the interval alone."""
    if entry.get("n") != expected.get("n"):
        return f"n {entry.get('n')} not {expected.get('n')}"
    return "the interval alone differs" if entry["value"] == expected["value"] else ""


def counts(table: pd.DataFrame) -> dict[str, int]:
    """Verdict -> number of rows that have it, for all verdicts."""
    return {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}


def by_stage(table: pd.DataFrame) -> pd.DataFrame:
    """Counts of each verdict per stage, and the cause that the unequal numbers share."""
    rows = []
    for stage, part in table.groupby("stage", sort=False):
        causes = [cause for cause in part["cause"] if cause]
        rows.append((stage, *counts(part).values(), causes[0] if causes else ""))
    return pd.DataFrame(rows, columns=["stage", *VERDICTS, "likely cause"])


def sentence(table: pd.DataFrame) -> str:
    """The outcome of a comparison in one sentence."""
    n, total = counts(table), len(table)
    if n["equal"] == total:
        return f"All {total} numbers are equal to the bit."
    parts = [f"{n['equal']} equal to the bit", f"{n['within']} within tolerance", f"{n['outside']} outside"]
    parts += [f"{n['missing']} in one of the two only"] if n["missing"] else []
    return f"Of {total} numbers: {', '.join(parts)}."
