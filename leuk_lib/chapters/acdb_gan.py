"""Chapter 3, ACDB-GAN: tables, records and images for its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.data.cellset import CellSet
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import pretrain
from leuk_lib.gan import fidelity
from leuk_lib.gan.controls import controls
from leuk_lib.gan.features import distances, feature_settings
from leuk_lib.gan.gate import REASONS
from leuk_lib.gan.generate import resize
from leuk_lib.gan.inception import ALEXNET, INCEPTION, read_weights
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.pipeline import AcdbGan, paths_digest
from leuk_lib.gan.train import SNAPSHOT_SAMPLES
from leuk_lib.gan.verifier import TRAINING_LABEL, verifier_network, verifier_settings
from leuk_lib.runs.stage import Stage
from leuk_lib.wpat.finetune import finetune
from leuk_lib.wpat.params import WpatParams

EXAMPLES = 6  # per row of a figure


def open_gan(cells: CellSet, params: AcdbGanParams) -> AcdbGan:
    """Set up the method on the training cells.

    Raises:
        LeukError: If a file of weights for the fidelity metrics is missing or damaged, before any work starts.
    """
    for path, what in ((params.inception_weights, INCEPTION), (params.lpips_weights, ALEXNET)):
        if path:
            read_weights(Path(path), what)
    return AcdbGan.from_cells(cells, params)


def record_cells_read(stage: Stage[AcdbGanParams], gan: AcdbGan) -> None:
    """Record which cells are read: counts and hashes of their sorted paths, in read.json and on the run card."""
    parts = {"inner_train": gan.split.train, "inner_held_out": gan.split.holdout}
    summary: dict[str, Any] = {"part": "train", "sha256": gan.split.digest}
    for name, part in parts.items():
        summary[name] = {"cells": len(part), "sha256": paths_digest(gan.cells, part.numpy())}
    stage.save_json("read", summary)
    stage.note(
        f"read {len(gan.split.train)} inner-training and {len(gan.split.holdout)} held-out cells, all of the training "
        f"part; sha256 of their sorted paths: {gan.split.digest}"
    )


def class_counts(gan: AcdbGan) -> pd.DataFrame:
    """Return cells per class and purpose, and whether the class is learned (column status)."""
    n = len(gan.cells.classes)
    inner, holdout = (np.bincount(labels, minlength=n) for labels in (gan.labels_train, gan.labels_holdout))
    rows = []
    for c, name in enumerate(gan.cells.classes):
        if inner[c] < gan.params.min_count:
            status = f"left out: fewer than {gan.params.min_count} inner-training cells"
        elif c not in gan.screened_classes:
            status = "left out: too few held-out cells for the gate"
        else:
            status = "learned"
        rows.append(
            {
                "class": name, "training": gan.real_counts[c], "inner training": inner[c], "held out": holdout[c],
                "status": status,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def train_encoder(stage: Stage[AcdbGanParams], gan: AcdbGan) -> Encoder:
    """Pretrain the feature network with FCMAE on the inner-training cells."""
    settings = FcmaeParams(**feature_settings(stage.params))
    return pretrain(gan.images_train, settings, stage.checkpoints / "features", stage.identity, gan.fabric).encoder


def train_verifier(stage: Stage[AcdbGanParams], gan: AcdbGan) -> nn.Module:
    """Train the class verifier on the inner-training cells."""
    n_classes = len(gan.cells.classes)
    return finetune(
        *gan.verifier_data(), verifier_network(stage.params, n_classes), WpatParams(**verifier_settings(stage.params)),
        stage.checkpoints / "verifier", stage.identity, gan.fabric, n_classes=n_classes, label=TRAINING_LABEL,
    ).model  # fmt: skip


def gate_controls(stage: Stage[AcdbGanParams], gan: AcdbGan) -> pd.DataFrame:
    """Screen images with known answers; save the table as controls.csv and record the shares as gate_<key>."""
    table = controls(
        gan.gate, gan.frozen.embed, (gan.images_train, gan.labels_train), (gan.images_holdout, gan.labels_holdout),
        gan.params.seed,
    )  # fmt: skip
    stage.save_table("controls", table)
    for row in table.to_dict("records"):
        stage.record(f"gate_{row['key']}", float(row["accepted"]), n=int(row["n"]))
    return table.drop(columns="key")


def trade_off(gan: AcdbGan) -> pd.DataFrame:
    """Return :meth:`Gate.trade_off` on the held-out cells, with class names."""
    table = gan.gate.trade_off(gan.features_holdout, gan.labels_holdout, gan.images_holdout)
    return table.assign(**{"class": [gan.cells.classes[c] for c in table["label"]]})


def snapshots(gan: AcdbGan) -> tuple[NDArray[np.uint8], tuple[int, ...], NDArray[np.uint8]]:
    """Return samples during training (T,K,n,S,S,3), their steps, and real cells for comparison (K,n,S,S,3)."""
    side = gan.params.gan_size
    real = np.full((len(gan.cells.classes), SNAPSHOT_SAMPLES, side, side, 3), 252, np.uint8)
    for c in range(len(real)):
        cells = as_rgb(gan.images_train[torch.from_numpy(gan.labels_train == c)][:SNAPSHOT_SAMPLES])
        real[c, : len(cells)] = cells
    return as_rgb(gan.trained.snapshots), gan.trained.snapshot_steps, real


def save_delivery(stage: Stage[AcdbGanParams], gan: AcdbGan) -> None:
    """Save synthetic.safetensors, gate.csv, quota.csv and rounds.csv; record counts, acceptances and fallbacks."""
    delivery, names, size = gan.delivery, gan.cells.classes, gan.cells.size
    images = resize(delivery.images, size) if len(delivery.images) else delivery.images.new_zeros(0, 3, size, size)
    stage.save_tensors("synthetic", {"images": images, "labels": delivery.labels})
    gate = delivery.gate.copy()
    gate.insert(0, "class", [names[c] for c in gate["label"]])
    stage.save_table("gate", gate)
    stage.save_table("quota", quota_table(gan))
    rounds = delivery.rounds.copy()
    rounds.insert(1, "class", [names[c] for c in rounds["class_number"]])
    stage.save_table("rounds", rounds.drop(columns="class_number"))
    stage.record("delivered", len(delivery.images), unit="synthetic cells")
    stage.record("candidates", len(gate), unit="synthetic cells")
    for row in delivery.classes.to_dict("records"):
        c = int(row["class_number"])
        stage.record(f"fallback_{c}", int(c in delivery.fallbacks))
        if row["candidates"]:
            stage.record(f"acceptance_{c}", float(row["acceptance"]), n=int(row["candidates"]))
    for c in delivery.fallbacks:
        stage.note(f"class {names[c]}: the GAN failed or could not be trained or screened; class-weighted loss instead")


def quota_table(gan: AcdbGan) -> pd.DataFrame:
    """Return real cells, quota, candidates, acceptance and delivered cells per class, and what is used instead."""
    table = gan.delivery.classes.copy()
    table.insert(0, "class", [gan.cells.classes[c] for c in table["class_number"]])
    return table.drop(columns=["class_number", "accepted"])


def rejection_table(gan: AcdbGan) -> pd.DataFrame:
    """Return candidates per class: accepted, and rejected by the first failed test."""
    gate, rows = gan.delivery.gate, []
    for c, name in enumerate(gan.cells.classes):
        of_class = gate[gate["label"] == c]
        counts = {reason: int((of_class["reason"] == reason).sum()) for reason in REASONS}
        rows.append({"class": name, "candidates": len(of_class), "accepted": int(of_class["accepted"].sum()), **counts})
    return pd.DataFrame(rows)


def screened_examples(gan: AcdbGan) -> dict[str, tuple[NDArray[np.uint8], int]]:
    """Return examples and number of accepted candidates and of each reason of rejection, the classes in turn."""
    gate, out = gan.delivery.gate, {}
    for reason in ("", *REASONS):
        rows = np.flatnonzero((gate["reason"] == reason).to_numpy())
        rank = gate.iloc[rows].groupby("label").cumcount().to_numpy()
        examples = rows[np.argsort(rank, kind="stable")][:EXAMPLES]
        out[reason or "accepted"] = (as_rgb(gan.delivery.candidates[torch.from_numpy(examples)]), len(rows))
    return out


def nearest_real(
    gan: AcdbGan, each: int = 1, neighbours: int = 3
) -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return candidates with their nearest training cells in feature space.

    Args:
        gan: The method after delivery.
        each: Candidates per class: accepted ones first, then the most probable.
        neighbours: Training cells per candidate.

    Returns:
        Class and verdict, candidate (S,S,3), training cells (neighbours,S,S,3).
    """
    gate, rows = gan.delivery.gate, []
    for c, name in enumerate(gan.cells.classes):
        of_class = gate[gate["label"] == c]
        best = of_class.sort_values(["accepted", "probability"], ascending=False, kind="stable").head(each)
        for position, row in best.iterrows():
            image = gan.delivery.candidates[int(str(position)) : int(str(position)) + 1]
            distance = distances(gan.gate.whitening(gan.frozen.embed(image)), gan.gate.bank)[0]
            nearest = torch.from_numpy(distance.argsort(kind="stable")[:neighbours])
            verdict = "accepted" if row["accepted"] else "rejected"
            rows.append((f"{name}\n{verdict}", as_rgb(image)[0], as_rgb(gan.images_train[nearest])))
    return rows


def fidelity_table(gan: AcdbGan) -> pd.DataFrame:
    """Return the fidelity of accepted and of all candidates, and of real cells for comparison."""
    delivery, whiten, params = gan.delivery, gan.gate.whitening, gan.params
    train, holdout = whiten(gan.features_train), whiten(gan.features_holdout)
    candidates = whiten(gan.frozen.embed(delivery.candidates)) if len(delivery.candidates) else train[:0]
    sets: dict[str, tuple[NDArray[Any], Tensor]] = {
        "accepted": (whiten(delivery.features) if len(delivery.features) else candidates[:0], delivery.images),
        "all candidates": (candidates, delivery.candidates),
    }
    table = fidelity.fidelity_table(
        sets, (train, gan.images_train), holdout, seed=params.seed, holdout_images=gan.images_holdout,
        lpips_weights=Path(params.lpips_weights) if params.lpips_weights else None,
        inception_weights=Path(params.inception_weights) if params.inception_weights else None,
        device=gan.fabric.device,
    )  # fmt: skip
    if min(len(train), len(holdout)) <= 5:
        return table
    values = fidelity.set_metrics(train, holdout, seed=params.seed) | fidelity.density_coverage(train, holdout)
    rows = [
        {"metric": key, "set": "real (inner training)", "value": value, "n": len(train), "note": "for comparison"}
        for key, value in values.items()
    ]
    images = gan.images_holdout[:200]
    nearest = distances(holdout[:200], train).argmin(axis=1)
    ssim = float(np.median(fidelity.nearest_ssim(images, gan.images_train, nearest)))
    rows.append(
        {
            "metric": "SSIM to nearest", "set": "real (held out)", "value": ssim, "n": len(images),
            "note": "for comparison",
        }
    )  # fmt: skip
    return pd.concat([table, pd.DataFrame(rows, columns=table.columns)], ignore_index=True)


def as_rgb(images: Tensor) -> NDArray[np.uint8]:
    """Return a tensor (…,3,S,S) as an array (…,S,S,3)."""
    return images.movedim(-3, -1).contiguous().numpy()


def one_cell(gan: AcdbGan, stage: Stage[AcdbGanParams]) -> dict[str, Any] | None:
    """The same cell and its neighbours in the gate's feature space, after delivery.

    Returns:
        Arguments of ``figures.acdb_gan.one_cell``; None for a data set without test cells.
    """
    cell = find_cell(gan.cells, stage)
    if cell is None:
        return None
    image = resize(gan.cells.images[cell.position : cell.position + 1], gan.params.gan_size)
    whiten, bank, names = gan.gate.whitening, gan.gate.bank, gan.cells.classes
    own = whiten(gan.frozen.embed(image))

    def nearest(to: NDArray[Any], among: NDArray[Any]) -> tuple[int, float]:
        distance = distances(to, among)[0]
        return int(distance.argmin()), float(distance.min())

    def training(position: int) -> tuple[str, NDArray[np.uint8]]:
        return names[gan.labels_train[position]], as_rgb(gan.images_train[position])

    real, to_real = nearest(own, bank)
    out: dict[str, Any] = {"cell": (cell.label, as_rgb(image)[0]), "real": (*training(real), to_real)}
    made = gan.delivery
    if len(made.images):
        synthetic = whiten(made.features)
        position, to_synthetic = nearest(own, synthetic)
        source, to_source = nearest(synthetic[position : position + 1], bank)
        label = int(made.labels[position])
        out["synthetic"] = (names[label], as_rgb(made.images[position]), to_synthetic)
        out["source"] = (*training(source), to_source)
        out["copy_below"] = float(gan.gate.limits[label].nearest_ratio * gan.gate.radius[source])
    return out
