"""Figures of chapter 1: cells, masks, class sizes, colours, stains, split and leakage."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.style import INK, MARKERS, PALETTE, class_colours, image_axes, message, new_figure

PARTS = {"train": "training", "val": "validation", "test": "test"}


def contact_sheet(
    images: NDArray[np.uint8], labels: Sequence[str], classes: Sequence[str], per_class: int = 8
) -> Figure:
    """Draw a row of cells per class; images (M, S, S, 3) uint8, in the order of ``labels``."""
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
    """Draw a row of cells per group ("class, group" in ``names``), or a message if there are none."""
    if not len(images):
        return message("no patient, slide or subject with several cells is known in this data set")
    rows = list(dict.fromkeys(names))
    figure = contact_sheet(images, names, rows, per_group)
    for ax, name in zip(figure.axes[:: len(figure.axes) // len(rows)], rows, strict=True):
        label, _, group = name.partition(", ")
        ax.set_ylabel(
            f"{_short(label)}\n{_short(group, 16)}", rotation=0, ha="right", va="center", fontsize=7, color=INK
        )
    return figure


def pair_sheet(images: NDArray[np.uint8], findings: Sequence[str]) -> Figure:
    """Draw the two images of each pair side by side, the finding above; images (2P, S, S, 3), findings (P)."""
    if not findings:
        return message("no two images of training and validation show the same thing")
    columns, rows = min(3, len(findings)), -(-len(findings) // 3)
    figure, axes = new_figure(2.3 * columns + 0.4, 1.75 * rows, rows, columns, squeeze=False)
    gap = np.full((images.shape[1], max(1, images.shape[1] // 16), 3), 252, np.uint8)
    for position, ax in enumerate(axes.ravel()):
        image_axes(ax)
        ax.set_visible(position < len(findings))
        if position < len(findings):
            both = np.concatenate([images[2 * position], gap, images[2 * position + 1]], axis=1)
            ax.imshow(both, interpolation="lanczos")
            ax.set_title("\n".join(textwrap.wrap(findings[position], 34, break_on_hyphens=False)), fontsize=6)
    return figure


def mask_overlay(images: NDArray[np.uint8], masks: NDArray[np.uint8] | None, labels: Sequence[str]) -> Figure:
    """Draw one cell per class, below it the same with the outlines of cell and nucleus; without masks, a message."""
    if masks is None:
        return message("this data set has no masks")
    first = {name: i for i, name in reversed(list(enumerate(labels)))}
    classes = list(dict.fromkeys(labels))
    figure, axes = new_figure(1.35 * len(classes) + 0.9, 3.2, 2, len(classes), squeeze=False)
    for column, name in enumerate(classes):
        for ax in axes[:, column]:
            image_axes(ax)
            ax.imshow(images[first[name]], interpolation="lanczos")
        axes[0, column].set_title(name.replace("_", "\n"), fontsize=8)
        for level, colour in ((64, PALETTE[1]), (192, PALETTE[4])):
            inside = masks[first[name]] > level
            if inside.any() and not inside.all():
                axes[1, column].contour(masks[first[name]], levels=[level], colors=[colour], linewidths=1.4)
    axes[0, 0].set_ylabel("cell")
    axes[1, 0].set_ylabel("outlines:\ncell (orange),\nnucleus (blue)", fontsize=7)
    return figure


def class_balance(table: pd.DataFrame) -> Figure:
    """Draw the cells per class in training, validation and test; ``table`` as of ``chapters.data.class_table``."""
    figure, ax = new_figure(6.6, 0.36 * len(table) + 1.2)
    y = np.arange(len(table))
    start = np.zeros(len(table))
    for part, colour, hatch in zip(PARTS, PALETTE, ("", "///", "..."), strict=False):
        count = table[f"{part} cells"].to_numpy(float)
        ax.barh(y, count, left=start, color=colour, hatch=hatch, edgecolor="white", label=PARTS[part], height=0.72)
        start += count
    for position, total in enumerate(start.tolist()):
        ax.text(total, position, f" {int(total)}", va="center", fontsize=8)
    _class_axis(ax, y, table["class"])
    ax.set_xlim(0, 1.1 * start.max())
    ax.set_xlabel("cells (count)")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def split_map(groups: pd.DataFrame) -> Figure:
    """Draw each group as a marker in its part, its area the number of cells; ``groups`` as of ``group_table``."""
    classes = list(dict.fromkeys(groups["label"]))
    figure, ax = new_figure(6.8, 0.45 * len(classes) + 1.2)
    largest = max(1, int(groups["cells"].max()))
    for y, name in enumerate(classes):
        for x, part in enumerate(PARTS):
            cells = groups.loc[(groups["label"] == name) & (groups["split"] == part), "cells"].to_numpy(float)
            if len(cells) > 24:  # too many to tell apart
                ax.text(x, y, f"{len(cells)} groups", ha="center", va="center", fontsize=8)
                continue
            spread = np.linspace(-0.42, 0.42, len(cells)) if len(cells) > 1 else np.zeros(len(cells))
            ax.scatter(
                x + spread, np.full(len(cells), float(y)), s=8 + 90 * cells / largest,
                color=PALETTE[x], marker=MARKERS[x], alpha=0.75, linewidths=0,
            )  # fmt: skip
    ax.set_xticks(range(3), [PARTS[part] for part in PARTS])
    _class_axis(ax, range(len(classes)), classes)
    ax.set_xlim(-0.55, 2.55)
    ax.set_ylim(len(classes) - 0.4, -0.6)
    for border in (0.5, 1.5):
        ax.axvline(border, color="#888888", lw=0.8)
    ax.set_xlabel(f"part (one marker per group; the largest has {largest} cells)")
    return figure


def glass_colours(measured: pd.DataFrame) -> Figure:
    """Draw the colour of the clear glass per cell, by class and, if groups have several cells, for the largest groups."""
    largest = measured["group"].value_counts()
    panels = [("label", "by class", list(dict.fromkeys(measured["label"])))]
    if largest.max() > 1:  # groups of one cell have no spread
        panels.append(("group", "the eight largest groups", list(largest.index[:8])))
    figure, axes = new_figure(3.6 * len(panels), 3.4, 1, len(panels), sharex=True, sharey=True, squeeze=False)
    for ax, (column, title, names) in zip(axes[0], panels, strict=True):
        colours = class_colours([str(name) for name in names])
        ax.scatter(measured["glass green"], measured["glass blue"], s=3, color="#CCCCCC", linewidths=0)
        for number, name in enumerate(names):
            members = measured[measured[column] == name]
            ax.scatter(
                members["glass green"], members["glass blue"], s=9, color=colours[str(name)], linewidths=0,
                marker=MARKERS[number % len(MARKERS)], alpha=0.7, label=_short(str(name)),
            )  # fmt: skip
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("green of the clear glass (0–255)")
        ax.legend(fontsize=6, markerscale=1.5, loc="best", handletextpad=0.2)
    axes[0, 0].set_ylabel("blue of the clear glass (0–255)")
    return figure


def sizes(measured: pd.DataFrame) -> Figure:
    """Draw box plots per class of the stained share of the image and, with masks, of the nucleus/cell ratio."""
    names = {
        "stained share": "deeply stained share of the image (1)",
        "nucleus / cell": "nucleus area / cell area (1)",
    }
    columns = [c for c in names if c in measured]
    classes = list(dict.fromkeys(measured["label"]))
    size = (3.5 * len(columns) + 0.6, 0.34 * len(classes) + 1.2)
    figure, axes = new_figure(*size, 1, len(columns), squeeze=False, sharey=True)
    for ax, column in zip(axes[0], columns, strict=True):
        _boxes(ax, measured, column, classes)
        ax.set_xlabel(names[column])
    _class_axis(axes[0, 0], range(1, len(classes) + 1), classes)
    return figure


def stains(measured: pd.DataFrame) -> Figure:
    """Draw box plots per class of the nuclei's optical density, with the mean of each group of several cells."""
    classes = list(dict.fromkeys(measured["label"]))
    figure, axes = new_figure(7.6, 0.42 * len(classes) + 1.3, 1, 2, sharey=True)
    for ax, light, stain in zip(axes, ("red", "green"), ("azure", "eosin"), strict=True):
        column = f"nucleus OD {light}"
        _boxes(ax, measured, column, classes)
        groups = measured.groupby(["label", "group"])[column].agg(["mean", "size"]).reset_index()
        groups = groups[groups["size"] > 1]
        for y, name in enumerate(classes, 1):
            means = groups.loc[groups["label"] == name, "mean"]
            ax.scatter(
                means, np.full(len(means), float(y)), s=14, color=PALETTE[0], marker="D", alpha=0.55, linewidths=0
            )
        ax.set_xlabel(f"optical density of the nucleus,\n{light} light ({stain}; natural logarithm)")
    _class_axis(axes[0], range(1, len(classes) + 1), classes)
    return figure


def _boxes(ax: Axes, measured: pd.DataFrame, column: str, classes: Sequence[str]) -> None:
    ax.boxplot(
        [measured.loc[measured["label"] == name, column].to_numpy() for name in classes],
        orientation="horizontal", widths=0.6, showfliers=False, whis=(5, 95),
        medianprops={"color": PALETTE[5]}, boxprops={"color": INK}, whiskerprops={"color": INK},
    )  # fmt: skip


def _class_axis(ax: Axes, positions: Iterable[int], classes: Iterable[str]) -> None:
    """Name the classes on the y axis, the first one at the top."""
    ax.set_yticks(list(positions), [str(name).replace("_", " ") for name in classes])
    ax.invert_yaxis()
    ax.set_ylabel("class")


def leak(probe: pd.DataFrame) -> Figure:
    """Draw the balanced accuracy from the frame alone, grouped and random splits: each repeat, mean and range."""
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
    ax.set_yticks([0, 1], ["groups kept together", "cells at random"])
    ax.set_ylim(1.6, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xlabel("balanced accuracy from the frame of the image alone (1)")
    return figure


def _short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else f"…{name[-limit + 1 :]}"


def one_cell(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, known: Mapping[str, str]) -> Figure:
    """Draw the cell that later chapters show again, its outlines, and what is known of it.

    Args:
        image: (S, S, 3).
        mask: (S, S) with 0 background, 128 cytoplasm, 255 nucleus; None if it is not known.
        known: Name -> fact.
    """
    panels = {"raw image": same.picture(image)}
    if mask is not None:
        panels["outlines of cell and nucleus"] = same.picture(image, mask)
    return same.row(
        f"A test cell of class {known['class']}, as no model has seen it", panels | {"": same.facts(known)},
        missing="" if mask is not None else "No outlines: masks of these cells are not known.",
    )  # fmt: skip
