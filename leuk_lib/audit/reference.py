"""Reference records: the numbers, run cards and tolerances of a finished run, small enough to commit."""

from __future__ import annotations

import fnmatch
import glob
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import AGAIN, sha256_file, write_text
from leuk_lib.runs.params import FrozenParams
from leuk_lib.runs.records import PublicCard, Reference, read_metrics, read_record
from leuk_lib.runs.yaml_files import read_yaml
from leuk_lib.statistics.intervals import wilson

CARD_KEYS = (
    "stage", "run", "profile", "dataset", "state", "params", "device", "hardware", "started", "seconds", "peak_rss_mb",
    "peak_gpu_mb", "versions", "hashes", "inputs", "git",
)  # fmt: skip
Entry = Mapping[str, Any]


class Rule(FrozenParams):
    """One rule of ``book/reference/tolerances.yml``: which numbers it covers, how far they may differ, and why.

    Kinds of tolerance: half the width of the reference's interval (``half_interval``); half the width of Wilson's
    interval of a share of n cells (``proportion``); the square root of a count (``count``); ``size`` times the value
    (``relative``); ``size`` itself (``absolute``); none but rounding (``exact``).
    """

    numbers: tuple[str, ...] = Field(min_length=1, description="patterns of stage.metric; * is a wildcard")
    kind: Literal["half_interval", "proportion", "count", "relative", "absolute", "exact"] = Field(
        description="how the tolerance is computed"
    )
    size: float = Field(0.0, ge=0, description="tolerance, relative as a share of the reference's value")
    why: str = Field(min_length=10, description="reason, in one sentence")

    def fits(self, name: str, entry: Entry) -> bool:
        """True if the rule covers the number ``stage.metric`` whose reference is ``entry``."""
        interval = "low" in entry and "high" in entry
        if self.kind == "half_interval" and not interval:
            return False
        if self.kind == "proportion" and (interval or not entry.get("n") or not 0 <= entry["value"] <= 1):
            return False
        if self.kind == "count" and (interval or not isinstance(entry["value"], int) or entry["value"] < 0):
            return False
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.numbers)

    def allows(self, entry: Entry) -> float:
        """Largest absolute difference that still agrees, without the allowance for rounding."""
        if self.kind == "half_interval":
            return (float(entry["high"]) - float(entry["low"])) / 2
        if self.kind == "proportion":
            low, high = wilson(entry["value"] * entry["n"], entry["n"])
            return (high - low) / 2
        if self.kind == "count":
            return math.sqrt(entry["value"])
        if self.kind == "relative":
            return self.size * abs(float(entry["value"]))
        return self.size if self.kind == "absolute" else 0.0


class Rules(FrozenParams):
    """Ordered rules; the first that fits a number decides."""

    rounding: float = Field(
        1e-6, ge=0, lt=0.01, description="relative change that another order of summation may cause"
    )
    rules: tuple[Rule, ...] = Field(min_length=1, description="rules; the first that fits decides")

    def tolerance(self, name: str, entry: Entry) -> tuple[float, str]:
        """Tolerance of the number ``stage.metric``.

        Returns:
            The largest absolute difference, rounding included, and the kind of the rule.

        Raises:
            LeukError: no rule fits.
        """
        for rule in self.rules:
            if rule.fits(name, entry):
                return rule.allows(entry) + self.rounding * max(1.0, abs(float(entry["value"]))), rule.kind
        raise LeukError(f"no tolerance rule fits {name}; add one to {paths.REFERENCES}/tolerances.yml")


def read_rules(path: Path | None = None) -> Rules:
    """Read the rules, by default from ``book/reference/tolerances.yml``.

    Raises:
        LeukError: a missing or invalid file.
    """
    path = path or paths.project_root() / paths.REFERENCES / "tolerances.yml"
    try:
        content = read_yaml(path)
        return Rules(**{**content, "rules": [Rule(**rule) for rule in content["rules"]]})
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValidationError) as error:
        raise LeukError(f"{path}: no readable tolerance rules ({' '.join(str(error).split())[:300]})") from error


def load_run(source: Path) -> dict[str, Any]:
    """Read a run or a reference.

    Args:
        source: a run's folder, which contains ``<stage>/metrics.json`` and ``<stage>/card.json``, or a JSON file from
            :func:`write_reference`.

    Returns:
        ``metrics`` (stage -> key -> entry), ``cards`` (stage -> card) and ``tolerances`` (empty for a run).

    Raises:
        LeukError: neither of them, one that cannot be read, or one without any number.
    """
    content = _load(Path(source))
    if not any(content["metrics"].values()):
        raise LeukError(f"{source}: holds no number to compare; name another run or reference", exit_code=2)
    return content


def _load(source: Path) -> dict[str, Any]:
    if source.is_dir():
        files = sorted(source.glob("*/metrics.json"))
        if not files:
            raise LeukError(f"{source}: no finished stage (no */metrics.json); `leuk run` makes one")
        cards = {
            path.parent.name: read_record(path.with_name("card.json"), PublicCard, "a run card", AGAIN)
            for path in files
        }
        cards = dict(sorted(cards.items(), key=lambda item: str(item[1].get("started"))))  # in the order of the run
        metrics = {stage: read_metrics(source / stage) for stage in cards}
        _refuse_damage(source, cards)
        return {"metrics": metrics, "cards": cards, "tolerances": {}}
    if not source.is_file():
        raise LeukError(f"{source}: neither a run's folder nor a reference file")
    content = read_record(source, Reference, "a reference", "name a run's folder, or write the file again")
    return {
        "metrics": content["metrics"],
        "cards": content.get("cards", {}),
        "tolerances": content.get("tolerances", {}),
    }


def _refuse_damage(source: Path, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``LeukError`` if the numbers in a run's folder are not those that its cards describe."""
    first = next(iter(cards))
    for stage, card in cards.items():
        file = source / stage / "metrics.json"
        if card.get("stage") != stage:
            raise LeukError(f"{file.parent}: holds the card of stage {card['stage']!r}; {AGAIN}")
        if (state := card.get("state", "finished")) != "finished":
            raise LeukError(
                f"{file}: of an earlier execution, its stage is {state}; wait for it or run it again (`leuk status`)"
            )
        if (written := card.get("outputs", {}).get("metrics.json")) and sha256_file(file) != written:
            raise LeukError(f"{file}: was changed after its stage wrote it; {AGAIN}")
        for key in ("dataset", "profile"):
            if card[key] != cards[first][key]:
                raise LeukError(
                    f"{source}: mixes runs: {key} of stage {stage} is {card[key]!r}, of stage {first} {cards[first][key]!r}; "
                    "name a run of one"
                )


def portable(value: Any) -> Any:
    """Strip the folders of the machine from a parameter that is a path.

    >>> portable("C:/data/smears"), portable(0.5)
    ('smears', 0.5)
    """
    return Path(value.replace("\\", "/")).name if isinstance(value, str) and ("/" in value or "\\" in value) else value


def public_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run card that may be published: no host name, process or folder."""
    kept = {key: card[key] for key in CARD_KEYS if key in card}
    kept["params"] = {key: portable(value) for key, value in kept.get("params", {}).items()}
    if "inputs" in kept:  # a file of the project keeps its path, any other its name
        kept["inputs"] = {
            stage: {portable(file) if Path(file).is_absolute() else file: sha for file, sha in files.items()}
            for stage, files in kept["inputs"].items()
        }
    return kept


def reference_of(run_folder: Path, rules: Rules) -> dict[str, Any]:
    """Content of a reference file.

    Returns:
        ``dataset``, ``profile``, ``run``, ``metrics``, ``cards`` (public parts), and ``tolerances``: ``stage.metric`` ->
        ``{"value": largest absolute difference, "rule": kind}``.

    Raises:
        LeukError: a number that no rule fits, or a folder without a finished stage.
    """
    content = load_run(run_folder)
    tolerances = {}
    for stage, entries in content["metrics"].items():
        for key, entry in entries.items():
            allowed, kind = rules.tolerance(f"{stage}.{key}", entry)
            tolerances[f"{stage}.{key}"] = {"value": float(f"{allowed:.6g}"), "rule": kind}
    cards = {stage: public_card(card) for stage, card in content["cards"].items()}
    first = next(iter(cards.values()))
    return {
        "dataset": first["dataset"], "profile": first["profile"], "run": first["run"],
        "metrics": content["metrics"], "tolerances": tolerances, "cards": cards,
    }  # fmt: skip


def candidates(dataset: str, profile: str) -> list[Path]:
    """The committed references of a data set (name or folder) and a profile: the one without a machine's label first."""
    file = paths.reference_file(dataset, profile)
    return [path for path in (file, *sorted(file.parent.glob(f"{glob.escape(file.stem)}+*.json"))) if path.is_file()]


def write_reference(run_folder: Path, path: Path | None = None, rules: Rules | None = None, machine: str = "") -> Path:
    """Write the reference of a finished run, by default to `paths.reference_file`, and return its path.

    Each number and each part of a card is one line, so that a diff shows what changed.

    Args:
        run_folder: the run's folder.
        path: file to write.
        rules: tolerances; default: `read_rules`.
        machine: label of the machine, for a further reference of the same data set and profile.

    Raises:
        LeukError: a label that is no word, or a number without a rule.
    """
    reference = reference_of(run_folder, rules or read_rules())
    path = path or paths.reference_file(reference["dataset"], reference["profile"], machine)
    return write_text(path, _lines(reference))


def _lines(reference: Mapping[str, Any]) -> str:
    """The reference as JSON with one line per entry."""

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
    """All committed references: ``<dataset>-<profile>`` -> output of :func:`load_run`."""
    return {path.stem: load_run(path) for path in sorted((paths.project_root() / paths.REFERENCES).glob("*.json"))}
