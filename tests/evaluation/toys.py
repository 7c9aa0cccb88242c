"""Synthetic predictions for tests: patients of different difficulty, any number of classes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from leuk_lib.evaluation.predictions import Predictions


def made_up(
    seed: int = 0,
    n: int = 120,
    k: int = 4,
    n_groups: int = 24,
    skill: float = 2.0,
    classes: tuple[str, ...] | None = None,
) -> Predictions:
    """Predictions of ``n`` cells of ``k`` classes in groups of one class; a higher ``skill`` is a better model."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, n_groups, n)
    labels = group % k
    logits = rng.normal(size=(n, k)) + rng.normal(size=(n_groups, k))[group]
    logits[np.arange(n), labels] += skill
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = classes or tuple(f"class{c}" for c in range(k))
    return Predictions(labels, probs, np.array([f"p{g}" for g in group]), names)


def as_rows(model: str, split: str, part: Predictions) -> pd.DataFrame:
    """Rows of predictions.csv that hold these predictions."""
    frame = pd.DataFrame(
        {"model": model, "index": np.arange(len(part)), "group": part.groups, "split": split,
         "label": [part.classes[c] for c in part.labels]}
    )  # fmt: skip
    for c, name in enumerate(part.classes):
        frame[f"prob_{name}"] = part.probs[:, c]
    return frame
