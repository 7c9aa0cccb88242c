"""Simulation: how often the book's 95 % intervals contain the true value.

Patients differ (random effects), and each has one class. Shares of correct cells are beta-binomial; models' probabilities
come from logits with a normal effect per patient (logistic-normal). ``python
tests/interval_coverage.py`` runs the whole grid and writes the table of
book/reproduce/intervals.md (about an hour on one core; ``make test-long`` runs it with
fewer draws), ``tests/statistics/test_coverage.py`` runs a part of it.
"""

from __future__ import annotations

import functools
import itertools
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from leuk_lib.chapters.results import HEADLINE, difference_table, score_models
from leuk_lib.evaluation import metrics
from leuk_lib.evaluation.attribution import mean_share
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.statistics.agreement import agreement, kappa_of_counts
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import korn_graubard, t_interval
from leuk_lib.studies.paired import Outcomes, differences, scores

CLASSES = ("CML", "CLL", "AML", "ALL")
SCORES = (*HEADLINE, "macro_precision", "nll", "brier", "ece")
RATES = (0.5, 0.7, 0.85, 0.93, 0.97)
GROUPS = (3, 5, 10, 20, 40)


def sizes_of(rng: np.random.Generator, groups: int, cells: int, unequal: bool) -> np.ndarray:
    """Cells per group, ``cells`` on average; unequal ones as in the rendered cohorts, Dirichlet's."""
    if not unequal:
        return np.full(groups, cells)
    return 1 + np.floor((cells - 1) * groups * rng.dirichlet(np.full(groups, 3.0))).astype(int)


@dataclass(frozen=True)
class Shares:
    """Beta-binomial shares of correct cells: ``rate`` on average, correlation ``alike`` between cells of a group."""

    groups: int
    rate: float
    alike: float
    unequal: bool
    cells: int = 30

    def covered(self, rng: np.random.Generator, draws: int) -> dict[str, tuple[float, float, float]]:
        """Quantity -> coverage, mean length, share of draws with an interval."""
        strength = (1 - self.alike) / self.alike
        hits = np.zeros((draws, 3))
        for draw in range(draws):
            sizes = sizes_of(rng, self.groups, self.cells, self.unequal)
            rates = rng.beta(self.rate * strength, (1 - self.rate) * strength, self.groups)
            right = rng.binomial(sizes, rates)
            of_cells = np.concatenate([np.arange(n) < k for n, k in zip(sizes, right, strict=True)])
            low, high, _ = korn_graubard(of_cells, np.repeat(np.arange(self.groups), sizes))
            hits[draw] = low <= self.rate <= high, high - low, np.isfinite(low)
        return {"share": _means(hits)}


@dataclass(frozen=True)
class Models:
    """Two models on the same cells of four classes.

    ``groups`` per class, logits ``skill`` higher for the true class, a normal effect of each patient of standard deviation
    ``effect``, probabilities at ``temperature``.
    """

    groups: int
    skill: float
    effect: float
    temperature: float
    unequal: bool
    cells: int = 15

    def draw(self, rng: np.random.Generator) -> tuple[Predictions, Predictions]:
        """Predictions of the two models."""
        groups, k = self.groups, len(CLASSES)
        sizes = np.concatenate([sizes_of(rng, groups, self.cells, self.unequal) for _ in CLASSES])
        patient = np.repeat(np.arange(groups * k), sizes)
        labels, n = patient // groups, len(patient)
        first = rng.normal(0, 0.7, (n, k)) + rng.normal(0, self.effect, (groups * k, k))[patient]
        second = first + rng.normal(0, 0.5, (n, k)) + rng.normal(0, self.effect / 2, (groups * k, k))[patient]
        first[np.arange(n), labels] += self.skill
        second[np.arange(n), labels] += 0.85 * self.skill
        names = patient.astype(str)
        return self._part(first, labels, names), self._part(second, labels, names)

    def _part(self, logits: np.ndarray, labels: np.ndarray, names: np.ndarray) -> Predictions:
        scaled = np.exp(logits / self.temperature - (logits / self.temperature).max(axis=1, keepdims=True))
        return Predictions(labels, scaled / scaled.sum(axis=1, keepdims=True), names, CLASSES)

    def truth(self) -> dict[str, float]:
        """The values of a population of 3,000 patients per class."""
        large = replace(self, groups=3000, cells=10, unequal=False)
        first, second = _evaluated(large)
        gains = {f"gain in {name}": first[name] - second[name] for name in HEADLINE}
        return {name: first[name] for name in SCORES} | {"recall": first["balanced_accuracy"]} | gains

    def intervals(self, rng: np.random.Generator, resamples: int) -> dict[str, tuple[float, float]]:
        """Quantity -> interval of one draw, as chapter 9 computes it."""
        first, second = self.draw(rng)
        bootstrap = ClusterBootstrap(first.groups, resamples, rng, first.labels)
        scored = score_models({"first": first, "second": second}, bootstrap)
        found = {name: scored["first"].interval(name) for name in SCORES}
        own = first.labels == 0
        found["recall"] = korn_graubard(first.correct[own], first.groups[own])[:2]
        gains = difference_table(scored, "first").to_dict("records")
        return found | {f"gain in {row['metric']}": (row["low"], row["high"]) for row in gains}

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, tuple[float, ...]]:
        """Quantity -> coverage, mean length, share of draws with an interval."""
        truth = self.truth()
        hits = {name: np.zeros((draws, 3)) for name in truth}
        for draw in range(draws):
            for name, (low, high) in self.intervals(rng, resamples).items():
                hits[name][draw] = low <= truth[name] <= high, high - low, np.isfinite(low)
        return {name: _means(values) for name, values in hits.items()}


@functools.cache
def _evaluated(models: Models) -> tuple[dict[str, float], dict[str, float]]:
    first, second = models.draw(np.random.default_rng(0))
    return metrics.evaluate(first), metrics.evaluate(second)


@dataclass(frozen=True)
class Studies:
    """Two arms trained with several seeds and tested on the same patients, scored by :mod:`leuk_lib.studies.paired`.

    ``groups`` per class of two classes; the probability of a right answer has a logit that differs by patient, by seed and
    by arm.
    """

    groups: int
    logit: float
    seeds: int
    effect: float
    unequal: bool
    cells: int = 8
    of_seed: float = 0.4

    def _rates(self, rng: np.random.Generator, groups: int, seeds: int) -> np.ndarray:
        """(arm, seed, patient of both classes) probability of a right answer."""
        both = self.logit + rng.normal(0, self.effect, (1, 1, 2 * groups))
        by_arm = rng.normal(0, self.effect / 2, (2, 1, 2 * groups))
        by_seed = rng.normal(0, self.of_seed, (2, seeds, 1))
        return 1 / (1 + np.exp(-(both + by_arm + by_seed + np.array([0.3, 0.0])[:, None, None])))

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, tuple[float, ...]]:
        """Quantity -> coverage, mean length, share of draws with an interval."""
        large = self._rates(np.random.default_rng(0), 20_000, 60).mean(axis=(1, 2))
        truth = {"score over seeds": large[0], "gain over seeds": large[0] - large[1]}
        hits = {name: np.zeros((draws, 3)) for name in truth}
        for draw in range(draws):
            sizes = np.concatenate([sizes_of(rng, self.groups, self.cells, self.unequal) for _ in range(2)])
            patient = np.repeat(np.arange(2 * self.groups), sizes)
            right = rng.random((2, self.seeds, len(patient))) < self._rates(rng, self.groups, self.seeds)[:, :, patient]
            arm, seed, cell = (axis.ravel() for axis in np.indices(right.shape))
            table = pd.DataFrame(
                {
                    "arm": np.array(["new", "base"])[arm], "seed": seed, "condition": "test", "cell": cell.astype(str),
                    "group": patient[cell].astype(str), "label": (patient[cell] >= self.groups).astype(str),
                    "right": right.ravel().astype(int),
                }
            )  # fmt: skip
            outcomes = Outcomes(table, resamples, random_seed=draw)
            score = scores(outcomes).iloc[0]
            gain = differences(outcomes, {"new": "base", "base": "base"}, 0.25).iloc[0]
            for name, row in (("score over seeds", score), ("gain over seeds", gain)):
                inside = row["low"] <= truth[name] <= row["high"]
                hits[name][draw] = inside, row["high"] - row["low"], np.isfinite(row["low"])
        return {name: _means(values) for name, values in hits.items()}


@dataclass(frozen=True)
class Readers:
    """Two readers' labels against a third's on the same cells, and measures that are averaged over cells.

    A cell is misread with probability ``noise``, whose logit differs by patient with standard deviation ``effect``. Attribution
    shares are beta-distributed around a level of the patient, ratios log-normal with a deviation of 0.3 between and of 0.4
    within patients.
    """

    groups: int
    noise: float
    effect: float
    unequal: bool
    cells: int = 15

    def _labels(self, rng: np.random.Generator, patient: np.ndarray) -> list[np.ndarray]:
        """Labels of the three readers (N,)."""
        groups, n = int(patient.max()) + 1, len(patient)
        first = (rng.dirichlet([2, 1.5, 1], groups)[patient].cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 2)
        logit = np.log(self.noise / (1 - self.noise)) + rng.normal(0, self.effect, groups)[patient]
        wrong = rng.random((2, n)) < 1 / (1 + np.exp(-logit))
        return [first, *np.where(wrong, rng.integers(0, 3, (2, n)), first)]

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, tuple[float, ...]]:
        """Quantity -> coverage, mean length, share of draws with an interval."""
        first, second, _ = self._labels(np.random.default_rng(0), np.repeat(np.arange(20_000), 20))
        kappa = float(kappa_of_counts(np.histogram2d(first, second, bins=3)[0]))
        truth = {"kappa": kappa, "gain in kappa": 0.0, "attribution": 4 / 9, "ratio": np.exp((0.3**2 + 0.4**2) / 2)}
        hits = {name: np.zeros((draws, 3)) for name in truth}
        for draw in range(draws):
            patient = np.repeat(np.arange(self.groups), sizes_of(rng, self.groups, self.cells, self.unequal))
            bootstrap = ClusterBootstrap(patient, resamples, rng)
            first, second, third = self._labels(rng, patient)
            one, other = (agreement(first, labels, patient, bootstrap) for labels in (second, third))
            level = rng.beta(4, 5, self.groups)[patient]
            share = rng.beta(10 * level, 10 * (1 - level))
            ratio = np.exp(rng.normal(0, 0.3, self.groups)[patient] + rng.normal(0, 0.4, len(patient)))
            found = {
                "kappa": one.kappa_interval,
                "gain in kappa": t_interval(one.kappa - other.kappa, one.spread_of_difference(other)),
                "attribution": mean_share(share, patient, bootstrap).interval(),
                "ratio": bootstrap.skewed_interval(float(ratio.mean()), bootstrap.means(ratio)),
            }
            for name, (low, high) in found.items():
                hits[name][draw] = low <= truth[name] <= high, high - low, np.isfinite(low)
        return {name: _means(values) for name, values in hits.items()}


Case = Shares | Models | Studies | Readers


def _means(hits: np.ndarray) -> tuple[float, float, float]:
    given = hits[:, 2] > 0
    if not given.any():
        return float("nan"), float("nan"), 0.0
    return float(hits[given, 0].mean()), float(hits[given, 1].mean()), float(given.mean())


def grid() -> Iterator[Case]:
    """All cases."""
    for groups, unequal in itertools.product(GROUPS, (False, True)):
        for rate, alike in itertools.product(RATES, (0.02, 0.1, 0.2)):
            yield Shares(groups, rate, alike, unequal)
        for skill, effect, temperature in ((1.0, 0.7, 1.0), (1.8, 0.8, 1.0), (2.5, 0.8, 0.5), (4.0, 1.0, 0.45)):
            yield Models(groups, skill, effect, temperature, unequal)
        for logit, seeds in itertools.product((0.4, 1.7, 3.0), (1, 3, 5)):
            # One seed cannot tell how much seeds vary: its interval is that of this trained model.
            yield Studies(groups, logit, seeds, 0.7, unequal, of_seed=0.4 if seeds > 1 else 0.0)
        for noise, effect in ((0.1, 0.5), (0.3, 0.8)):
            yield Readers(groups, noise, effect, unequal)


def table(cases: Iterator[Case], draws: dict[type, int], seed: int = 0) -> pd.DataFrame:
    """One row per case and quantity: quantity, groups (of a class), case, coverage, length, given."""
    rows = []
    for case in cases:
        rng = np.random.default_rng([seed, zlib.crc32(str(case).encode())])
        for name, values in case.covered(rng, draws[type(case)]).items():
            rows.append((name, case.groups, str(case), *values))
    return pd.DataFrame(rows, columns=["quantity", "groups", "case", "coverage", "length", "given"])


NAMES = {
    "share": "share of correct cells", "recall": "recall of a class", "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "macro_auc": "macro AUC",
    "gain in accuracy": "difference in accuracy", "gain in balanced_accuracy": "difference in balanced accuracy",
    "gain in macro_auc": "difference in macro AUC", "nll": "log loss", "brier": "Brier score",
    "ece": "calibration error", "kappa": "Cohen's kappa", "gain in kappa": "difference of two kappas",
    "attribution": "attribution share", "ratio": "mean of a ratio", "score over seeds": "score over seeds", "gain over seeds": "gain over seeds",
}  # fmt: skip


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Lowest and mean coverage, mean length and number of settings per quantity and number of groups, as the page has it."""
    rows = rows[rows["quantity"].isin(list(NAMES)) & rows["coverage"].notna()]
    by = rows.groupby(["quantity", "groups"])
    means = pd.DataFrame(
        {
            "lowest": by["coverage"].min(), "mean": by["coverage"].mean(), "length": by["length"].mean(),
            "settings": by.size(),
        }
    )  # fmt: skip
    order = [key for name in NAMES for key in means.index if key[0] == name]
    whole = means.loc[order].round(4).reset_index()
    return whole.assign(quantity=whole["quantity"].map(NAMES))


if __name__ == "__main__":
    factor = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    found = table(
        grid(),
        {Shares: int(2000 * factor), Models: int(500 * factor), Studies: int(500 * factor), Readers: int(500 * factor)},
    )
    kept = summary(found)
    kept.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    for row in kept.itertuples():
        print(f"| {row.quantity} | {row.groups} | {row.lowest:.2f} | {row.length:.2f} |")
    print(found[found["coverage"] < 0.93].round(3).to_string())
