"""Style of all figures: readable in print, in dark mode (an opaque light background) and with colour blindness."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.figure import Figure

# Colours of Okabe & Ito, ordered so that neighbours differ in lightness too.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#B8A500", "#6A3D9A", "#333333"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*"]
LINES = ["--", "-.", ":"]
PAPER = "#FCFCFB"
INK = "#222222"
WIDTH = 5.0  # inches; on a phone, text of 8 points is then about 8 pixels high
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}

RC: Any = {
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.facecolor": PAPER,
    "axes.edgecolor": "#888888", "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "axes.titlesize": 10, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "font.family": "DejaVu Sans",
}  # fmt: skip


def new_figure(width: float, height: float, nrows: int = 1, ncols: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    """Make a figure of ``width`` x ``height`` inches and its axes, as ``Figure.subplots`` returns them."""
    with rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
        axes = figure.subplots(nrows, ncols, **kwargs)
    return figure, axes


def pack(figure: Figure) -> None:
    """Leave little room between the images of a sheet."""
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)


def headline(figure: Figure, text: str) -> None:
    """Write the message of a figure above it, wrapped to the figure's width."""
    letters = int(12.5 * figure.get_figwidth())  # bold ones of 10 points in a line
    figure.suptitle(
        "\n".join(textwrap.wrap(text, letters)), x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK
    )


def light_grid(ax: Any, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw light grid lines below the data."""
    ax.grid(axis=axis, color="#E6E6E6", lw=0.6)
    ax.set_axisbelow(True)


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Colour of each class, the same in all figures of a run."""
    return {name: PALETTE[position % len(PALETTE)] for position, name in enumerate(classes)}


def image_axes(ax: Any, title: str = "") -> None:
    """Remove ticks and frame from axes that show an image."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(title, fontsize=8)


def message(text: str) -> Figure:
    """A line of text in place of a figure."""
    figure, ax = new_figure(6, 1.0)
    image_axes(ax)
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)
    return figure
