"""One look for all figures: readable in print, in dark mode (opaque light card) and by colour-blind eyes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

# Okabe & Ito's colours, in an order that keeps neighbours apart in lightness too.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#B8A500", "#6A3D9A", "#333333"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*"]
PAPER = "#FCFCFB"
INK = "#222222"

RC: Any = {
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.facecolor": PAPER,
    "axes.edgecolor": "#888888", "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "axes.titlesize": 10, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "font.family": "DejaVu Sans",
}  # fmt: skip


def new_figure(width: float, height: float, nrows: int = 1, ncols: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure of ``width`` x ``height`` inches and its axes (as ``Figure.subplots`` returns them), in the house's look."""
    with rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
        axes = figure.subplots(nrows, ncols, **kwargs)
    return figure, axes


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """A colour for every class, the same in every figure of a run."""
    return {name: PALETTE[position % len(PALETTE)] for position, name in enumerate(classes)}


def image_axes(ax: Any, title: str = "") -> None:
    """Take ticks and frame from axes that show an image."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(title, fontsize=8)
