"""How much training do published weights need, and is the full model worth it? Few steps and many, at the ladder's rules.

The full model on published weights and the plainly fine-tuned network are trained for each number of steps, with the
cells, split, augmentation and learning rates of the ladder.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field, field_validator

from leuk_lib.evaluation.baselines import display_name
from leuk_lib.studies.ladder import (
    FRACTIONS,
    PUBLISHED_FULL,
    Ladder,
    LadderParams,
    chosen_rates,
    outcomes_of,
    trial_name,
    write_cells,
)
from leuk_lib.studies.ladder_summary import GOALS, interval
from leuk_lib.studies.paired import between, scores, verdict
from leuk_lib.studies.record import StudyRecord
from leuk_lib.studies.study import Row, Study, StudyParams, slug


class BudgetParams(StudyParams):
    """Numbers of steps, image size and network."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2, description="repetitions: split, weights, batches")
    image_size: int = Field(96, ge=32, le=512, description="side of the images, pixels")
    per_class: int = Field(0, ge=0, description="largest number of cells per class (0: all)")
    steps: tuple[int, ...] = Field((100, 600), min_length=2, description="optimiser steps, ascending")
    batch_size: int = Field(32, ge=2, le=8192, description="images per optimiser step")
    rates: tuple[float, ...] = Field(
        (5e-4, 1e-3, 2e-3, 4e-3), min_length=1, description="peak learning rates that both models are tried with"
    )
    rate_steps: int = Field(100, ge=1, le=10**6, description="optimiser steps of a trial of a learning rate")
    published: str = Field("efficientnet_lite0@pretrained", min_length=1, description="network and weights")
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    @field_validator("steps")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if values[0] < 1 or any(more <= fewer for fewer, more in itertools.pairwise(values)):
            raise ValueError(f"steps {values} must be positive and ascending")
        return values

    @property
    def arms(self) -> tuple[str, str]:
        """The full model on published weights, and the plainly fine-tuned network."""
        return PUBLISHED_FULL, self.published

    def ladder(self, steps: int) -> Ladder:
        """The ladder with these settings and a number of steps."""
        return Ladder(LadderParams(
            dataset=self.dataset, seeds=self.seeds, threads=self.threads, image_size=self.image_size,
            per_class=self.per_class, steps=steps, batch_size=self.batch_size, rates=self.rates,
            rate_steps=self.rate_steps, published=self.published, networks=(self.published,), shifted=(),
            resamples=self.resamples,
        ))  # fmt: skip


def name_of(arm: str, steps: int) -> str:
    """Name of a model after a number of steps, as in the tables."""
    return f"{display_name(arm)}, {steps} steps"


class Budget(Study[BudgetParams]):
    """Each repetition has its own split (by groups), weights and batches, shared by both models and all budgets."""

    title = "How much training do published weights need?"
    version = 1
    canary: ClassVar[Mapping[str, Any]] = {
        "seeds": (0, 1), "image_size": 32, "steps": (2, 4), "batch_size": 8, "rates": (1e-3,), "rate_steps": 2,
        "published": "test_resnet", "resamples": 100,
    }  # fmt: skip
    params_model = BudgetParams

    def waves(self) -> Sequence[Sequence[str]]:
        """Cells; trials of learning rates; each model of each seed, the fewest steps first."""
        p = self.params
        return [
            ["cells"],
            [trial_name(arm, rate) for arm in p.arms for rate in p.rates],
            [job for _, _, _, job in self._trainings()],
        ]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """Do one job of any wave; the test part is scored and never used to choose anything."""
        p = self.params
        if job == "cells":
            return write_cells(p.ladder(p.steps[-1]).params, folder / job)
        for arm in p.arms:
            for rate in p.rates:
                if job == trial_name(arm, rate):
                    return p.ladder(p.steps[-1]).try_rate(arm, rate, folder, identity)
        for arm, steps, seed, name in self._trainings():
            if job == name:
                rows = p.ladder(steps).evaluate(arm, seed, folder, identity, job)
                return [{**row, "arm": name_of(arm, steps)} for row in rows]
        raise ValueError(f"no job {job!r}")

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """Return the tables.

        Returns:
            scores: balanced accuracy of each model after each number of steps on the test cells.
            gains: the full model minus the plain network after as many steps, and after the fewest and the most steps.
            training: time, best step and size of every training.
            rates: loss of every trial of a learning rate, and the chosen ones.
            sources: the data.
        """
        p = self.params
        classes = tuple(rows["cells"][0]["classes"].split(","))
        trained = [row for *_, job in self._trainings() for row in rows[job]]
        outcomes = outcomes_of(
            [row for row in trained if row["condition"] == "test"], classes, p.resamples, min(p.seeds)
        )
        full, plain = p.arms
        pairs = [(name_of(full, steps), name_of(plain, steps)) for steps in p.steps]
        pairs.append((name_of(full, p.steps[0]), name_of(plain, p.steps[-1])))
        training = pd.DataFrame([row for row in trained if row["condition"] == "training"]).drop(columns="condition")
        trials = [trial_name(arm, rate) for arm in p.arms for rate in p.rates]
        return {
            "scores": scores(outcomes),
            "gains": between(outcomes, pairs, FRACTIONS[2] / FRACTIONS[0]),
            "training": training,
            "rates": chosen_rates(pd.DataFrame([row for trial in trials for row in rows[trial]])),
            "sources": pd.DataFrame(rows["cells"]).drop(columns="classes"),
        }

    def _trainings(self) -> list[tuple[str, int, int, str]]:
        """Model, steps, seed and job name of every training."""
        p = self.params
        return [
            (arm, steps, seed, f"{slug(arm)}-{steps}-{seed}")
            for steps in p.steps for seed in p.seeds for arm in p.arms
        ]  # fmt: skip


# -- sentences and tables from the record ------------------------------------------------------------------------


def cost_table(record: StudyRecord) -> pd.DataFrame:
    """Accuracy and cost after each number of steps: arm, value, low, high (balanced accuracy), cpu seconds (mean)."""
    seconds = record.table("training").groupby("arm", sort=False)["cpu seconds"].mean()
    return record.table("scores").set_index("arm")[["value", "low", "high"]].join(seconds).reset_index()


def curves(record: StudyRecord) -> list[list[str]]:
    """Names of the rows of each model, the fewest steps first."""
    return [
        [name_of(arm, steps) for steps in record.params["steps"]]
        for arm in (PUBLISHED_FULL, record.params["published"])
    ]


def summary(record: StudyRecord) -> str:
    """Say how good both models are after the most steps, how they compare, at what cost, and when each was best."""
    full, plain = (names[-1] for names in curves(record))
    by_arm = {row["arm"]: row for row in cost_table(record).to_dict("records")}
    goal = GOALS[PUBLISHED_FULL]
    outcome = "reached" if float(by_arm[full]["value"]) >= goal else "missed"
    sentences = [
        f"{full}: {interval(by_arm[full])} % balanced accuracy; {plain}: {interval(by_arm[plain])} %. "
        f"The goal set before the study, {100 * goal:.1f} %, is {outcome}."
    ]
    for row in record.table("gains").to_dict("records"):
        ratio = by_arm[row["arm"]]["cpu seconds"] / by_arm[row["against"]]["cpu seconds"]
        sentences.append(
            f"{row['arm']} over {row['against']}: {interval(row, signed=True)} points "
            f"({verdict(row['low'], row['high'])}), at {ratio:.2f} times the processor time."
        )
    best = record.table("training").groupby("arm", sort=False)["best step"].mean()
    steps = ", ".join(f"{arm}: {best[arm]:.0f}" for arm in (full, plain))
    sentences.append(f"Step with the lowest validation loss, mean over the repetitions: {steps}.")
    return "\n".join(sentences)
