"""Baselines for WPAT: class frequencies, colour alone, background alone, a linear probe, and networks from timm.

A fitted baseline is a :data:`Scorer`: it maps uint8 images (n,3,S,S) and their masks (n,S,S), or None, to probabilities
(n,K) float64 whose rows sum to 1. Columns are in the order of the classes; a class without a training cell has one too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.data.cellset import CellSet
from leuk_lib.evaluation.metrics import evaluate
from leuk_lib.evaluation.predictions import PREFIX, Predictions
from leuk_lib.evaluation.resampling import resampled_confusion, score_interval
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.training import pretrained, tuning
from leuk_lib.training.augment import normalise

Array = NDArray[np.float64]
Scorer = Callable[[Tensor, Tensor | None], Array]
Fit = Callable[[nn.Module, str], nn.Module]

HISTOGRAM_PIXELS = 1 << 22  # at a time; each takes about 60 bytes
MIN_PROBABILITY = 1e-6  # a probability of 0 would make the log loss of one cell infinite
#: Small versions of networks that timm has in large sizes only: name -> timm's name and the settings that differ.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_mini": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 48, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "window_size": 4, "patch_size": 4},
    ),
}
RING_WIDTH = 0.12  # of the outer ring that is taken for background, as a share of the image's side


@dataclass(frozen=True)
class Task:
    """Training and validation cells of a comparison.

    Attributes:
        images: (N,3,S,S) uint8 training images.
        labels: (N,) int64.
        masks: (N,S,S) uint8, 0 background, 128 cytoplasm, 255 nucleus; None if unknown.
        val_images: (M,3,S,S) uint8 validation images.
        val_labels: (M,) int64.
        val_masks: (M,S,S) uint8, as ``masks``; None if unknown.
        n_classes: K.
        seed: seed of random weights.
        encoder: maps standardised images (B,3,S,S) to a list of feature maps (B,C,h,w); for ``linear_probe``.
        fit: trains a network (module, name) and returns it; for timm's networks.
        begin: given the same before ``fit`` is; it may begin to train in another process.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None
    val_images: Tensor
    val_labels: Tensor
    val_masks: Tensor | None
    n_classes: int
    seed: int
    encoder: nn.Module | None = None
    fit: Fit | None = None
    begin: Callable[[nn.Module, str], None] | None = None


def expand_classes(probs: Array, trained: Iterable[int], n_classes: int) -> Array:
    """Extend probabilities of the ``trained`` classes (n,k) to all classes (n,K), with a floor; rows sum to 1.

    >>> expand_classes(np.array([[0.25, 0.75]]), [0, 2], 3).round(3)
    array([[0.25, 0.  , 0.75]])
    """
    expanded = np.zeros((len(probs), n_classes))
    expanded[:, list(trained)] = probs
    expanded = np.maximum(expanded, MIN_PROBABILITY)
    return expanded / expanded.sum(axis=1, keepdims=True)


def majority(task: Task) -> Scorer:
    """Class frequencies of the training part, whatever the image; the most frequent class always wins."""
    shares = np.bincount(task.labels.numpy(), minlength=task.n_classes) / max(1, len(task.labels))

    def score(images: Tensor, masks: Tensor | None) -> Array:
        return expand_classes(np.tile(shares, (len(images), 1)), range(task.n_classes), task.n_classes)

    return score


def colour_histogram(images: Tensor, region: Tensor | None = None) -> Array:
    """Colour histograms: shares of pixels in 16 bins of each of R, G and B and in 4 x 4 x 4 joint bins.

    Args:
        images: (n,3,S,S) uint8.
        region: (n,S,S) bool, the pixels that count; None: all.

    Returns:
        (n,112) float64; a row sums to 4, its four histograms to 1 each (to 0 if no pixel counts).
    """
    step = max(1, HISTOGRAM_PIXELS // (images.shape[2] * images.shape[3]))
    starts = range(0, len(images), step)
    parts = [_colour_histogram(images[k : k + step], None if region is None else region[k : k + step]) for k in starts]
    return np.concatenate(parts) if parts else np.zeros((0, 112))


def _colour_histogram(images: Tensor, region: Tensor | None) -> Array:
    n = len(images)
    pixels = images.flatten(2).long()  # (n, 3, S*S)
    weight = torch.ones(n, pixels.shape[2]) if region is None else region.flatten(1).float()

    def histogram(bins: Tensor, count: int) -> Tensor:
        position = bins + count * torch.arange(n)[:, None]
        return torch.bincount(position.flatten(), weights=weight.flatten(), minlength=n * count).view(n, count)

    single = [histogram(pixels[:, channel] // 16, 16) for channel in range(3)]
    coarse = pixels // 64
    joint = histogram((coarse[:, 0] * 4 + coarse[:, 1]) * 4 + coarse[:, 2], 64)
    total = weight.sum(dim=1, keepdim=True).clamp(min=1)
    return (torch.cat([*single, joint], dim=1) / total).double().numpy()


def background_pixels(images: Tensor, masks: Tensor | None) -> Tensor:
    """Background pixels (n,S,S) bool: outside the masks; the image's outer ring where a mask is missing, empty or full."""
    n, _, height, width = images.shape
    ring = torch.ones(height, width, dtype=torch.bool)
    y, x = max(1, round(RING_WIDTH * height)), max(1, round(RING_WIDTH * width))
    ring[y : height - y, x : width - x] = False
    ring = ring.expand(n, height, width)
    if masks is None:
        return ring
    outside = masks == 0
    usable = outside.flatten(1).any(dim=1) & (masks > 0).flatten(1).any(dim=1)
    return torch.where(usable[:, None, None], outside, ring)


def pooled_features(encoder: nn.Module, images: Tensor, batch: int = 256) -> Array:
    """Spatial means of all feature maps of a frozen encoder.

    Args:
        encoder: maps standardised images (B,3,S,S) to a list of feature maps (B,C,h,w).
        images: (n,3,S,S) uint8.
        batch: images per forward pass.

    Returns:
        (n, sum of the channels) float64.
    """
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        parts = [
            torch.cat([m.mean(dim=(2, 3)) for m in encoder(normalise(images[i : i + batch].to(device)))], dim=1).cpu()
            for i in range(0, len(images), batch)
        ]
    encoder.train(was_training)
    return torch.cat(parts).double().numpy()


def logistic(features: Callable[[Tensor, Tensor | None], Array], task: Task) -> Scorer:
    """Logistic regression on standardised ``features``; of four penalties the one with the lowest validation loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = task.labels.numpy()
    trained = np.unique(labels)
    if len(trained) < 2:
        return majority(task)
    train, validation = features(task.images, task.masks), features(task.val_images, task.val_masks)
    truth = task.val_labels.numpy()
    candidates = []
    for strength in (0.001, 0.01, 0.1, 1.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300, tol=1e-3))
        model.fit(train, labels)
        loss = 0.0
        if len(truth):
            probs = expand_classes(model.predict_proba(validation), trained, task.n_classes)
            loss = float(-np.log(probs[np.arange(len(truth)), truth]).mean())
        candidates.append((loss, model))
    best = min(candidates, key=lambda pair: pair[0])[1]

    def score(images: Tensor, masks: Tensor | None) -> Array:
        if not len(images):
            return np.zeros((0, task.n_classes))
        return expand_classes(best.predict_proba(features(images, masks)), trained, task.n_classes)

    return score


def colour(task: Task) -> Scorer:
    """Logistic regression on the colour histogram: how well stain alone separates the classes, without any shape."""
    return logistic(lambda images, masks: colour_histogram(images), task)


def background(task: Task) -> Scorer:
    """Logistic regression on the background's colours: how well slide and microscope alone separate the classes."""
    return logistic(lambda images, masks: colour_histogram(images, background_pixels(images, masks)), task)


def linear_probe(task: Task) -> Scorer:
    """Logistic regression on pooled features of the frozen, pretrained encoder.

    Raises:
        LeukError: the task has no encoder.
    """
    encoder = task.encoder
    if encoder is None:
        raise LeukError("baseline 'linear_probe': needs the encoder of stage fcmae; run notebooks/04_fcmae.ipynb first")
    return logistic(lambda images, masks: pooled_features(encoder, images), task)


def network_scorer(model: nn.Module, batch: int = 256) -> Scorer:
    """Wrap a module that maps standardised images (B,3,S,S) to logits (B,K) as a scorer."""
    model.eval()

    @torch.no_grad()
    def score(images: Tensor, masks: Tensor | None) -> Array:
        device = next(model.parameters()).device
        parts = [
            model(normalise(images[i : i + batch].to(device))).double().softmax(dim=1).cpu()
            for i in range(0, len(images), batch)
        ]
        probs = torch.cat(parts).numpy() if parts else np.zeros((0, 1))
        return expand_classes(probs, range(probs.shape[1]), probs.shape[1])

    return score


def split_kind(name: str) -> tuple[str, str]:
    """Kind and network of ``KIND:NETWORK``; kind "" for a network all of which is trained.

    Kinds are ``knn`` and ``linear`` (a read-out of frozen features), ``lora`` and ``last`` (few weights are trained).

    Example:
        >>> split_kind("knn:dinobloom_s@pretrained"), split_kind("resnet18")
        (('knn', 'dinobloom_s@pretrained'), ('', 'resnet18'))
    """
    kind, colon, network_name = name.partition(":")
    return (kind, network_name) if colon and kind in (*FROZEN, *TUNED) else ("", name)


def check_name(name: str, image_size: int = 0) -> pretrained.Weights | None:
    """Find the published weights of a baseline; None for one without.

    Args:
        name: as for :func:`fit_baselines`.
        image_size: side of the images in px, at which the network is tried, with its weights; 0: it is not.

    Raises:
        LeukError: an unknown name (the line has the nearest one), weights that are missing or do not fit, a network that
            cannot be tuned as the name says, or one that does not take such images.
    """
    kind, network_name = split_kind(name)
    base, published = pretrained.split_name(network_name)
    if kind and not published:
        raise LeukError(
            f"baseline {name!r}: {kind!r} needs published weights; write {name}@{pretrained.PRETRAINED} or {name}@FILE",
            2,
        )
    if not kind and not published and (name in BASELINES or name in SMALL):
        return None
    pretrained.architecture_of(base, f"baseline {name!r}", [*BASELINES, *SMALL])
    if kind in TUNED:
        tuning.check(f"baseline {name!r}", base, kind)
    weights = pretrained.locate(network_name) if published else None
    if image_size:
        spec = pretrained.NetworkSpec.of(base, image_size, bool(published), own_side=kind in FROZEN)
        pretrained.check_network(f"baseline {name!r}", spec, image_size, weights)
    return weights


def build_network(name: str, task: Task) -> nn.Module:
    """Return a timm network before its training.

    ``NAME`` starts from random weights, ``NAME@pretrained`` and ``NAME@FILE`` from published ones (``pretrained.locate``).
    Of ``lora:NAME@…`` and ``last:NAME@…`` few weights will be trained (``tuning.restrict``).

    Raises:
        LeukError: an unknown name, weights that are missing or do not fit, or a network that cannot be tuned so.
    """
    weights = check_name(name)
    kind, network_name = split_kind(name)
    base, _ = pretrained.split_name(network_name)
    architecture, overrides = SMALL.get(base, (base, {}))
    torch.manual_seed(derive(task.seed, "baseline", name))
    model = pretrained.create(architecture, weights, task.n_classes, task.images.shape[-1], **overrides)
    return tuning.restrict(model, kind) if kind in TUNED else model


def network(name: str, task: Task, model: nn.Module | None = None) -> Scorer:
    """Train ``model``, by default that of ``build_network``, by ``task.fit``: steps, batches and augmentation of WPAT.

    Raises:
        LeukError: as ``build_network``, or a task without ``fit``.
    """
    if task.fit is None:
        raise LeukError(f"baseline {name!r}: needs a training function")
    return network_scorer(tuning.merged(task.fit(model or build_network(name, task), display_name(name))))


def frozen(name: str, task: Task) -> Scorer:
    """Read the classes out of a published network's frozen features: ``knn:NETWORK`` or ``linear:NETWORK``.

    Features are what the network gives without its classifier, for images of the size that it was trained at. k-NN: cosine
    similarity, k = 20 (at most a fifth of the training cells), votes weighted by exp(similarity / 0.07) as in DINO
    (Caron et al. 2021); linear: logistic regression as in ``linear_probe``.

    Raises:
        LeukError: an unknown name, or weights that are missing or do not fit.
    """
    weights = check_name(name)
    read_out, network_name = split_kind(name)
    base, _ = pretrained.split_name(network_name)
    device = torch.device("cpu") if task.encoder is None else next(task.encoder.parameters()).device
    side = task.images.shape[-1]
    spec = pretrained.NetworkSpec.of(base, side, True, own_side=True)
    encoder = pretrained.build(spec, 0, side, weights).eval().to(device)

    @torch.no_grad()
    def features(images: Tensor, masks: Tensor | None) -> Array:
        parts = [encoder(normalise(batch.to(device))).cpu() for batch in images.split(64)]
        return (torch.cat(parts) if parts else torch.zeros(0, 1)).double().numpy()

    if read_out == "linear":
        return logistic(features, task)
    train = torch.nn.functional.normalize(torch.from_numpy(features(task.images, None)), dim=1)
    k = max(1, min(20, len(train) // 5))

    def score(images: Tensor, masks: Tensor | None) -> Array:
        if not len(images):
            return np.zeros((0, task.n_classes))
        query = torch.nn.functional.normalize(torch.from_numpy(features(images, None)), dim=1)
        similarity, nearest_cells = (query @ train.T).topk(k, dim=1)
        votes = torch.zeros(len(query), task.n_classes, dtype=torch.float64)
        votes.scatter_add_(1, task.labels[nearest_cells], (similarity / 0.07).exp())
        return expand_classes((votes / votes.sum(dim=1, keepdim=True)).numpy(), range(task.n_classes), task.n_classes)

    return score


FROZEN = ("knn", "linear")  # read-outs
TUNED = (tuning.LORA, tuning.LAST)


BASELINES: dict[str, Callable[[Task], Scorer]] = {
    "majority": majority,
    "colour": colour,
    "background": background,
    "linear_probe": linear_probe,
}


def fit_baselines(names: Iterable[str], task: Task) -> dict[str, Scorer]:
    """Fit baselines by name.

    Args:
        names: a key of ``BASELINES`` or ``SMALL``; a timm model from random weights (``resnet18``); a network from
            published weights (``efficientnet_lite0@pretrained``, ``resnet18@FILE``); a frozen network with a read-out
            (``knn:dinobloom_s@pretrained``, ``linear:vit_small_patch14_dinov2@FILE``); a vision transformer of which few
            weights are trained (``lora:dinobloom_s@pretrained``, ``last:dinobloom_s@pretrained``).
        task: the cells, and how a network is trained.

    Raises:
        LeukError: as :func:`check_name`, or two baselines of one name, before anything is fitted.
    """
    names = list(names)
    for name in names:
        check_name(name, task.images.shape[-1])
    shown = [display_name(name) for name in names]
    if len(set(shown)) < len(shown):
        raise LeukError(f"baselines: two of {', '.join(shown)} have one name; rename a file of weights", 2)
    models = {
        name: build_network(name, task) for name in names if name not in BASELINES and split_kind(name)[0] not in FROZEN
    }
    if task.begin is not None:
        for name in list(models)[:0:-1]:  # the first is trained here
            task.begin(models[name], display_name(name))
    return {short: _fit(name, models.get(name), task) for short, name in zip(shown, names, strict=True)}


def display_name(name: str) -> str:
    """A baseline's name in tables and figures: without the folders of a file of weights.

    Example:
        >>> display_name("resnet18@/home/me/weights/r18.safetensors")
        'resnet18@r18.safetensors'
    """
    base, weights = pretrained.split_name(name)
    return f"{base}@{PurePath(weights).name}" if weights else base


def _fit(name: str, model: nn.Module | None, task: Task) -> Scorer:
    if model is not None:
        return network(name, task, model)
    return BASELINES[name](task) if name in BASELINES else frozen(name, task)


def published_weights(names: Iterable[str]) -> dict[str, pretrained.Weights]:
    """Name of a baseline -> the published weights that it starts from, for those that do."""
    networks = {name: split_kind(name)[1] for name in names}
    return {
        name: pretrained.locate(timm_name)
        for name, timm_name in networks.items()
        if pretrained.split_name(timm_name)[1]
    }


def prediction_table(
    scorers: Mapping[str, Scorer], images: Tensor, cells: CellSet, parts: Mapping[str, Tensor]
) -> pd.DataFrame:
    """Predictions of several models as a table with one row per model and cell.

    Args:
        scorers: name of a model -> scorer.
        images: (N,3,S,S) uint8, all cells as the models see them.
        cells: the same cells' labels, masks and groups.
        parts: name of a split -> positions of its cells (n,).

    Returns:
        Columns model, index, group, split, label, and ``prob_<class>`` per class.
    """
    frames = []
    for name, score in scorers.items():
        for split, index in parts.items():
            probs = score(images[index], None if cells.masks is None else cells.masks[index])
            frame = pd.DataFrame(probs, columns=[PREFIX + c for c in cells.classes])
            frame.insert(0, "label", [cells.classes[k] for k in cells.labels[index].tolist()])
            frame.insert(0, "split", split)
            frame.insert(0, "group", cells.groups[index.numpy()])
            frame.insert(0, "index", index.numpy())
            frame.insert(0, "model", name)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def select(table: pd.DataFrame, model: str, split: str) -> Predictions:
    """Select one model's predictions on one split from a `prediction_table`."""
    rows = table[(table["model"] == model) & (table["split"] == split)].sort_values("index", kind="stable")
    classes = tuple(c.removeprefix(PREFIX) for c in table.columns if c.startswith(PREFIX))
    position = {name: number for number, name in enumerate(classes)}
    return Predictions(
        labels=np.array([position[name] for name in rows["label"]], dtype=np.int64),
        probs=rows[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64),
        groups=rows["group"].to_numpy(dtype=str),
        classes=classes,
    )


def score_table(table: pd.DataFrame, seed: int, n_resamples: int = 1000) -> pd.DataFrame:
    """Accuracy and balanced accuracy of each model and split, with 95 % intervals over groups (`score_interval`).

    Returns:
        Columns model, split, metric, value, low, high, n (cells), groups; all models of a split share the resamples.
    """
    rows = []
    for split in table["split"].unique():
        bootstrap: ClusterBootstrap | None = None
        for model in table["model"].unique():
            part = select(table, model, split)
            if not len(part):
                continue
            bootstrap = bootstrap or ClusterBootstrap(
                part.groups, n_resamples, numpy_rng(seed, "bootstrap", split), part.labels
            )
            values, samples = evaluate(part), resampled_confusion(part, bootstrap)
            for metric in ("accuracy", "balanced_accuracy"):
                low, high = score_interval(part, metric, values[metric], samples, bootstrap)
                rows.append((model, split, metric, values[metric], low, high, len(part), bootstrap.n_groups))
    return pd.DataFrame(rows, columns=["model", "split", "metric", "value", "low", "high", "n", "groups"])


def record_scores(stage: Recorder, scores: pd.DataFrame) -> None:
    """Record a `score_table` in a stage's metrics, under ``<model>_<split>_<metric>``."""
    for row in scores.to_dict("records"):
        model, split = (re.sub(r"\W+", "_", row[name]) for name in ("model", "split"))
        key = f"{model}_{split}_{row['metric']}"
        low, high = (None if np.isnan(row[end]) else row[end] for end in ("low", "high"))
        stage.record(key, row["value"], low, high, row["n"])
