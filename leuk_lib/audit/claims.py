"""The paper's claims: read as data, judged by a run's numbers, never tested on data that cannot decide them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.paths import project_root

REPRODUCED, NOT_REPRODUCED, CANNOT = "reproduced", "not reproduced", "cannot be tested here"
# What a claim may need besides a run: the published figures alone, or a study's committed record.
PUBLISHED, STUDY = "published", "study"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Need(_Strict):
    """What a claim needs: data of a kind, name and classes; the profiles that may confirm or refute; the command."""

    what: str
    command: str
    confirm: tuple[str, ...]
    refute: tuple[str, ...]
    kind: Literal["micrographs", "rendered"] | None = None
    name: str | None = None
    classes: tuple[str, ...] | None = None

    def lacks(self, facts: Mapping[str, Any]) -> str | None:
        """Why the data of a run are not what is needed; None where they are. Case of names does not matter."""
        if self.kind and facts["kind"] != self.kind:
            return f"these are {_cells(facts)}, not {self.what}"
        if self.classes and {c.lower() for c in self.classes} != {c.lower() for c in facts["classes"]}:
            return f"{facts['dataset']} has the classes {', '.join(facts['classes'])}, not {', '.join(self.classes)}"
        if self.name and self.name.lower() not in facts["dataset"].lower():
            return f"the data set is {facts['dataset']}, not {self.what}"
        return None


class Claim(_Strict):
    """One claim of the paper; see ``book/claims.yml`` for what the fields mean."""

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


class Reported(_Strict):
    """One published comparison of the proposed model with another; ``p_below`` where only a bound was printed."""

    versus: str
    metric: str
    difference: float
    p: float | None = None
    p_below: float | None = None


class PublishedAccuracy(_Strict):
    """The published accuracy, and the number of test cells that it was presumably measured on."""

    value: float = Field(gt=0, lt=1)
    n: int = Field(ge=1)
    of: str


class Published(_Strict):
    """The published figures: five values a model and metric, and the comparisons made of them."""

    source: str
    proposed: str
    accuracy: PublishedAccuracy
    values: dict[str, dict[str, tuple[float, ...]]]
    reported: tuple[Reported, ...]

    def comparisons(self) -> list[dict[str, Any]]:
        """The reported rows as plain mappings, without what was not printed."""
        return [row.model_dump(exclude_none=True) for row in self.reported]


class ClaimBook(_Strict):
    """The whole of ``book/claims.yml``."""

    needs: dict[str, Need]
    claims: tuple[Claim, ...]
    published: Published


def read_claims(path: Path | None = None) -> ClaimBook:
    """Read ``book/claims.yml`` (or another file). Raises ``LeukError`` naming what is wrong in it."""
    path = path or project_root() / "book" / "claims.yml"
    try:
        found = ClaimBook(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise LeukError(f"{path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise LeukError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    names = [claim.id for claim in found.claims]
    for claim in found.claims:
        if names.count(claim.id) > 1:
            raise LeukError(f"{path}: claim {claim.id!r} stands there twice")
        if claim.needs not in found.needs:
            raise LeukError(f"{path}: claim {claim.id!r} needs {claim.needs!r}, which is not described")
    return found


def _cells(facts: Mapping[str, Any]) -> str:
    return "rendered cells" if facts["kind"] == "rendered" else f"micrographs of {facts['dataset']}"


def _meets(claim: Claim, value: float) -> bool:
    if claim.direction == "about":
        return abs(value - claim.paper) <= claim.tolerance
    if claim.direction == "at_most":
        return value <= claim.paper + claim.tolerance
    return value >= claim.paper - claim.tolerance


def _outcome(claim: Claim, value: float, met: bool) -> str:
    """What the number says, as a clause without its full stop."""
    if claim.interval == "above":
        return f"The lower bound of the interval, {value:.4g}, is {'' if met else 'not '}above {claim.paper:g}"
    slack = f" by more than the tolerance of {claim.tolerance:g}" if claim.tolerance else ""
    given = f" (tolerance {claim.tolerance:g})" if claim.tolerance else ""
    words = {
        "at_least": (f"reaches {claim.paper:g}{given}", f"falls short of {claim.paper:g}{slack}"),
        "at_most": (f"does not exceed {claim.paper:g}{given}", f"exceeds {claim.paper:g}{slack}"),
        "about": (f"lies within {claim.tolerance:g} of {claim.paper:g}", f"differs from {claim.paper:g}{slack}"),
    }
    return f"Our value, {value:.4g}, {words[claim.direction][0 if met else 1]}"


def judge(claim: Claim, need: Need, entry: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> tuple[str, str]:
    """``(verdict, why)`` of one claim.

    ``entry`` is the run's number (``value``, perhaps ``low`` and ``high``) or None where the run has none; ``facts``
    describe its data (kind, dataset, classes, profile). Data that cannot decide give "cannot be tested here", whatever
    the number; so does a run whose profile is too small for the outcome: a small run may confirm, not refute.
    """
    order = f"The command that tests it: {need.command}"
    if lack := need.lacks(facts):
        return CANNOT, f"{lack[0].upper()}{lack[1:]}. {order}"
    if entry is None:
        return CANNOT, claim.absent or f"This run has no number {claim.metric}."
    value = float(entry["value"])
    decisive = value
    if claim.interval == "above":
        if "low" not in entry:
            return CANNOT, f"{claim.metric} has no interval in this run."
        decisive = float(entry["low"])
    met = _meets(claim, decisive)
    if claim.interval == "above":
        met = decisive > claim.paper - claim.tolerance
    profile = str(facts["profile"])
    if profile not in (need.confirm if met else need.refute):
        kind = (
            "a smoke run is not a result"
            if profile == "smoke"
            else f"a run in the profile {profile} is too small to refute it"
        )
        return CANNOT, f"{kind[0].upper()}{kind[1:]}. {order}"
    where = {PUBLISHED: "", STUDY: " on the study's real cells"}.get(
        claim.needs, f" on {_cells(facts)}, profile {profile}"
    )
    why = f"{_outcome(claim, decisive, met)}{where}."
    if not met and "high" in entry and claim.direction == "at_least":
        if claim.interval == "above":
            below = float(entry["high"]) < claim.paper
            why += " All of it lies below." if below else " The difference cannot be told from none."
        else:
            reach = float(entry["high"]) >= claim.paper - claim.tolerance
            why += " Its interval reaches it: more cells could decide." if reach else " So does its whole interval."
    return (REPRODUCED if met else NOT_REPRODUCED), " ".join(part for part in (why, claim.remark) if part)


def verdicts(
    book: ClaimBook, numbers: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any], run: str
) -> pd.DataFrame:
    """One row a claim: claim, id, stated, paper, ours, data, run, tolerance, verdict, why, tested, evidence.

    ``numbers`` maps ``<stage>.<key>`` to entries of ``metrics.json`` (and ``audit.<key>`` to the audit's). Our value is
    shown for information also where it cannot decide.
    """
    rows = []
    for claim in book.claims:
        entry = numbers.get(claim.metric)
        verdict, why = judge(claim, book.needs[claim.needs], entry, facts)
        data = {PUBLISHED: "published figures", STUDY: "real cells of a study"}.get(
            claim.needs, f"{facts['dataset']} ({facts['kind']})"
        )
        made = {PUBLISHED: "–", STUDY: "committed record"}.get(claim.needs, f"{run} ({facts['profile']})")
        rows.append(
            {"claim": claim.text, "id": claim.id, "stated": claim.stated, "paper": told(claim.paper, claim.unit) if claim.quantified else "no figure",
             "ours": "–" if entry is None else told_entry(entry, claim.unit),
             "data": data, "run": made,
             "tolerance": f"{claim.direction.replace('_', ' ')}, {claim.tolerance:g}",
             "verdict": verdict, "why": why, "tested": claim.tested, "evidence": claim.metric}
        )  # fmt: skip
    return pd.DataFrame(rows)


def short(table: pd.DataFrame) -> pd.DataFrame:
    """The verdicts narrow enough for a page: claim, paper, ours, verdict, and why with tolerance, data and run."""
    measured = table["why"] + " (" + table["tolerance"] + "; " + table["data"] + "; run " + table["run"] + ")"
    return table[["claim", "paper", "ours", "verdict"]].assign(why=measured)


def tally(table: pd.DataFrame) -> str:
    """The verdicts counted, in words."""
    return ", ".join(f"{int((table['verdict'] == name).sum())} {name}" for name in (REPRODUCED, NOT_REPRODUCED, CANNOT))


def told(value: float, unit: str = "") -> str:
    """A number as the table shows it."""
    return f"{value:.4g} {unit}".strip()


def told_entry(entry: Mapping[str, Any], unit: str = "") -> str:
    """A number with its interval and sample size as the table shows it."""
    text = told(float(entry["value"]), unit)
    if "low" in entry and "high" in entry:
        text += f" [{entry['low']:.4g}, {entry['high']:.4g}]"
    return text + (f", n = {entry['n']}" if "n" in entry else "")


def collect(
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], audit: Mapping[str, float]
) -> dict[str, Mapping[str, Any]]:
    """``<stage>.<key>`` -> entry for every stage's metrics, and ``audit.<key>`` for the audit's figures."""
    found: dict[str, Mapping[str, Any]] = {
        f"{stage}.{key}": entry for stage, entries in metrics.items() for key, entry in entries.items()
    }
    return found | {f"audit.{key}": {"value": value} for key, value in audit.items()}
