"""The look of the figures of the same cell: a message, a row of pictures and plots, a line for what is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from leuk_lib.figures.models import overlay
from leuk_lib.figures.style import INK, PALETTE, PAPER, RC, WIDTH, headline, image_axes, message

Array = NDArray[Any]
Panel = Callable[[Any], None]  # draws into axes
SIDE = 1.6  # inches; side of a picture
ROOM = 3.0  # pictures in a row
OUTLINES = ((64, PALETTE[1]), (192, PALETTE[4]))  # level of a mask -> colour: cell, nucleus


def row(
    title: str, *lines: Mapping[str, Panel], missing: str = "", widths: Sequence[float] = (), height: float = 1.3
) -> Figure:
    """Draw panels under a message, in rows of at most ``ROOM`` pictures.

    Args:
        title: What the figure says, in one sentence.
        lines: Caption -> panel, one mapping per row or more, all of the same length.
        missing: What could not be drawn for these cells, and why.
        widths: Width of each panel in units of a picture; by default 1.
        height: Of a row without a picture, inches.
    """
    sizes = list(widths) or [1.0] * len(lines[0])
    rows: list[list[tuple[str, Panel, float]]] = []
    for line in lines:
        room = 0.0
        for (caption, draw), size in zip(line.items(), sizes, strict=True):
            if size > room + 1e-9:
                rows.append([])
                room = ROOM
            rows[-1].append((caption, draw, size))
            room -= size
    tall = [SIDE * max(s for *_, s in part if s <= 1) if min(s for *_, s in part) <= 1 else height for part in rows]
    with rc_context(RC):
        figure = Figure(figsize=(WIDTH, sum(tall) + 0.55 * len(rows) + 0.5), layout="constrained", facecolor=PAPER)
        grid = figure.add_gridspec(len(rows), 1, height_ratios=[extent + 0.4 for extent in tall])
        for place, part in enumerate(rows):
            parts = [size for *_, size in part]
            if max(parts) <= 1 and sum(parts) < ROOM - 0.1:
                parts.append(ROOM - sum(parts))  # pictures keep their size
            inner = grid[place].subgridspec(1, len(parts), width_ratios=parts)
            for column, (caption, draw, size) in enumerate(part):
                ax = figure.add_subplot(inner[column])
                draw(ax)
                wrapped = [line for text in caption.split("\n") for line in textwrap.wrap(text, int(14 * SIDE * size))]
                ax.set_title("\n".join(wrapped), fontsize=8)
    headline(figure, title)
    if missing:
        figure.supxlabel(missing, x=0.01, ha="left", fontsize=8)
    return figure


def no_cell() -> Figure:
    """A line instead of the figure, for a data set without test cells."""
    return message("The test part of this data set has no cell that could be followed.")


def outlines(ax: Any, mask: Array, width: float = 1.4) -> None:
    """Draw the outlines of cell and nucleus of a mask (H, W) that has them."""
    for level, colour in OUTLINES:
        if mask.min() <= level < mask.max():
            ax.contour(mask, levels=[level], colors=[colour], linewidths=width)


def picture(image: Array, mask: Array | None = None, heat: Array | None = None) -> Panel:
    """Show an image (H, W, 3), with the outlines of cell and nucleus, or under a heat map (H, W)."""

    def draw(ax: Any) -> None:
        image_axes(ax)
        ax.imshow(image, interpolation="nearest")
        if mask is not None:
            outlines(ax, mask)
        if heat is not None:
            overlay(ax, heat)

    return draw


def facts(lines: Mapping[str, str]) -> Panel:
    """Write what is known of the cell, one fact per line."""

    def draw(ax: Any) -> None:
        image_axes(ax)
        for place, (name, value) in enumerate(lines.items()):
            ax.text(0.04, 0.9 - 0.17 * place, name, fontsize=8, color="#666666", transform=ax.transAxes)
            end = value if len(value) <= 30 else f"…{value[-29:]}"  # of a path, the file's name
            ax.text(0.04, 0.82 - 0.17 * place, end, fontsize=9, transform=ax.transAxes)

    return draw


def most_probable(probs: Array, classes: Sequence[str], truth: str, shown: int) -> list[int]:
    """Positions, in order, of the ``shown`` classes with the largest probability in any row of (n, K), with the truth."""
    order = sorted(range(len(classes)), key=lambda k: (classes[k] != truth, -float(probs[:, k].max())))
    return sorted(order[:shown])


def bars(values: Mapping[str, float], label: str, unit: str = "{:.1f}") -> Panel:
    """Draw one horizontal bar per name, with its value beside it."""

    def draw(ax: Any) -> None:
        places = np.arange(len(values))
        ax.barh(places, list(values.values()), color=PALETTE[0], height=0.5)
        for place, (name, value) in enumerate(values.items()):
            ax.text(0, place - 0.3, f" {name}: {unit.format(value)}", fontsize=8, va="bottom")
        ax.set_ylim(max(len(values), 2) - 0.45, -0.75)
        ax.set_yticks([])
        ax.set_xlim(0, max([*values.values(), 1e-9]) * 1.05)
        ax.set_xlabel(label, fontsize=8)

    return draw


def probabilities(classes: Sequence[str], values: Array, truth: str, label: str) -> Panel:
    """Draw one bar per class for probabilities (K,), with the true class named."""

    def draw(ax: Any) -> None:
        ax.barh(range(len(classes)), 100 * np.asarray(values), height=0.6, color=PALETTE[0])
        ax.set_yticks(range(len(classes)), [f"{name} (truth)" if name == truth else name for name in classes])
        for tick, name in zip(ax.get_yticklabels(), classes, strict=True):
            tick.set_fontweight("bold" if name == truth else "normal")
        ax.invert_yaxis()
        ax.set_xlim(0, 100)
        ax.set_xlabel(label, fontsize=8)

    return draw


def matrix(rows: Sequence[str], classes: Sequence[str], values: Array, truth: str) -> Panel:
    """Draw probabilities (rows, K) as a grid of percentages; a frame marks the most probable class of each row."""

    def draw(ax: Any) -> None:
        ax.imshow(100 * values, cmap="Blues", vmin=0, vmax=125, aspect="auto")
        for (r, c), value in np.ndenumerate(values):
            chosen = c == int(values[r].argmax())
            ax.text(
                c,
                r,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                fontweight="bold" if chosen else "normal",
            )
            if chosen:
                ax.add_patch(Rectangle((c - 0.47, r - 0.45), 0.94, 0.9, fill=False, edgecolor=INK, linewidth=1.2))
        many = len(classes) > 4
        names = [name if many else name.replace("_", "\n") for name in classes]
        ax.set_xticks(
            range(len(classes)),
            [f"{n}\n(truth)" if k == truth else n for n, k in zip(names, classes, strict=True)],
            rotation=35 if many else 0,
            ha="right" if many else "center",
        )
        ax.set_yticks(range(len(rows)), rows)
        ax.tick_params(length=0)
        for tick, name in zip(ax.get_xticklabels(), classes, strict=True):
            tick.set_fontweight("bold" if name == truth else "normal")

    return draw
