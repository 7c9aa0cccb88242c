"""What the chapter shows of a trained autoencoder: filled-in cells, a map of the features, the headline numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from leuk_lib.fcmae.autoencoder import MaskedAutoencoder
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.fcmae.masking import random_masks, upsample_mask
from leuk_lib.fcmae.probe import ENCODER, Probe, encode
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import torch_generator

KEYS = {"k-NN": "knn", "k-NN, whitened": "knn_whitened", "linear": "linear"}  # a probe's name in the metrics


@dataclass(frozen=True)
class FilledIn:
    """Cells, what was visible of them, and what the model filled in: arrays for a figure, tensors for a file.

    images, painted (N, H, W, 3) float in [0,1]; visible (N, H, W) bool.
    """

    images: NDArray[Any]
    visible: NDArray[np.bool_]
    painted: NDArray[Any]

    def tensors(self) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W) pictures and the mask as uint8 (N, H, W)."""

        def whole(x: NDArray[Any]) -> Tensor:
            return torch.from_numpy((x * 255).round().astype(np.uint8)).permute(0, 3, 1, 2).contiguous()

        seen = torch.from_numpy(self.visible.astype(np.uint8))
        return {"images": whole(self.images), "visible": seen, "painted": whole(self.painted)}


def one_of_each(labels: Tensor, positions: Tensor, classes: Sequence[str], most: int = 6) -> tuple[Tensor, list[str]]:
    """The first cell of every class among `positions` (at most `most` classes): positions and class names."""
    chosen = [(int(mine[0]), name) for k, name in enumerate(classes) if len(mine := positions[labels[positions] == k])]
    return torch.tensor([i for i, _ in chosen[:most]]), [name for _, name in chosen[:most]]


def fill_in(model: MaskedAutoencoder, images: Tensor, mask_ratio: float, seed: int = 0) -> FilledIn:
    """Hide patches of images (N, 3, S, S) uint8 at random and let the model paint them."""
    device = model.mask_token.device
    training = model.training
    model.eval()
    x = images.float() / 255
    side = x.shape[-1] // model.encoder.patch
    visible = random_masks(len(x), (side, side), mask_ratio, torch_generator(seed, "fcmae", "pictures"))
    painted = model.paint(x.to(device), visible.to(device)).cpu()
    model.train(training)
    seen = upsample_mask(visible, model.encoder.patch)
    return FilledIn(_last(x), seen.numpy(), _last(painted))


def _last(x: Tensor) -> NDArray[Any]:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def feature_map(encoder: Encoder, images: Tensor) -> tuple[NDArray[Any], list[str]]:
    """First two principal components of the frozen features: points (N, 2) and names of the axes.

    images (N, 3, S, S) uint8. The names tell which share of the features' variance an axis holds.
    """
    features = encode(encoder, images)
    points, shares = np.zeros((len(features), 2)), [0.0, 0.0]
    if len(features) > 2:
        pca = PCA(2, svd_solver="full").fit(features)
        points, shares = pca.transform(features), pca.explained_variance_ratio_.tolist()
    return points, [f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]


MAPPED, THUMBNAIL = 600, 32  # pictures that a map's page can bear, and their side in px


def thinned(n: int, most: int = MAPPED) -> Tensor:
    """Positions of at most `most` of n cells, evenly spaced."""
    return torch.arange(n) if n <= most else torch.linspace(0, n - 1, most).round().long()


def thumbnails(images: Tensor, side: int = THUMBNAIL) -> NDArray[np.uint8]:
    """Images (N, 3, S, S) uint8 as small pictures (N, side, side, 3), averaged over areas; never enlarged."""
    side = min(side, images.shape[-1])
    small = F.adaptive_avg_pool2d(images.float(), side).round().to(torch.uint8)
    return small.permute(0, 2, 3, 1).contiguous().numpy()


def record(stage: Recorder, probe: Probe, history: list[dict[str, Any]]) -> None:
    """Put the headline numbers of pretraining into the stage's metrics, with intervals where there are any."""
    table, gains = probe.table(), probe.gains()
    last = table.loc[table["features"] == ENCODER, "step"].max()
    for row in table.to_dict("records"):
        kind = KEYS[row["probe"]]
        if row["features"] != ENCODER:
            key = f"{kind}_{row['features'].replace(' ', '_').replace('-', '_').lower()}"
        elif row["step"] == last:
            key = f"{kind}_pretrained"
        elif row["step"] == 0:
            key = f"{kind}_random"
        else:
            continue
        _put(stage, key, row, "accuracy")
    for row in gains[gains["against"] == "random initialisation"].to_dict("records"):
        _put(stage, f"{KEYS[row['probe']]}_gain", row, "difference")
    if table["low"].isna().any():
        stage.note("probe: all validation cells belong to one group, so their accuracy has no interval")
    tail = pd.DataFrame(history).tail(max(len(history) // 10, 1))
    for column in ("loss", "stained", "field", "contrast"):
        if column in tail and math.isfinite(mean := tail[column].mean()):
            stage.record(f"loss_{column}" if column != "loss" else "loss", float(mean), n=len(tail))


def _put(stage: Recorder, key: str, row: dict[Any, Any], value: str) -> None:
    bounded = math.isfinite(row["low"])
    low, high = (row["low"], row["high"]) if bounded else (None, None)
    stage.record(key, row[value], low=low, high=high, n=row["n"])
