"""Simulation: how often the book's 95 % intervals contain the true value.

Patients differ (random effects), and each has one class. Shares of correct cells are beta-binomial; models' probabilities
come from logits with a normal effect per patient (logistic-normal). ``python tests/interval_coverage.py`` runs the whole grid
(hours; interrupted, it continues) and writes the table of book/reproduce/intervals.md;
``tests/statistics/test_coverage.py`` runs a part of it.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, softmax

from leuk_lib.alhe import quality
from leuk_lib.chapters.results import HEADLINE, difference_table, score_models
from leuk_lib.evaluation import attribution, metrics, sanity
from leuk_lib.evaluation.attribution import mean_share
from leuk_lib.evaluation.calibration import (
    abstention_curve,
    apply_temperature,
    fit_temperature,
    reliability_table,
    scaling_table,
)
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.resampling import resampled_metrics
from leuk_lib.statistics.agreement import agreement, kappa_of_counts
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import difference_interval, korn_graubard, paired_shares, share, t_interval, wilson
from leuk_lib.studies.paired import Outcomes, Score, differences, scores

CLASSES = ("CML", "CLL", "AML", "ALL")
SCORES = (*HEADLINE, "macro_precision", "nll", "brier", "ece")
RATES = (0.5, 0.7, 0.85, 0.93, 0.97)
GROUPS = (3, 5, 10, 20, 40)
COLUMNS = ["quantity", "groups", "case", "part", "draws", "coverage", "length", "given"]
ENOUGH, FEWEST = 0.945, 100  # coverage below which a case is drawn again; draws of a setting that counts
SKILLS = ((1.0, 0.7, 1.0), (1.8, 0.8, 1.0), (2.5, 0.8, 0.5), (4.0, 1.0, 0.45))  # skill, effect, temperature


def sizes_of(rng: np.random.Generator, groups: int, cells: int, unequal: bool) -> np.ndarray:
    """Cells per group, ``cells`` on average; unequal ones as in the rendered cohorts, Dirichlet's."""
    if not unequal:
        return np.full(groups, cells)
    return 1 + np.floor((cells - 1) * groups * rng.dirichlet(np.full(groups, 3.0))).astype(int)


@dataclass(frozen=True)
class Shares:
    """Beta-binomial shares of correct cells: ``rate`` on average, correlation ``alike`` between cells of a group.

    With one cell per group they are votes.
    """

    groups: int
    rate: float
    alike: float
    unequal: bool
    cells: int = 30

    def covered(self, rng: np.random.Generator, draws: int) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
        strength = (1 - self.alike) / self.alike
        hits = np.zeros((draws, 3))
        for draw in range(draws):
            sizes = sizes_of(rng, self.groups, self.cells, self.unequal)
            rates = rng.beta(self.rate * strength, (1 - self.rate) * strength, self.groups)
            right = rng.binomial(sizes, rates)
            of_cells = np.concatenate([np.arange(n) < k for n, k in zip(sizes, right, strict=True)])
            low, high, _ = korn_graubard(of_cells, np.repeat(np.arange(self.groups), sizes))
            hits[draw] = low <= self.rate <= high, high - low, np.isfinite(low)
        return {"vote" if self.cells == 1 else "share": hits}


@dataclass(frozen=True)
class Published:
    """Accuracy ``rate`` on as many independent cells as ``groups``; exact, without draws."""

    groups: int
    rate: float

    def covered(self, rng: np.random.Generator, draws: int) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
        right = np.arange(self.groups + 1)
        low, high = np.array([wilson(n, self.groups) for n in right]).T
        chance = stats.binom.pmf(right, self.groups, self.rate)
        inside = (low <= self.rate) & (self.rate <= high)
        return {"published": np.array([[chance @ inside, chance @ (high - low), 1.0]])}


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
        large = Models(3000, self.skill, self.effect, self.temperature, unequal=False, cells=10)
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

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
        truth = self.truth()
        hits = {name: np.zeros((draws, 3)) for name in truth}
        for draw in range(draws):
            for name, (low, high) in self.intervals(rng, resamples).items():
                hits[name][draw] = low <= truth[name] <= high, high - low, np.isfinite(low)
        return hits


@dataclass(frozen=True)
class Rejected(Models):
    """Intervals by methods that the book does not use.

    The quantiles of the bootstrap, and for the recall of a class Wilson's interval at the effective number of cells, without
    the degrees of freedom.
    """

    BY_QUANTILES: ClassVar = ("recall", "accuracy", "macro_auc", "ece")

    def truth(self) -> dict[str, float]:
        """The values of a population, by quantity."""
        value = super().truth()
        return {f"{name}, quantiles": value[name] for name in self.BY_QUANTILES} | {"recall, normal": value["recall"]}

    def intervals(self, rng: np.random.Generator, resamples: int) -> dict[str, tuple[float, float]]:
        """Quantity -> interval of one draw."""
        first, _ = self.draw(rng)
        samples = resampled_metrics(first, ClusterBootstrap(first.groups, resamples, rng, first.labels))
        own = first.labels == 0
        samples["recall"] = ClusterBootstrap(first.groups[own], resamples, rng).means(first.correct[own].astype(float))
        found = {
            f"{name}, quantiles": tuple(np.quantile(samples[name], [0.025, 0.975]).tolist())
            for name in self.BY_QUANTILES
        }
        rate = share(first.correct[own], first.groups[own])
        size = rate.least
        if 0 < rate.value < 1 and rate.spread.error > 0:
            size = min(rate.n, rate.value * (1 - rate.value) / rate.spread.error**2)
        return found | {"recall, normal": wilson(rate.value * size, size)}


@functools.cache
def _evaluated(models: Models) -> tuple[dict[str, float], dict[str, float]]:
    first, second = models.draw(np.random.default_rng(0))
    return metrics.evaluate(first), metrics.evaluate(second)


@dataclass(frozen=True)
class Repeated:
    """One model trained with several ``seeds`` and tested on the same patients of four classes; logits as in :class:`Models`.

    The seeds differ in skill, with standard deviation ``of_seed``, or in how sure their probabilities are, with
    standard deviation ``of_seed`` of the logarithm of the temperature.
    """

    groups: int
    skill: float
    effect: float
    temperature: float
    unequal: bool
    seeds: int = 1
    cells: int = 15
    of_seed: float = 0.25

    def draw(self, rng: np.random.Generator, skills: np.ndarray) -> list[Predictions]:
        """Predictions of models of these skills on the same cells."""
        groups, k = self.groups, len(CLASSES)
        patient = np.repeat(
            np.arange(groups * k),
            np.concatenate([sizes_of(rng, groups, self.cells, self.unequal) for _ in CLASSES]),
        )
        labels, n = patient // groups, len(patient)
        alike = rng.normal(0, self.effect, (groups * k, k))[patient]
        parts = []
        for skill in skills:
            logits = alike + rng.normal(0, self.effect / 2, (groups * k, k))[patient] + rng.normal(0, 0.7, (n, k))
            logits[np.arange(n), labels] += skill
            parts.append(Predictions(labels, softmax(logits / self.temperature, axis=1), patient.astype(str), CLASSES))
        return parts

    def seeds_of(self, rng: np.random.Generator, seeds: int) -> np.ndarray:
        """Deviations of the seeds; one seed cannot tell how much seeds vary, its interval is that of this trained model."""
        return rng.normal(0, self.of_seed, seeds) if self.seeds > 1 else np.zeros(seeds)


@dataclass(frozen=True)
class Selected(Repeated):
    """Accuracy after abstention, of reliability bins, and the difference of two shares of correct cells.

    The true accuracy after abstention is that of the same share of a population, that of a bin the accuracy of the population
    between its lowest and highest confidence.
    """

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
        stable = np.random.default_rng(0)
        large = replace(self, groups=3000, cells=10, unequal=False)
        other = large.draw(stable, np.array([0.85 * self.skill]))[0].correct.mean()
        skills = np.array([self.skill])
        if self.seeds > 1:
            large = replace(large, groups=600, cells=3)
            skills = self.skill + self.of_seed * stats.norm.ppf((np.arange(16) + 0.5) / 16)
        everyone = large.draw(stable, skills)
        correct = np.concatenate([part.correct for part in everyone])
        sure = -np.concatenate([part.probs.max(axis=1) for part in everyone])
        order = np.argsort(sure)
        sure, right = sure[order], np.append(0, np.cumsum(correct[order]))
        hits: dict[str, list[tuple[float, ...]]] = {}
        for _ in range(draws):
            skills = self.skill + self.seeds_of(rng, self.seeds)
            *parts, second = self.draw(rng, np.append(skills, 0.85 * self.skill))
            whole = Predictions(
                *(np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "probs", "groups")),
                CLASSES,
            )
            seed = np.repeat(np.arange(self.seeds), len(second))
            bootstrap = ClusterBootstrap.crossed(whole.groups, seed, resamples, rng)
            for row in abstention_curve(whole, bootstrap).to_dict("records"):
                kept = round(row["coverage"] * len(sure))
                hits.setdefault(f"abstention/{row['coverage']:.2f}", []).append(_hit(right[kept] / kept, row))
            if self.seeds > 1:  # the others are of one trained model
                continue
            ends = -np.sort(-whole.probs.max(axis=1))[::-1]
            start = 0
            for row in reliability_table(whole).to_dict("records"):
                inside, start = ends[start : start + row["n"]], start + row["n"]
                last, first = np.searchsorted(sure, -inside[[0, -1]], side="right")
                if last > first:
                    truth = (right[last] - right[first]) / (last - first)
                    hits.setdefault(f"bin/{row['bin']}", []).append(_hit(truth, row))
            low, high = difference_interval(*paired_shares(whole.correct, second.correct, whole.groups))
            hits.setdefault("gain in share", []).append(_hit(correct.mean() - other, {"low": low, "high": high}))
        return {name: np.array(values) for name, values in hits.items()}


@dataclass(frozen=True)
class Scaled(Repeated):
    """Temperatures fitted on other patients, and log loss, Brier score and calibration error before and after.

    The truth is that of a population: of these temperatures for one seed, of all seeds for several.
    """

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
        large = replace(self, groups=1500, cells=10, unequal=False)
        everyone = large.draw(np.random.default_rng(0), np.array([self.skill]))[0]
        best, steps = fit_temperature(everyone), np.linspace(-2.5, 2.5, 41)
        curves = pd.DataFrame(
            [
                metrics.calibration_metrics(everyone.with_probs(apply_temperature(everyone.probs, t)))
                for t in np.exp(steps)
            ]
        )

        def value(name: str, logs: np.ndarray) -> float:
            return float(np.interp(logs, steps, curves[name]).mean())

        tables, truths = [], []
        for _ in range(draws):
            logs = self.seeds_of(rng, self.seeds)  # of the temperature that this seed's logits need
            repetitions = [
                tuple(part.with_probs(apply_temperature(part.probs, float(np.exp(-log)))) for part in (val, test))
                for log, val, test in zip(
                    logs, self.draw(rng, np.full(self.seeds, self.skill)), self.draw(rng, np.full(self.seeds, self.skill)),
                    strict=True,
                )
            ]  # fmt: skip
            table = scaling_table(repetitions, resamples, int(rng.integers(2**31)))
            fitted = np.log([fit_temperature(val) for val, _ in repetitions])
            truth = {"temperature/fitted": float((best * np.exp(logs)).mean())}
            for name in curves:
                before, after = value(name, -logs), value(name, fitted - logs)
                truth |= {f"{name}, scaled/before": before, f"{name}, scaled/after": after}
            truths.append(truth)
            words = table["measure"].where(table["moment"] == "fitted", table["measure"] + ", scaled")
            tables.append(table.set_index(words + "/" + table["moment"]))
        true = pd.DataFrame(truths)
        if self.seeds > 1:
            true[:] = true.mean().to_numpy()
        return {
            name: np.array([_hit(t, table.loc[name]) for t, table in zip(true[name], tables, strict=True)])
            for name in true
        }


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

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
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
        return hits


@dataclass(frozen=True)
class Splits(Studies):
    """The same for seeds that each test another third of the patients, and for macro F1."""

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
        large = self._rates(np.random.default_rng(0), 20_000, 60).mean(axis=(1, 2))
        truth = {"over splits": large[0], "gain over splits": large[0] - large[1]}  # of F1 too: the classes are alike
        hits: dict[str, list[tuple[float, ...]]] = {}
        of_class = 3 * self.groups
        for draw in range(draws):
            sizes = np.concatenate([sizes_of(rng, of_class, self.cells, self.unequal) for _ in range(2)])
            rates = self._rates(rng, of_class, self.seeds)
            frames = []
            for seed in range(self.seeds):
                tested = np.concatenate([k * of_class + rng.permutation(of_class)[: self.groups] for k in (0, 1)])
                patient = np.repeat(tested, sizes[tested])
                label = patient >= of_class
                for arm, name in enumerate(("new", "base")):
                    right = rng.random(len(patient)) < rates[arm, seed, patient]
                    frames.append(
                        pd.DataFrame(
                            {
                                "arm": name, "seed": seed, "condition": "test", "group": patient.astype(str),
                                "cell": [f"{p} {n}" for n, p in enumerate(patient)], "label": label.astype(str),
                                "right": right.astype(int), "predicted": (label == right).astype(str),
                            }
                        )
                    )  # fmt: skip
            table = pd.concat(frames, ignore_index=True)
            for kind in ("recall", "F1"):
                outcomes = Outcomes(table, resamples, draw, Score(kind))
                rows = scores(outcomes).iloc[0], differences(outcomes, {"new": "base", "base": "base"}, 0.25).iloc[0]
                for name, row in zip(truth, rows, strict=True):
                    hits.setdefault(f"{name}/{kind}", []).append(_hit(truth[name], row))
        return {name: np.array(values) for name, values in hits.items()}


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

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
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
        return hits


@dataclass(frozen=True)
class Averages:
    """Measures of images that are averaged over cells: shares, hits, rank correlations and ratios.

    ``rate`` is the level of a share on the logistic scale, where patients differ with standard deviation ``effect``; a rank
    correlation is twice the share less 1. The ratio is that of two means, each of log-normal values of the same cells.
    """

    groups: int
    rate: float
    effect: float
    unequal: bool
    cells: int = 15

    def _drawn(self, rng: np.random.Generator, patient: np.ndarray) -> tuple[np.ndarray, ...]:
        """Share, hit, value and value under another method of each cell (N,)."""
        groups, n = int(patient.max()) + 1, len(patient)
        logit = np.log(self.rate / (1 - self.rate)) + rng.normal(0, self.effect, groups)[patient]
        share = expit(logit + rng.normal(0, 0.5, n))
        value = np.exp(rng.normal(0, 0.3, groups)[patient] + rng.normal(0, 0.4, n))
        other = value * np.exp(0.2 + rng.normal(0, 0.2, groups)[patient] + rng.normal(0, 0.3, n))
        return share, (rng.random(n) < expit(logit)).astype(float), value, other

    def covered(self, rng: np.random.Generator, draws: int, resamples: int = 400) -> dict[str, np.ndarray]:
        """Quantity -> one row per draw, see :func:`_hit`."""
        share, hit, value, other = (v.mean() for v in self._drawn(np.random.default_rng(0), np.arange(1_000_000)))
        truth = {
            "attribution": share, "pointing": hit, "quality": share, "ratio of means": other / value,
            "correlation": 2 * share - 1,
        }  # fmt: skip
        hits = {name: np.zeros((draws, 3)) for name in truth}
        for draw in range(draws):
            patient = np.repeat(np.arange(self.groups), sizes_of(rng, self.groups, self.cells, self.unequal))
            names, cell = patient.astype(str), np.arange(len(patient))
            share, hit, value, other = self._drawn(rng, patient)
            shares = pd.DataFrame({"cell": cell, "region": "cell", "share": share, "pointing": hit, "area": 0.5})
            found = attribution.summarise_shares({"map": shares}, names, draw, resamples).set_index("measure")
            table = pd.DataFrame({"group": np.tile(names, 2), "method": np.repeat(["one", "other"], len(names))})
            table["ssim"], table["texture_ratio"] = np.tile(share, 2), np.concatenate([value, other])
            means = quality.summarise(table, draw, resamples).set_index(["measure", "method"])
            ratios = quality.summarise(table, draw, resamples, "one").set_index(["measure", "method"])
            maps = pd.DataFrame({"cell": cell, "method": "map", "randomised": "all", "value": 2 * share - 1})
            rows = {
                "attribution": found.loc["share"], "pointing": found.loc["pointing"],
                "quality": means.loc[("ssim", "one")], "ratio of means": ratios.loc[("texture_ratio", "other")],
                "correlation": sanity.summarise(maps, names, draw, resamples).iloc[0],
            }  # fmt: skip
            for name, row in rows.items():
                hits[name][draw] = _hit(truth[name], row)
        return hits


Case = Shares | Published | Models | Rejected | Selected | Scaled | Studies | Splits | Readers | Averages


def _hit(truth: float, row: Mapping[str, float] | pd.Series) -> tuple[float, float, float]:
    """Whether the interval of a draw contains the truth, its length, and whether there is one."""
    return row["low"] <= truth <= row["high"], row["high"] - row["low"], np.isfinite(row["low"])


def grid() -> Iterator[Case]:
    """All cases."""
    for groups, unequal in itertools.product(GROUPS, (False, True)):
        for rate, alike in itertools.product(RATES, (0.02, 0.1, 0.2)):
            yield Shares(groups, rate, alike, unequal)
        for skill, effect, temperature in SKILLS:
            yield Models(groups, skill, effect, temperature, unequal)
        for logit, seeds in itertools.product((0.4, 1.7, 3.0), (1, 3, 5)):
            # One seed cannot tell how much seeds vary: its interval is that of this trained model.
            yield Studies(groups, logit, seeds, 0.7, unequal, of_seed=0.4 if seeds > 1 else 0.0)
        for noise, effect in ((0.1, 0.5), (0.3, 0.8)):
            yield Readers(groups, noise, effect, unequal)
        for rate in RATES:
            yield Shares(groups, rate, 0.1, unequal, cells=1)
        for rate, effect in itertools.product((0.5, 0.85, 0.97), (0.3, 0.8)):
            yield Averages(groups, rate, effect, unequal)
        for logit in (0.4, 1.7, 3.0):
            yield Splits(groups, logit, 3, 0.7, unequal)
        for skill, effect, temperature in SKILLS:
            yield Selected(groups, skill, effect, temperature, unequal)
        for (skill, effect, temperature), seeds in itertools.product(SKILLS[1:3], (1, 3)):
            yield Scaled(groups, skill, effect, temperature, unequal, seeds)
            if seeds > 1:
                yield Selected(groups, skill, effect, temperature, unequal, seeds)
    for groups, unequal in itertools.product(GROUPS[:3], (False, True)):
        for skill, effect, temperature in SKILLS:
            yield Rejected(groups, skill, effect, temperature, unequal)
    for cells, rate in itertools.product((80, 186, 1000, 10_000), RATES):
        yield Published(cells, rate)


# Draws of a case, and the most; of kinds that are not listed 200 and 1,600.
DRAWS: dict[type, tuple[int, int]] = {Shares: (2000, 16_000), Published: (1, 1), Rejected: (400, 400)}


def rows_of(case: Case, draws: int, most: int = 0) -> list[tuple[object, ...]]:
    """Simulate one case; while a quantity is covered less than ``ENOUGH``, double the draws, up to ``most``.

    Returns:
        One row per quantity and part of it, with the columns ``COLUMNS``.
    """
    hits: dict[str, list[np.ndarray]] = {}
    drawn = 0
    while True:
        rng = np.random.default_rng([0, zlib.crc32(str(case).encode()), drawn])
        for name, values in case.covered(rng, max(drawn, draws)).items():
            hits.setdefault(name, []).append(values)
        drawn += max(drawn, draws)
        rows = []
        for name, parts in hits.items():
            values = np.concatenate(parts)
            given = values[values[:, 2] > 0]
            quantity, _, part = name.partition("/")
            means = given[:, :2].mean(axis=0) if len(given) else (np.nan, np.nan)
            rows.append((quantity, case.groups, str(case), part, len(given), *means, values[:, 2].mean()))
        if 2 * drawn > most or not any(row[4] and row[5] < ENOUGH for row in rows):
            return rows


def table(cases: Iterable[Case], draws: int) -> pd.DataFrame:
    """The rows of several cases."""
    return pd.DataFrame(itertools.chain(*(rows_of(case, draws) for case in cases)), columns=COLUMNS)


def simulate(cases: Sequence[Case], store: Path) -> pd.DataFrame:
    """The rows of all cases, one process per core; cases whose rows are in the file ``store`` are not simulated again."""
    rows = (
        pd.read_csv(store, keep_default_na=False, na_values="nan") if store.is_file() else pd.DataFrame(columns=COLUMNS)
    )
    known = set(rows["case"])
    missing = [case for case in cases if str(case) not in known]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(rows_of, case, *DRAWS.get(type(case), (200, 1600))): case for case in missing}
        for done, job in enumerate(as_completed(jobs), 1):
            rows = pd.concat([rows, pd.DataFrame(job.result(), columns=COLUMNS)], ignore_index=True)
            rows.to_csv(store, index=False, na_rep="nan")
            print(f"{done}/{len(missing)} {jobs[job]}", flush=True)
    return rows[rows["case"].isin([str(case) for case in cases])]


NAMES = {
    "share": "share of correct cells", "recall": "recall of a class", "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "macro_precision": "macro precision",
    "macro_auc": "macro AUC", "vote": "votes of patients", "bin": "accuracy of a reliability bin",
    "abstention": "accuracy after abstention", "gain in share": "difference in share of correct cells",
    "gain in accuracy": "difference in accuracy", "gain in balanced_accuracy": "difference in balanced accuracy",
    "gain in macro_f1": "difference in macro F1", "gain in macro_auc": "difference in macro AUC", "nll": "log loss",
    "brier": "Brier score", "ece": "calibration error", "temperature": "temperature",
    "nll, scaled": "log loss before and after scaling", "brier, scaled": "Brier score before and after scaling",
    "ece, scaled": "calibration error before and after scaling",
    "kappa": "Cohen's kappa",
    "gain in kappa": "difference of two kappas", "attribution": "attribution share", "pointing": "pointing game",
    "correlation": "rank correlation", "quality": "image quality", "ratio": "mean of a ratio",
    "ratio of means": "ratio of two means", "score over seeds": "score over seeds", "gain over seeds": "gain over seeds",
    "over splits": "score over splits", "gain over splits": "gain over splits",
    "published": "published accuracy of independent cells",
}  # fmt: skip
OTHERS = {
    "recall, quantiles": "recall of a class, quantiles of the bootstrap",
    "recall, normal": "recall of a class, Wilson without degrees of freedom",
    "accuracy, quantiles": "accuracy, quantiles of the bootstrap",
    "macro_auc, quantiles": "macro AUC, quantiles of the bootstrap",
    "ece, quantiles": "calibration error, quantiles of the bootstrap",
}

GAINS = tuple(f"gain in {name}" for name in HEADLINE)
# Which functions make the intervals that the book prints, and the quantities above that simulate them.
PRINTED = {
    "alhe.quality.summarise": ("quality", "ratio", "ratio of means"),
    "audit.published.figures": ("published",),
    "audit.published.interval_by_size": ("published",),
    "audit.reference.Rule.allows": ("published",),
    "chapters.agreement._pairs": ("share", "kappa"),
    "chapters.agreement.compare_readers": ("gain in kappa",),
    "chapters.results.Score.interval": (*SCORES, "macro_recall"),
    "chapters.results.chapter_metrics": (*SCORES, "macro_recall", "recall", "vote", "temperature"),
    "chapters.results.difference_table": GAINS,
    "chapters.results.recall_table": ("recall",),
    "chapters.results.score_table": (*SCORES, "macro_recall"),
    "chapters.results.vote_table": ("vote",),
    "chapters.trust.shift_table": ("share",),
    "evaluation.attribution.summarise_shares": ("attribution", "pointing"),
    "evaluation.baselines.score_table": ("accuracy", "balanced_accuracy"),
    "evaluation.calibration.abstention_curve": ("abstention",),
    "evaluation.calibration.reliability_table": ("bin",),
    "evaluation.calibration.scaling_table": (
        "temperature", "nll, scaled", "brier, scaled", "ece, scaled",
    ),
    "evaluation.resampling.ece_interval": ("ece", "ece, scaled"),
    "evaluation.resampling.score_interval": (*SCORES, "macro_recall"),
    "evaluation.sanity.summarise": ("correlation",),
    "fcmae.probe.Probe.gains": ("gain in share",),
    "fcmae.probe.Probe.table": ("share",),
    "studies.paired.scores": ("score over seeds", "over splits"),
    "studies.paired.unadjusted": ("gain over seeds", "gain over splits"),
}  # fmt: skip
SAME = {"macro_recall": "balanced_accuracy"}  # two names of one number


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Lowest coverage of all settings and its number of draws, mean coverage and length, per quantity and groups.

    Settings with an interval in fewer than ``FEWEST`` draws are left out.
    """
    exact = rows["quantity"] == "published"
    by = rows[exact | (rows["draws"] >= FEWEST)].groupby(["quantity", "groups"])
    means = pd.DataFrame(
        {
            "lowest": by["coverage"].min(), "draws": rows.loc[by["coverage"].idxmin()].set_index(["quantity", "groups"])["draws"],
            "mean": by["coverage"].mean(), "length": by["length"].mean(), "settings": by.size(),
        }
    )  # fmt: skip
    names = NAMES | OTHERS
    order = [key for name in names for key in means.index if key[0] == name]
    whole = means.loc[order].round(4).reset_index()
    return whole.assign(quantity=whole["quantity"].map(names))


def page_tables(kept: pd.DataFrame) -> str:
    """The tables of the page, from the rows of the CSV file: lowest coverage and mean length."""
    text = kept.assign(
        text=[f"{low:.2f} ({length:.2f})" for low, length in zip(kept["lowest"], kept["length"], strict=True)]
    )
    exact, other = text["quantity"] == NAMES["published"], text["quantity"].isin(list(OTHERS.values()))
    parts = []
    for part, head in (
        (text[~exact & ~other], "quantity, by groups of a class"),
        (text[exact], "quantity, by cells"),
        (text[other], "method that is not used, by groups of a class"),
    ):
        wide = part.pivot(index="quantity", columns="groups", values="text").fillna("–")
        wide = wide.loc[list(dict.fromkeys(part["quantity"]))]
        parts.append(f"| {head} | {' | '.join(map(str, wide.columns))} |\n|:--|{'--:|' * wide.shape[1]}\n")
        parts[-1] += "\n".join(
            f"| {name} | {' | '.join(row)} |" for name, row in zip(wide.index, wide.to_numpy(), strict=True)
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    store = Path(__file__).parents[1] / "results" / "interval_coverage.csv"
    store.parent.mkdir(exist_ok=True)
    found = simulate(list(grid()), store)
    kept = summary(found)
    kept.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(page_tables(kept))
    print(found[found["coverage"] < 0.94].sort_values("coverage").round(3).to_string())
