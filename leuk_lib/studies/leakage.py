"""Data leakage: the same cells and models, scored correctly and under three leakage modes.

The modes are a split that ignores patients, a generator trained on all cells, and synthetic cells made before the split.
Each inflates the accuracy; the study measures by how much.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from leuk_lib.data.fingerprint import RENDERED
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.splits import ALWAYS_TRAINED, k_folds, split_groups
from leuk_lib.evaluation.baselines import Task, colour, network
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic, read_json, write_json
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import derive
from leuk_lib.statistics.intervals import format_interval
from leuk_lib.studies.generators import GAN, SMOTE, gan, nearest_group, smote
from leuk_lib.studies.paired import Outcomes, between, cells_of, hits_row, scores
from leuk_lib.studies.study import Row, Study, StudyParams, slug
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.finetune import finetune
from leuk_lib.wpat.params import WpatParams

COLOUR = "colour"
VALIDATION = 0.125  # of the cells that are not tested
#: Cohorts: rendered cells by the strength of the patient effect; the cells of a folder are one cohort.
DIFFER, ALIKE, REAL = "slides differ", "slides alike", "as they are"
PATIENT_EFFECTS = {DIFFER: 1.0, ALIKE: 0.0}
GROUPED, RANDOM = "grouped split", "random split"
OF_TRAINING = " of training cells"


@dataclass(frozen=True)
class Arm:
    """One way to score a model.

    Attributes:
        name: name of the arm.
        random: the cells are split without regard to groups.
        generator: generator of synthetic training cells; empty for none.
        trained_on: cells that the generator is trained on: "training" or "all" cells.
        pooled: the synthetic cells are split together with the real ones.
    """

    name: str
    random: bool = False
    generator: str = ""
    trained_on: str = ""
    pooled: bool = False


def arms_of(generators: Sequence[str]) -> list[Arm]:
    """Both splits without synthetic cells, then one correct and two leaking uses of each generator."""
    arms = [Arm(GROUPED), Arm(RANDOM, random=True)]
    for name in generators:
        arms += [
            Arm(f"{name}{OF_TRAINING}", generator=name, trained_on="training"),
            Arm(f"{name} of all cells", generator=name, trained_on="all"),
            Arm(f"{name} before the split", random=True, generator=name, trained_on="all", pooled=True),
        ]
    return arms


def comparisons(generators: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of arms: each leakage mode and the correct procedure, and correct synthetic cells and none."""
    pairs = [(RANDOM, GROUPED)]
    for name in generators:
        correct = f"{name}{OF_TRAINING}"
        pairs += [
            (correct, GROUPED), (f"{name} of all cells", correct), (f"{name} before the split", RANDOM),
            (f"{name} before the split", correct),
        ]  # fmt: skip
    return pairs


class LeakageParams(StudyParams):
    """Cells, models and generators; every arm trains for the same number of steps."""

    dataset: str = Field(RENDERED, min_length=1, description="'smear' (rendered cells) or a folder of images")
    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=2, description="repetitions: folds, weights, batches")
    cells: int = Field(1200, ge=100, le=10**6, description="rendered cells; unused for a folder")
    patients: int = Field(12, ge=3, le=1000, description="rendered patients per class")
    per_class: int = Field(0, ge=0, description="largest number of cells per class of a folder (0: all)")
    image_size: int = Field(32, ge=32, le=512, description="side of the images, pixels")
    folds: int = Field(3, ge=2, le=20, description="folds; every cell is tested once per seed")
    network: str = Field(
        "test_resnet", description="timm model, trained from random weights in addition to the colour probe"
    )
    steps: int = Field(120, ge=1, le=10**6, description="optimiser steps of every network")
    batch_size: int = Field(48, ge=2, le=8192, description="images per optimiser step")
    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    generators: tuple[str, ...] = Field((SMOTE,), description="generators of synthetic cells: SMOTE, GAN")
    gan_steps: int = Field(300, ge=1, le=10**6, description="optimiser steps of every GAN")
    gan_width: int = Field(
        16, ge=4, le=1024, description="channels of the GAN's finest level; the others have at most three times as many"
    )
    synthetic: float = Field(1.0, gt=0, le=10, description="synthetic cells per real cell, in every class")
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    @field_validator("generators")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in (SMOTE, GAN):
                raise ValueError(f"unknown generator {name!r}; allowed: {SMOTE}, {GAN}")
        return names

    @property
    def cohorts(self) -> tuple[str, ...]:
        """Names of the sets of cells that are scored."""
        return tuple(PATIENT_EFFECTS) if self.dataset == RENDERED else (REAL,)

    def arms(self, cohort: str) -> list[Arm]:
        """Arms of a cohort; where slides are alike only the splits, as a control of the random one."""
        return arms_of(() if cohort == ALIKE else self.generators)


@dataclass(frozen=True)
class Cells:
    """One cohort: images (N,3,S,S) uint8, labels (N,), groups (N,) as numbers, number of classes."""

    images: Tensor
    labels: Tensor
    groups: Tensor
    n_classes: int

    def join(self, images: Tensor, labels: Tensor) -> Cells:
        """Append synthetic cells, each in the group of its nearest real cell."""
        groups = nearest_group(self.images, self.labels, self.groups, images, labels)
        return Cells(
            torch.cat([self.images, images]), torch.cat([self.labels, labels]), torch.cat([self.groups, groups]),
            self.n_classes,
        )  # fmt: skip


class Leakage(Study[LeakageParams]):
    """Every arm tests every cell once per seed, in folds; all arms of a seed share the random draws.

    A seed's difference between two arms is over the same cells, apart from synthetic test cells, which only "before the
    split" has.
    """

    title = "How much does each leakage mode inflate the accuracy?"
    version = 1
    canary: ClassVar[Mapping[str, Any]] = {
        "dataset": RENDERED, "seeds": (0, 1), "cells": 100, "patients": 4, "folds": 2, "steps": 3, "batch_size": 8,
        "generators": (SMOTE, GAN), "gan_steps": 1, "gan_width": 4, "resamples": 100,
    }  # fmt: skip
    params_model = LeakageParams

    def waves(self) -> Sequence[Sequence[str]]:
        """The cells of every cohort; then all arms of a cohort and a seed."""
        p = self.params
        return [["cells"], [f"{slug(cohort)}-{seed}" for seed in p.seeds for cohort in p.cohorts]]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """``cells``: render or read. Else: all arms of a cohort and a seed, a row per arm and model."""
        if job == "cells":
            return self._cells(folder / job)
        p = self.params
        cohort, seed = next((c, s) for s in p.seeds for c in p.cohorts if job == f"{slug(c)}-{s}")
        return self._score(cohort, seed, folder, folder / job, identity)

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """`scores`: balanced accuracy as each arm would publish it; `inflation`: what each arm adds; `cells`."""
        p = self.params
        whole = pd.concat([cells_of(part) for job, part in rows.items() if job != "cells"], ignore_index=True)
        of_arms, inflation = [], []
        for condition in [f"{cohort}, {model}" for cohort in p.cohorts for model in (COLOUR, p.network)]:
            of_condition = whole[whole["condition"] == condition].reset_index(drop=True)
            outcomes = Outcomes(of_condition, p.resamples, min(p.seeds))
            of_arms.append(scores(outcomes))
            pairs = [pair for pair in comparisons(p.generators) if set(pair) <= set(outcomes.arms)]
            if pairs:
                inflation.append(between(outcomes, pairs, 1 / (p.folds - 1)))
        # The folds of one seed are no independent splits: no corrected t-test over them.
        table = pd.concat(inflation, ignore_index=True).drop(columns=["p", "p_holm"])
        return {
            "scores": pd.concat(of_arms, ignore_index=True),
            "inflation": table,
            "cells": pd.DataFrame(rows["cells"]),
        }

    # -- jobs --------------------------------------------------------------------------------------------------

    def _cells(self, folder: Path) -> list[Row]:
        p = self.params
        rows: list[Row] = []
        n_classes = {}
        for cohort in p.cohorts:
            data = load_dataset(
                p.dataset, size=p.image_size, workers=p.threads, cells=p.cells, patients=p.patients,
                patient_effect=PATIENT_EFFECTS.get(cohort, 1.0), per_class=p.per_class,
            )  # fmt: skip
            tensors = {
                "images": torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2))),
                "labels": torch.from_numpy(data.labels),
                "groups": torch.from_numpy(pd.factorize(data.table["group"])[0].astype(np.int64)),
            }
            with atomic(folder / f"{slug(cohort)}.safetensors") as temporary:
                save_file(tensors, temporary)
            n_classes[cohort] = len(data.classes)
            rows.append({
                "cohort": cohort, "cells": len(data.labels), "classes": len(data.classes),
                "groups": int(data.table["group"].nunique()), "grouped by": data.grouped_by,
            })  # fmt: skip
        write_json(folder / "about.json", n_classes)
        return rows

    def _score(self, cohort: str, seed: int, folder: Path, own: Path, identity: str) -> list[Row]:
        p = self.params
        tensors = load_file(folder / "cells" / f"{slug(cohort)}.safetensors")
        cells = Cells(**tensors, n_classes=read_json(folder / "cells" / "about.json")[cohort])
        synthesis = _Synthesis(p, cells, seed, own, identity)
        rows = []
        for arm in p.arms(cohort):
            for model, row in self._arm(arm, cells, seed, synthesis, own, identity).items():
                rows.append({"arm": arm.name, "seed": seed, "condition": f"{cohort}, {model}"} | row)
        shutil.rmtree(own / "checkpoints", ignore_errors=True)
        return rows

    def _arm(
        self, arm: Arm, cells: Cells, seed: int, synthesis: _Synthesis, own: Path, identity: str
    ) -> dict[str, Row]:
        """Model -> its test cells of all folds (`paired.hits_row`) and its loss on them."""
        p = self.params
        whole = cells.join(*synthesis.make(arm.generator, None)) if arm.pooled else cells
        units = units_of(arm, whole)
        fold = k_folds(whole.labels.numpy(), units, p.folds, derive(seed, "folds"))[0]
        tested: list[NDArray[Any]] = []
        probs: dict[str, list[NDArray[Any]]] = {COLOUR: [], p.network: []}
        for number in range(p.folds):
            test = torch.from_numpy(np.flatnonzero(fold == number))
            rest = np.flatnonzero(fold != number)
            part = split_groups(
                whole.labels.numpy()[rest], units[rest], (1 - VALIDATION, VALIDATION), derive(seed, "validation", number)
            )  # fmt: skip
            train, val = (torch.from_numpy(rest[part == k]) for k in (0, 1))
            if not len(val):
                raise LeukError(f"study leakage: fold {number} of seed {seed} has no validation cell; take fewer folds")
            images, labels = whole.images[train], whole.labels[train]
            if arm.generator and not arm.pooled:
                synthetic = synthesis.make(
                    arm.generator, train if arm.trained_on == "training" else None, number, train
                )
                images, labels = torch.cat([images, synthetic[0]]), torch.cat([labels, synthetic[1]])
            checkpoints = own / "checkpoints" / f"{slug(arm.name)}-{number}"
            task = self._task(whole, images, labels, val, seed, checkpoints, f"{identity}-{arm.name}-{number}")
            for model, score in ((COLOUR, colour(task)), (p.network, network(p.network, task))):
                probs[model].append(score(whole.images[test], None))
            tested.append(test.numpy())
        order = np.concatenate(tested)
        assert not np.isin(np.flatnonzero(fold == ALWAYS_TRAINED), order).any()
        truth, groups = whole.labels.numpy()[order], whole.groups.numpy()[order]
        rows: dict[str, Row] = {}
        for model, parts in probs.items():
            of_cells = np.concatenate(parts)
            loss = -np.log(of_cells[np.arange(len(order)), truth] + 1e-12).mean()
            rows[model] = hits_row(order, groups, truth, of_cells.argmax(axis=1) == truth) | {"loss": float(loss)}
        return rows

    def _task(
        self, whole: Cells, images: Tensor, labels: Tensor, val: Tensor, seed: int, checkpoints: Path, identity: str
    ) -> Task:
        p = self.params
        settings = WpatParams(
            dataset=Path(p.dataset).name, seed=seed, threads=p.threads, steps=p.steps, batch_size=p.batch_size, lr=p.lr,
            evaluations=3, accelerator="cpu", muon=0.0, crop_min=0.7, light=0.0, balance="none",
        )  # fmt: skip

        def fit(model: torch.nn.Module, label: str) -> torch.nn.Module:
            return finetune(
                images, labels, whole.images[val], whole.labels[val], model, settings, checkpoints, identity,
                make_fabric(settings), n_classes=whole.n_classes, label=label,
            ).model  # fmt: skip

        return Task(images, labels, None, whole.images[val], whole.labels[val], None, whole.n_classes, seed, fit=fit)


def units_of(arm: Arm, cells: Cells) -> NDArray[np.int64]:
    """(N,) numbers of the units that are split: the groups, or every cell for itself where the arm ignores groups."""
    return np.arange(len(cells.labels)) if arm.random else cells.groups.numpy()


class _Synthesis:
    """Synthetic cells of a cohort and a seed; a generator that is trained on all cells is trained once."""

    def __init__(self, params: LeakageParams, cells: Cells, seed: int, folder: Path, identity: str) -> None:
        self.params, self.cells, self.seed, self.folder, self.identity = params, cells, seed, folder, identity
        self._of_all: dict[str, tuple[Tensor, Tensor]] = {}

    def make(
        self, generator: str, train: Tensor | None, fold: int = 0, like: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and labels by a generator trained on the cells at ``train`` (None: all).

        The number per class is that of the cells at ``like`` (None: all) times ``params.synthetic``.
        """
        c, p = self.cells, self.params
        labels = c.labels if like is None else c.labels[like]
        wanted = (torch.bincount(labels, minlength=c.n_classes) * p.synthetic).round().long()
        if train is not None:
            return self._train(generator, train, wanted, f"fold {fold}")
        if generator not in self._of_all:
            everything = torch.arange(len(c.labels))
            full_counts = (torch.bincount(c.labels, minlength=c.n_classes) * p.synthetic).round().long()
            self._of_all[generator] = self._train(generator, everything, full_counts, "all")
        synthetic, synthetic_labels = self._of_all[generator]
        # The first of every class: samples are drawn independently, so that these are a fair draw.
        keep = torch.cat([torch.nonzero(synthetic_labels == k)[:n, 0] for k, n in enumerate(wanted.tolist())])
        return synthetic[keep], synthetic_labels[keep]

    def _train(self, generator: str, train: Tensor, wanted: Tensor, name: str) -> tuple[Tensor, Tensor]:
        c, p = self.cells, self.params
        if generator == SMOTE:
            return smote(c.images[train], c.labels[train], wanted, derive(self.seed, "smote", name))
        size = 1 << (p.image_size.bit_length() - 1)  # the largest power of two that is not above the images' side
        settings = AcdbGanParams(
            dataset=Path(p.dataset).name, seed=self.seed, threads=p.threads, accelerator="cpu", light=0.0, steps=p.gan_steps,
            gan_size=min(128, size), width=p.gan_width, max_width=3 * p.gan_width,  # type: ignore[arg-type]
        )  # fmt: skip
        checkpoints = self.folder / "checkpoints" / slug(f"gan {name}")
        return gan(c.images[train], c.labels[train], wanted, settings, checkpoints, f"{self.identity}-gan-{name}")


# -- tables from the record ------------------------------------------------------------------------------------


def leaking(inflation: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the table `inflation` whose first arm has a leakage mode that the second does not have."""
    correct = {GROUPED} | {name for name in inflation["arm"] if str(name).endswith(OF_TRAINING)}
    return inflation[~inflation["arm"].isin(correct)].reset_index(drop=True)


def inflation_table(inflation: pd.DataFrame) -> pd.DataFrame:
    """Format the inflation for readers: a row per leakage mode and condition, in points of balanced accuracy."""
    rows = []
    for row in leaking(inflation).to_dict("records"):
        low, high = 100 * row["low"], 100 * row["high"]
        verdict = "inflates" if low > 0 else "deflates" if high < 0 else "inconclusive"
        points = format_interval(100 * row["value"], low, high, "+.1f")
        rows.append((row["condition"], row["arm"], row["against"], points, verdict))
    return pd.DataFrame(
        rows, columns=["cells, model", "leakage mode", "compared with", "points [95 % interval]", "verdict"]
    )


def record_inflation(stage: Recorder, inflation: Mapping[str, pd.DataFrame]) -> None:
    """Write the inflation by each leakage mode (data set -> table) into a stage's metrics."""
    for data, table in inflation.items():
        for row in leaking(table).to_dict("records"):
            stage.record(metric_key(data, row), float(row["value"]), float(row["low"]), float(row["high"]))


def metric_key(data: str, row: Mapping[Any, Any]) -> str:
    """Key of a row's number in a stage's metrics: ``inflation_<data>_<condition>_<arm>_over_<other>``."""
    words = f"inflation {data} {row['condition']} {row['arm']} over {row['against']}"
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
