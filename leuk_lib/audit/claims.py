"""Verdicts on the paper's claims: claims are data, a run's numbers decide them, and unsuitable data never do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from leuk_lib.audit.book_files import BookModel, read_book_file
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.paths import project_root

REPRODUCED, NOT_REPRODUCED, CANNOT = "reproduced", "not reproduced", "cannot be tested here"
# Verdicts of their own kind, about other images than the paper's.
REACHED, NOT_REACHED = "reached on another public set", "not reached on another public set"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, REACHED, NOT_REACHED, CANNOT)
KINDS = {REPRODUCED: "yes", NOT_REPRODUCED: "no", REACHED: "yes", NOT_REACHED: "no", CANNOT: "open"}
# Needs that no data set meets: the published figures alone, or the committed record of a study.
PUBLISHED, STUDY = "published", "study"


class Elsewhere(BookModel):
    """Another public set on which the same question can be asked; its verdict is of its own kind.

    Attributes:
        what: the other data, in words.
        sets: names of the data sets.
        command: the command that asks the question there.
    """

    what: str
    sets: tuple[str, ...]
    command: str


class Need(BookModel):
    """What a claim needs in order to be tested.

    Attributes:
        what: the data, in words.
        command: the command that tests the claim on them.
        confirm: profiles that may confirm a claim.
        refute: profiles that may refute one; a smaller run may only confirm.
        kind: kind of data, if it matters.
        name: part of the data set's name, if it matters.
        classes: its classes, if they matter; each must have cells in the test part.
        elsewhere: other public sets that can answer the same question.
    """

    what: str
    command: str
    confirm: tuple[str, ...]
    refute: tuple[str, ...]
    kind: Literal["micrographs", "rendered"] | None = None
    name: str | None = None
    classes: tuple[str, ...] | None = None
    elsewhere: Elsewhere | None = None

    def lacks(self, facts: Mapping[str, Any]) -> tuple[str, str] | None:
        """Reason why the data of a run are unsuitable, in full and in a few words, or None; case does not matter."""
        if self.kind and facts["kind"] != self.kind:
            cells = _cells_in_words(facts)
            return f"The data are {cells}, not {self.what}", f"{cells[0].upper()}{cells[1:]} cannot decide it."
        if self.classes and {c.lower() for c in self.classes} != {c.lower() for c in facts["classes"]}:
            names = f"{facts['dataset']} has the classes {', '.join(facts['classes'])}, not {', '.join(self.classes)}"
            return names[0].upper() + names[1:], "Cells of other classes cannot decide it."
        if self.name and self.name.lower() not in facts["dataset"].lower():
            return f"The data set is {facts['dataset']}, not {self.what}", "Other images cannot decide it."
        return None

    def other_set(self, facts: Mapping[str, Any]) -> Elsewhere | None:
        """The other public set that a run's data are, if they have the classes of the claim."""
        other = self.elsewhere
        if other is None or facts["dataset"] not in other.sets or (self.kind and facts["kind"] != self.kind):
            return None
        classes = {name.lower() for name in self.classes or ()}
        return other if classes == {name.lower() for name in facts["classes"]} else None

    def untested(self, facts: Mapping[str, Any]) -> list[str]:
        """Classes that matter and have no cell in the test part, where a run says how many each has."""
        counts = facts.get("test_cells", {})
        return [name for name, n in counts.items() if not n] if self.classes else []


class Decision(NamedTuple):
    """A verdict on a claim.

    Attributes:
        verdict: one of ``VERDICTS``.
        why: the reason in full, with the command that tests the claim where this run cannot.
        reason: the same in a few words.
    """

    verdict: str
    why: str
    reason: str


class Claim(BookModel):
    """One claim of the paper; ``book/claims.yml`` explains the fields."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    text: str
    stated: str
    metric: str = Field(pattern=r"^[a-z_]+\.\S+$")
    paper: float
    direction: Literal["at_least", "at_most", "about"]
    tolerance: float = Field(ge=0)
    needs: str
    tested: str
    unit: str = ""
    quantified: bool = True
    remark: str = ""
    absent: str = ""
    interval: Literal["value", "above"] = "value"


class Reported(BookModel):
    """One published comparison of the proposed model with another; ``p_below`` if only a bound was printed."""

    versus: str
    metric: str
    difference: float
    p: float | None = None
    p_below: float | None = None


class PublishedAccuracy(BookModel):
    """The published accuracy and the presumable number of test cells behind it."""

    value: float = Field(gt=0, lt=1)
    n: int = Field(ge=1)
    of: str


class Published(BookModel):
    """The published figures: five values per model and metric, and the comparisons made from them."""

    source: str
    proposed: str
    accuracy: PublishedAccuracy
    values: dict[str, dict[str, tuple[float, ...]]]
    reported: tuple[Reported, ...]

    def comparisons(self) -> list[dict[str, Any]]:
        """The reported comparisons as mappings, without the fields that were not printed."""
        return [row.model_dump(exclude_none=True) for row in self.reported]


class ClaimBook(BookModel):
    """The content of ``book/claims.yml``."""

    needs: dict[str, Need]
    claims: tuple[Claim, ...]
    published: Published


def read_claims(path: Path | None = None) -> ClaimBook:
    """Read the claims, by default from ``book/claims.yml``.

    Raises:
        LeukError: a file that cannot be read, an unknown or invalid field, a repeated id, or an undefined need.
    """
    path = path or project_root() / "book" / "claims.yml"
    book = read_book_file(path, ClaimBook)
    ids = [claim.id for claim in book.claims]
    for claim in book.claims:
        if ids.count(claim.id) > 1:
            raise LeukError(f"{path}: there are two claims with the id {claim.id!r}")
        if claim.needs not in book.needs:
            raise LeukError(f"{path}: claim {claim.id!r} needs {claim.needs!r}, which is not defined under 'needs'")
    return book


def _cells_in_words(facts: Mapping[str, Any]) -> str:
    return "rendered cells" if facts["kind"] == "rendered" else f"micrographs of {facts['dataset']}"


def _is_met(claim: Claim, value: float) -> bool:
    if claim.direction == "about":
        return abs(value - claim.paper) <= claim.tolerance
    if claim.direction == "at_most":
        return value <= claim.paper + claim.tolerance
    return value >= claim.paper - claim.tolerance


def _outcome(claim: Claim, value: float, met: bool) -> tuple[str, str]:
    """Comparison of our value with the claim, a clause without a full stop, with and without the tolerance."""
    if claim.interval == "above":
        text = f"The lower bound of the interval, {value:.4g}, is {'' if met else 'not '}above {claim.paper:g}"
        return text, f"Its lower bound is {'' if met else 'not '}above {claim.paper:g}"
    slack = f" by more than the tolerance of {claim.tolerance:g}" if claim.tolerance else ""
    given = f" (tolerance {claim.tolerance:g})" if claim.tolerance else ""
    words = {
        "at_least": (f"reaches {claim.paper:g}{given}", f"falls short of {claim.paper:g}{slack}"),
        "at_most": (f"does not exceed {claim.paper:g}{given}", f"exceeds {claim.paper:g}{slack}"),
        "about": (f"is within {claim.tolerance:g} of {claim.paper:g}", f"differs from {claim.paper:g}{slack}"),
    }
    text = words[claim.direction][0 if met else 1]
    short = text.removesuffix(slack).removesuffix(given).removeprefix("is ")
    return f"Our value, {value:.4g}, {text}", f"{short[0].upper()}{short[1:]}"


def decide(claim: Claim, need: Need, entry: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> Decision:
    """Decide one claim.

    Unsuitable data give "cannot be tested here", whatever the number. So does a run whose profile is too small for
    the outcome: a small run may confirm but not refute. Another public set of the same classes gives a verdict of its own
    kind, which says nothing about the paper's images.

    Args:
        claim: the claim.
        need: what it needs.
        entry: the run's number (``value``, perhaps ``low`` and ``high``), or None if the run has none.
        facts: the run's data: kind, dataset, classes, profile; perhaps test_cells and test_groups (cells and patients or
            slides of each class in the test part) and patients_known.
    """
    other = need.other_set(facts)
    command = f"To test it: {other.command if other else need.command}"
    if not other and (lack := need.lacks(facts)):
        hint = f". To ask it of {need.elsewhere.what}: {need.elsewhere.command}" if need.elsewhere else ""
        return Decision(CANNOT, f"{lack[0]}. {command}{hint}", lack[1])
    if names := need.untested(facts):
        missing = f"No cell of {', '.join(names)}"
        why = f"{missing} is in the test part: too few patients or slides. {command}"
        return Decision(CANNOT, why, f"{missing} is in the test part.")
    if entry is None:
        return Decision(
            CANNOT, claim.absent or f"This run has no number {claim.metric}.", "This run has no such number."
        )
    value = float(entry["value"])
    decisive = value
    if claim.interval == "above":
        if "low" not in entry:
            return Decision(CANNOT, f"{claim.metric} has no interval in this run.", "It has no interval in this run.")
        decisive = float(entry["low"])
    met = _is_met(claim, decisive)
    if claim.interval == "above":
        met = decisive > claim.paper - claim.tolerance
    profile = str(facts["profile"])
    if profile not in (need.confirm if met else need.refute):
        too_small = f"A run in the profile {profile} is too small to refute it."
        reason = "A smoke run is not a result." if profile == "smoke" else too_small
        return Decision(CANNOT, f"{reason} {command}", reason)
    where = {PUBLISHED: "", STUDY: " on the study's real cells"}.get(
        claim.needs, f" on {_cells_in_words(facts)}, profile {profile}"
    )
    outcome, short = _outcome(claim, decisive, met)
    why = f"{outcome}{where}."
    if not met and "high" in entry and claim.direction == "at_least":
        if claim.interval == "above":
            below = float(entry["high"]) < claim.paper
            why += (
                " The whole interval is below."
                if below
                else f" The interval includes {claim.paper:g}: no difference is shown."
            )
        else:
            included = float(entry["high"]) >= claim.paper - claim.tolerance
            why += " Its interval includes it: more cells could decide." if included else " So does its whole interval."
    if other:
        about = f"Asked of {other.what}; the paper's own figure is neither reproduced nor refuted by it."
        parts = (f"{about} {why}", _people(facts), claim.remark)
        return Decision(REACHED if met else NOT_REACHED, " ".join(part for part in parts if part), f"{short}.")
    why = " ".join(part for part in (why, claim.remark) if part)
    return Decision(REPRODUCED if met else NOT_REPRODUCED, why, f"{short}.")


def _people(facts: Mapping[str, Any]) -> str:
    """How many patients or slides the test part has of each class, and what follows from few."""
    groups = facts.get("test_groups", {})
    if not groups:
        return ""
    if not facts.get("patients_known", True):
        return "Patients and slides are unknown, so the value is an upper bound."
    counts = ", ".join(f"{name} {n}" for name, n in groups.items())
    text = f"Patients or slides in the test part: {counts}."
    if single := [name for name, n in groups.items() if n == 1]:
        text += f" With one of {' and of '.join(single)}, effects of disease and person cannot be distinguished: no claim about new patients."
    return text


def verdict_table(
    book: ClaimBook, numbers: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any], run: str
) -> pd.DataFrame:
    """Decide all claims.

    Args:
        book: the claims.
        numbers: ``<stage>.<key>`` -> entry of ``metrics.json``, and ``audit.<key>`` -> entry of the audit.
        facts: as in :func:`decide`.
        run: name of the run.

    Returns:
        One row per claim: claim, id, stated, paper, ours (also where it cannot decide), data, run, tolerance, verdict,
        reason, why, tested, evidence.
    """
    rows = []
    for claim in book.claims:
        entry = numbers.get(claim.metric)
        verdict, why, reason = decide(claim, book.needs[claim.needs], entry, facts)
        data = {PUBLISHED: "published figures", STUDY: "real cells of a study"}.get(
            claim.needs, f"{facts['dataset']} ({facts['kind']})"
        )
        source = {PUBLISHED: "–", STUDY: "committed record"}.get(claim.needs, f"{run} ({facts['profile']})")
        rows.append(
            {"claim": claim.text, "id": claim.id, "stated": claim.stated, "paper": format_value(claim.paper, claim.unit) if claim.quantified else "no figure",
             "ours": "–" if entry is None else format_entry(entry, claim.unit),
             "data": data, "run": source,
             "tolerance": f"{claim.direction.replace('_', ' ')}, {claim.tolerance:g}",
             "verdict": verdict, "reason": reason, "why": why, "tested": claim.tested, "evidence": claim.metric}
        )  # fmt: skip
    return pd.DataFrame(rows)


def count_in_words(table: pd.DataFrame) -> str:
    """Number of claims with each verdict, in words."""
    counts = {name: int((table["verdict"] == name).sum()) for name in VERDICTS}
    always = (REPRODUCED, NOT_REPRODUCED, CANNOT)
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n or name in always)


def format_value(value: float, unit: str = "") -> str:
    """Format a number to four digits, with its unit.

    >>> format_value(0.96204)
    '0.962'
    """
    return f"{value:.4g} {unit}".strip()


def format_entry(entry: Mapping[str, Any], unit: str = "") -> str:
    """Format a number with its interval and sample size, as far as it has them.

    >>> format_entry({"value": 0.8, "low": 0.7, "high": 0.9, "n": 50})
    '0.8 [0.7, 0.9], n = 50'
    """
    text = format_value(float(entry["value"]), unit)
    if "low" in entry and "high" in entry:
        text += f" [{entry['low']:.4g}, {entry['high']:.4g}]"
    return text + (f", n = {entry['n']}" if "n" in entry else "")


def merge_numbers(
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], audit: Mapping[str, float]
) -> dict[str, Mapping[str, Any]]:
    """``<stage>.<key>`` -> entry for the metrics of all stages, and ``audit.<key>`` for the figures of the audit."""
    numbers: dict[str, Mapping[str, Any]] = {
        f"{stage}.{key}": entry for stage, entries in metrics.items() for key, entry in entries.items()
    }
    return numbers | {f"audit.{key}": {"value": value} for key, value in audit.items()}
