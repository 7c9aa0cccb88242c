"""Where does WPAT look on real cells? Attribution maps against masks, and whether they depend on the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from leuk_lib.data.loading import Dataset, load_dataset
from leuk_lib.data.splits import k_folds, split_groups
from leuk_lib.evaluation.attribution import (
    attention_maps,
    attribution_shares,
    border_contrast_map,
    integrated_gradients,
    summarise_shares,
)
from leuk_lib.evaluation.sanity import Method, cascading_randomisation, summarise
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive
from leuk_lib.studies.paired import Outcomes, scores
from leuk_lib.studies.study import Row, Study, StudyParams
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.subset import evenly_spaced
from leuk_lib.wpat.finetune import finetune, predict_logits
from leuk_lib.wpat.model import WPAT, format_1_name, parts_of
from leuk_lib.wpat.params import WpatParams

ATTENTION, GRADIENTS, SENSITIVITY, IMAGE = "attention", "gradients", "sensitivity", "image alone"
VALIDATION = 0.125  # of the cells that are not tested
ARM = "WPAT"


class ExplanationParams(StudyParams):
    """Training budget and computation of the maps."""

    dataset: str = Field("smear", min_length=1, description="'smear' (rendered cells) or a folder of images with masks")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="repetitions: folds, weights, batches")
    cells: int = Field(600, ge=100, le=10**6, description="rendered cells; unused for a folder")
    image_size: int = Field(64, ge=32, le=512, description="side of the images, pixels")
    folds: int = Field(
        3, ge=2, le=20, description="folds; every cell is explained by the model that was not trained on it"
    )
    variant: str = Field("zepto", description="size of the encoder, trained from random weights")
    stem_stride: int = Field(2, description="stride of the encoder's stem")
    steps: int = Field(200, ge=1, le=10**6, description="optimiser steps of every model")
    batch_size: int = Field(32, ge=2, le=8192, description="images per step")
    lr: float = Field(2e-3, gt=0, le=1, description="peak learning rate")
    gradient_steps: int = Field(8, ge=1, le=512, description="points of the integrated-gradients path")
    checked: int = Field(
        32, ge=2, le=10**5, description="cells per fold whose maps are checked with randomised weights"
    )
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")


class Explanation(Study[ExplanationParams]):
    """Grouped folds; the maps explain the predicted class, right or wrong."""

    title = "Where does WPAT look, and do the maps depend on its weights?"
    version = 1
    canary: ClassVar[Mapping[str, Any]] = {
        "dataset": "smear", "cells": 240, "image_size": 32, "stem_stride": 2, "folds": 2, "steps": 3, "batch_size": 8,
        "gradient_steps": 2, "checked": 6, "resamples": 100,
    }  # fmt: skip
    params_model = ExplanationParams

    def waves(self) -> Sequence[Sequence[str]]:
        """One wave of all folds of all seeds."""
        return [[f"fold-{seed}-{fold}" for seed in self.params.seeds for fold in range(self.params.folds)]]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """Train without a fold and explain its cells: a row per cell and fact."""
        p = self.params
        seed, fold = (int(word) for word in job.removeprefix("fold-").split("-"))
        data = load_dataset(p.dataset, size=p.image_size, workers=p.threads, cells=p.cells)
        if data.masks is None:
            raise LeukError(f"study explanation: {data.name} has no masks, which the maps are compared with")
        images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
        labels, groups = data.labels, data.table["group"].to_numpy(dtype=str)
        part = k_folds(labels, groups, p.folds, derive(seed, "folds"))[0]
        rest, test = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        part_of_rest = split_groups(
            labels[rest], groups[rest], (1 - VALIDATION, VALIDATION), derive(seed, "validation", fold)
        )
        model = self._train(
            images,
            labels,
            rest[part_of_rest == 0],
            rest[part_of_rest == 1],
            len(data.classes),
            seed,
            folder / job,
            identity,
        )
        shown = images[test]
        logits = predict_logits(model, shown, torch.device("cpu"))
        answers = logits.argmax(dim=1)
        losses = functional.cross_entropy(logits, torch.from_numpy(labels[test]), reduction="none")
        rows: list[Row] = [
            {
                "fact": "answer", "cell": int(c), "group": groups[c], "label": int(labels[c]), "loss": loss,
                "value": float(answer == labels[c]),
            }
            for c, answer, loss in zip(test.tolist(), answers.tolist(), losses.tolist(), strict=True)
        ]  # fmt: skip
        methods = self._methods(shown, answers)
        rows += self._shares({name: method(model) for name, method in methods.items()}, data, test, groups)
        few = evenly_spaced(len(test), p.checked)
        checked = cascading_randomisation(
            model, parts_of(model), self._methods(shown[few], answers[few]), seed, format_1_name
        )
        rows += [
            {"fact": "sanity", "cell": int(test[few[row["cell"]]]), "group": groups[test[few[row["cell"]]]]}
            | {key: row[key] for key in ("method", "randomised", "value")}
            for row in checked.to_dict("records")
        ]  # fmt: skip
        return rows

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """Return `attribution` (`summarise_shares`), `sanity` (`sanity.summarise`) and `scores` (balanced accuracy)."""
        p = self.params
        whole = pd.concat([pd.DataFrame(part).assign(job=job) for job, part in rows.items()], ignore_index=True)
        whole["cell"] = pd.factorize(whole["job"] + " " + whole["cell"].astype(str))[0]
        names = whole.drop_duplicates("cell").set_index("cell")["group"].sort_index().to_numpy(dtype=str)
        shares = whole[whole["fact"] == "share"]
        tables = {str(name): part for name, part in shares.groupby("method", sort=False)}
        answers = whole[whole["fact"] == "answer"].assign(
            arm=ARM, condition="folds", seed=lambda t: t["job"].str.split("-").str[1].astype(int),
            right=lambda t: t["value"].astype(int), label=lambda t: t["label"].astype(int),
        )  # fmt: skip
        return {
            "attribution": summarise_shares(tables, names, min(p.seeds), p.resamples),
            "sanity": summarise(whole[whole["fact"] == "sanity"], names, min(p.seeds), p.resamples),
            "scores": scores(Outcomes(answers.reset_index(drop=True), p.resamples, min(p.seeds))),
        }

    # -- one fold ----------------------------------------------------------------------------------------------

    def _train(
        self, images: Tensor, labels: np.ndarray, train: np.ndarray, val: np.ndarray, n_classes: int, seed: int,
        folder: Path, identity: str,
    ) -> WPAT:  # fmt: skip
        p = self.params
        settings = WpatParams(
            dataset=Path(p.dataset).name, seed=seed, threads=p.threads, steps=p.steps, batch_size=p.batch_size, lr=p.lr,
            layer_decay=1.0, evaluations=4, accelerator="cpu", muon=0.0, crop_min=0.7, linear_head=False,
            light=0.0, balance="none",
        )  # fmt: skip
        generator = torch.Generator().manual_seed(derive(seed, "encoder") % 2**63)
        encoder = build_encoder(p.variant, p.stem_stride, generator=generator)
        truth = torch.from_numpy(labels)
        tuned = finetune(
            images[train], truth[train], images[val], truth[val], encoder, settings, folder / "checkpoints", identity,
            make_fabric(settings), n_classes=n_classes, label=ARM,
        ).model  # fmt: skip
        assert isinstance(tuned, WPAT)  # an encoder was given, so it is
        return tuned

    def _methods(self, images: Tensor, answers: Tensor) -> dict[str, Method]:
        steps = self.params.gradient_steps
        return {
            ATTENTION: lambda model: attention_maps(model, images, answers),
            GRADIENTS: lambda model: integrated_gradients(model, images, answers, steps),
            SENSITIVITY: lambda model: integrated_gradients(model, images, answers, steps, times_image=False),
            IMAGE: lambda model: border_contrast_map(images),
        }

    def _shares(self, maps: Mapping[str, Tensor], data: Dataset, test: np.ndarray, groups: np.ndarray) -> list[Row]:
        assert data.masks is not None  # checked before training
        masks = torch.from_numpy(np.ascontiguousarray(data.masks[test]))
        return [
            {"fact": "share", "method": name, "cell": int(test[row["cell"]]), "group": groups[test[row["cell"]]]}
            | {key: row[key] for key in ("region", "share", "pointing", "area")}
            for name, values in maps.items()
            for row in attribution_shares(values, masks).to_dict("records")
        ]  # fmt: skip
