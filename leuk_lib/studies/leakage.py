"""The leakage ladder: the same cells and models, scored as they should be and under three mistakes of evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from leuk_lib.data.catalog import load_dataset
from leuk_lib.data.fingerprint import RENDERED
from leuk_lib.data.splits import ALWAYS_TRAINED, k_folds, split_groups
from leuk_lib.evaluation.baselines import Task, colour, network
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic, read_json, write_json
from leuk_lib.runs.seeds import derive
from leuk_lib.studies.generators import GAN, SMOTE, gan, nearest_group, smote
from leuk_lib.studies.mistakes import Arm, arms_of, steps_of
from leuk_lib.studies.paired import Outcomes, between, cells_of, scores
from leuk_lib.studies.study import Row, Study, StudyParams, slug
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.finetune import finetune
from leuk_lib.wpat.params import WpatParams

COLOUR = "colour"
VALIDATION = 0.125  # of the cells that are not tested
#: Patient effect of the rendered worlds; cells of a folder live in one world.
DIFFER, ALIKE, REAL = "slides differ", "slides alike", "as they are"
WORLDS = {DIFFER: 1.0, ALIKE: 0.0}


class LeakageParams(StudyParams):
    """Cells, models and generators of the ladder; every arm has the same steps."""

    dataset: str = Field(RENDERED, min_length=1, description="'smear' (rendered cells) or a folder of images")
    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=2, description="repetitions: folds, weights, batches")
    cells: int = Field(1200, ge=100, le=10**6, description="rendered cells (a folder has its own)")
    patients: int = Field(12, ge=3, le=1000, description="rendered patients a class")
    per_class: int = Field(0, ge=0, description="at most this many cells a class of a folder (0: all)")
    image_size: int = Field(32, ge=32, le=512, description="side of the images, pixels")
    folds: int = Field(3, ge=2, le=20, description="every cell is tested once a seed")
    network: str = Field(
        "test_resnet", description="a timm model, trained from random weights, beside the colour probe"
    )
    steps: int = Field(120, ge=1, le=10**6, description="optimiser steps of every network")
    batch_size: int = Field(48, ge=2, le=8192, description="images an optimiser step")
    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    generators: tuple[str, ...] = Field((SMOTE,), description="which generators of synthetic cells: SMOTE, GAN")
    gan_steps: int = Field(300, ge=1, le=10**6, description="optimiser steps of every GAN")
    gan_width: int = Field(
        16, ge=4, le=1024, description="channels of the GAN's finest level; at most three times that"
    )
    synthetic: float = Field(1.0, gt=0, le=10, description="synthetic cells a real one, in every class")
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    @field_validator("generators")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in (SMOTE, GAN):
                raise ValueError(f"unknown generator {name!r}; allowed: {SMOTE}, {GAN}")
        return names

    @property
    def worlds(self) -> tuple[str, ...]:
        """Names of the sets of cells that are scored."""
        return tuple(WORLDS) if self.dataset == RENDERED else (REAL,)

    def arms(self, world: str) -> list[Arm]:
        """What is scored in a world; where slides are alike only the splits are: that is the control of the random one."""
        return arms_of(() if world == ALIKE else self.generators)


@dataclass(frozen=True)
class Cells:
    """One world: images (N,3,S,S) uint8, labels (N,), groups (N,) as numbers, number of classes."""

    images: Tensor
    labels: Tensor
    groups: Tensor
    n_classes: int

    def join(self, made: Tensor, names: Tensor) -> Cells:
        """These cells and synthetic ones after them, each in the group of its nearest real cell."""
        groups = nearest_group(self.images, self.labels, self.groups, made, names)
        return Cells(
            torch.cat([self.images, made]), torch.cat([self.labels, names]), torch.cat([self.groups, groups]),
            self.n_classes,
        )  # fmt: skip


class Leakage(Study[LeakageParams]):
    """Every arm tests every cell once a seed, in folds; all arms of a seed share the order of chance.

    A seed's difference between two arms is over the same cells (synthetic test cells apart, which only the arm that
    makes the mistake has).
    """

    title = "What does each mistake of evaluation buy?"
    params_model = LeakageParams

    def waves(self) -> Sequence[Sequence[str]]:
        """The cells of every world; then all arms of a world and a seed."""
        p = self.params
        return [["cells"], [f"{slug(world)}-{seed}" for seed in p.seeds for world in p.worlds]]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """``cells``: render or read. Else: all arms of a world and a seed, a row an arm and model."""
        if job == "cells":
            return self._cells(folder / job)
        p = self.params
        world, seed = next((w, s) for s in p.seeds for w in p.worlds if job == f"{slug(w)}-{s}")
        return self._score(world, seed, folder, folder / job, identity)

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """`scores`: balanced accuracy as each arm would publish it; `bought`: what each step adds; `cells`."""
        p = self.params
        whole = pd.concat([cells_of(found) for job, found in rows.items() if job != "cells"], ignore_index=True)
        found, bought = [], []
        for condition in [f"{world}, {model}" for world in p.worlds for model in (COLOUR, p.network)]:
            here = whole[whole["condition"] == condition].reset_index(drop=True)
            outcomes = Outcomes(here, p.resamples, min(p.seeds))
            found.append(scores(outcomes))
            compared = [pair for pair in steps_of(p.generators) if set(pair) <= set(outcomes.arms)]
            if compared:
                bought.append(between(outcomes, compared, 1 / (p.folds - 1)))
        # Folds of one seed are not splits of their own: no corrected t-test over them.
        table = pd.concat(bought, ignore_index=True).drop(columns=["p", "p_holm"])
        return {
            "scores": pd.concat(found, ignore_index=True),
            "bought": table,
            "cells": pd.DataFrame(rows["cells"]),
        }

    # -- jobs --------------------------------------------------------------------------------------------------

    def _cells(self, folder: Path) -> list[Row]:
        p, found, about = self.params, [], {}
        for world in p.worlds:
            effect = WORLDS.get(world, 1.0)
            data = load_dataset(
                p.dataset, size=p.image_size, workers=p.threads, cells=p.cells, patients=p.patients,
                patient_effect=effect, per_class=p.per_class,
            )  # fmt: skip
            kept = {
                "images": torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2))),
                "labels": torch.from_numpy(data.labels),
                "groups": torch.from_numpy(pd.factorize(data.table["group"])[0].astype(np.int64)),
            }
            with atomic(folder / f"{slug(world)}.safetensors") as temporary:
                save_file(kept, temporary)
            about[world] = len(data.classes)
            found.append(
                {
                    "world": world, "cells": len(data.labels), "classes": len(data.classes),
                    "groups": int(data.table["group"].nunique()), "grouped by": data.grouped_by,
                }
            )  # fmt: skip
        write_json(folder / "about.json", about)
        return found

    def _score(self, world: str, seed: int, folder: Path, own: Path, identity: str) -> list[Row]:
        p = self.params
        kept = load_file(folder / "cells" / f"{slug(world)}.safetensors")
        cells = Cells(**kept, n_classes=read_json(folder / "cells" / "about.json")[world])
        maker = _Maker(p, cells, seed, own, identity)
        rows = []
        for arm in p.arms(world):
            for model, answers in self._arm(arm, cells, seed, maker, own, identity).items():
                rows.append({"arm": arm.name, "seed": seed, "condition": f"{world}, {model}"} | answers)
        shutil.rmtree(own / "checkpoints", ignore_errors=True)
        return rows

    def _arm(self, arm: Arm, cells: Cells, seed: int, maker: _Maker, own: Path, identity: str) -> dict[str, Row]:
        """Model -> which test cells it got right (of all folds), as strings."""
        p = self.params
        whole = cells.join(*maker.make(arm.generator, None)) if arm.pooled else cells
        units = units_of(arm, whole)
        fold = k_folds(whole.labels.numpy(), units, p.folds, derive(seed, "folds"))[0]
        tested: list[NDArray[Any]] = []
        right: dict[str, list[NDArray[Any]]] = {COLOUR: [], p.network: []}
        for number in range(p.folds):
            test = torch.from_numpy(np.flatnonzero(fold == number))
            rest = np.flatnonzero(fold != number)
            held = split_groups(
                whole.labels.numpy()[rest],
                units[rest],
                (1 - VALIDATION, VALIDATION),
                derive(seed, "validation", number),
            )
            train, val = (torch.from_numpy(rest[held == part]) for part in (0, 1))
            if not len(val):
                raise LeukError(f"study leakage: fold {number} of seed {seed} has no validation cell; take fewer folds")
            images, labels = whole.images[train], whole.labels[train]
            if arm.generator and not arm.pooled:
                made, names = maker.make(arm.generator, train if arm.sees == "training" else None, number, train)
                images, labels = torch.cat([images, made]), torch.cat([labels, names])
            place = own / "checkpoints" / f"{slug(arm.name)}-{number}"
            task = self._task(whole, images, labels, val, seed, place, f"{identity}-{arm.name}-{number}")
            for model, score in ((COLOUR, colour(task)), (p.network, network(p.network, task))):
                answer = score(whole.images[test], None).argmax(axis=1)
                right[model].append(answer == whole.labels[test].numpy())
            tested.append(test.numpy())
        assert not np.isin(np.flatnonzero(fold == ALWAYS_TRAINED), np.concatenate(tested)).any()
        order = np.concatenate(tested)
        about = {
            "cell": ",".join(map(str, order)), "group": ",".join(map(str, whole.groups.numpy()[order])),
            "label": ",".join(map(str, whole.labels.numpy()[order])),
        }  # fmt: skip
        return {
            model: about | {"right": "".join(map(str, np.concatenate(hits).astype(int)))}
            for model, hits in right.items()
        }

    def _task(
        self, whole: Cells, images: Tensor, labels: Tensor, val: Tensor, seed: int, place: Path, identity: str
    ) -> Task:
        p = self.params
        settings = WpatParams(
            dataset=Path(p.dataset).name, seed=seed, threads=p.threads, steps=p.steps, batch_size=p.batch_size, lr=p.lr,
            evaluations=3, accelerator="cpu", muon=0.0, crop_min=0.7, balance="none",
        )  # fmt: skip

        def fit(model: torch.nn.Module, label: str) -> torch.nn.Module:
            return finetune(
                images, labels, whole.images[val], whole.labels[val], model, settings, place, identity,
                make_fabric(settings), n_classes=whole.n_classes, label=label,
            ).model  # fmt: skip

        return Task(images, labels, None, whole.images[val], whole.labels[val], None, whole.n_classes, seed, fit=fit)


def units_of(arm: Arm, cells: Cells) -> NDArray[np.int64]:
    """(N,) numbers of what is dealt out as a whole: the groups, or, by mistake, every cell for itself."""
    return np.arange(len(cells.labels)) if arm.random else cells.groups.numpy()


class _Maker:
    """Synthetic cells of a world and a seed; a generator that was trained on all cells is trained once."""

    def __init__(self, params: LeakageParams, cells: Cells, seed: int, folder: Path, identity: str) -> None:
        self.params, self.cells, self.seed, self.folder, self.identity = params, cells, seed, folder, identity
        self._all: dict[str, tuple[Tensor, Tensor]] = {}

    def make(
        self, generator: str, sees: Tensor | None, fold: int = 0, like: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and labels by a generator trained on the cells at ``sees`` (None: all), as many a class as the cells at
        ``like`` (None: all) times ``synthetic``."""
        c, p = self.cells, self.params
        labels = c.labels if like is None else c.labels[like]
        wanted = (torch.bincount(labels, minlength=c.n_classes) * p.synthetic).round().long()
        if sees is not None:
            return self._train(generator, sees, wanted, f"fold {fold}")
        if generator not in self._all:
            everything = torch.arange(len(c.labels))
            most = (torch.bincount(c.labels, minlength=c.n_classes) * p.synthetic).round().long()
            self._all[generator] = self._train(generator, everything, most, "all")
        made, names = self._all[generator]
        # The first of every class: samples are drawn independently, so that these are a fair draw.
        keep = torch.cat([torch.nonzero(names == k)[:n, 0] for k, n in enumerate(wanted.tolist())])
        return made[keep], names[keep]

    def _train(self, generator: str, sees: Tensor, wanted: Tensor, name: str) -> tuple[Tensor, Tensor]:
        c, p = self.cells, self.params
        if generator == SMOTE:
            return smote(c.images[sees], c.labels[sees], wanted, derive(self.seed, "smote", name))
        size = 1 << (p.image_size.bit_length() - 1)  # the power of two that is not above the images' side
        settings = AcdbGanParams(
            dataset=Path(p.dataset).name, seed=self.seed, threads=p.threads, accelerator="cpu", steps=p.gan_steps,
            gan_size=min(128, size), width=p.gan_width, max_width=3 * p.gan_width,  # type: ignore[arg-type]
        )  # fmt: skip
        place = self.folder / "checkpoints" / slug(f"gan {name}")
        return gan(c.images[sees], c.labels[sees], wanted, settings, place, f"{self.identity}-gan-{name}")
