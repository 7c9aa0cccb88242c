"""Does masked pretraining help? Probes of the frozen encoder over pretraining, and fine-tuning with few labels.

Fine-tuning starts from random weights, from the pretrained encoder, and from published weights of another network. For
each share of the labels, every start is tried with the same learning rates, and the best on validation cells is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from leuk_lib.data.loading import load_dataset
from leuk_lib.data.splits import split_groups
from leuk_lib.fcmae import probe
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import build_autoencoder, pretrain
from leuk_lib.fcmae.weights import load_backbone, save_backbone
from leuk_lib.runs.files import atomic, read_json, write_json
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.studies.ladder import TRIAL, chosen_rates
from leuk_lib.studies.paired import Outcomes, between, cells_of, hits_row, scores
from leuk_lib.studies.study import Row, Study, StudyParams, slug
from leuk_lib.training.backbones import Backbone, TimmBackbone
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.finetune import Finetuned, finetune, predict_logits
from leuk_lib.wpat.linear_head import LinearClassifier
from leuk_lib.wpat.params import WpatParams

SCRATCH, CONTRAST, PIXELS, PUBLISHED = "random initialisation", "FCMAE + contrast", "FCMAE", "published weights"
#: Settings of each arm of pretraining; both see the same number of masked images.
PRETRAINED: dict[str, dict[str, Any]] = {CONTRAST: {"contrast": 1.0}, PIXELS: {"contrast": 0.0}}
FRACTIONS = (0.7, 0.1, 0.2)  # training, validation, test


class PretrainingParams(StudyParams):
    """Budget of pretraining, probes and fine-tuning."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2, description="repetitions: split, weights, batches, masks")
    image_size: int = Field(96, ge=32, le=512, description="side of the images, pixels")
    per_class: int = Field(0, ge=0, description="largest number of cells per class (0: all)")
    variant: str = Field("zepto", description="size of the encoder")
    stem_stride: int = Field(4, description="stride of the stem; the mask patch is 8 times it")
    steps: int = Field(500, ge=2, le=10**7, description="optimiser steps of pretraining")
    batch_size: int = Field(64, ge=4, le=65536, description="masked images per step (a contrastive pair is two)")
    lr: float = Field(3e-4, gt=0, le=1, description="peak learning rate of pretraining, the same in every arm")
    probes: int = Field(3, ge=1, le=50, description="number of probes of the frozen encoder after the start")
    knn_k: int = Field(20, ge=1, le=1000, description="neighbours of the k-NN probe")
    label_shares: tuple[float, ...] = Field(
        (0.05, 0.1, 0.25, 1.0), min_length=1, description="shares of the training labels that fine-tuning may use"
    )
    tune_steps: int = Field(120, ge=1, le=10**6, description="optimiser steps of every fine-tuning")
    tune_batch: int = Field(32, ge=2, le=8192, description="images per step of fine-tuning")
    rates: tuple[float, ...] = Field(
        (1e-3, 3e-3, 9e-3),
        min_length=1,
        description="peak learning rates of fine-tuning that every start is tried with, for each share of the labels",
    )
    published: str = Field(
        "efficientnet_lite0@pretrained",
        description="network and weights that fine-tuning starts from, too; empty: none",
    )
    light: float = Field(0.15, ge=0, lt=1, description="light jitter, in pretraining and in fine-tuning")
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    @property
    def starts(self) -> tuple[str, ...]:
        """What fine-tuning starts from."""
        return (SCRATCH, CONTRAST, PUBLISHED) if self.published else (SCRATCH, CONTRAST)

    @field_validator("label_shares")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 1 for value in values):
            raise ValueError(f"label shares {values} must be in (0, 1]")
        return values

    @field_validator("rates")
    @classmethod
    def _rates(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 1 for value in values) or len(set(values)) < len(values):
            raise ValueError(f"learning rates {values} must be different and in (0, 1]")
        return values

    def fcmae(self, arm: str, seed: int) -> FcmaeParams:
        """Pretraining of an arm with the laptop profile's optimiser at this study's size."""
        images = self.batch_size // 2 if PRETRAINED[arm]["contrast"] else self.batch_size
        return FcmaeParams(
            seed=seed, threads=self.threads, accelerator="cpu", images="raw", variant=self.variant,  # type: ignore[arg-type]
            stem_stride=self.stem_stride, steps=self.steps, batch_size=images, base_lr=256 * self.lr / images,  # type: ignore[arg-type]
            checkpoint_every=100, light=self.light, **PRETRAINED[arm],
        )  # fmt: skip


@dataclass(frozen=True)
class _Cells:
    """The cells of one repetition: images (N,3,S,S) uint8, labels (N,), groups (N,), positions of the three parts."""

    images: Tensor
    labels: Tensor
    groups: NDArray[Any]
    classes: tuple[str, ...]
    train: Tensor
    val: Tensor
    test: Tensor

    def row(self, right: NDArray[Any]) -> Row:
        """Pack the test cells and whether each is classified correctly."""
        test = self.test.tolist()
        return dict(hits_row(test, self.groups[test], self.labels[self.test].tolist(), right))


@dataclass
class _Probes:
    """A monitor of `pretrain` that probes the frozen encoder on the test part."""

    cells: _Cells
    steps: Collection[int]
    k: int
    rows: list[Row] = field(default_factory=list)

    def __call__(self, step: int, encoder: Encoder) -> None:
        self.rows += _probe(self.cells, self.k, step, *(
            probe.encode(encoder, self.cells.images[part]) for part in (self.cells.train, self.cells.test)
        ))  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"rows": list(self.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


def _probe(cells: _Cells, k: int, step: int, train_x: NDArray[Any], test_x: NDArray[Any]) -> list[Row]:
    truth = cells.labels[cells.train].numpy(), cells.labels[cells.test].numpy()
    hits = probe.probe_correct(train_x, truth[0], test_x, truth[1], k)
    return [{"condition": name, "step": step} | cells.row(right) for name, right in hits.items()]


class Pretraining(Study[PretrainingParams]):
    """Each repetition has its own split (by groups), weights, batches and masks, shared by all arms.

    The test part is scored and never used to choose anything. Learning rates are chosen on the validation cells of the
    first repetition, which are removed from the test part of every other one.
    """

    title = "Does masked pretraining help?"
    version = 3
    canary: ClassVar[Mapping[str, Any]] = {
        "seeds": (0, 1), "image_size": 32, "stem_stride": 2, "steps": 3, "batch_size": 8, "probes": 1, "knn_k": 3,
        "label_shares": (0.5,), "tune_steps": 3, "tune_batch": 8, "rates": (1e-3, 2e-3), "published": "test_resnet", "resamples": 100,
    }  # fmt: skip
    params_model = PretrainingParams

    def waves(self) -> Sequence[Sequence[str]]:
        """Cells; pretraining of each arm and seed; trials of learning rates; fine-tuning of each start, share and seed."""
        p = self.params
        return [
            ["cells"],
            [f"pretrain-{slug(arm)}-{seed}" for seed in p.seeds for arm in PRETRAINED],
            [_trial_name(arm, share, rate) for share in p.label_shares for arm in p.starts for rate in p.rates],
            [f"tune-{slug(arm)}-{share:g}-{seed}" for seed in p.seeds for share in p.label_shares for arm in p.starts],
        ]  # fmt: skip

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """Do one job of any wave."""
        p = self.params
        if job == "cells":
            return self._cells(folder / job)
        for seed, arm in itertools.product(p.seeds, PRETRAINED):
            if job == f"pretrain-{slug(arm)}-{seed}":
                return self._pretrain(arm, seed, folder, identity)
        for share, arm in itertools.product(p.label_shares, p.starts):
            for rate in p.rates:
                if job == _trial_name(arm, share, rate):
                    return self._try_rate(arm, share, rate, folder, identity)
            for seed in p.seeds:
                if job == f"tune-{slug(arm)}-{share:g}-{seed}":
                    return self._tune(arm, share, seed, folder, identity)
        raise ValueError(f"no job {job!r}")

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """Return the tables.

        Returns:
            curve: probes over pretraining.
            probes, gains: probes at its end, and their differences from the start and from plain features.
            labels, label_gains: fine-tuning by share of the labels, and the differences between its starts.
            rates: every trial of a learning rate by start and share (condition), and the chosen ones.
            cells: the data.
        """
        p = self.params
        trials = self.waves()[2]
        scored = [part for job, part in rows.items() if job != "cells" and job not in trials]
        whole = pd.concat([cells_of(part, ("arm", "seed", "condition", "step")) for part in scored], ignore_index=True)
        probes, tuned = whole[whole["step"] >= 0], whole[whole["step"] < 0]
        last = probes[(probes["step"] == p.steps) | ~probes["arm"].isin(list(PRETRAINED))]
        # Both arms start from the same weights, which are scored once, as an arm of their own.
        start = probes[(probes["step"] == 0) & (probes["arm"] == CONTRAST)].assign(arm=SCRATCH)
        curve = []
        for (arm, condition, step), part in probes[probes["arm"].isin(list(PRETRAINED))].groupby(
            ["arm", "condition", "step"]
        ):
            score = scores(Outcomes(part, p.resamples, min(p.seeds)))
            curve.append(
                {"arm": arm, "probe": condition, "step": step}
                | score.drop(columns=["arm", "condition"]).iloc[0].to_dict()
            )
        at_end = Outcomes(pd.concat([last, start], ignore_index=True), p.resamples, min(p.seeds))
        labels = Outcomes(tuned.reset_index(drop=True), p.resamples, min(p.seeds))
        ratio = FRACTIONS[2] / FRACTIONS[0]
        pairs = [(CONTRAST, arm) for arm in at_end.arms if arm != CONTRAST] + [(PIXELS, SCRATCH)]
        return {
            "curve": pd.DataFrame(curve),
            "probes": scores(at_end),
            "gains": between(at_end, pairs, ratio).drop(columns="p_holm"),
            "labels": scores(labels),
            "label_gains": between(labels, list(itertools.combinations(reversed(p.starts), 2)), ratio),
            "rates": chosen_rates(pd.DataFrame([row for job in trials for row in rows[job]]), ("condition", "arm")),
            "cells": pd.DataFrame(rows["cells"]),
        }  # fmt: skip

    # -- jobs --------------------------------------------------------------------------------------------------

    def _cells(self, folder: Path) -> list[Row]:
        p = self.params
        data = load_dataset(p.dataset, size=p.image_size, workers=p.threads, per_class=p.per_class)
        images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
        with atomic(folder / "cells.safetensors") as temporary:
            save_file({"images": images, "labels": torch.from_numpy(data.labels)}, temporary)
        groups = pd.factorize(data.table["group"])[0].tolist()
        write_json(folder / "about.json", {"classes": data.classes, "groups": groups})
        return [
            {"source": data.name, "cells": len(images), "classes": len(data.classes), "grouped by": data.grouped_by}
        ]

    def _split(self, folder: Path, seed: int) -> _Cells:
        kept, about = load_file(folder / "cells" / "cells.safetensors"), read_json(folder / "cells" / "about.json")
        groups = np.array(about["groups"])
        labels = kept["labels"].numpy()
        part, first = (split_groups(labels, groups, FRACTIONS, s) for s in (seed, self.params.seeds[0]))
        train, val, test = (
            torch.from_numpy(np.flatnonzero(chosen)) for chosen in (part == 0, part == 1, (part == 2) & (first != 1))
        )
        return _Cells(kept["images"], kept["labels"], groups, tuple(about["classes"]), train, val, test)

    def _pretrain(self, arm: str, seed: int, folder: Path, identity: str) -> list[Row]:
        p, cells = self.params, self._split(folder, seed)
        params = p.fcmae(arm, seed)
        own = folder / f"pretrain-{slug(arm)}-{seed}"
        probes = _Probes(cells, probe.probe_steps(p.steps, p.probes), p.knn_k)
        result = pretrain(cells.images[cells.train], params, own / "checkpoints", identity, make_fabric(params), probes)
        save_backbone(result.encoder, own / "encoder.safetensors")
        loss = result.history[-1]["loss"]
        rows = [{"arm": arm, "loss": loss, **row} for row in probes.rows]
        if arm == CONTRAST:
            train, test = cells.images[cells.train], cells.images[cells.test]
            plain_features = {
                "colour histogram": (probe.colour_histogram(train), probe.colour_histogram(test)),
                "raw-pixel PCA": probe.pixel_pca(train, test),
            }
            rows += [
                {"arm": name, **row}
                for name, pair in plain_features.items()
                for row in _probe(cells, p.knn_k, 0, *pair)
            ]
        return [{"seed": seed, **row} for row in rows]

    def _try_rate(self, arm: str, share: float, rate: float, folder: Path, identity: str) -> list[Row]:
        """Fine-tune in the first repetition with one learning rate, and keep the lowest validation loss."""
        own = folder / _trial_name(arm, share, rate)
        tuned = self._finetune(arm, share, self.params.seeds[0], rate, folder, own, identity)
        best = tuned.curve.sort_values("val_loss").iloc[0]
        row: Row = {
            "arm": arm, "condition": f"{share:g}", "rate": rate,
            "loss": float(best["val_loss"]), "balanced accuracy": float(best["val_recall"]),
        }  # fmt: skip
        write_json(own / TRIAL, row)
        return [row]

    def _tune(self, arm: str, share: float, seed: int, folder: Path, identity: str) -> list[Row]:
        """Score a start with its best learning rate on the test part; the first repetition has been trained in its trial."""
        p, cells = self.params, self._split(folder, seed)
        trials = pd.DataFrame([read_json(folder / _trial_name(arm, share, rate) / TRIAL) for rate in p.rates])
        rate = float(trials.loc[chosen_rates(trials)["chosen"], "rate"].item())
        own = folder / (_trial_name(arm, share, rate) if seed == p.seeds[0] else f"tune-{slug(arm)}-{share:g}-{seed}")
        tuned = self._finetune(arm, share, seed, rate, folder, own, identity)
        logits = predict_logits(tuned.model, cells.images[cells.test], torch.device("cpu"))
        truth = cells.labels[cells.test]
        n = len(labelled(cells.train, cells.labels, share, seed))
        about = {"arm": arm, "seed": seed, "condition": f"{share:g}", "step": -1, "labelled": n}
        loss = float(functional.cross_entropy(logits, truth))
        return [{**about, "loss": loss, **cells.row((logits.argmax(1) == truth).numpy())}]

    def _finetune(
        self, arm: str, share: float, seed: int, rate: float, folder: Path, own: Path, identity: str
    ) -> Finetuned:
        """Fine-tune from one of the starts, with a linear head fitted before the first step, as the ladder does."""
        p, cells = self.params, self._split(folder, seed)
        if arm == PUBLISHED:
            torch.manual_seed(derive(seed, "pretraining", "published"))
            encoder: Backbone = TimmBackbone.of(p.published, p.image_size)
        elif arm == SCRATCH:
            encoder = build_autoencoder(p.fcmae(CONTRAST, seed)).encoder
        else:
            encoder = load_backbone(folder / f"pretrain-{slug(arm)}-{seed}" / "encoder.safetensors")
        train = labelled(cells.train, cells.labels, share, seed)
        settings = WpatParams(
            seed=seed, threads=p.threads, accelerator="cpu", steps=p.tune_steps, batch_size=p.tune_batch, lr=rate,
            layer_decay=1.0, drop_path=0.0, evaluations=5, checkpoint_every=100, light=p.light, balance="none",
        )  # fmt: skip
        return finetune(
            cells.images[train], cells.labels[train], cells.images[cells.val], cells.labels[cells.val],
            LinearClassifier(encoder, len(cells.classes)), settings, own / "checkpoints", identity,
            make_fabric(settings), n_classes=len(cells.classes), label="fine-tuning",
        )  # fmt: skip


def _trial_name(arm: str, share: float, rate: float) -> str:
    return f"try-{slug(arm)}-{share:g}-{rate:g}"


def labelled(train: Tensor, labels: Tensor, share: float, seed: int) -> Tensor:
    """Choose the training cells whose labels may be used; smaller shares are subsets of larger ones.

    Args:
        train: (N,) positions of the training cells.
        labels: labels of all cells.
        share: in (0, 1], of each class; at least one cell per class is kept.
        seed: seed of the draw.

    Returns:
        Sorted positions.
    """
    order = torch.from_numpy(numpy_rng(seed, "labelled").permutation(len(train)))
    shuffled = train[order]
    chosen = []
    for label in labels[train].unique():
        of_class = shuffled[labels[shuffled] == label]
        chosen.append(of_class[: max(1, round(share * len(of_class)))])
    return torch.cat(chosen).sort().values
