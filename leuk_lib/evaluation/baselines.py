"""Baselines for WPAT: class frequencies, colour alone, background alone, a linear probe, and networks from timm.

A fitted baseline is a :data:`Scorer`: it maps uint8 images (n,3,S,S) and their masks (n,S,S), or None, to probabilities
(n,K) float64 whose rows sum to 1. Columns are in the order of the classes; a class without a training cell has one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
from leuk_lib.runs.params import nearest
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.training.augment import normalise

Array = NDArray[np.float64]
Scorer = Callable[[Tensor, Tensor | None], Array]
Fit = Callable[[nn.Module, str], nn.Module]

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
        val_images, val_labels, val_masks: the same for the validation part.
        n_classes: K.
        seed: seed of random weights.
        encoder: maps standardised images (B,3,S,S) to a list of feature maps (B,C,h,w); for ``linear_probe``.
        fit: trains a network (module, name) and returns it; for timm's networks.
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
    """Logistic regression on pooled features of the frozen, pretrained encoder."""
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


def is_network(name: str) -> bool:
    """True if ``name`` is a key of ``SMALL`` or a timm model."""
    import timm

    return name in SMALL or timm.is_model(name)


def network(name: str, task: Task) -> Scorer:
    """Train a timm network from random weights by ``task.fit``: the steps, batches and augmentation of WPAT.

    Raises:
        LeukError: an unknown name, or a task without ``fit``.
    """
    import timm

    if not is_network(name):
        allowed = [*BASELINES, *SMALL, *timm.list_models()]
        raise LeukError(f"unknown baseline {name!r}; {nearest(name, allowed) if name else 'name one'}")
    if task.fit is None:
        raise LeukError(f"baseline {name!r}: needs a training function")
    timm_name, overrides = SMALL.get(name, (name, {}))
    settings = timm.get_pretrained_cfg(timm_name)
    if settings is not None and settings.fixed_input_size:
        overrides = overrides | {"img_size": task.images.shape[-1]}
    torch.manual_seed(derive(task.seed, "baseline", name))
    return network_scorer(task.fit(timm.create_model(timm_name, num_classes=task.n_classes, **overrides), name))


BASELINES: dict[str, Callable[[Task], Scorer]] = {
    "majority": majority,
    "colour": colour,
    "background": background,
    "linear_probe": linear_probe,
}


def fit_baselines(names: Iterable[str], task: Task) -> dict[str, Scorer]:
    """Fit baselines by name: a key of ``BASELINES`` or ``SMALL``, or a timm model.

    Raises:
        LeukError: an unknown name, before anything is fitted.
    """
    import timm

    names = list(names)
    for name in names:
        if name not in BASELINES and not is_network(name):
            raise LeukError(f"unknown baseline {name!r}; {nearest(name, [*BASELINES, *SMALL, *timm.list_models()])}")
    return {name: BASELINES[name](task) if name in BASELINES else network(name, task) for name in names}


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
            bootstrap = bootstrap or ClusterBootstrap(part.groups, n_resamples, numpy_rng(seed, "bootstrap", split))
            values, samples = evaluate(part), resampled_confusion(part, bootstrap)
            for metric in ("accuracy", "balanced_accuracy"):
                low, high = score_interval(part, metric, values[metric], samples[metric])
                rows.append((model, split, metric, values[metric], low, high, len(part), bootstrap.n_groups))
    return pd.DataFrame(rows, columns=["model", "split", "metric", "value", "low", "high", "n", "groups"])


def record_scores(stage: Recorder, scores: pd.DataFrame) -> None:
    """Record a `score_table` in a stage's metrics, under ``<model>_<split>_<metric>``."""
    for row in scores.to_dict("records"):
        key = f"{row['model']}_{row['split']}_{row['metric']}"
        low, high = (None if np.isnan(row[end]) else row[end] for end in ("low", "high"))
        stage.record(key, row["value"], low, high, row["n"])
