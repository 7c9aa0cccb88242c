"""Figures of chapter 1: the cells, their masks, counts, colours, and the split."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leuk_lib.figures.style import INK, MARKERS, PALETTE, class_colours, image_axes, new_figure

PARTS = ("train", "val", "test")
NAMES = {"train": "training", "val": "validation", "test": "test"}


def contact_sheet(
    images: NDArray[np.uint8], labels: Sequence[str], classes: Sequence[str], per_class: int = 8
) -> Figure:
    """A row of cells for every class. images (M,S,S,3) uint8, in the order of ``labels``."""
    rows = [[i for i, label in enumerate(labels) if label == name][:per_class] for name in classes]
    columns = max(1, *(len(row) for row in rows))
    figure, axes = new_figure(0.95 * columns + 1.0, 0.98 * len(classes), len(classes), columns, squeeze=False)
    for name, row, line in zip(classes, rows, axes, strict=True):
        for position, ax in enumerate(line):
            image_axes(ax)
            if position < len(row):
                ax.imshow(images[row[position]], interpolation="lanczos")
            else:
                ax.set_visible(position == 0)
        line[0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center", color=INK)
    return figure


def group_sheet(images: NDArray[np.uint8], names: Sequence[str], per_group: int = 8) -> Figure:
    """A row of cells for every group ("class, group" in ``names``); a line of text where no group holds several cells."""
    if not len(images):
        return _words("no patient, slide or subject with several cells is known in this data set")
    rows = list(dict.fromkeys(names))
    figure = contact_sheet(images, names, rows, per_group)
    for ax, name in zip(figure.axes[:: len(figure.axes) // len(rows)], rows, strict=True):
        label, _, group = name.partition(", ")
        ax.set_ylabel(
            f"{_short(label)}\n{_short(group, 16)}", rotation=0, ha="right", va="center", fontsize=7, color=INK
        )
    return figure


def pair_sheet(images: NDArray[np.uint8], found: Sequence[str]) -> Figure:
    """Pictures that show the same thing, side by side (``images`` holds them in twos); or a line of text if there are none."""
    if not found:
        return _words("no two pictures of training and validation show the same thing")
    figure, axes = new_figure(
        2.3 * min(3, len(found)) + 0.4,
        1.75 * -(-len(found) // 3),
        -(-len(found) // 3),
        min(3, len(found)),
        squeeze=False,
    )
    for position, ax in enumerate(axes.ravel()):
        image_axes(ax)
        if position < len(found):
            gap = np.full((images.shape[1], max(1, images.shape[1] // 16), 3), 252, np.uint8)
            ax.imshow(
                np.concatenate([images[2 * position], gap, images[2 * position + 1]], axis=1), interpolation="lanczos"
            )
            ax.set_title(_wrapped(found[position]), fontsize=6)
        else:
            ax.set_visible(False)
    return figure


def _words(text: str) -> Figure:
    figure, ax = new_figure(6, 1.0)
    image_axes(ax)
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)
    return figure


def _wrapped(text: str, width: int = 34) -> str:
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def mask_overlay(images: NDArray[np.uint8], masks: NDArray[np.uint8] | None, labels: Sequence[str]) -> Figure:
    """Cells above, the outlines of nucleus and cell drawn on them below; one cell a class. Without masks: a line of text."""
    first = [labels.index(name) for name in dict.fromkeys(labels)] if isinstance(labels, list) else []
    if masks is None:
        return _words("this data set has no masks")
    figure, axes = new_figure(1.35 * len(first) + 0.9, 3.2, 2, len(first), squeeze=False)
    for column, i in enumerate(first):
        for ax in axes[:, column]:
            image_axes(ax)
            ax.imshow(images[i], interpolation="lanczos")
        axes[0, column].set_title(labels[i].replace("_", "\n"), fontsize=8)
        for level, colour in ((64, PALETTE[1]), (192, PALETTE[4])):
            if (masks[i] > level).any() and not (masks[i] > level).all():
                axes[1, column].contour(masks[i], levels=[level], colors=[colour], linewidths=1.4)
    axes[0, 0].set_ylabel("cell")
    axes[1, 0].set_ylabel("outlines:\ncell (orange),\nnucleus (blue)", fontsize=7)
    return figure


def class_balance(table: pd.DataFrame) -> Figure:
    """Cells of each class in training, validation and test (columns "class", "train cells", …)."""
    figure, ax = new_figure(6.6, 0.36 * len(table) + 1.2)
    place = np.arange(len(table))
    start = np.zeros(len(table))
    for part, colour, hatch in zip(PARTS, PALETTE, ("", "///", "..."), strict=False):
        count = table[f"{part} cells"].to_numpy(float)
        ax.barh(place, count, left=start, color=colour, hatch=hatch, edgecolor="white", label=NAMES[part], height=0.72)
        start += count
    for y, total in zip(place.tolist(), start.tolist(), strict=True):
        ax.text(total, y, f" {int(total)}", va="center", fontsize=8)
    ax.set_yticks(place, [str(name).replace("_", " ") for name in table["class"]])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.1 * start.max())
    ax.set_xlabel("cells (count)")
    ax.set_ylabel("class")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def split_map(groups: pd.DataFrame) -> Figure:
    """Every group as a dot in its part (columns label, group, split, cells); area is its number of cells."""
    classes = list(dict.fromkeys(groups["label"]))
    figure, ax = new_figure(6.8, 0.45 * len(classes) + 1.2)
    largest = max(1, int(groups["cells"].max()))
    for y, name in enumerate(classes):
        for x, part in enumerate(PARTS):
            cells = groups.loc[(groups["label"] == name) & (groups["split"] == part), "cells"].to_numpy(float)
            if len(cells) > 24:  # that many dots say no more than their number
                ax.text(x, y, f"{len(cells)} groups", ha="center", va="center", fontsize=8)
                continue
            spread = np.linspace(-0.42, 0.42, len(cells)) if len(cells) > 1 else np.zeros(len(cells))
            ax.scatter(
                x + spread, np.full(len(cells), float(y)), s=8 + 90 * cells / largest,
                color=PALETTE[x], marker=MARKERS[x], alpha=0.75, linewidths=0,
            )  # fmt: skip
    ax.set_xticks(range(3), [NAMES[part] for part in PARTS])
    ax.set_yticks(range(len(classes)), [str(name).replace("_", " ") for name in classes])
    ax.set_xlim(-0.55, 2.55)
    ax.set_ylim(len(classes) - 0.4, -0.6)
    for border in (0.5, 1.5):
        ax.axvline(border, color="#888888", lw=0.8)
    ax.set_xlabel(f"part (a marker is one group; the largest holds {largest} cells)")
    ax.set_ylabel("class")
    return figure


def glass_colours(measured: pd.DataFrame) -> Figure:
    """Colour of the clear glass of every cell: by class, and for the largest groups if they hold several cells."""
    largest = measured["group"].value_counts()
    panels = [("label", "by class", list(dict.fromkeys(measured["label"])))]
    if largest.max() > 1:  # groups of one cell each have no cloud to show
        panels.append(("group", "the eight largest groups", list(largest.index[:8])))
    figure, axes = new_figure(3.6 * len(panels), 3.4, 1, len(panels), sharex=True, sharey=True, squeeze=False)
    for ax, (column, title, names) in zip(axes[0], panels, strict=True):
        colours = class_colours([str(name) for name in names])
        ax.scatter(measured["glass green"], measured["glass blue"], s=3, color="#CCCCCC", linewidths=0)
        for number, name in enumerate(names):
            some = measured[measured[column] == name]
            ax.scatter(
                some["glass green"], some["glass blue"], s=9, color=colours[str(name)], linewidths=0,
                marker=MARKERS[number % len(MARKERS)], alpha=0.7, label=_short(str(name)),
            )  # fmt: skip
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("green of the clear glass (0–255)")
        ax.legend(fontsize=6, markerscale=1.5, loc="best", handletextpad=0.2)
    axes[0, 0].set_ylabel("blue of the clear glass (0–255)")
    return figure


def sizes(measured: pd.DataFrame) -> Figure:
    """Box plots by class: deeply stained share of the picture, and the nucleus/cell ratio where masks are known."""
    columns = [c for c in ("deeply stained", "nucleus / cell") if c in measured]
    classes = list(dict.fromkeys(measured["label"]))
    figure, axes = new_figure(
        3.5 * len(columns) + 0.6, 0.34 * len(classes) + 1.2, 1, len(columns), squeeze=False, sharey=True
    )
    for ax, column in zip(axes[0], columns, strict=True):
        values = [measured.loc[measured["label"] == name, column].to_numpy() for name in classes]
        ax.boxplot(
            values, orientation="horizontal", widths=0.6, showfliers=False, whis=(5, 95),
            medianprops={"color": PALETTE[5]}, boxprops={"color": INK}, whiskerprops={"color": INK},
        )  # fmt: skip
        ax.set_xlabel(
            "deeply stained share of the picture (1)" if column == "deeply stained" else "nucleus area / cell area (1)"
        )
    axes[0, 0].set_yticks(range(1, len(classes) + 1), [str(name).replace("_", " ") for name in classes])
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("class")
    return figure


def stains(measured: pd.DataFrame) -> Figure:
    """How deeply nuclei are stained, by class: box plots over cells, and the mean of every group of several cells."""
    classes = list(dict.fromkeys(measured["label"]))
    figure, axes = new_figure(7.6, 0.42 * len(classes) + 1.3, 1, 2, squeeze=False, sharey=True)
    for ax, (column, name) in zip(
        axes[0], (("nucleus OD red", "red light (azure)"), ("nucleus OD green", "green light (eosin)")), strict=True
    ):
        values = [measured.loc[measured["label"] == kind, column].to_numpy() for kind in classes]
        ax.boxplot(
            values, orientation="horizontal", widths=0.62, showfliers=False, whis=(5, 95),
            medianprops={"color": PALETTE[5]}, boxprops={"color": INK}, whiskerprops={"color": INK},
        )  # fmt: skip
        groups = measured.groupby(["label", "group"])[column].agg(["mean", "size"]).reset_index()
        groups = groups[groups["size"] > 1]
        for y, kind in enumerate(classes, 1):
            some = groups.loc[groups["label"] == kind, "mean"]
            ax.scatter(some, np.full(len(some), float(y)), s=14, color=PALETTE[0], marker="D", alpha=0.55, linewidths=0)
        ax.set_xlabel(f"optical density of the nucleus,\n{name} (natural logarithm)")
    axes[0, 0].set_yticks(range(1, len(classes) + 1), [str(name).replace("_", " ") for name in classes])
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("class")
    return figure


def leak(probe: pd.DataFrame) -> Figure:
    """Balanced accuracy of a vote that sees only the frame: grouped and random splits, every repeat, mean and range."""
    figure, ax = new_figure(6.4, 2.0)
    chance = 1 / max(1, int(probe["classes"].max()))
    kinds = ("grouped", "random")
    for y, kind in enumerate(kinds):
        values = probe.loc[probe["split"] == kind, "balanced accuracy"].to_numpy(float)
        if not len(values):
            continue
        ax.plot([values.min(), values.max()], [y, y], color=PALETTE[y], lw=2)
        ax.scatter(values, np.full(len(values), y), s=14, color=PALETTE[y], marker=MARKERS[y], alpha=0.6, linewidths=0)
        ax.scatter([values.mean()], [y], s=80, color=PALETTE[y], marker="|", linewidths=2.5)
        ax.text(values.mean(), y - 0.2, f"{values.mean():.2f}", ha="center", fontsize=8)
    ax.axvline(chance, color=INK, ls=":", lw=1)
    ax.text(chance, 1.42, " chance", fontsize=8, va="center")
    ax.set_yticks([0, 1], ["groups kept apart", "cells at random"])
    ax.set_ylim(1.6, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xlabel("balanced accuracy from the picture's frame alone (1)")
    return figure


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"…{name[-most + 1 :]}"
