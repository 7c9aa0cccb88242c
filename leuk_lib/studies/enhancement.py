"""Does ALHE help a classifier? One small network, trained and tested with and without enhancement, in paired runs."""

from __future__ import annotations

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

from leuk_lib.alhe.baselines import clahe_2
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.splits import split_groups
from leuk_lib.evaluation.baselines import Task, network
from leuk_lib.evaluation.robustness import SHIFTS
from leuk_lib.runs.files import atomic, read_json, write_json
from leuk_lib.runs.seeds import derive
from leuk_lib.studies.external import external_cells
from leuk_lib.studies.paired import Outcomes, cells_of, differences, hits_row, scores
from leuk_lib.studies.study import Row, Study, StudyParams, slug
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.finetune import finetune
from leuk_lib.wpat.params import WpatParams

STRENGTHS = (1.5, 2.0, 3.0)  # clip_limit of ALHE as augmentation
OTHER = "other source"


@dataclass(frozen=True)
class Arm:
    """One way to prepare the images.

    Attributes:
        enhancement: how training and test images are enhanced: raw, clahe or alhe.
        augmented: half of the training images are enhanced at a random strength, the test images are not.
        jitter: stain and light augmentation in training.
    """

    enhancement: str
    augmented: bool = False
    jitter: bool = True


ARMS = {
    "none": Arm("raw"),
    "CLAHE 2": Arm("clahe"),
    "ALHE": Arm("alhe"),
    "ALHE as augmentation": Arm("raw", augmented=True),
    "none, no jitter": Arm("raw", jitter=False),
    "ALHE, no jitter": Arm("alhe", jitter=False),
}
# Each arm is compared with the one that differs in the enhancement only.
BASE = {name: "none" if arm.jitter else "none, no jitter" for name, arm in ARMS.items()}


class EnhancementParams(StudyParams):
    """Arms, training budget and strength of the shifts."""

    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=2, description="repetitions: split, weights, batches")
    arms: tuple[str, ...] = Field(tuple(ARMS), min_length=2, description="arms that are compared")
    network: str = Field("test_resnet", description="timm model, trained from random weights")
    image_size: int = Field(64, ge=32, le=512, description="side of the images, pixels")
    per_class: int = Field(0, ge=0, description="largest number of cells per class (0: all)")
    steps: int = Field(400, ge=1, le=10**6, description="optimiser steps of every arm")
    batch_size: int = Field(48, ge=2, le=8192, description="images per optimiser step")
    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    stain: float = Field(0.15, gt=0, lt=1, description="stain jitter of the arms that have jitter")
    light: float = Field(0.15, ge=0, lt=1, description="light jitter of the arms that have jitter")
    stain_shifts: tuple[float, ...] = Field((0.3, 0.5, 0.7), description="largest change of a stain in the test images")
    light_shifts: tuple[float, ...] = Field((0.2, 0.4, 0.6), description="fall-off of the light in the test images")
    other: str = Field("", description="external test set: folder beside the data set's folder")
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    @field_validator("arms")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ARMS:
                raise ValueError(f"unknown arm {name!r}; allowed: {', '.join(ARMS)}")
            if BASE[name] not in names:
                raise ValueError(f"arm {name!r} is compared with {BASE[name]!r}, which is not among the arms")
        return names


class Enhancement(Study[EnhancementParams]):
    """Every arm trains the same network for the same steps; the arms of a seed share split, weights and batches.

    Raw test images are shifted first and enhanced afterwards, where the arm enhances.
    """

    title = "Does enhancement help to classify?"
    version = 2
    canary: ClassVar[Mapping[str, Any]] = {
        "seeds": (0, 1), "image_size": 32, "steps": 3, "batch_size": 8, "stain_shifts": (0.4,), "light_shifts": (0.5,),
        "resamples": 100, "other": "elsewhere",
    }  # fmt: skip
    params_model = EnhancementParams

    def waves(self) -> Sequence[Sequence[str]]:
        """The images; then every arm of every seed."""
        return [["images"], [f"{slug(arm)}-{seed}" for seed in self.params.seeds for arm in self.params.arms]]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """``images``: read and enhance all cells. Else: train one arm and test it under each condition."""
        if job == "images":
            return self._images(folder / job)
        name, seed = next(
            (arm, seed) for arm in self.params.arms for seed in self.params.seeds if job == f"{slug(arm)}-{seed}"
        )
        return self._train(name, seed, folder, identity)

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """`scores`: balanced accuracy; `differences`: from the arm without enhancement; `sources`."""
        cells = pd.concat([cells_of(part) for job, part in rows.items() if job != "images"], ignore_index=True)
        outcomes = Outcomes(cells, self.params.resamples, min(self.params.seeds))
        test = cells.drop_duplicates(["seed", "cell", "condition"])
        share = (test["condition"] == "same").sum() / len(self.params.seeds) / rows["images"][0]["cells"]
        return {
            "scores": scores(outcomes),
            "differences": differences(outcomes, BASE, test_over_train=share / 0.7),
            "sources": pd.DataFrame(rows["images"]),
        }

    # -- one job -----------------------------------------------------------------------------------------------

    def _images(self, folder: Path) -> list[Row]:
        p = self.params
        data = load_dataset(p.dataset, size=p.image_size, workers=p.threads, per_class=p.per_class)
        images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
        kept = {"raw": images, "labels": torch.from_numpy(data.labels)}
        kept |= {
            enhancement: enhance(images, enhancement)
            for enhancement in sorted({ARMS[arm].enhancement for arm in p.arms} - {"raw"})
        }
        if any(ARMS[arm].augmented for arm in p.arms):
            kept |= {f"alhe {k:g}": enhance_cells(images, EnhanceParams(clip_limit=k)) for k in STRENGTHS}
        about: dict[str, Any] = {
            "classes": data.classes, "groups": _numbers(data.table["group"].tolist()), "other groups": [],
        }  # fmt: skip
        rows: list[Row] = [
            {"source": data.name, "cells": len(images), "classes": len(data.classes), "grouped by": data.grouped_by}
        ]
        if p.other:
            other = external_cells(Path(p.dataset).parent / p.other, data.classes, p.image_size, p.threads)
            kept |= {"other raw": other.images, "other labels": other.labels}
            about["other groups"] = _numbers(other.groups)
            rows.append({
                "source": p.other, "cells": len(other.labels), "classes": len(other.labels.unique()),
                "grouped by": other.grouped_by,
            })  # fmt: skip
        with atomic(folder / "images.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in kept.items()}, temporary)
        write_json(folder / "about.json", about)
        return rows

    def _train(self, name: str, seed: int, folder: Path, identity: str) -> list[Row]:
        p, arm = self.params, ARMS[name]
        kept, about = load_file(folder / "images" / "images.safetensors"), read_json(folder / "images" / "about.json")
        labels = kept["labels"]
        part = torch.from_numpy(split_groups(labels.numpy(), np.array(about["groups"]), (0.7, 0.1, 0.2), seed))
        train, val, test = (torch.nonzero(part == k)[:, 0] for k in range(3))
        settings = WpatParams(
            dataset=Path(p.dataset).name, seed=seed, threads=p.threads, steps=p.steps, batch_size=p.batch_size, lr=p.lr,
            stain=p.stain if arm.jitter else 0.0, light=p.light if arm.jitter else 0.0,
            accelerator="cpu", muon=0.0, crop_min=0.7, balance="none",
        )  # fmt: skip
        images, truth = kept[arm.enhancement][train], labels[train]
        if arm.augmented:  # as many raw images as enhanced ones, in equal shares of the strengths
            versions = [images] * len(STRENGTHS) + [kept[f"alhe {k:g}"][train] for k in STRENGTHS]
            images, truth = torch.cat(versions), truth.repeat(len(versions))
        val_images, val_labels = kept[arm.enhancement][val], labels[val]

        def fit(model: torch.nn.Module, label: str) -> torch.nn.Module:
            checkpoints = folder / f"{slug(name)}-{seed}" / "checkpoints"
            fabric = make_fabric(settings)
            return finetune(
                images, truth, val_images, val_labels, model, settings, checkpoints, identity, fabric,
                n_classes=len(about["classes"]), label=label,
            ).model  # fmt: skip

        task = Task(images, truth, None, val_images, val_labels, None, len(about["classes"]), seed, fit=fit)
        score = network(p.network, task)
        rows = []
        for condition, shifted, known, groups in self._conditions(kept, about, test, seed):
            probs = score(enhance(shifted, arm.enhancement), None)
            allowed = np.unique(known) if condition == OTHER else np.arange(probs.shape[1])
            predicted = allowed[probs[:, allowed].argmax(axis=1)]
            numbers = range(len(known)) if condition == OTHER else test.tolist()
            loss = -np.log(probs[np.arange(len(known)), known] + 1e-12).mean()
            rows.append(
                {"arm": name, "seed": seed, "condition": condition, "loss": float(loss)}
                | hits_row(numbers, groups, known, predicted == known)
            )
        return rows

    def _conditions(
        self, kept: Mapping[str, Tensor], about: Mapping[str, Any], test: Tensor, seed: int
    ) -> list[tuple[str, Tensor, NDArray[np.int64], list[int]]]:
        """Name, raw test images, labels and groups of each condition; all arms of a seed see the same shifts."""
        raw, labels = kept["raw"][test], kept["labels"][test].numpy()
        groups = [about["groups"][k] for k in test.tolist()]
        conditions = [("same", raw, labels, groups)]
        for kind, strengths in (("stain", self.params.stain_shifts), ("light", self.params.light_shifts)):
            for strength in strengths:
                generator = torch.Generator().manual_seed(derive(seed, "shift", kind) % 2**63)
                conditions.append((f"{kind} {strength:g}", SHIFTS[kind](raw, strength, generator), labels, groups))
        if self.params.other:
            conditions.append((OTHER, kept["other raw"], kept["other labels"].numpy(), about["other groups"]))
        return conditions


def _numbers(groups: list[str]) -> list[int]:
    return [int(number) for number in pd.factorize(np.array(groups, dtype=object))[0]]


def enhance(images: Tensor, enhancement: str) -> Tensor:
    """Enhance images (N,3,H,W) uint8 as an arm does: raw, clahe or alhe."""
    if enhancement == "raw":
        return images
    if enhancement == "alhe":
        return enhance_cells(images)
    arrays = images.permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack([clahe_2(np.ascontiguousarray(image)) for image in arrays])).permute(0, 3, 1, 2)
