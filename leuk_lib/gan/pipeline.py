"""Chapter 3 as one object: it holds what the notebook's cells hand to each other. Each method is one cell's work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.data.loading import CellSet
from leuk_lib.gan import balance, fidelity
from leuk_lib.gan.controls import controls
from leuk_lib.gan.deliver import Delivery, deliver
from leuk_lib.gan.features import FrozenFeatures
from leuk_lib.gan.gate import REASONS, Gate
from leuk_lib.gan.inception import ALEXNET, INCEPTION, read_weights
from leuk_lib.gan.inner import Inner, counts_table, inner_split, paths_digest
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.pixels import distances
from leuk_lib.gan.samples import generate, resize
from leuk_lib.gan.train import LOOK_EACH, GanResult, train_gan
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive
from leuk_lib.training.fabric import Fabric, make_fabric

SHOWN = 8  # examples a row in figures


def feature_settings(params: AcdbGanParams) -> dict[str, Any]:
    """Parameters of the feature network's FCMAE pretraining that follow from this stage's.

    With the contrastive term, other than chapter 4: two views of a cell come to lie near each other, which is what
    finds copies. That it may learn a slide's stain does less harm here, since the class is the judge's matter.
    """
    shared = ("dataset", "profile", "seed", "run", "threads", "accelerator", "devices", "precision", "checkpoint_every")
    return {key: getattr(params, key) for key in shared} | {
        "images": params.images, "variant": "zepto", "stem_stride": {16: 1, 32: 1, 64: 2, 128: 4}[params.gan_size],
        "steps": params.feature_steps, "batch_size": 32, "decoder_dim": 64, "contrast": 1.0,
    }  # fmt: skip


def judge_settings(params: AcdbGanParams) -> dict[str, Any]:
    """Parameters of the judge's training (WpatParams) that follow from this stage's.

    All classes are drawn equally often, and one look at the end: no held-out cell chooses among its weights.
    """
    shared = ("dataset", "profile", "seed", "run", "threads", "accelerator", "devices", "precision", "checkpoint_every")
    return {key: getattr(params, key) for key in shared} | {
        "images": params.images, "steps": params.judge_steps, "batch_size": 48, "lr": 3e-3, "evaluations": 1,
        "balance": "sampling", "muon": 0.0, "crop_min": 0.7,
    }  # fmt: skip


def judge_network(params: AcdbGanParams, n_classes: int) -> nn.Module:
    """The untrained network that gives class probabilities to the gate: timm's ResNet-10-T, its weights from the seed."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(params.seed, "gate", "judge"))
        return timm.create_model("resnet10t", num_classes=n_classes)


class Chapter:
    """The inner cells at the GAN's resolution, then gate, generator and delivery as they come to be."""

    def __init__(self, cells: CellSet, params: AcdbGanParams, inner: Inner, fabric: Fabric) -> None:
        self.cells, self.params, self.inner, self.fabric = cells, params, inner, fabric
        self.images_train = resize(cells.images[inner.train], params.gan_size)
        self.images_held = resize(cells.images[inner.held], params.gan_size)
        self.labels_train = cells.labels[inner.train].numpy()
        self.labels_held = cells.labels[inner.held].numpy()
        whole = cells.labels[cells.indices("train")]
        self.real_counts = torch.bincount(whole, minlength=len(cells.classes)).numpy()
        self._gate: Gate | None = None
        self._trained: GanResult | None = None
        self._delivery: Delivery | None = None

    @classmethod
    def open(cls, cells: CellSet, params: AcdbGanParams) -> Chapter:
        """Split the training cells of ``cells`` and launch Fabric. Raises ``LeukError`` for weights that are not there."""
        for path, what in ((params.inception_weights, INCEPTION), (params.lpips_weights, ALEXNET)):
            if path:
                read_weights(Path(path), what)
        return cls(cells, params, inner_split(cells, params.inner_fraction, params.seed), make_fabric(params))

    # -- which cells ------------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """Which cells were read: numbers and hashes of sorted paths, of the training part and of its two pieces."""
        pieces = {"inner_train": self.inner.train, "inner_held_out": self.inner.held}
        return {"part": "train", "sha256": self.inner.digest} | {
            name: {"cells": len(piece), "sha256": paths_digest(self.cells, piece.numpy())}
            for name, piece in pieces.items()
        }

    def counts(self) -> pd.DataFrame:
        """Cells a class and purpose; see :func:`counts_table`."""
        known = set(range(len(self.cells.classes))) if self._gate is None else set(self._gate.limits)
        return counts_table(self.cells, self.inner, self.params.min_count, known)

    def judge_cells(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the gate's judge is trained on and looked at with: images, labels of inner-training, of held-out cells."""
        labels = (torch.from_numpy(labels) for labels in (self.labels_train, self.labels_held))
        return self.images_train, next(labels), self.images_held, next(labels)

    # -- the gate ---------------------------------------------------------------------------------------------

    def fit_gate(self, encoder: nn.Module, pool: Callable[[Tensor], Tensor], judge: nn.Module | None = None) -> None:
        """Freeze ``encoder`` and ``judge`` and fit the gate on inner-training and held-out cells.

        ``judge``: standardised images to logits (N,K), trained on the inner-training cells; without one a linear
        discriminant on the features gives the probabilities. Also measures held-out recall.
        """
        self.frozen = FrozenFeatures(encoder, pool)
        self.features_train = self.frozen.embed(self.images_train)
        self.features_held = self.frozen.embed(self.images_held)
        self._gate = gate = Gate.fit(
            self.features_train, self.labels_train, self.features_held, self.labels_held, len(self.cells.classes),
            self.images_train, self.images_held, k=self.params.knn,
            judge=None if judge is None else FrozenFeatures(judge, turns=4).embed,
            groups_held=self.cells.groups[self.inner.held.numpy()],
        )  # fmt: skip
        hits = gate.head.recalled(gate.whitening(self.features_held), self.labels_held)
        self.recall = balance.shrunk_recall(*hits)

    @property
    def gate(self) -> Gate:
        """The fitted gate."""
        return _made(self._gate, "fit_gate")

    def controls(self, stage: Any) -> pd.DataFrame:
        """What the gate does to known images; saved as controls.csv, and each share recorded as gate_<kind>."""
        table = controls(
            self.gate, self.frozen.embed, (self.images_train, self.labels_train),
            (self.images_held, self.labels_held), self.params.seed,
        )  # fmt: skip
        stage.save_table("controls", table)
        for row in table.to_dict("records"):
            stage.record(f"gate_{row['key']}", float(row["accepted"]), n=int(row["n"]))
        return table.drop(columns="key")

    def trade_off(self) -> pd.DataFrame:
        """:meth:`Gate.trade_off` on the held-out cells, with column ``class``."""
        table = self.gate.trade_off(self.features_held, self.labels_held, self.images_held)
        return table.assign(**{"class": [self.cells.classes[c] for c in table["label"]]})

    # -- the generator ----------------------------------------------------------------------------------------

    def train(self, folder: Path, identity: str) -> GanResult:
        """Train the GAN on the inner-training cells; continues a checkpoint in ``folder``."""
        self._trained = train_gan(
            self.images_train, torch.from_numpy(self.labels_train), len(self.cells.classes), self.params, folder,
            identity, self.fabric, getattr(self, "recall", None),
        )  # fmt: skip
        return self._trained

    @property
    def trained(self) -> GanResult:
        """The trained generator."""
        return _made(self._trained, "train")

    def looks(self) -> tuple[NDArray[np.uint8], tuple[int, ...], NDArray[np.uint8]]:
        """For the figure: samples (T,K,n,S,S,3) over time, their steps, and real cells (K,n,S,S,3)."""
        side = self.params.gan_size
        real = np.full((len(self.cells.classes), LOOK_EACH, side, side, 3), 252, np.uint8)
        for c in range(len(real)):
            some = _rgb(self.images_train[torch.from_numpy(self.labels_train == c)][:LOOK_EACH])
            real[c, : len(some)] = some
        return _rgb(self.trained.looks), self.trained.look_steps, real

    # -- delivery ---------------------------------------------------------------------------------------------

    def deliver(self) -> Delivery:
        """Candidates, gate, quota; see :func:`leuk_lib.gan.deliver.deliver`."""
        draw = partial(self._draw, self.trained.generator)
        self._delivery = deliver(
            draw, self.frozen.embed, self.gate, self.real_counts, self.trained.learned.numpy(), self.recall,
            (self.features_train, self.labels_train), (self.features_held, self.labels_held), self.params,
        )  # fmt: skip
        return self._delivery

    def _draw(self, generator: nn.Module, label: int, start: int, count: int) -> Tensor:
        return generate(generator, label, count, self.params.latent, self.params.seed, start, self.params.sample_batch)

    @property
    def delivery(self) -> Delivery:
        """What was delivered."""
        return _made(self._delivery, "deliver")

    def save(self, stage: Any) -> None:
        """Write synthetic.safetensors, gate.csv, quota.csv and rounds.csv, and record the numbers and fallbacks."""
        done, names = self.delivery, self.cells.classes
        images = (
            resize(done.images, self.cells.size)
            if len(done.images)
            else done.images.new_zeros(0, 3, self.cells.size, self.cells.size)
        )
        stage.save_tensors("synthetic", {"images": images, "labels": done.labels})
        gate = done.gate.copy()
        gate.insert(0, "class", [names[c] for c in gate["label"]])
        stage.save_table("gate", gate)
        stage.save_table("quota", self.summary())
        rounds = done.rounds.copy()
        rounds.insert(1, "class", [names[c] for c in rounds["class_number"]])
        stage.save_table("rounds", rounds.drop(columns="class_number"))
        stage.record("delivered", len(done.images), unit="synthetic cells")
        stage.record("candidates", len(gate), unit="synthetic cells")
        for row in done.classes.to_dict("records"):
            c = int(row["class_number"])
            stage.record(f"fallback_{c}", int(c in done.fallbacks))
            if row["candidates"]:
                stage.record(f"acceptance_{c}", float(row["acceptance"]), n=int(row["candidates"]))
        for c in done.fallbacks:
            stage.note(
                f"GAN of class {names[c]} failed or could not be trained and judged: quota 0, class-weighted loss"
            )

    def summary(self) -> pd.DataFrame:
        """A row a class: real, quota, candidates, delivered, and what stands in."""
        table = self.delivery.classes.copy()
        table.insert(0, "class", [self.cells.classes[c] for c in table["class_number"]])
        return table.drop(columns=["class_number", "accepted"])

    def gate_table(self) -> pd.DataFrame:
        """A row a class: candidates, accepted, and how many failed each test first."""
        gate, rows = self.delivery.gate, []
        for c, name in enumerate(self.cells.classes):
            mine = gate[gate["label"] == c]
            counted = {reason: int((mine["reason"] == reason).sum()) for reason in REASONS}
            rows.append({"class": name, "candidates": len(mine), "accepted": int(mine["accepted"].sum()), **counted})
        return pd.DataFrame(rows)

    def judged_examples(self) -> dict[str, tuple[NDArray[np.uint8], int]]:
        """Some accepted candidates and some of each reason of rejection, classes in turn, with totals."""
        gate, out = self.delivery.gate, {}
        for reason in ("", *REASONS):
            rows = np.flatnonzero((gate["reason"] == reason).to_numpy())
            turn = gate.iloc[rows].groupby("label").cumcount().to_numpy()
            some = rows[np.argsort(turn, kind="stable")][:SHOWN]
            out[reason or "accepted"] = (_rgb(self.delivery.candidates[torch.from_numpy(some)]), len(rows))
        return out

    def neighbours(self, each: int = 2, real: int = 3) -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Up to ``each`` candidates a class (accepted first, then the likeliest) and their nearest real cells."""
        gate, rows = self.delivery.gate, []
        bank = self.gate.bank
        for c, name in enumerate(self.cells.classes):
            mine = gate[gate["label"] == c].sort_values(["accepted", "probability"], ascending=False, kind="stable")
            for position, row in mine.head(each).iterrows():
                image = self.delivery.candidates[int(str(position)) : int(str(position)) + 1]
                near = distances(self.gate.whitening(self.frozen.embed(image)), bank)[0].argsort(kind="stable")[:real]
                kind = "accepted" if row["accepted"] else "rejected"
                rows.append((f"{name}\n{kind}", _rgb(image)[0], _rgb(self.images_train[torch.from_numpy(near)])))
        return rows

    def fidelity(self) -> pd.DataFrame:
        """Fidelity of the accepted and of all candidates, against held-out cells, with real cells for scale."""
        done, white = self.delivery, self.gate.whitening
        every = white(self.frozen.embed(done.candidates)) if len(done.candidates) else white(self.features_train[:0])
        sets: dict[str, tuple[NDArray[Any], Tensor]] = {
            "accepted": (white(done.features) if len(done.features) else every[:0], done.images),
            "all candidates": (every, done.candidates),
        }
        train, held = white(self.features_train), white(self.features_held)
        lpips, inception = (Path(p) if p else None for p in (self.params.lpips_weights, self.params.inception_weights))
        table = fidelity.fidelity_table(
            sets, (train, self.images_train), held, lpips_weights=lpips, seed=self.params.seed,
            inception_weights=inception, held_images=self.images_held, device=self.fabric.device,
        )  # fmt: skip
        rows = []
        if min(len(train), len(held)) > 5:
            values = fidelity.set_metrics(train, held, seed=self.params.seed) | fidelity.density_coverage(train, held)
            rows += [
                {"metric": k, "set": "real (inner training)", "value": v, "n": len(train)} for k, v in values.items()
            ]
            some = self.images_held[:200]
            nearest = distances(held[:200], train).argmin(axis=1)
            value = float(np.median(fidelity.nearest_ssim(some, self.images_train, nearest)))
            rows.append({"metric": "SSIM to nearest", "set": "real (held out)", "value": value, "n": len(some)})
        scale = pd.DataFrame([{**row, "note": "for scale"} for row in rows], columns=table.columns)
        return pd.concat([table, scale], ignore_index=True) if len(scale) else table


def _made(value: Any, method: str) -> Any:
    if value is None:
        raise LeukError(f"chapter 3: call {method}() first")
    return value


def _rgb(images: Tensor) -> NDArray[np.uint8]:
    return images.movedim(-3, -1).contiguous().numpy()
