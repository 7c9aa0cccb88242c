"""What figures about models share: colours, values with error bars, heat maps over images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.figures.style import PALETTE

OURS, THEIRS = PALETTE[0], PALETTE[6]  # the full model, its baselines
PUBLISHED, PARTLY = PALETTE[5], PALETTE[4]  # from published weights; the full model's method without one of its parts


def model_colour(name: str, full: str) -> str:
    """Return the colour of a model, which is the same in all chapters.

    Blue is the full model and the steps that lead to it; orange is another backbone or a start from published weights; a
    baseline is grey.

    >>> [model_colour(name, "+ ALHE") == OURS for name in ("+ ALHE", "+ WPAT", "published + ALHE", "resnet10t")]
    [True, True, False, False]
    """
    if name in (full, "backbone") or name.startswith("+ "):
        return OURS
    return PUBLISHED if name.startswith(("published", "wpat on ")) else THEIRS


def overlay(ax: Any, values: NDArray[Any]) -> None:
    """Draw a heat map over an image, transparent where its values are low.

    The scale ends at the 99.5th percentile, so that a single pixel does not hide all others.
    """
    shown = np.clip(values / max(float(np.quantile(values, 0.995)), 1e-12), 0, 1)
    ax.imshow(shown, cmap="viridis", alpha=0.85 * shown, vmin=0, vmax=1)


def percent(table: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values (n,) in per cent, and their error bars (2, n), from columns value, low, high (fractions)."""
    values = 100 * table["value"].to_numpy(dtype=float)
    return values, np.abs(100 * table[["low", "high"]].to_numpy(dtype=float).T - values)
