"""The ladder: what each step of the sequence adds on real cells, and how the whole compares with baselines.

Four models lead from the plain backbone to the full sequence; each differs from the one before by one step. A second
column of models starts from published weights instead. Baselines are trained and tested on the same cells. The learning
rate of each trained model is the best of the same few on validation cells. Every model is also tried on shifted test
cells, on external test sets and, with frozen features, on small sets with classes of their own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.splits import split_groups
from leuk_lib.evaluation import calibration, metrics
from leuk_lib.evaluation.baselines import BASELINES, Scorer, Task, display_name, network, network_scorer
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.evaluation.robustness import SHIFTS, STRENGTHS
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import build_autoencoder, pretrain
from leuk_lib.fcmae.weights import load_backbone, save_backbone
from leuk_lib.runs.files import atomic, read_json, write_json
from leuk_lib.runs.seeds import derive, numpy_rng, torch_generator
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.studies.external import external_cells
from leuk_lib.studies.paired import Outcomes, between, cells_of, scores
from leuk_lib.studies.small_sets import small_cells, small_row
from leuk_lib.studies.study import Row, Study, StudyParams, slug
from leuk_lib.training.backbones import Backbone, TimmBackbone
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.finetune import Finetuned, finetune
from leuk_lib.wpat.linear_head import LinearClassifier
from leuk_lib.wpat.params import WpatParams

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A model of the ladder.

    Attributes:
        start: Weights that the backbone starts from: random, pretrained by FCMAE on the training cells, or published.
        wpat: WPAT on top, or a linear head on pooled features.
        enhanced: ALHE on the images or not.
    """

    start: Literal["random", "fcmae", "published"]
    wpat: bool
    enhanced: bool


#: ACDB-GAN is no step here: all classes have about as many cells, so its quota is 0 and nothing would change.
STEPS = {
    "backbone": Step("random", False, False),
    "+ FCMAE": Step("fcmae", False, False),
    "+ WPAT": Step("fcmae", True, False),
    "+ ALHE": Step("fcmae", True, True),
}
FULL = "+ ALHE"
PUBLISHED_STEPS = {
    "published": Step("published", False, False),
    "published + WPAT": Step("published", True, False),
    "published + ALHE": Step("published", True, True),
}
PUBLISHED_FULL = "published + ALHE"
#: The same head and images on published weights and on those of FCMAE.
COLUMNS = {"published": "+ FCMAE", "published + WPAT": "+ WPAT", PUBLISHED_FULL: FULL}
FRACTIONS = (0.7, 0.1, 0.2)  # training, validation, test
TRAINING, VALIDATION, TEST, EXCLUDED = range(4)  # parts of a split
TRIAL = "trial.json"  # outcome of a trial of a learning rate, in the folder of its job
DIGITS = 5  # of a probability in a row
OTHER = "other "  # prefix of a condition with an external test set; resamples are drawn by the condition's name


class LadderParams(StudyParams):
    """Models, training budget and test conditions of the ladder."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2, description="repetitions: split, weights, batches")
    tuned: tuple[int, ...] = Field(
        (0, 1),
        description="repetitions on whose validation cells settings were chosen; these cells are in no test part",
    )
    image_size: int = Field(64, ge=32, le=512, description="side of the images, pixels")
    per_class: int = Field(0, ge=0, description="largest number of cells per class (0: all)")
    variant: str = Field("zepto", description="size of the encoder")
    stem_stride: int = Field(2, description="stride of the stem; the mask patch is 8 times it")
    pretrain_steps: int = Field(200, ge=2, le=10**7, description="optimiser steps of pretraining")
    pretrain_batch: int = Field(64, ge=4, le=65536, description="masked images per step (a contrastive pair is two)")
    pretrain_lr: float = Field(3e-4, gt=0, le=1, description="peak learning rate of pretraining")
    steps: int = Field(240, ge=1, le=10**6, description="optimiser steps of every trained model")
    batch_size: int = Field(32, ge=2, le=8192, description="images per optimiser step")
    rates: tuple[float, ...] = Field(
        (1e-3, 2e-3, 4e-3), min_length=1, description="peak learning rates that every trained model is tried with"
    )
    rate_steps: int = Field(120, ge=1, le=10**6, description="optimiser steps of a trial of a learning rate")
    muon: float = Field(5.0, ge=0, le=1000, description="learning rate of Muon over that of AdamW, in every model")
    published: str = Field(
        "efficientnet_lite0@pretrained",
        description="network and weights of the second column; empty: no second column",
    )
    networks: tuple[str, ...] = Field(
        ("efficientnet_lite0@pretrained", "resnet10t"), description="trained baselines: names of timm's networks"
    )
    probes: tuple[str, ...] = Field(
        ("majority", "colour", "background", "linear_probe"), description="baselines that train no network"
    )
    mixup: float = Field(0.0, ge=0, description="alpha of mixup, in every trained model")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix, in every trained model")
    crop_min: float = Field(0.9, gt=0, le=1, description="smallest area of a random crop")
    branch_drop: float = Field(
        0.5, ge=0, lt=1, description="share of the training images without WPAT's attention part"
    )
    light: float = Field(0.15, ge=0, lt=1, description="light jitter, in pretraining and in every trained model")
    shifted: tuple[str, ...] = Field(
        (FULL, PUBLISHED_FULL, "efficientnet_lite0@pretrained", "resnet10t", "colour"),
        description="models tried on shifted cells",
    )
    shifted_cells: int = Field(160, ge=8, description="largest number of shifted test cells per repetition")
    external: tuple[str, ...] = Field((), description="external test sets: folders beside the data set's folder")
    small_sets: tuple[str, ...] = Field(
        (), description="folders beside the data set's with classes of their own, for a linear read-out"
    )
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    @property
    def arms(self) -> tuple[str, ...]:
        """All models, the ladder first."""
        return (*self.ladder, *self.probes, *self.networks)

    @property
    def trained(self) -> tuple[str, ...]:
        """The models that are trained, each with a learning rate of its own."""
        return (*self.ladder, *self.networks)

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """Names of the ladder's models, by column."""
        return (tuple(STEPS), tuple(PUBLISHED_STEPS)) if self.published else (tuple(STEPS),)

    @property
    def ladder(self) -> dict[str, Step]:
        """All models of the ladder."""
        return STEPS | (PUBLISHED_STEPS if self.published else {})

    def step(self, arm: str) -> Step:
        """The start, head and images of a model; a baseline has the raw images."""
        return self.ladder.get(arm, Step("random", False, False))

    @model_validator(mode="after")
    def _rates_are_chosen_on_excluded_cells(self) -> Self:
        if self.seeds[0] not in self.tuned:
            raise ValueError(
                f"tuned must name repetition {self.seeds[0]}: learning rates are chosen on its validation cells"
            )
        return self

    def fcmae(self, seed: int) -> FcmaeParams:
        """Pretraining with the laptop profile's optimiser at this study's size, with two views per image."""
        images = self.pretrain_batch // 2
        return FcmaeParams(
            seed=seed, threads=self.threads, accelerator="cpu", images="raw", variant=self.variant,  # type: ignore[arg-type]
            stem_stride=self.stem_stride, steps=self.pretrain_steps, batch_size=images, contrast=1.0,  # type: ignore[arg-type]
            base_lr=256 * self.pretrain_lr / images, checkpoint_every=100, light=self.light,
        )  # fmt: skip

    def wpat(self, seed: int, lr: float, steps: int) -> WpatParams:
        """Training of every model: the same budget, each with its own learning rate."""
        return WpatParams(
            seed=seed, threads=self.threads, accelerator="cpu", steps=steps, batch_size=self.batch_size, lr=lr,
            muon=self.muon, layer_decay=1.0, drop_path=0.0, evaluations=10, checkpoint_every=100, mixup=self.mixup,
            cutmix=self.cutmix, crop_min=self.crop_min, light=self.light,
            branch_drop=self.branch_drop, balance="none",
        )  # fmt: skip


class Ladder(Study[LadderParams]):
    """Each repetition has its own split (by groups), weights and batches, shared by all of its models.

    The test part is scored and never used to choose anything. All repetitions split the same cells, so a validation
    cell of one may be a test cell of another: the validation cells of the repetitions ``tuned`` are removed from every
    test part.
    """

    title = "What does each step add, and which model is best?"
    version = 2
    canary: ClassVar[Mapping[str, Any]] = {
        "seeds": (0, 1), "image_size": 32, "stem_stride": 2, "pretrain_steps": 3, "pretrain_batch": 8, "steps": 3,
        "batch_size": 8, "rates": (1e-3, 3e-3), "rate_steps": 2, "published": "", "networks": ("test_resnet",),
        "shifted": (FULL, "colour"), "shifted_cells": 8, "external": ("elsewhere",), "small_sets": ("patients",), "resamples": 100,
    }  # fmt: skip
    params_model = LadderParams

    def waves(self) -> Sequence[Sequence[str]]:
        """Cells; pretraining of each seed; trials of learning rates; every model of each seed, the first seed first."""
        p = self.params
        return [
            ["cells"],
            [f"pretrain-{seed}" for seed in p.seeds],
            [trial_name(arm, rate) for rate in p.rates for arm in p.trained],
            [f"{slug(arm)}-{seed}" for seed in p.seeds for arm in p.arms],
        ]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """Do one job of any wave."""
        p = self.params
        if job == "cells":
            return write_cells(p, folder / job)
        for arm in p.trained:
            for rate in p.rates:
                if job == trial_name(arm, rate):
                    return self.try_rate(arm, rate, folder, identity)
        for seed in p.seeds:
            if job == f"pretrain-{seed}":
                return self._pretrain(seed, folder, identity)
            for arm in p.arms:
                if job == f"{slug(arm)}-{seed}":
                    return self.evaluate(arm, seed, folder, identity, job)
        raise ValueError(f"no job {job!r}")

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """Return the tables of :func:`outcome_tables`, and `pretraining`, `rates` and `sources`."""
        p = self.params
        of_models = [row for arm in p.arms for seed in p.seeds for row in rows[f"{slug(arm)}-{seed}"]]
        trials = [trial_name(arm, rate) for arm in p.trained for rate in p.rates]
        pretraining = pd.DataFrame([row for job, part in rows.items() if job.startswith("pretrain-") for row in part])
        return outcome_tables(
            of_models, p.columns, [display_name(name) for name in (*p.probes, *p.networks)], tuple(rows["cells"][0]["classes"].split(",")),
            float((pretraining["test"] / pretraining["training"]).mean()), p.resamples, min(p.seeds),
        ) | {
            "pretraining": pretraining,
            "rates": chosen_rates(pd.DataFrame([row for trial in trials for row in rows[trial]])),
            "sources": pd.DataFrame(rows["cells"]).drop(columns="classes"),
        }  # fmt: skip

    # -- jobs --------------------------------------------------------------------------------------------------

    def _cells(self, folder: Path, seed: int) -> SplitCells:
        return SplitCells.read(folder / "cells", seed, self.params.tuned)

    def _pretrain(self, seed: int, folder: Path, identity: str) -> list[Row]:
        cells, params, own = self._cells(folder, seed), self.params.fcmae(seed), folder / f"pretrain-{seed}"
        start = time.process_time()
        result = pretrain(cells.raw[cells.train], params, own / "checkpoints", identity, make_fabric(params))
        save_backbone(result.encoder, own / "encoder.safetensors")
        sizes = {"training": len(cells.train), "validation": len(cells.val), "test": len(cells.test)}
        seconds = time.process_time() - start
        return [{"seed": seed, "loss": result.history[-1]["loss"], "cpu seconds": seconds} | sizes]

    def try_rate(self, arm: str, rate: float, folder: Path, identity: str) -> list[Row]:
        """Train a model of the first repetition for a few steps and score it on the validation part."""
        p, job = self.params, trial_name(arm, rate)
        cells = self._cells(folder, p.seeds[0])
        settings = p.wpat(p.seeds[0], rate, p.rate_steps).model_copy(update={"evaluations": 2})
        _, trained = self._fit(arm, cells, settings, folder, job, identity)
        best = trained[0].curve.sort_values("val_loss").iloc[0]
        row: Row = {
            "arm": display_name(arm), "rate": rate,
            "loss": float(best["val_loss"]), "balanced accuracy": float(best["val_recall"]),
        }  # fmt: skip
        write_json(folder / job / TRIAL, row)
        return [row]

    def _rate(self, arm: str, folder: Path) -> float:
        """The learning rate with the lowest validation loss; the first for a model that is not trained."""
        p = self.params
        if arm not in p.trained:
            return p.rates[0]
        trials = chosen_rates(pd.DataFrame([read_json(folder / trial_name(arm, rate) / TRIAL) for rate in p.rates]))
        return float(trials.loc[trials["chosen"], "rate"].item())

    def evaluate(self, arm: str, seed: int, folder: Path, identity: str, job: str) -> list[Row]:
        """Train one model and keep its probabilities on the validation part and under every test condition."""
        p, cells = self.params, self._cells(folder, seed)
        enhanced = p.step(arm).enhanced
        start = time.process_time()
        score, trained = self._fit(arm, cells, p.wpat(seed, self._rate(arm, folder), p.steps), folder, job, identity)
        seconds = time.process_time() - start
        about: Row = {"arm": display_name(arm), "seed": seed}
        rows: list[Row] = [about | {
            "condition": "training", "cpu seconds": seconds,
            "best step": trained[0].best_step if trained else -1,
            "parameters": sum(q.numel() for q in trained[0].model.parameters()) if trained else 0,
        }]  # fmt: skip
        for condition, images, labels, groups, names in self._conditions(arm, seed, cells):
            probs = score(enhance_cells(images) if enhanced else images, None)
            rows.append(about | pack(condition, probs, labels, groups, names))
        if trained or arm == "colour":
            model = trained[0].model if trained else None
            for name, (images, small_labels, patients) in cells.small_sets.items():
                images = enhance_cells(images) if enhanced else images
                rows.append(about | small_row(name, model, images, small_labels, patients))
        return rows

    def _fit(
        self, arm: str, cells: SplitCells, settings: WpatParams, folder: Path, job: str, identity: str
    ) -> tuple[Scorer, list[Finetuned]]:
        """Fit a model to the training part; return its scorer and, if it is trained, the result of the training."""
        p, classes, seed = self.params, len(cells.classes), settings.seed
        step = p.step(arm)
        trained: list[Finetuned] = []

        def fit(model: nn.Module, label: str) -> nn.Module:
            images = cells.enhanced if step.enhanced else cells.raw
            trained.append(finetune(
                images[cells.train], cells.labels[cells.train], images[cells.val], cells.labels[cells.val], model,
                settings, folder / job / "checkpoints", identity, make_fabric(settings), n_classes=classes, label=label,
            ))  # fmt: skip
            return trained[0].model

        pretrained_encoder = folder / f"pretrain-{seed}" / "encoder.safetensors"
        if arm not in p.ladder:
            task = Task(
                cells.raw[cells.train], cells.labels[cells.train], None,
                cells.raw[cells.val], cells.labels[cells.val], None, classes, seed,
                encoder=load_backbone(pretrained_encoder) if arm in BASELINES else None, fit=fit,
            )  # fmt: skip
            return BASELINES[arm](task) if arm in BASELINES else network(arm, task), trained
        if step.start == "published":
            torch.manual_seed(derive(seed, "ladder", "published"))
            encoder: Backbone = TimmBackbone.of(p.published, p.image_size)
        elif step.start == "fcmae":
            encoder = load_backbone(pretrained_encoder, drop_path=settings.drop_path)
        else:  # the weights that pretraining starts from
            start = folder / job / "start.safetensors"
            save_backbone(build_autoencoder(p.fcmae(seed)).encoder, start)
            encoder = load_backbone(start, drop_path=settings.drop_path)
        model = encoder if step.wpat else LinearClassifier(encoder, classes)
        return network_scorer(fit(model, "ladder")), trained

    def _conditions(
        self, arm: str, seed: int, cells: SplitCells
    ) -> list[tuple[str, Tensor, Tensor, list[str], list[str]]]:
        """Name, raw images, labels, groups and cell names of each condition; all models see the same shifts."""
        p = self.params

        def part(condition: str, index: Tensor, images: Tensor) -> tuple[str, Tensor, Tensor, list[str], list[str]]:
            groups = [str(cells.groups[k]) for k in index.tolist()]
            return condition, images, cells.labels[index], groups, list(map(str, index.tolist()))

        conditions = [
            part("val", cells.val, cells.raw[cells.val]),
            part("test", cells.test, cells.raw[cells.test]),
        ]
        if arm in p.shifted:
            stride = max(1, -(-len(cells.test) // p.shifted_cells))
            some = cells.test[::stride]
            conditions.append(part("shift none 0", some, cells.raw[some]))
            for kind, strengths in STRENGTHS.items():
                for strength in strengths:
                    generator = torch_generator(seed, "shift", kind)
                    images = SHIFTS[kind](cells.raw[some], strength, generator)
                    conditions.append(part(f"shift {kind} {strength:g}", some, images))
        for name, (images, labels, groups) in cells.external.items():
            conditions.append((f"{OTHER}{name}", images, labels, groups, [f"{name}-{k}" for k in range(len(labels))]))
        return conditions


# -- cells -----------------------------------------------------------------------------------------------------


def write_cells(params: LadderParams, folder: Path) -> list[Row]:
    """Read and enhance all cells once, into ``folder``.

    Returns:
        A row per source: cells, groups, how they were grouped, classes.
    """
    dataset, size, workers = params.dataset, params.image_size, params.threads
    data = load_dataset(dataset, size=size, workers=workers, per_class=params.per_class)
    raw = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
    tensors = {"raw": raw, "enhanced": enhance_cells(raw), "labels": torch.from_numpy(data.labels)}
    groups = pd.factorize(data.table["group"])[0].tolist()
    about: dict[str, Any] = {"classes": data.classes, "groups": groups, "external": {}, "small_sets": {}}
    rows: list[Row] = [{
        "source": data.name, "cells": len(raw), "groups": len(set(groups)), "grouped by": data.grouped_by,
        "tested classes": len(data.classes), "classes": ",".join(data.classes),
    }]  # fmt: skip
    for name in params.external:
        other = external_cells(Path(dataset).parent / name, data.classes, size, workers)
        tensors |= {f"{name} images": other.images, f"{name} labels": other.labels}
        about["external"][name] = other.groups
        rows.append({
            "source": name, "cells": len(other.labels), "groups": len(set(other.groups)), "grouped by": "file",
            "tested classes": len(other.labels.unique()), "classes": "",
        })  # fmt: skip
    for name in params.small_sets:
        tensors[f"{name} images"], labels, patients = small_cells(Path(dataset).parent / name, size, workers)
        about["small_sets"][name] = labels, patients
    with atomic(folder / "cells.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(folder / "about.json", about)
    return rows


@dataclass(frozen=True)
class SplitCells:
    """All cells with the split of one repetition.

    Attributes:
        raw: (N,3,S,S) uint8.
        enhanced: (N,3,S,S) uint8, after ALHE.
        labels: (N,) positions in ``classes``.
        groups: (N,).
        classes: class names.
        train: positions of the training cells.
        val: positions of the validation cells.
        test: positions of the test cells.
        external: external test set -> images, labels, groups.
        small_sets: small set -> images, class names of the cells, patients.
    """

    raw: Tensor
    enhanced: Tensor
    labels: Tensor
    groups: NDArray[Any]
    classes: tuple[str, ...]
    train: Tensor
    val: Tensor
    test: Tensor
    external: dict[str, tuple[Tensor, Tensor, list[str]]]
    small_sets: dict[str, tuple[Tensor, list[str], list[str]]]

    @classmethod
    def read(cls, folder: Path, seed: int, tuned: Collection[int]) -> SplitCells:
        """Read what :func:`write_cells` wrote and split it as repetition ``seed`` does.

        The validation cells of the repetitions ``tuned`` are in no test part.
        """
        kept, about = load_file(folder / "cells.safetensors"), read_json(folder / "about.json")
        labels, groups = kept["labels"].numpy(), np.array(about["groups"])
        part = split_groups(labels, groups, FRACTIONS, seed)
        for other in set(tuned) - {seed}:
            part[(part == TEST) & (split_groups(labels, groups, FRACTIONS, other) == VALIDATION)] = EXCLUDED
        train, val, test = (torch.from_numpy(np.flatnonzero(part == k)) for k in (TRAINING, VALIDATION, TEST))
        external = {
            name: (kept[f"{name} images"], kept[f"{name} labels"], names) for name, names in about["external"].items()
        }
        small = {name: (kept[f"{name} images"], *rest) for name, rest in about["small_sets"].items()}
        return cls(
            kept["raw"], kept["enhanced"], kept["labels"], groups, tuple(about["classes"]), train, val, test, external, small
        )  # fmt: skip


# -- tables ----------------------------------------------------------------------------------------------------


def trial_name(arm: str, rate: float) -> str:
    """Name of the job that tries a model with a learning rate.

    >>> trial_name("+ WPAT", 5e-4)
    'rate-0.0005-wpat'
    """
    return f"rate-{rate:g}-{slug(arm)}"


def chosen_rates(trials: pd.DataFrame, by: Sequence[str] = ("arm",)) -> pd.DataFrame:
    """Mark the learning rate with the lowest validation loss of each model, the first of equals: column chosen.

    Args:
        trials: Columns rate, loss, and those of ``by``.
        by: Columns that tell the models apart.
    """
    best = trials.groupby(list(by), sort=False)["loss"].idxmin()
    return trials.assign(chosen=trials.index.isin(best))


def pack(condition: str, probs: Array, labels: Tensor, groups: Sequence[str], cells: Sequence[str]) -> Row:
    """Return the predictions under one condition as a row of plain values.

    Args:
        condition: name of the condition.
        probs: (N,K) probabilities.
        labels: (N,) class positions.
        groups: (N,).
        cells: (N,) names, unique within the condition.
    """
    probs, truth = np.asarray(probs), labels.numpy()
    return {
        "condition": condition, "cell": ",".join(cells), "group": ",".join(groups),
        "label": ",".join(str(int(k)) for k in labels),
        "probs": ",".join(f"{p:.{DIGITS}f}" for p in probs.ravel()),
        "loss": float(-np.log(probs[np.arange(len(truth)), truth] + 1e-12).mean()),
    }  # fmt: skip


def unpack(row: Row, classes: tuple[str, ...]) -> Predictions:
    """Return the predictions that :func:`pack` stored; the probabilities of a cell sum to 1 again."""
    labels = np.array(row["label"].split(","), dtype=np.int64)
    probs = np.array(row["probs"].split(","), dtype=np.float64).reshape(len(labels), -1)
    return Predictions(labels, probs / probs.sum(axis=1, keepdims=True), np.array(row["group"].split(",")), classes)


def outcome_tables(
    rows: Sequence[Row], columns: Sequence[Sequence[str]], baselines: Sequence[str], classes: tuple[str, ...],
    test_over_train: float, resamples: int, seed: int,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Return the tables of the study from the rows of all models.

    Args:
        rows: rows of all models.
        columns: the ladder's models by column, each ending with its full model.
        baselines: the other models.
        classes: class names.
        test_over_train: size of the test part over that of the training part.
        resamples: bootstrap resamples.
        seed: seed of the resamples.

    Returns:
        scores: balanced accuracy of every model on the test cells.
        steps: each model of a column minus the one before.
        columns: each model on published weights minus the one with the same head and images on FCMAE's.
        baselines: the full model minus each baseline.
        published_baselines: the full model on published weights minus each baseline.
        best_baseline: the baseline with the lowest validation loss.
        calibration: measures before and after temperature scaling.
        abstention: accuracy of the most confident cells.
        recalls: recall per class.
        training: time, best step and size of every trained model.
        shifts, external, small_sets: scores under these conditions, where there are any.
        shifts_gaps, external_gaps, small_sets_gaps: the full model minus the others there.
    """
    predicted = [row for row in rows if "probs" in row]
    outcomes = outcomes_of([row for row in predicted if row["condition"] == "test"], classes, resamples, seed)
    ladder, full = [arm for column in columns for arm in column], [column[-1] for column in columns]
    before = [pair for column in columns for pair in zip(column[1:], column[:-1], strict=True)]
    best = best_baseline(predicted, baselines, classes)
    tables = {
        "scores": scores(outcomes),
        "steps": between(outcomes, before, test_over_train),
        "baselines": between(outcomes, [(full[0], baseline) for baseline in baselines], test_over_train),
        "best_baseline": pd.DataFrame([{"arm": best, "chosen by": "validation loss, mean over repetitions"}]),
        "calibration": calibrated(predicted, [*ladder, *baselines], classes, resamples, seed),
        "abstention": abstained(predicted, [*full, best], classes, resamples, seed),
        "recalls": recalls(predicted, [*full, best], classes),
        "training": pd.DataFrame([row for row in rows if row["condition"] == "training"]).drop(columns="condition"),
    }
    if len(columns) > 1:
        tables["columns"] = between(outcomes, COLUMNS.items(), test_over_train)
        against = [(PUBLISHED_FULL, baseline) for baseline in baselines]
        tables["published_baselines"] = between(outcomes, against, test_over_train)
    for name, prefix in (("shifts", "shift "), ("external", OTHER)):
        some = [row for row in predicted if str(row["condition"]).startswith(prefix)]
        if some:
            conditions = outcomes_of(some, classes, resamples, seed, shared_only=prefix == OTHER)
            tables[name] = scores(conditions)
            arms = conditions.arms
            pairs = [(arm, baseline) for arm in full if arm in arms for baseline in arms if baseline in baselines]
            tables[f"{name}_gaps"] = between(conditions, pairs, test_over_train) if pairs else pd.DataFrame()
    small = [row for row in rows if str(row["condition"]).startswith("small ")]
    if small:
        read_out = Outcomes(cells_of(small), resamples, seed)
        tables["small_sets"] = scores(read_out)
        pairs = [(arm, other) for arm in full for other in read_out.arms if other not in full]
        tables["small_sets_gaps"] = between(read_out, pairs, test_over_train)
    return tables


def best_baseline(rows: Sequence[Row], baselines: Sequence[str], classes: tuple[str, ...]) -> str:
    """Return the baseline with the lowest mean loss on the validation parts."""

    def loss(arm: str) -> float:
        parts = [unpack(row, classes) for row in rows if row["arm"] == arm and row["condition"] == "val"]
        return float(np.mean([metrics.nll_of_cells(part).mean() for part in parts]))

    return min(baselines, key=loss)


def calibrated(
    rows: Sequence[Row], arms: Sequence[str], classes: tuple[str, ...], resamples: int, seed: int
) -> pd.DataFrame:
    """Return `calibration.scaling_table` of every model, with a column arm."""
    tables = [
        calibration.scaling_table(_repetitions(rows, arm, classes), resamples, seed).assign(arm=arm) for arm in arms
    ]
    return pd.concat(tables, ignore_index=True)


def abstained(
    rows: Sequence[Row], arms: Sequence[str], classes: tuple[str, ...], resamples: int, seed: int
) -> pd.DataFrame:
    """Return ``abstention_curve`` of each model over the test cells of all repetitions, after temperature scaling.

    Repetitions and groups are resampled for the intervals, as for the scores.
    """
    tables = []
    for arm in arms:
        parts = []
        for val, test in _repetitions(rows, arm, classes):
            parts.append(test.with_probs(calibration.apply_temperature(test.probs, calibration.fit_temperature(val))))
        whole = _pooled(parts)
        repetition = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        bootstrap = ClusterBootstrap.crossed(whole.groups, repetition, resamples, numpy_rng(seed, "abstention"))
        tables.append(calibration.abstention_curve(whole, bootstrap).assign(arm=arm))
    return pd.concat(tables, ignore_index=True)


def recalls(rows: Sequence[Row], arms: Sequence[str], classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the recall per class over the test cells of all repetitions: class, n, correct, recall, arm, groups."""
    tables = []
    for arm in arms:
        whole = _pooled([test for _, test in _repetitions(rows, arm, classes)])
        tables.append(metrics.recalls(whole).assign(arm=arm, groups=whole.group_counts))
    return pd.concat(tables, ignore_index=True)


def _pooled(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        np.concatenate([part.labels for part in parts]), np.concatenate([part.probs for part in parts]),
        np.concatenate([part.groups for part in parts]), parts[0].classes,
    )  # fmt: skip


def _repetitions(rows: Sequence[Row], arm: str, classes: tuple[str, ...]) -> list[tuple[Predictions, Predictions]]:
    """Validation and test predictions of each repetition of a model."""
    by_seed: dict[int, dict[str, Predictions]] = {}
    for row in rows:
        if row["arm"] == arm and row["condition"] in ("val", "test"):
            by_seed.setdefault(row["seed"], {})[row["condition"]] = unpack(row, classes)
    return [(parts["val"], parts["test"]) for parts in by_seed.values()]


def outcomes_of(
    rows: Sequence[Row], classes: tuple[str, ...], resamples: int, seed: int, shared_only: bool = False
) -> Outcomes:
    """One row per test cell; ``shared_only``: the prediction is the likeliest of the classes that the condition has."""
    parts = []
    for row in rows:
        part = unpack(row, classes)
        allowed = part.present if shared_only else np.arange(len(classes))
        predicted = allowed[part.probs[:, allowed].argmax(axis=1)]
        parts.append(pd.DataFrame({
            "arm": row["arm"], "seed": row["seed"], "condition": row["condition"], "cell": row["cell"].split(","),
            "group": part.groups, "label": part.labels.astype(str), "right": (predicted == part.labels).astype(int),
        }))  # fmt: skip
    return Outcomes(pd.concat(parts, ignore_index=True), resamples, seed)
