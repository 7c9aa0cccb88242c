"""Sets too small to train on: a linear read-out of frozen features, tested on patients that it was not fitted on."""

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

from leuk_lib.data.loading import load_dataset
from leuk_lib.evaluation.baselines import colour_histogram, pooled_features
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies.paired import hits_row
from leuk_lib.studies.study import Row
from leuk_lib.training.augment import normalise

PENALTY = 0.01  # scikit-learn's C: many features, few cells


def small_cells(folder: Path, size: int, workers: int) -> tuple[Tensor, list[str], list[str]]:
    """Read a small set.

    Returns:
        Images (N,3,S,S) uint8, class names (N,) and patients (N,).

    Raises:
        LeukError: the folder's manifest names no patients.
    """
    data = load_dataset(str(folder), size=size, workers=workers)
    if "near" in data.grouped_by:
        raise LeukError(
            f"{folder.name}: grouped by {data.grouped_by}; a small set is tested with whole patients left out, so its "
            "manifest needs a column group"
        )
    images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
    return images, [data.classes[label] for label in data.labels], data.table["group"].astype(str).tolist()


@torch.no_grad()
def frozen_features(model: nn.Module | None, images: Tensor) -> NDArray[np.float64]:
    """Compute the features that a trained model classifies.

    The ladder's models give the spatial means of all feature maps of their encoder, a timm network the input of its
    classifier, no model (None) the colour histogram.

    Args:
        model: classifier, or None.
        images: (N,3,S,S) uint8.

    Returns:
        (N,D) features.
    """
    if model is None:
        return colour_histogram(images)
    model.eval()
    network: Any = model
    if hasattr(model, "encoder"):
        return pooled_features(network.encoder, images)
    x = normalise(images.to(next(model.parameters()).device))
    return network.forward_head(network.forward_features(x), pre_logits=True).double().cpu().numpy()


def leave_patients_out(features: NDArray[np.float64], labels: list[str], groups: list[str]) -> NDArray[np.bool_]:
    """Test a logistic regression on each group (patient) after fitting it on the others.

    Returns:
        (N,) whether each cell is classified correctly.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000, class_weight="balanced"))
    predicted = cross_val_predict(model, features, np.array(labels), groups=np.array(groups), cv=LeaveOneGroupOut())
    return predicted == np.array(labels)


def small_row(name: str, model: nn.Module | None, images: Tensor, labels: list[str], groups: list[str]) -> Row:
    """Test one model on one small set: a row for `paired.cells_of`, under the condition ``small <name>``."""
    right = leave_patients_out(frozen_features(model, images), labels, groups)
    return {"condition": f"small {name}"} | hits_row(range(len(labels)), groups, labels, right)
