"""Reference records: what a finished run found, with its cards and stated tolerances, small enough to be committed."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json, write_text
from leuk_lib.runs.params import FrozenParams
from leuk_lib.statistics.intervals import wilson

FOLDER = "book/reference"
CARD_KEYS = (
    "stage", "run", "profile", "dataset", "state", "params", "device", "started", "seconds", "peak_rss_mb", "peak_gpu_mb",
    "versions", "hashes", "inputs", "git",
)  # fmt: skip
Entry = Mapping[str, Any]


class Rule(FrozenParams):
    """One rule of ``book/reference/tolerances.yml``: which numbers, how far they may lie apart, and why."""

    numbers: tuple[str, ...] = Field(min_length=1, description="patterns of stage.metric, * allowed")
    kind: Literal["half_interval", "proportion", "count", "relative", "exact"] = Field(
        description="how the tolerance is found"
    )
    size: float = Field(0.0, ge=0, description="of a relative tolerance: the share of the reference's value")
    why: str = Field(min_length=10, description="the reason, one sentence")

    def fits(self, name: str, entry: Entry) -> bool:
        """True if this rule speaks of the number ``stage.metric`` whose reference is ``entry``."""
        interval = "low" in entry and "high" in entry
        if self.kind == "half_interval" and not interval:
            return False
        if self.kind == "proportion" and (interval or not entry.get("n") or not 0 <= entry["value"] <= 1):
            return False
        if self.kind == "count" and (interval or not isinstance(entry["value"], int) or entry["value"] < 0):
            return False
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.numbers)

    def allows(self, entry: Entry) -> float:
        """The largest absolute difference that still agrees, without the allowance for rounding."""
        if self.kind == "half_interval":
            return (float(entry["high"]) - float(entry["low"])) / 2
        if self.kind == "proportion":
            low, high = wilson(entry["value"] * entry["n"], entry["n"])
            return (high - low) / 2
        if self.kind == "count":
            return math.sqrt(entry["value"])
        return self.size * abs(float(entry["value"])) if self.kind == "relative" else 0.0


class Rules(FrozenParams):
    """The rules in their order; the first that fits a number decides."""

    rounding: float = Field(1e-6, ge=0, lt=0.01, description="share of the value that sums in another order may change")
    rules: tuple[Rule, ...] = Field(min_length=1, description="rules, the first that fits decides")

    def tolerance(self, name: str, entry: Entry) -> tuple[float, str]:
        """``(largest absolute difference, kind of the rule)`` of the number ``stage.metric``.

        Raises ``LeukError`` where no rule fits.
        """
        for rule in self.rules:
            if rule.fits(name, entry):
                return rule.allows(entry) + self.rounding * max(1.0, abs(float(entry["value"]))), rule.kind
        raise LeukError(f"no tolerance rule fits {name}; add one to {FOLDER}/tolerances.yml")


def read_rules(path: Path | None = None) -> Rules:
    """The stated rules (default: ``book/reference/tolerances.yml``). Raises ``LeukError`` for a missing or wrong file."""
    path = path or paths.project_root() / FOLDER / "tolerances.yml"
    try:
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Rules(**{**whole, "rules": [Rule(**rule) for rule in whole["rules"]]})
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValidationError) as error:
        raise LeukError(f"{path}: no readable tolerance rules ({' '.join(str(error).split())[:300]})") from error


def check_metrics(source: object, metrics: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """``metrics`` if it maps stages to keys to entries with a number "value". Raises ``LeukError`` naming what does not."""
    if not isinstance(metrics, dict):
        raise LeukError(f"{source}: not a reference: it has no 'metrics' (a run's folder can be given as well)")
    for stage, entries in metrics.items():
        for key, entry in entries.items() if isinstance(entries, dict) else [("?", None)]:
            value = entry.get("value") if isinstance(entry, dict) else None
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise LeukError(
                    f"{source}: {stage}.{key} has no number 'value'; the file is damaged or of another kind"
                )
    return metrics


def load_run(source: Path) -> dict[str, Any]:
    """``metrics`` (stage -> key -> entry), ``cards`` (stage -> card) and ``tolerances`` of a run or of a reference.

    A run is a folder that holds ``<stage>/metrics.json`` and ``<stage>/card.json``; a reference is a JSON file as
    :func:`reference_of` makes it. Raises ``LeukError`` where there is neither, or one that cannot be read.
    """
    source = Path(source)
    if source.is_dir():
        found = sorted(source.glob("*/metrics.json"))
        if not found:
            raise LeukError(f"{source}: no finished stage (no */metrics.json); `leuk run` makes one")
        cards = {path.parent.name: read_json(path.with_name("card.json")) for path in found}
        cards = dict(sorted(cards.items(), key=lambda item: str(item[1].get("started"))))  # in the order they ran
        metrics = {stage: read_json(source / stage / "metrics.json").get("metrics") for stage in cards}
        return {"metrics": check_metrics(source, metrics), "cards": cards, "tolerances": {}}
    if not source.is_file():
        raise LeukError(f"{source}: neither a run's folder nor a reference file")
    whole = read_json(source)
    metrics = check_metrics(source, whole.get("metrics") if isinstance(whole, dict) else None)
    return {"metrics": metrics, "cards": whole.get("cards", {}), "tolerances": whole.get("tolerances", {})}


def portable(value: Any) -> Any:
    """A parameter's value without the folders of the machine that it ran on."""
    return Path(value.replace("\\", "/")).name if isinstance(value, str) and ("/" in value or "\\" in value) else value


def public_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run card may be published: no host name, no process, no folders."""
    kept = {key: card[key] for key in CARD_KEYS if key in card}
    kept["params"] = {key: portable(value) for key, value in kept.get("params", {}).items()}
    if "inputs" in kept:  # a file of the project keeps its path, one from elsewhere its name
        kept["inputs"] = {
            stage: {portable(file) if Path(file).is_absolute() else file: sha for file, sha in files.items()}
            for stage, files in kept["inputs"].items()
        }
    return kept


def reference_of(run_folder: Path, rules: Rules) -> dict[str, Any]:
    """What a reference file holds: ``metrics``, ``cards``, and of every number its ``tolerances`` entry.

    A tolerance is ``{"value": largest absolute difference, "rule": kind}`` under ``stage.metric``.
    """
    whole = load_run(run_folder)
    tolerances = {}
    for stage, entries in whole["metrics"].items():
        for key, entry in entries.items():
            allowed, kind = rules.tolerance(f"{stage}.{key}", entry)
            tolerances[f"{stage}.{key}"] = {"value": float(f"{allowed:.6g}"), "rule": kind}
    cards = {stage: public_card(card) for stage, card in whole["cards"].items()}
    first = next(iter(cards.values()))
    return {
        "dataset": first["dataset"], "profile": first["profile"], "run": first["run"],
        "metrics": whole["metrics"], "tolerances": tolerances, "cards": cards,
    }  # fmt: skip


def reference_file(dataset: str, profile: str) -> Path:
    """Where the reference of a data set (name or folder) and a profile is committed."""
    return paths.project_root() / FOLDER / f"{paths.run_name(dataset, profile, 0).removesuffix('-s0')}.json"


def write_reference(run_folder: Path, path: Path | None = None, rules: Rules | None = None) -> Path:
    """Write the reference record of a finished run (default: where it is committed); returns its path.

    One number, and one part of a card, a line: a changed reference shows in a review what changed.
    """
    reference = reference_of(run_folder, rules or read_rules())
    path = path or reference_file(reference["dataset"], reference["profile"])
    return write_text(path, _lines(reference))


def _lines(reference: Mapping[str, Any]) -> str:
    """The reference as JSON with one line an entry."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def block(entries: Mapping[str, Any], depth: int) -> str:
        pad = " " * depth
        rows = ",\n".join(f"{pad} {line(key)}: {line(value)}" for key, value in entries.items())
        return f"{{\n{rows}\n{pad}}}"

    def blocks(parts: Mapping[str, Mapping[str, Any]]) -> str:
        return "{\n" + ",\n".join(f"  {line(name)}: {block(part, 2)}" for name, part in parts.items()) + "\n }"

    head = [f" {line(key)}: {line(reference[key])}" for key in ("dataset", "profile", "run")]
    body = [f' "metrics": {blocks(reference["metrics"])}', f' "tolerances": {block(reference["tolerances"], 1)}',
            f' "cards": {blocks(reference["cards"])}']  # fmt: skip
    return "{\n" + ",\n".join([*head, *body]) + "\n}\n"


def all_references() -> dict[str, dict[str, Any]]:
    """Name (``<dataset>-<profile>``) -> every reference that is committed, as :func:`load_run` gives it."""
    return {path.stem: load_run(path) for path in sorted((paths.project_root() / FOLDER).glob("*.json"))}
