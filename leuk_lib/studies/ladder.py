"""The ladder and its rivals on real cells: what each step adds, who is ahead, and under what shifts it stays so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.evaluation.baselines import BASELINES, Scorer, Task, network, network_scorer
from leuk_lib.evaluation.robustness import SHIFTS, STRENGTHS
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import build_autoencoder, pretrain
from leuk_lib.fcmae.weights import load_backbone, save_backbone
from leuk_lib.runs.seeds import torch_generator
from leuk_lib.studies import ladder_tables
from leuk_lib.studies.ladder_cells import Material, gather
from leuk_lib.studies.small_sets import small_row
from leuk_lib.studies.study import Row, Study, StudyParams, slug
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.finetune import Finetuned, finetune
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.pooled import PooledClassifier


@dataclass(frozen=True)
class Step:
    """One step of the ladder: whether the encoder is pretrained, WPAT stands on it, and the images went through ALHE."""

    pretrained: bool
    wpat: bool
    enhanced: bool


#: ACDB-GAN is no step here: every class has as many cells, so its quota is 0 and nothing would change.
STEPS = {
    "backbone": Step(False, False, False),
    "+ FCMAE": Step(True, False, False),
    "+ WPAT": Step(True, True, False),
    "+ ALHE": Step(True, True, True),
}
FULL = "+ ALHE"


class LadderParams(StudyParams):
    """What is trained, for how long, and on what it is tried."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2, description="repetitions: split, weights, batches")
    tuned: tuple[int, ...] = Field(
        (0, 1), description="repetitions on whose validation cells settings were chosen: no test part has these cells"
    )
    image_size: int = Field(64, ge=32, le=512, description="side of the images, pixels")
    per_class: int = Field(0, ge=0, description="at most this many cells a class (0: all)")
    variant: str = Field("zepto", description="size of the encoder")
    stem_stride: int = Field(2, description="stride of the stem; the mask patch is 8 times it")
    pretrain_steps: int = Field(200, ge=2, le=10**7, description="optimiser steps of pretraining")
    pretrain_batch: int = Field(64, ge=4, le=65536, description="masked images a step (a contrastive pair is two)")
    pretrain_lr: float = Field(3e-4, gt=0, le=1, description="peak learning rate of pretraining")
    steps: int = Field(240, ge=1, le=10**6, description="optimiser steps of every trained model")
    batch_size: int = Field(32, ge=2, le=8192, description="images an optimiser step")
    lr: float = Field(2e-3, gt=0, le=1, description="peak learning rate of the ladder's models")
    muon: float = Field(5.0, ge=0, le=1000, description="Muon's rate over AdamW's, in every trained model")
    networks: dict[str, float] = Field(
        {"resnet10t": 3e-3, "swin_mini": 1e-3}, description="trained rivals and the peak learning rate of each"
    )
    probes: tuple[str, ...] = Field(
        ("majority", "colour", "background", "linear_probe"), description="rivals that train no network"
    )
    mixup: float = Field(0.0, ge=0, description="alpha of mixup, in every trained model")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix, in every trained model")
    crop_min: float = Field(0.9, gt=0, le=1, description="smallest area of a random crop")
    shifted: tuple[str, ...] = Field(
        ("+ ALHE", "resnet10t", "colour"), description="models tried on shifted test images"
    )
    shifted_cells: int = Field(160, ge=8, description="test cells of a repetition that are shifted, at most")
    others: tuple[str, ...] = Field((), description="folders beside the data set's, for testing only")
    small: tuple[str, ...] = Field(
        (), description="folders beside the data set's with classes of their own, for a read-out of frozen features"
    )
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    @property
    def arms(self) -> tuple[str, ...]:
        """All models, the ladder first."""
        return (*STEPS, *self.probes, *self.networks)

    def fcmae(self, seed: int) -> FcmaeParams:
        """Pretraining by the laptop profile's optimiser at this study's size, with two views: no slides are known."""
        images = self.pretrain_batch // 2
        return FcmaeParams(
            seed=seed, threads=self.threads, accelerator="cpu", images="raw", variant=self.variant,  # type: ignore[arg-type]
            stem_stride=self.stem_stride, steps=self.pretrain_steps, batch_size=images, contrast=1.0,  # type: ignore[arg-type]
            lr_scale=256 * self.pretrain_lr / images, checkpoint_every=100,
        )  # fmt: skip

    def wpat(self, seed: int, lr: float) -> WpatParams:
        """The budget of every trained model; only the learning rate is each one's own."""
        return WpatParams(
            seed=seed, threads=self.threads, accelerator="cpu", steps=self.steps, batch_size=self.batch_size, lr=lr,
            muon=self.muon, layer_decay=1.0, drop_path=0.0, evaluations=10, checkpoint_every=100, mixup=self.mixup,
            cutmix=self.cutmix, crop_min=self.crop_min, balance="none",
        )  # fmt: skip


class Ladder(Study[LadderParams]):
    """Every repetition has its own split (by groups), weights and batches; all models of a repetition share them.

    The test part is scored, never used to choose anything. Since every repetition deals the same cells anew, what one of
    them validates on may be another's test cells: those of the repetitions ``tuned`` are left out of every test part.
    """

    title = "What does each step add, and who is ahead?"
    params_model = LadderParams

    def waves(self) -> Sequence[Sequence[str]]:
        """The cells; pretraining of every seed; every model of every seed (the first seed's models first)."""
        p = self.params
        return [
            ["cells"],
            [f"pretrain-{seed}" for seed in p.seeds],
            [f"{slug(arm)}-{seed}" for seed in p.seeds for arm in p.arms],
        ]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """One job of any wave."""
        p = self.params
        if job == "cells":
            return gather(p.dataset, p.image_size, p.per_class, p.threads, p.others, p.small, folder / job)
        for seed in p.seeds:
            if job == f"pretrain-{seed}":
                return self._pretrain(seed, folder, identity)
            for arm in p.arms:
                if job == f"{slug(arm)}-{seed}":
                    return self._judge(arm, seed, folder, identity)
        raise ValueError(f"no job {job!r}")

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """`scores`, `steps`, `rivals`: the same test cells; `shifts`, `calibration`, `abstention`; `training`, `sources`."""
        p = self.params
        judged = [
            row for job, found in rows.items() if job != "cells" and not job.startswith("pretrain-") for row in found
        ]
        pretraining = pd.DataFrame([row for job, found in rows.items() if job.startswith("pretrain-") for row in found])
        return ladder_tables.tables(
            judged, list(STEPS), FULL, [*p.probes, *p.networks], tuple(rows["cells"][0]["classes"].split(",")),
            float((pretraining["test"] / pretraining["training"]).mean()), p.resamples, min(p.seeds),
        ) | {
            "pretraining": pretraining,
            "sources": pd.DataFrame(rows["cells"]).drop(columns="classes"),
        }  # fmt: skip

    # -- jobs --------------------------------------------------------------------------------------------------

    def _material(self, folder: Path, seed: int) -> Material:
        return Material.read(folder / "cells", seed, self.params.tuned)

    def _pretrain(self, seed: int, folder: Path, identity: str) -> list[Row]:
        material, params, own = self._material(folder, seed), self.params.fcmae(seed), folder / f"pretrain-{seed}"
        start = time.process_time()
        result = pretrain(material.raw[material.train], params, own / "checkpoints", identity, make_fabric(params))
        save_backbone(result.encoder, own / "encoder.safetensors")
        sizes = {"training": len(material.train), "validation": len(material.val), "test": len(material.test)}
        seconds = time.process_time() - start
        return [{"seed": seed, "loss": result.history[-1]["loss"], "cpu seconds": seconds} | sizes]

    def _judge(self, arm: str, seed: int, folder: Path, identity: str) -> list[Row]:
        """Train one model, and keep its probabilities of the validation part, the test part, and what they become."""
        p, material = self.params, self._material(folder, seed)
        step = STEPS.get(arm, Step(False, False, False))
        trained: list[Finetuned] = []
        start = time.process_time()

        def fit(model: nn.Module, label: str) -> nn.Module:
            settings = p.wpat(seed, p.networks.get(arm, p.lr))
            images = material.enhanced if step.enhanced else material.raw
            trained.append(finetune(
                images[material.train], material.labels[material.train],
                images[material.val], material.labels[material.val], model, settings,
                folder / f"{slug(arm)}-{seed}" / "checkpoints", identity, make_fabric(settings),
                n_classes=len(material.classes), label=label,
            ))  # fmt: skip
            return trained[0].model

        score = self._scorer(arm, step, seed, material, folder, fit)
        seconds = time.process_time() - start

        def judge(images: Tensor) -> NDArray[np.float64]:
            return score(enhance_cells(images) if step.enhanced else images, None)

        about: Row = {"arm": arm, "seed": seed}
        rows: list[Row] = [about | {
            "condition": "training", "cpu seconds": seconds,
            "best step": trained[0].best_step if trained else -1,
            "parameters": sum(q.numel() for q in trained[0].model.parameters()) if trained else 0,
        }]  # fmt: skip
        for condition, images, labels, groups, cells in self._conditions(arm, seed, material):
            probs = judge(images)
            rows.append(about | ladder_tables.pack(condition, probs, labels, groups, cells))
        if trained or arm == "colour":
            model = trained[0].model if trained else None
            for name, (small, names, patients) in material.small.items():
                small = enhance_cells(small) if step.enhanced else small
                rows.append(about | small_row(name, model, small, names, patients))
        return rows

    def _scorer(
        self, arm: str, step: Step, seed: int, material: Material, folder: Path,
        fit: Callable[[nn.Module, str], nn.Module],
    ) -> Scorer:  # fmt: skip
        p, classes = self.params, len(material.classes)
        pretrained = folder / f"pretrain-{seed}" / "encoder.safetensors"
        if arm in STEPS:
            drop = p.wpat(seed, p.lr).drop_path
            if step.pretrained:
                encoder = load_backbone(pretrained, drop_path=drop)
            else:  # the very weights that pretraining starts from
                save = folder / f"{slug(arm)}-{seed}" / "start.safetensors"
                save_backbone(build_autoencoder(p.fcmae(seed)).encoder, save)
                encoder = load_backbone(save, drop_path=drop)
            model = encoder if step.wpat else PooledClassifier(encoder, classes)
            return network_scorer(fit(model, "ladder"))
        task = Task(
            material.raw[material.train], material.labels[material.train], None,
            material.raw[material.val], material.labels[material.val], None, classes, seed,
            encoder=load_backbone(pretrained), fit=fit,
        )  # fmt: skip
        return BASELINES[arm](task) if arm in BASELINES else network(arm, task)

    def _conditions(
        self, arm: str, seed: int, material: Material
    ) -> list[tuple[str, Tensor, Tensor, list[str], list[str]]]:
        """Name, raw images, labels, groups and cells. A repetition's shifts are the same for all models."""
        p = self.params

        def part(condition: str, index: Tensor, images: Tensor) -> tuple[str, Tensor, Tensor, list[str], list[str]]:
            groups = [str(material.groups[k]) for k in index.tolist()]
            return condition, images, material.labels[index], groups, list(map(str, index.tolist()))

        found = [
            part("val", material.val, material.raw[material.val]),
            part("test", material.test, material.raw[material.test]),
        ]
        if arm in p.shifted:
            stride = max(1, -(-len(material.test) // p.shifted_cells))
            some = material.test[::stride]
            found.append(part("shift none 0", some, material.raw[some]))
            for kind, strengths in STRENGTHS.items():
                for strength in strengths:
                    generator = torch_generator(seed, "shift", kind)
                    images = SHIFTS[kind](material.raw[some], strength, generator)
                    found.append(part(f"shift {kind} {strength:g}", some, images))
        for name, (images, labels, groups) in material.others.items():
            cells = [f"{name}-{k}" for k in range(len(labels))]
            found.append((f"other {name}", images, labels, groups, cells))
        return found
