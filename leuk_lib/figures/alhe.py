"""Figures of chapter 2, ALHE, drawn from arrays and data frames."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.style import INK, LEGEND, MARKERS, PALETTE, PAPER, headline, image_axes, new_figure, pack

BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY, _, PURPLE, _ = PALETTE
COLOURS = {  # of each method and arm, the same in all figures of the chapter
    "input": INK, "ALHE": BLUE, "ALHE, spread limit": SKY, "spread limit": SKY, "no contrast floor": RED,
    "CLAHE 2": ORANGE, "CLAHE 40": PINK, "equalize_adapthist": GREEN, "gamma 1.5": GREY,
    "ALHE as augmentation": PURPLE, "ALHE, no jitter": SKY, "ALHE, batch of 8 (torch)": BLUE,
}  # fmt: skip


def one_tile(
    image: NDArray[np.uint8],
    borders: tuple[Sequence[float], Sequence[float]],
    box: tuple[int, int, int, int],
    histogram: NDArray[Any],
    slopes: NDArray[Any],
    floor: NDArray[Any],
    clip_limit: float,
    shift: NDArray[Any],
    shift_without_floor: NDArray[Any],
) -> Figure:
    """A cell with its tile grid; one tile's histogram, clipped and redistributed; the tone curve that follows.

    Args:
        image: (H,W,3) uint8.
        borders: pixel rows and pixel columns between tiles.
        box: top, left, height and width of the tile, pixels.
        histogram: (256,) counts over the mean count.
        slopes: (256,) the same after redistribution.
        floor: (256,) least slopes.
        clip_limit: mean bin counts.
        shift: (257,) grey levels by which the curve shifts each level.
        shift_without_floor: (257,) the same without the contrast floor.
    """
    fig, ((left, right), (middle, spare)) = new_figure(5.2, 5.2, 2, 2)
    spare.remove()
    middle.set_subplotspec(middle.get_gridspec()[1, :])
    headline(fig, "The clipped, redistributed histogram of a tile sums up to its tone curve")
    left.imshow(image, interpolation="nearest")
    for row in borders[0]:
        left.axhline(row - 0.5, color="white", lw=0.7, alpha=0.8)
    for column in borders[1]:
        left.axvline(column - 0.5, color="white", lw=0.7, alpha=0.8)
    top, left_edge, height, width = box
    left.add_patch(Rectangle((left_edge - 0.5, top - 0.5), width, height, fill=False, ec=ORANGE, lw=2.5))
    left.set_xlim(-0.5, image.shape[1] - 0.5)
    left.set_ylim(image.shape[0] - 0.5, -0.5)
    image_axes(left, "a  tiles, the most active in orange")

    levels = np.arange(256)
    ceiling = max(2.4 * clip_limit, 2.5)
    occupied = np.flatnonzero(floor > 0)
    if len(occupied):
        middle.axvspan(occupied[0], occupied[-1] + 1, color=GREEN, alpha=0.1, lw=0)
        middle.hlines(floor.max(), occupied[0], occupied[-1] + 1, color=GREEN, ls="--", lw=1.3, label="contrast floor")
    middle.fill_between(
        levels, np.minimum(histogram, ceiling), step="post", color=PALETTE[6], alpha=0.45, lw=0, label="histogram"
    )
    middle.step(levels, slopes, where="post", color=BLUE, lw=1.6, label="clipped, redistributed")
    middle.axhline(clip_limit, color=ORANGE, lw=1.3, ls="-.", label=f"clip limit {clip_limit:.2f}")
    middle.set_ylim(0, ceiling)
    middle.set_xlim(0, 256)
    middle.set_xlabel("lightness (grey levels, 0 to 256)")
    middle.set_ylabel("pixels (mean bin counts)")
    middle.set_title("c  the tile's histogram", fontsize=8)
    fig.legend(handles=middle.get_legend_handles_labels()[0], loc="outside lower center", ncols=2, **LEGEND)

    edges = np.arange(257)
    right.plot([0, 256], [0, 256], color=PALETTE[6], lw=1, ls=":", label="no change")
    right.plot(edges, edges + shift_without_floor, color=RED, lw=1.4, ls="--", label="no floor")
    right.plot(edges, edges + shift, color=BLUE, lw=1.8, label="ALHE")
    right.set_xlim(0, 256)
    right.set_ylim(0, 256)
    right.set_aspect("equal")
    right.set_xlabel("lightness before (grey levels)")
    right.set_ylabel("after")
    right.set_title("b  the tile's tone curve", fontsize=8)
    right.legend(loc="upper left", handlelength=1.5, **LEGEND)
    return fig


def maps(
    image: NDArray[np.uint8],
    clip_limits: NDArray[Any],
    gain: NDArray[Any],
    shift: NDArray[Any],
    enhanced: NDArray[np.uint8],
) -> Figure:
    """From input to output: clip limits of the tiles, gain, shift of lightness, result.

    Args:
        image: (H,W,3) uint8.
        clip_limits: (rows, columns) mean bin counts.
        gain: (H,W) in [0,1].
        shift: (H,W) grey levels.
        enhanced: (H,W,3) uint8.
    """
    fig, grid = new_figure(5.2, 4.2, 2, 3)
    headline(fig, "The shift of lightness follows the stain and spares the background")
    axes = grid.ravel()
    axes[5].set_visible(False)
    height, width = image.shape[:2]
    axes[0].imshow(image, interpolation="nearest")
    image_axes(axes[0], "input")
    reach = max(float(np.abs(shift).max()), 1e-3)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    panels: list[tuple[Any, NDArray[Any], str, dict[str, Any]]] = [
        (axes[1], clip_limits, "clip limit per tile", {"cmap": "viridis", "vmin": 1}),
        (axes[2], gain, "gain", {"cmap": "cividis", "vmin": 0, "vmax": 1}),
        (axes[3], shift, "shift, grey levels", {"cmap": "RdBu", "vmin": -reach, "vmax": reach}),
    ]
    for ax, values, title, style in panels:
        mesh = ax.imshow(values, interpolation="nearest", extent=extent, **style)
        image_axes(ax, title)
        bar = fig.colorbar(mesh, ax=ax, orientation="horizontal", shrink=0.85, aspect=18, pad=0.03)
        bar.ax.tick_params(labelsize=8)
    axes[4].imshow(enhanced, interpolation="nearest")
    image_axes(axes[4], "output")
    return fig


def side_by_side(rows: Mapping[str, Mapping[str, NDArray[np.uint8]]], most: int = 5) -> Figure:
    """One row per method, one column per cell, at most ``most``. ``rows``: cell -> method -> image (H,W,3)."""
    cells = list(rows)[:most]
    names = list(rows[cells[0]])
    fig, axes = new_figure(1.2 + 0.95 * len(cells), 0.5 + 0.97 * len(names), len(names), len(cells), squeeze=False)
    pack(fig)
    headline(fig, "The methods differ in the nucleus and in the background")
    for name, ax_row in zip(names, axes, strict=True):
        for ax, cell in zip(ax_row, cells, strict=True):
            ax.imshow(rows[cell][name], interpolation="nearest")
            image_axes(ax)
            if name == names[0]:
                ax.set_title(cell.replace("_", "\n"), fontsize=9)
        label = name.replace(", ", ",\n").replace("_", "_\n")
        ax_row[0].set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center")
    return fig


def trade_off(table: pd.DataFrame, labels: Sequence[str], chosen: float, goals: tuple[float, float] | None) -> Figure:
    """What is kept against what is gained, one curve per variant with clip limits along it; 95 % intervals.

    Args:
        table: columns variant, clip_limit, x, x_low, x_high, y, y_low, y_high.
        labels: of both axes.
        chosen: the clip limit that is ringed.
        goals: least x and y that are wanted, or None.
    """
    fig, ax = new_figure(5.2, 4.2)
    ends = (
        table[table["clip_limit"] == chosen].set_index("variant")["y"].reindex(["ALHE", "no contrast floor"]).tolist()
    )
    known = f"Kept at clip limit {chosen:g}: {ends[0]:.2f} with the contrast floor, {ends[1]:.2f} without"
    headline(fig, known if np.isfinite(ends).all() else "What the clip limit gains, and what it costs")
    for position, (variant, part) in enumerate(table.groupby("variant", sort=False)):
        part = part.sort_values("clip_limit")
        error = [
            np.abs(part[[f"{axis}_low", f"{axis}_high"]].to_numpy().T - part[axis].to_numpy()) for axis in ("x", "y")
        ]
        colour = COLOURS.get(str(variant), PALETTE[position])
        ax.errorbar(
            part["x"], part["y"], xerr=error[0], yerr=error[1], color=colour, marker=MARKERS[position], ms=5,
            lw=1.6, elinewidth=0.6, capsize=2, label=str(variant), ls=("-", "--", ":")[position % 3],
        )  # fmt: skip
        for clip_limit, x, y in part[["clip_limit", "x", "y"]].to_numpy(dtype=float)[1:]:
            if position < 2:
                ax.annotate(
                    f"{clip_limit:g}", (x, y), xytext=(5, 6), textcoords="offset points", fontsize=8, color=colour
                )
        ringed = part[part["clip_limit"] == chosen]
        if position == 0 and len(ringed):
            ax.plot(ringed["x"], ringed["y"], marker="o", ms=13, mfc="none", mec=INK, mew=1.3, ls="", label="chosen")
    if goals is not None:
        ax.axvline(goals[0], color=PALETTE[6], lw=1, ls=":")
        ax.axhline(goals[1], color=PALETTE[6], lw=1, ls=":", label="goal: right of and above")
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    fig.legend(loc="outside lower center", ncols=2, **LEGEND)
    return fig


def entropy_against_quality(summary: pd.DataFrame, measure: str, label: str) -> Figure:
    """Entropy against a measure of quality, one point per method; 95 % intervals.

    Args:
        summary: columns method, measure, value, low, high.
        measure: on the vertical axis.
        label: of the vertical axis.
    """
    table = summary.set_index(["measure", "method"])
    fig, ax = new_figure(5.2, 4.4)
    methods = list(dict.fromkeys(summary["method"]))
    of_measure = {name: part.set_index("method")["value"] for name, part in summary.groupby("measure")}
    ranks = of_measure[measure].rank(ascending=False)
    highest = str(of_measure["entropy"].idxmax())
    headline(fig, f"{highest} has the highest entropy and is number {ranks[highest]:.0f} of {len(methods)} in quality")
    for position, method in enumerate(methods):
        x, y = table.loc[("entropy", method)], table.loc[(measure, method)]
        ax.errorbar(
            x["value"], y["value"],
            xerr=[[max(x["value"] - x["low"], 0)], [max(x["high"] - x["value"], 0)]],
            yerr=[[max(y["value"] - y["low"], 0)], [max(y["high"] - y["value"], 0)]],
            color=COLOURS.get(method, PALETTE[position % len(PALETTE)]), marker=MARKERS[position % len(MARKERS)],
            ms=7, capsize=2,
            elinewidth=0.8, ls="", label=method,
        )  # fmt: skip
    ax.set_xlabel('entropy of lightness (bits): "more information" to the right')
    ax.set_ylabel(textwrap.fill(label, 36))
    fig.legend(loc="outside lower center", ncols=2, **LEGEND)
    return fig


def cost(table: pd.DataFrame, side: int) -> Figure:
    """Milliseconds per image by method, log scale. ``table``: columns method, ms, over_clahe."""
    fig, ax = new_figure(5.2, 1.2 + 0.33 * len(table))
    table = table.sort_values("ms", ascending=False)
    ratio = table.set_index("method")["over_clahe"].to_dict()["ALHE"]
    headline(fig, f"ALHE takes {ratio:.1f} times as long as CLAHE")
    names = table["method"].str.replace(", ", ",\n").tolist()
    ax.barh(names, table["ms"], color=[COLOURS.get(name, GREY) for name in table["method"]])
    for position, (ms, ratio) in enumerate(table[["ms", "over_clahe"]].to_numpy(dtype=float)):
        ax.text(ms, position, f" {ms:.3g} ms ({ratio:.1f}x CLAHE 2)", va="center", fontsize=8)
    ax.set_xscale("log")
    ax.set_xlim(right=float(table["ms"].max()) * 40)
    ax.set_xlabel(f"milliseconds per image of {side} x {side} pixels\n(fastest of several, log scale)")
    return fig


def ablation(
    table: pd.DataFrame,
    score: str = "balanced accuracy",
    helps: str = "enhancement helps",
    heading: str = "test images",
) -> Figure:
    """Differences in a score by condition, one colour per arm, with intervals, about the line of no difference.

    Args:
        table: columns condition, arm, value, low, high, as shares; drawn in percentage points. A marker is hollow where
            the interval holds zero.
        score: name of the score, for the axis.
        helps: what a difference above zero means, for the axis.
        heading: label of the conditions.
    """
    conditions, arms = list(dict.fromkeys(table["condition"])), list(dict.fromkeys(table["arm"]))
    fig, ax = new_figure(5.2, 1.5 + 0.17 * len(conditions) * (len(arms) + 1))
    above, below = int((table["low"] > 0).sum()), int((table["high"] < 0).sum())
    headline(fig, f"Of {len(table)} differences, {above} lie clearly above zero and {below} below")
    spacing = 0.8 / len(arms)
    for k, arm in enumerate(arms):
        part = table[table["arm"] == arm].set_index("condition").reindex(conditions)
        value, low, high = (100 * part[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
        y = np.arange(len(conditions)) + (k - (len(arms) - 1) / 2) * spacing
        colour = COLOURS.get(arm, PALETTE[k % len(PALETTE)])
        ax.hlines(y, low, high, color=colour, lw=1.4)
        clear = (low > 0) | (high < 0)
        for chosen, face in ((clear, colour), (~clear, PAPER)):
            ax.plot(value[chosen], y[chosen], MARKERS[k], mfc=face, mec=colour, mew=1.3, ms=5.5, ls="")
        ax.plot([], [], MARKERS[k], color=colour, ms=5.5, ls="-", label=arm)
    ax.axvline(0, color=INK, lw=0.8)
    for k in range(1, len(conditions)):
        ax.axhline(k - 0.5, color="#DDDDDD", lw=0.6)
    ax.set_yticks(range(len(conditions)), conditions)
    ax.set_ylim(len(conditions) - 0.5, -0.5)
    ax.set_xlabel(f"difference in {score}, percentage points\n(right: {helps})")
    ax.set_ylabel(heading)
    fig.legend(loc="outside lower center", ncols=2, **LEGEND)
    return fig


def one_cell(
    before: NDArray[Any], after: NDArray[Any], lightness: Sequence[NDArray[Any]], whole_image: bool, changed: float
) -> Figure:
    """Draw the same cell before and after enhancement, with the histograms of its lightness.

    Args:
        before: (S, S, 3), uint8.
        after: The enhanced image.
        lightness: L* of pixels (n,) before and after.
        whole_image: Whether these are all pixels, or those of the cell.
        changed: Share of the pixels of the image that changed.
    """

    def histograms(ax: Any) -> None:
        bins = np.linspace(0, 100, 26)
        for values, name, colour, style in zip(lightness, ("raw", "enhanced"), (INK, BLUE), ("--", "-"), strict=True):
            counts = np.histogram(values, bins)[0]
            ax.stairs(
                100 * counts / max(len(values), 1), bins, color=colour, linestyle=style, linewidth=1.5, label=name
            )
        ax.set_xlabel("lightness L*", fontsize=8)
        ax.set_ylabel("pixels (%)", fontsize=8)
        ax.legend(**LEGEND)

    region = "all pixels" if whole_image else "pixels of the cell"
    return same.row(
        f"ALHE changes {100 * changed:.0f} % of the pixels of this image and returns the others bit for bit",
        {"raw": same.picture(before), "enhanced": same.picture(after), region: histograms}, widths=(1, 1, 1.5),
        missing="Masks of these cells are not known: the histograms are of the whole image." if whole_image else "",
    )  # fmt: skip
