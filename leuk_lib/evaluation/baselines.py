"""What WPAT is compared with: probes that see no cell morphology, a linear probe, and networks from timm.

Every baseline becomes a :data:`Scorer`: uint8 images (n,3,S,S) and their masks (n,S,S) or None -> probabilities
(n,K) float64, rows summing to 1, columns in the order of the classes; also for classes that training never saw.
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

from leuk_lib.data.loading import CellSet
from leuk_lib.evaluation.metrics import evaluate
from leuk_lib.evaluation.predictions import PREFIX, Predictions
from leuk_lib.evaluation.resampling import score_interval
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.training.augment import normalise

Array = NDArray[np.float64]
Scorer = Callable[[Tensor, Tensor | None], Array]
Fit = Callable[[nn.Module, str], nn.Module]

FLOOR = 1e-6  # no class is impossible: a probability of 0 would make one cell's log loss infinite
#: Small versions of networks that timm has in large sizes only: name -> timm's name and what differs from it.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_mini": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 48, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "window_size": 4, "patch_size": 4},
    ),
}
RIM = 0.12  # width of the outer ring that stands for background, part of the image's side


@dataclass(frozen=True)
class Task:
    """The training and validation cells of a comparison; ``encoder`` gives feature maps, ``fit`` trains a network."""

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


def expand_classes(probs: Array, seen: Iterable[int], n_classes: int) -> Array:
    """Probabilities (n, seen classes) to (n, K): FLOOR for classes that were never seen, rows summing to 1."""
    whole = np.zeros((len(probs), n_classes))
    whole[:, list(seen)] = probs
    whole = np.maximum(whole, FLOOR)
    return whole / whole.sum(axis=1, keepdims=True)


def majority(task: Task) -> Scorer:
    """The classes' shares of the training part, whatever the image: the commonest class always wins."""
    shares = np.bincount(task.labels.numpy(), minlength=task.n_classes) / max(1, len(task.labels))

    def score(images: Tensor, masks: Tensor | None) -> Array:
        return expand_classes(np.tile(shares, (len(images), 1)), range(task.n_classes), task.n_classes)

    return score


def colour_histogram(images: Tensor, chosen: Tensor | None = None) -> Array:
    """Shares of pixels in 16 bins of each of R, G, B and in 4x4x4 joint bins: (n, 112); only ``chosen`` (n,S,S) pixels."""
    n = len(images)
    pixels = images.flatten(2).long()  # (n, 3, S*S)
    weight = torch.ones(n, pixels.shape[2]) if chosen is None else chosen.flatten(1).float()

    def histogram(bins: Tensor, count: int) -> Tensor:
        place = bins + count * torch.arange(n)[:, None]
        return torch.bincount(place.flatten(), weights=weight.flatten(), minlength=n * count).view(n, count)

    single = [histogram(pixels[:, channel] // 16, 16) for channel in range(3)]
    coarse = pixels // 64
    joint = histogram((coarse[:, 0] * 4 + coarse[:, 1]) * 4 + coarse[:, 2], 64)
    total = weight.sum(dim=1, keepdim=True).clamp(min=1)
    return (torch.cat([*single, joint], dim=1) / total).double().numpy()


def background_pixels(images: Tensor, masks: Tensor | None) -> Tensor:
    """True (n,S,S) outside the cell by the masks; without masks, or where a mask is empty, on the image's outer ring."""
    n, _, height, width = images.shape
    ring = torch.ones(height, width, dtype=torch.bool)
    y, x = max(1, round(RIM * height)), max(1, round(RIM * width))
    ring[y : height - y, x : width - x] = False
    ring = ring.expand(n, height, width)
    if masks is None:
        return ring
    outside = masks == 0
    usable = outside.flatten(1).any(dim=1) & (masks > 0).flatten(1).any(dim=1)
    return torch.where(usable[:, None, None], outside, ring)


def pooled_features(encoder: nn.Module, images: Tensor, batch: int = 256) -> Array:
    """Spatial means of all feature maps that ``encoder`` gives for uint8 images: (n, sum of channels)."""
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
    """Logistic regression on standardised ``features``; its penalty is the one of four that validates best."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = task.labels.numpy()
    seen = np.unique(labels)
    if len(seen) < 2:
        return majority(task)
    train, validation = features(task.images, task.masks), features(task.val_images, task.val_masks)
    truth = task.val_labels.numpy()
    tried = []
    for strength in (0.001, 0.01, 0.1, 1.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300, tol=1e-3))
        model.fit(train, labels)
        loss = 0.0
        if len(truth):
            probs = expand_classes(model.predict_proba(validation), seen, task.n_classes)
            loss = float(-np.log(probs[np.arange(len(truth)), truth]).mean())
        tried.append((loss, model))
    chosen = min(tried, key=lambda pair: pair[0])[1]

    def score(images: Tensor, masks: Tensor | None) -> Array:
        if not len(images):
            return np.zeros((0, task.n_classes))
        return expand_classes(chosen.predict_proba(features(images, masks)), seen, task.n_classes)

    return score


def colour(task: Task) -> Scorer:
    """Colour histogram + logistic regression: how far stain alone goes, without any shape."""
    return logistic(lambda images, masks: colour_histogram(images), task)


def background(task: Task) -> Scorer:
    """Colours of the background + logistic regression: how far slide and microscope alone go, without the cell."""
    return logistic(lambda images, masks: colour_histogram(images, background_pixels(images, masks)), task)


def linear_probe(task: Task) -> Scorer:
    """Pooled features of the frozen, pretrained encoder + logistic regression."""
    encoder = task.encoder
    if encoder is None:
        raise LeukError("baseline 'linear_probe': needs the encoder of stage fcmae; run notebooks/04_fcmae.ipynb first")
    return logistic(lambda images, masks: pooled_features(encoder, images), task)


def network_scorer(model: nn.Module, batch: int = 256) -> Scorer:
    """A module that maps standardised (B,3,S,S) to logits (B,K), as a scorer."""
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
    """Whether ``name`` is a key of ``SMALL`` or a timm model."""
    import timm

    return name in SMALL or timm.is_model(name)


def network(name: str, task: Task) -> Scorer:
    """A timm network from random weights, trained by ``task.fit``: the same steps, batches and augmentation as WPAT."""
    import timm

    if not is_network(name):
        allowed = [*BASELINES, *SMALL, *timm.list_models()]
        raise LeukError(f"unknown baseline {name!r}; {nearest(name, allowed) if name else 'name one'}")
    if task.fit is None:
        raise LeukError(f"baseline {name!r}: needs a training function")
    timm_name, sized = SMALL.get(name, (name, {}))
    settings = timm.get_pretrained_cfg(timm_name)
    if settings is not None and settings.fixed_input_size:
        sized = sized | {"img_size": task.images.shape[-1]}
    torch.manual_seed(derive(task.seed, "baseline", name))
    return network_scorer(task.fit(timm.create_model(timm_name, num_classes=task.n_classes, **sized), name))


BASELINES: dict[str, Callable[[Task], Scorer]] = {
    "majority": majority,
    "colour": colour,
    "background": background,
    "linear_probe": linear_probe,
}


def fit_baselines(names: Iterable[str], task: Task) -> dict[str, Scorer]:
    """Every named baseline, fitted: a key of ``BASELINES`` or a timm model's name.

    Raises ``LeukError`` for an unknown name, before anything is fitted.
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
    """One row a model and cell: model, index, group, split, label, ``prob_<class>`` for every class.

    ``images`` (N,3,S,S) uint8 of all cells as the models see them; ``parts``: name of a split -> its positions.
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
    """One model's predictions on one split of a prediction table."""
    rows = table[(table["model"] == model) & (table["split"] == split)].sort_values("index", kind="stable")
    classes = tuple(c.removeprefix(PREFIX) for c in table.columns if c.startswith(PREFIX))
    place = {name: number for number, name in enumerate(classes)}
    return Predictions(
        labels=np.array([place[name] for name in rows["label"]], dtype=np.int64),
        probs=rows[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64),
        groups=rows["group"].to_numpy(dtype=str),
        classes=classes,
    )


def _resampled(chosen: Predictions, bootstrap: ClusterBootstrap) -> dict[str, Array]:
    """The two metrics of the score table in every resample (R,); chapter 6 resamples all of them."""
    cells = np.eye(len(chosen.classes))[chosen.labels]
    hits, sizes = bootstrap.sums(cells * chosen.correct[:, None]), bootstrap.sums(cells)
    recall = np.divide(hits, sizes, out=np.zeros_like(hits), where=sizes > 0)
    balanced = recall.sum(axis=1) / (sizes > 0).sum(axis=1)  # over the classes that were drawn
    return {"accuracy": hits.sum(axis=1) / sizes.sum(axis=1), "balanced_accuracy": balanced}


def score_table(table: pd.DataFrame, seed: int, n_resamples: int = 1000) -> pd.DataFrame:
    """One row a model, split and metric (accuracy, balanced_accuracy): value, low, high, n cells, groups.

    Intervals: 95 %, bootstrap over whole groups (`score_interval`), the same resamples for every model of a split.
    """
    rows = []
    for split in table["split"].unique():
        bootstrap: ClusterBootstrap | None = None
        for model in table["model"].unique():
            chosen = select(table, model, split)
            if not len(chosen):
                continue
            bootstrap = bootstrap or ClusterBootstrap(chosen.groups, n_resamples, numpy_rng(seed, "bootstrap", split))
            values, samples = evaluate(chosen), _resampled(chosen, bootstrap)
            for metric in ("accuracy", "balanced_accuracy"):
                low, high = score_interval(chosen, metric, values[metric], samples[metric])
                size = {"n": len(chosen), "groups": len(np.unique(chosen.groups))}
                rows.append(
                    {
                        "model": model,
                        "split": split,
                        "metric": metric,
                        "value": values[metric],
                        "low": low,
                        "high": high,
                    }
                    | size
                )
    return pd.DataFrame(rows)


def record_scores(stage: Any, scores: pd.DataFrame) -> None:
    """Put a score table into a stage's metrics, under ``<model>_<split>_<metric>``."""
    for row in scores.to_dict("records"):
        key = f"{row['model']}_{row['split']}_{row['metric']}"
        low, high = (None if np.isnan(row[end]) else row[end] for end in ("low", "high"))
        stage.record(key, row["value"], low, high, row["n"])
