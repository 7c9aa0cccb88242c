"""Compare a run with figures that others have published for the same data set: what differs, and what may be concluded.

Published figures are data (``book/published.yml``). A reading is given only if the run tested the published cells in the
published way; otherwise both numbers are shown, with the reasons why nothing follows from their difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from leuk_lib.audit.book_files import BookModel, read_book_file
from leuk_lib.data.catalog import plain
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.paths import project_root

ABOVE, BELOW, WITHIN, NONE = "above it", "below it", "no difference shown", "no verdict"
MIN_SHARE = 0.99  # of the published test cells that a run must have tested
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
}


class Source(BookModel):
    """Where figures were published."""

    short: str
    text: str
    url: str = ""


class Figure(BookModel):
    """One published number; ``book/published.yml`` explains the fields."""

    model: str
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "macro_auc"]
    value: float = Field(ge=0, le=1)
    source: str
    size: int | None = Field(None, ge=1)
    pretraining: str = ""
    runs: int | None = Field(None, ge=1)
    note: str = ""
    confirmed: bool = True


class PublishedSet(BookModel):
    """The figures of one test set under one protocol; ``book/published.yml`` explains the fields."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    task: str
    datasets: tuple[str, ...]
    classes: int = Field(ge=2)
    split: Literal["published", "external", "patients"]
    test: str = ""
    unit: Literal["cells", "patients"]
    test_n: int | None = Field(None, ge=1)
    train_n: int | None = Field(None, ge=1)
    forbids: str = ""
    note: str = ""
    figures: tuple[Figure, ...]

    def key(self, metric: str) -> str:
        """Return the key of the run's number in the metrics of stage ``results``."""
        if self.split == "external":
            name = re.sub(r"\W+", "_", self.test).strip("_").lower()
            return f"external_{name}_{metric}"
        return f"patient_{metric}" if self.unit == "patients" else metric


class PublishedBook(BookModel):
    """The content of ``book/published.yml``."""

    sources: dict[str, Source]
    sets: tuple[PublishedSet, ...]

    def of(self, dataset: str) -> list[PublishedSet]:
        """Return the sets of a run's data set, by its name without folder ("bloodmnist_64.npz" is "bloodmnist-64")."""
        name = plain(dataset.removesuffix(".npz"))
        return [entry for entry in self.sets if name in map(plain, entry.datasets)]


@dataclass(frozen=True)
class RunFacts:
    """What a run did, as far as comparisons depend on it.

    Attributes:
        run: its name.
        dataset: name of its data set, without folder.
        profile: smoke, laptop, gpu or paper.
        rendered: whether the cells are rendered.
        classes: names of the classes.
        split: "grouped" or "published".
        size: side of the images in pixels.
        n_test: cells of the test part.
        n_train: real cells of the training part.
        seeds: runs of the same data set and profile that differ in their seed only.
        pretraining: what the encoder started from; "" for random weights.
    """

    run: str
    dataset: str
    profile: str
    rendered: bool
    classes: tuple[str, ...]
    split: str
    size: int
    n_test: int
    n_train: int
    seeds: int = 1
    pretraining: str = ""


@dataclass(frozen=True)
class Comparison:
    """A published figure beside the run's number.

    Attributes:
        figure: the published figure.
        ours: the run's number (value, perhaps low, high, n), or None.
        reading: ``ABOVE`` (our whole interval is above the figure), ``BELOW``, ``WITHIN``, or ``NONE``.
        why_none: why there is no reading; empty if there is one.
        differences: what differs in this figure without forbidding a reading (`differences_of_set` holds for all).
    """

    figure: Figure
    ours: Mapping[str, Any] | None
    reading: str
    why_none: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


def read_published(path: Path | None = None) -> PublishedBook:
    """Read the published figures, by default from ``book/published.yml``.

    Raises:
        LeukError: a file that cannot be read, an unknown or invalid field, a repeated id, an undefined source, or a test
            name where there is no external test set (or the other way round).
    """
    path = path or project_root() / "book" / "published.yml"
    book = read_book_file(path, PublishedBook)
    ids = [entry.id for entry in book.sets]
    for entry in book.sets:
        if ids.count(entry.id) > 1:
            raise LeukError(f"{path}: there are two sets with the id {entry.id!r}")
        if bool(entry.test) != (entry.split == "external"):
            raise LeukError(f"{path}: set {entry.id!r}: 'test' is for split external, and needed there")
        for figure in entry.figures:
            if figure.source not in book.sources:
                raise LeukError(
                    f"{path}: set {entry.id!r} has the source {figure.source!r}, not defined under 'sources'"
                )
    return book


def obstacles(entry: PublishedSet, facts: RunFacts, metrics: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Reasons why a run cannot be compared with the figures of a set; empty if it can."""
    out = [entry.forbids] if entry.forbids else []
    if facts.profile == "smoke":
        out.append("a smoke run is not a result")
    if len(facts.classes) != entry.classes:
        out.append(f"this run has {len(facts.classes)} classes, the figures are of {entry.classes}")
    if entry.split == "published" and facts.split != "published":
        out.append("this run did not keep the official split (`--split published` does)")
    if entry.split == "patients" and facts.split == "published":
        out.append("this run kept published parts, the figures are of a split by patients")
    key = entry.key("accuracy")
    if key not in metrics:
        what = (
            f"external test set {entry.test}"
            if entry.test
            else "accuracy over patients"
            if entry.unit == "patients"
            else "accuracy"
        )
        out.append(f"this run has no {what}")
    elif entry.test_n and not MIN_SHARE * entry.test_n <= (n := _tested(metrics[key], facts)) <= entry.test_n:
        out.append(f"this run tested {n:,} {entry.unit}, the figures are of {entry.test_n:,}")
    return tuple(out)


def _tested(number: Mapping[str, Any], facts: RunFacts) -> int:
    return int(number.get("n", facts.n_test))


def differences_of_set(
    entry: PublishedSet, facts: RunFacts, metrics: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    """What differs between a run and all figures of a set: the numbers of cells."""
    out = []
    if entry.train_n and entry.train_n != facts.n_train:
        out.append(f"{entry.train_n:,} training cells, here {facts.n_train:,}")
    number = metrics.get(entry.key("accuracy"))
    if entry.test_n and number is not None and (n := _tested(number, facts)) != entry.test_n:
        out.append(f"{entry.test_n:,} test {entry.unit}, here {n:,}")
    return tuple(out)


def _differences(figure: Figure, facts: RunFacts) -> tuple[str, ...]:
    out = []
    if figure.size and figure.size != facts.size:
        out.append(f"images of {figure.size} px, here {facts.size} px")
    if figure.pretraining or facts.pretraining:
        theirs, ours = figure.pretraining or "not stated", facts.pretraining or "none"
        if theirs != ours:
            out.append(f"pretraining {theirs}, here {ours}")
    if figure.runs and figure.runs != facts.seeds:
        out.append(f"mean of {figure.runs} runs, here {facts.seeds}")
    return tuple(out)


def compare(
    entry: PublishedSet, facts: RunFacts, metrics: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Comparison], tuple[str, ...]]:
    """Compare a run with the figures of a set.

    Args:
        entry: the set, one of the run's data set.
        facts: what the run did.
        metrics: the run's numbers of stage ``results``: key -> value, low, high, n.

    Returns:
        One comparison per figure, and the reasons why none of them has a reading.
    """
    blocked = obstacles(entry, facts, metrics)
    out = []
    for figure in entry.figures:
        ours = metrics.get(entry.key(figure.metric))
        why = list(blocked)
        if not figure.confirmed:
            why.append("the figure is not confirmed")
        if not blocked and ours is None:
            why.append(f"this run has no {METRICS[figure.metric]}")
        if ours is not None and not {"low", "high"} <= set(ours):
            why.append("this run's number has no interval")
        reading = NONE
        if not why and ours is not None:
            reading = ABOVE if ours["low"] > figure.value else BELOW if ours["high"] < figure.value else WITHIN
        out.append(Comparison(figure, ours, reading, tuple(why), _differences(figure, facts)))
    return out, blocked


def sentence(entry: PublishedSet, rows: Sequence[Comparison], blocked: Sequence[str]) -> str:
    """Say in words what the comparison shows, from its numbers."""
    if not entry.figures:
        return "No figure is listed for this set."
    if blocked:
        return f"Nothing follows from a difference between this run and these figures: {'; '.join(blocked)}."
    decided = [row for row in rows if row.reading != NONE]
    if not decided:
        return "None of these figures can be compared with this run; the table says why."
    parts = []
    for metric in dict.fromkeys(row.figure.metric for row in decided):
        same = [row for row in decided if row.figure.metric == metric]
        ours = same[0].ours or {}
        counts = {name: sum(row.reading == name for row in same) for name in (ABOVE, WITHIN, BELOW)}
        parts.append(
            f"The {METRICS[metric]} of this run is {ours['value']:.3f} [{ours['low']:.3f}, {ours['high']:.3f}]. Of "
            f"{len(same)} published {'figure' if len(same) == 1 else 'figures'}, {counts[ABOVE]} "
            f"{'is' if counts[ABOVE] == 1 else 'are'} below this interval, {counts[WITHIN]} inside and {counts[BELOW]} above."
        )
    if left := len(rows) - len(decided):
        parts.append(f"{left} {'has' if left == 1 else 'have'} no verdict; the table says why.")
    return " ".join(parts)
