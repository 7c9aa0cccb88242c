"""Sets too small to train on, with classes of their own: what a linear read-out of a model's frozen features makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from leuk_lib.data.catalog import load_dataset
from leuk_lib.evaluation.baselines import colour_histogram, pooled_features
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies.study import Row
from leuk_lib.training.augment import normalise

PENALTY = 0.01  # scikit-learn's C: features are many, cells are few


def small_cells(folder: Path, size: int, workers: int) -> tuple[Tensor, list[str], list[str]]:
    """Images (N,3,S,S) uint8, their labels and their groups (patients). Raises ``LeukError`` where no patients are told."""
    data = load_dataset(str(folder), size=size, workers=workers)
    if "near" in data.grouped_by:
        raise LeukError(
            f"{folder.name}: grouped by {data.grouped_by}; a small set is judged on patients left out, which a "
            "manifest's column group must tell"
        )
    images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
    return images, [data.classes[label] for label in data.labels], data.table["group"].astype(str).tolist()


@torch.no_grad()
def frozen_features(model: nn.Module | None, images: Tensor) -> NDArray[np.float64]:
    """What a trained model makes of uint8 images before it answers: (N, D); without a model, their colour histogram.

    The ladder's models: spatial means of all maps of their encoder. A timm network: the features before its classifier.
    """
    if model is None:
        return colour_histogram(images)
    model.eval()
    found: Any = model
    if hasattr(model, "encoder"):
        return pooled_features(found.encoder, images)
    x = normalise(images.to(next(model.parameters()).device))
    return found.forward_head(found.forward_features(x), pre_logits=True).double().cpu().numpy()


def left_out(features: NDArray[np.float64], labels: list[str], groups: list[str]) -> NDArray[np.bool_]:
    """Which cells a logistic regression gets right that has seen no cell of their group (patient): (N,)."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000, class_weight="balanced"))
    said = cross_val_predict(model, features, np.array(labels), groups=np.array(groups), cv=LeaveOneGroupOut())
    return said == np.array(labels)


def small_row(name: str, model: nn.Module | None, images: Tensor, labels: list[str], groups: list[str]) -> Row:
    """One model on one small set, as `paired.cells_of` reads it; condition ``small <name>``."""
    right = left_out(frozen_features(model, images), labels, groups)
    return {
        "condition": f"small {name}", "cell": ",".join(map(str, range(len(labels)))), "group": ",".join(groups),
        "label": ",".join(labels), "right": "".join(str(int(hit)) for hit in right),
    }  # fmt: skip
