"""Figures of chapter 1: cells, masks, class sizes, stains, and leakage."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.style import INK, LEGEND, MARKERS, PALETTE, WIDTH, headline, image_axes, message, new_figure, pack

PARTS = {"train": "training", "val": "validation", "test": "test"}


def contact_sheet(
    images: NDArray[np.uint8],
    labels: Sequence[str],
    classes: Sequence[str],
    per_class: int = 6,
    text: str = "Compare size, nucleus, chromatin and granules between classes",
) -> Figure:
    """Draw a row of cells per class; images (M, S, S, 3) uint8, in the order of ``labels``."""
    rows = [[i for i, label in enumerate(labels) if label == name][:per_class] for name in classes]
    columns = max(1, *(len(row) for row in rows))
    figure, axes = new_figure(0.7 * columns + 0.9, 0.72 * len(classes) + 0.3, len(classes), columns, squeeze=False)
    pack(figure)
    headline(figure, text)
    for name, row, line in zip(classes, rows, axes, strict=True):
        for position, ax in enumerate(line):
            image_axes(ax)
            if position < len(row):
                ax.imshow(images[row[position]], interpolation="lanczos")
            else:
                ax.set_visible(position == 0)
        line[0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center", color=INK)
    return figure


def group_sheet(images: NDArray[np.uint8], names: Sequence[str], per_group: int = 6) -> Figure:
    """Draw a row of cells per group ("class, group" in ``names``), or a message if there are none."""
    if not len(images):
        return message("no patient, slide or subject with several cells is known in this data set")
    rows = list(dict.fromkeys(names))
    figure = contact_sheet(
        images, names, rows, per_group, "Each row is one slide: compare glass and stain between rows"
    )
    for ax, name in zip(figure.axes[:: len(figure.axes) // len(rows)], rows, strict=True):
        label, _, group = name.partition(", ")
        ax.set_ylabel(
            f"{_short(label)}\n{_short(group, 16)}", rotation=0, ha="right", va="center", fontsize=8, color=INK
        )
    return figure


def pair_sheet(images: NDArray[np.uint8], findings: Sequence[str]) -> Figure:
    """Draw the two images of each pair side by side, the finding above; images (2P, S, S, 3), findings (P)."""
    columns, rows = min(2, len(findings)), -(-len(findings) // 2)
    figure, axes = new_figure(2.3 * columns + 0.4, 1.75 * rows + 0.3, rows, columns, squeeze=False)
    headline(figure, "Images that show the same thing")
    gap = np.full((images.shape[1], max(1, images.shape[1] // 16), 3), 252, np.uint8)
    for position, ax in enumerate(axes.ravel()):
        image_axes(ax)
        ax.set_visible(position < len(findings))
        if position < len(findings):
            both = np.concatenate([images[2 * position], gap, images[2 * position + 1]], axis=1)
            ax.imshow(both, interpolation="lanczos")
            ax.set_title("\n".join(textwrap.wrap(findings[position], 32, break_on_hyphens=False)), fontsize=8)
    return figure


def mask_overlay(images: NDArray[np.uint8], masks: NDArray[np.uint8] | None, labels: Sequence[str]) -> Figure:
    """Draw one cell per class with the outlines of cell and nucleus; without masks, a message."""
    if masks is None:
        return message("this data set has no masks")
    first = {name: i for i, name in reversed(list(enumerate(labels)))}
    classes = list(dict.fromkeys(labels))
    columns, rows = min(4, len(classes)), -(-len(classes) // 4)
    figure, axes = new_figure(1.2 * columns, 1.4 * rows + 0.3, rows, columns, squeeze=False)
    headline(figure, "Outlines from the masks: cell orange, nucleus blue")
    for position, ax in enumerate(axes.ravel()):
        image_axes(ax)
        ax.set_visible(position < len(classes))
        if position < len(classes):
            name = classes[position]
            ax.imshow(images[first[name]], interpolation="lanczos")
            ax.set_title(name.replace("_", "\n"), fontsize=9)
            same.outlines(ax, masks[first[name]], 1.8)
    return figure


def class_balance(table: pd.DataFrame, groups: pd.DataFrame) -> Figure:
    """Draw the cells of each class as a bar of training, validation and test, with a line between groups.

    Args:
        table: as of ``chapters.data.class_table``.
        groups: as of ``chapters.data.group_table``.
    """
    figure, ax = new_figure(WIDTH, 0.36 * len(table) + 1.5)
    y = np.arange(len(table))
    start = np.zeros(len(table))
    borders: list[tuple[float, float]] = []
    for part, colour in zip(PARTS, PALETTE, strict=False):
        count = table[f"{part} cells"].to_numpy(float)
        ax.barh(y, count, left=start, color=colour, edgecolor="white", linewidth=2, label=PARTS[part], height=0.72)
        for position, name in enumerate(table["class"]):
            sizes = groups.loc[(groups["label"] == name) & (groups["split"] == part), "cells"].to_numpy(float)
            if len(sizes) <= 24:  # more are too many to tell apart
                borders += [(float(x), float(position)) for x in start[position] + np.cumsum(sizes)[:-1]]
        start += count
    x, middle = np.array(borders).reshape(-1, 2).T
    ax.vlines(x, middle - 0.36, middle + 0.36, color="white", lw=0.7)
    for position, (total, number) in enumerate(zip(start, table["groups"], strict=True)):
        ax.text(total, position, f" {int(total)} in {number}", va="center", fontsize=8)
    _class_axis(ax, y, table["class"])
    ax.set_xlim(0, 1.22 * start.max())
    ax.set_xlabel("cells (count), at the end of a bar: cells in groups")
    headline(
        figure, f"The largest class has {start.max() / start[start > 0].min():.1f} times the cells of the smallest"
    )
    figure.legend(loc="outside lower center", ncols=3, **LEGEND)
    return figure


def sizes(measured: pd.DataFrame) -> Figure:
    """Draw box plots per class of the stained share of the image and, with masks, of the nucleus/cell ratio."""
    names = {
        "stained share": "deeply stained share\nof the image (1)",
        "nucleus / cell": "nucleus area /\ncell area (1)",
    }
    columns = [c for c in names if c in measured]
    classes = list(dict.fromkeys(measured["label"]))
    figure, axes = new_figure(WIDTH, 0.34 * len(classes) + 1.5, 1, len(columns), squeeze=False, sharey=True)
    for ax, column in zip(axes[0], columns, strict=True):
        _boxes(ax, measured, column, classes)
        ax.set_xlabel(names[column])
    _class_axis(axes[0, 0], range(1, len(classes) + 1), classes)
    ends = measured.groupby("label")[columns].quantile(np.array([0.05, 0.95])).unstack()
    overlap = [
        all(max(ends[c, 0.05][[a, b]]) <= min(ends[c, 0.95][[a, b]]) for c in columns)
        for a, b in combinations(classes, 2)
    ]
    headline(figure, f"In size, {sum(overlap)} of {len(overlap)} pairs of classes overlap")
    return figure


def stains(measured: pd.DataFrame, between: float) -> Figure:
    """Draw box plots per class of the nuclei's optical density, with the mean of each group of several cells.

    Args:
        measured: as of ``chapters.data.measure_cells``.
        between: share of the variance within a class that lies between groups; NaN where it is not known.
    """
    column, classes = "nucleus OD red", list(dict.fromkeys(measured["label"]))
    figure, ax = new_figure(WIDTH, 0.4 * len(classes) + 1.4)
    _boxes(ax, measured, column, classes)
    groups = measured.groupby(["label", "group"])[column].agg(["mean", "size"]).reset_index()
    groups = groups[groups["size"] > 1]
    places = groups["label"].map({name: y for y, name in enumerate(classes, 1)})
    ax.scatter(groups["mean"], places, s=18, color=PALETTE[0], marker="D", alpha=0.55, linewidths=0, zorder=3)
    ax.set_xlabel("optical density of the nucleus, red light\n(azure; natural logarithm)")
    _class_axis(ax, range(1, len(classes) + 1), classes)
    known = f"{between:.0%} of the variance of nuclear stain within a class lies between groups"
    headline(figure, known if np.isfinite(between) else "Nuclear stain of each class")
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
    figure, ax = new_figure(WIDTH, 2.2)
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
    ax.set_yticks([0, 1], ["groups kept\ntogether", "cells at\nrandom"])
    ax.set_ylim(1.6, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xlabel("balanced accuracy from the frame of the image alone (1)")
    means = probe.groupby("split")["balanced accuracy"].mean().reindex(list(kinds)).tolist()
    known = f"Splitting at random adds {means[1] - means[0]:.2f} to the score, without a cell in view"
    headline(figure, known if np.isfinite(means).all() else "The score without a cell in view")
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
