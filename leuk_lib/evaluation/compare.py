"""Two runs side by side, number by number: equal to the bit, within tolerance, outside, and why."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json

COLUMNS = ["stage", "metric", "value", "reference", "difference", "tolerance", "verdict", "cause"]
NOT_A_CAUSE = {"run", "accelerator", "devices", "checkpoint_every", "threads", "dataset"}
CARD_KEYS = ("stage", "run", "profile", "dataset", "state", "params", "device", "versions", "hashes", "inputs", "git")
RTOL = 0.02


def load_run(source: Path) -> dict[str, Any]:
    """``{"metrics": {stage: {key: entry}}, "cards": {stage: card}, "tolerances": {pattern: value}}`` of a run or a reference.

    A run is a folder that holds ``<stage>/metrics.json`` and ``<stage>/card.json``; a reference is a JSON file as
    :func:`reference_of` makes it. Raises ``LeukError`` where there is neither.
    """
    source = Path(source)
    if source.is_dir():
        found = sorted(source.glob("*/metrics.json"))
        if not found:
            raise LeukError(f"{source}: no finished stage (no */metrics.json); `leuk run` makes one")
        metrics = {path.parent.name: read_json(path)["metrics"] for path in found}
        cards = {path.parent.name: read_json(path.with_name("card.json")) for path in found}
        return {"metrics": metrics, "cards": cards, "tolerances": {}}
    if not source.is_file():
        raise LeukError(f"{source}: neither a run's folder nor a reference file")
    whole = read_json(source)
    if not isinstance(whole, dict) or not isinstance(whole.get("metrics"), dict):
        raise LeukError(f"{source}: not a reference: it has no 'metrics' (a run's folder can be given as well)")
    return {"metrics": whole["metrics"], "cards": whole.get("cards", {}), "tolerances": whole.get("tolerances", {})}


def reference_of(run_folder: Path, tolerances: Mapping[str, float] | None = None) -> dict[str, Any]:
    """What a reference file holds: numbers, cards (without folders and host names) and absolute tolerances.

    ``tolerances`` maps ``stage.metric`` (``*`` allowed) to the largest absolute difference that still agrees.
    """
    whole = load_run(run_folder)
    cards = {}
    for stage, card in whole["cards"].items():
        cards[stage] = {key: card[key] for key in CARD_KEYS if key in card}
        if "dataset" in cards[stage].get("params", {}):
            cards[stage]["params"] = {**card["params"], "dataset": Path(card["params"]["dataset"]).name}
    return {"metrics": whole["metrics"], "cards": cards, "tolerances": dict(tolerances or {})}


def tolerance_of(name: str, entry: Mapping[str, Any], told: Mapping[str, float], rtol: float = RTOL) -> float:
    """Absolute tolerance of the number ``stage.metric``: told (the first pattern that fits), else half the width of the

    reference's interval, else ``rtol`` of its value.
    """
    for pattern, value in told.items():
        if fnmatch.fnmatchcase(name, pattern):
            return float(value)
    if "low" in entry and "high" in entry:
        return (float(entry["high"]) - float(entry["low"])) / 2
    return rtol * abs(float(entry["value"]))


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
    if data[0] != data[1] or ours.get("dataset") != theirs.get("dataset"):
        found.append(
            f"data: {ours.get('dataset')} not {theirs.get('dataset')}"
            if ours.get("dataset") != theirs.get("dataset")
            else "data: other files"
        )
    code, code_then = (card.get("hashes", {}).get("code") or {} for card in (ours, theirs))
    if changed := _changed(code, code_then):
        found.append("code: " + _few([name.removeprefix("leuk_lib.") for name in changed]))
    if ours.get("hashes", {}).get("notebook") != theirs.get("hashes", {}).get("notebook"):
        found.append("notebook: changed")
    versions, versions_then = ours.get("versions", {}), theirs.get("versions", {})
    if changed := _changed(versions, versions_then):
        found.append("versions: " + _few([f"{n} {versions.get(n)} not {versions_then.get(n)}" for n in changed]))
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
    return "; ".join([*own, *above][:4]) or "none in the cards: same parameters, data, code, versions and device"


def compare_runs(run: Path, reference: Path, rtol: float = RTOL) -> pd.DataFrame:
    """One row a number: stage, metric, value, reference, difference, tolerance, verdict, cause.

    ``run`` and ``reference`` are run folders or reference files. Verdicts: "equal" (to the bit), "within" tolerance,
    "outside", "missing" (in one of the two). The cause is empty for equal numbers. Raises ``LeukError`` for a source
    that is neither.
    """
    ours, theirs = load_run(run), load_run(reference)
    rows: list[tuple[Any, ...]] = []
    for stage in dict.fromkeys([*theirs["metrics"], *ours["metrics"]]):
        mine, other = ours["metrics"].get(stage, {}), theirs["metrics"].get(stage, {})
        cause = likely_cause(stage, ours["cards"], theirs["cards"])
        for key in dict.fromkeys([*other, *mine]):
            if key not in mine or key not in other:
                where = "the run" if key not in mine else "the reference"
                value, wanted = (float(part[key]["value"]) if key in part else math.nan for part in (mine, other))
                rows.append((stage, key, value, wanted, math.nan, math.nan, "missing", f"not in {where}; {cause}"))
                continue
            value, wanted = float(mine[key]["value"]), float(other[key]["value"])
            allowed = tolerance_of(f"{stage}.{key}", other[key], theirs["tolerances"], rtol)
            equal = value == wanted
            verdict = "equal" if equal else "within" if abs(value - wanted) <= allowed else "outside"
            rows.append((stage, key, value, wanted, value - wanted, allowed, verdict, "" if equal else cause))
    return pd.DataFrame(rows, columns=COLUMNS)
