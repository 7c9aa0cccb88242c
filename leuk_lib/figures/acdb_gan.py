"""Figures of chapter 3, ACDB-GAN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray
from skimage.util import montage

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.style import INK, MARKERS, PALETTE, class_colours, image_axes, new_figure

LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}


def imbalance(table: pd.DataFrame) -> Figure:
    """Draw training cells per class; columns class, training, inner training, held out."""
    fig, ax = new_figure(6.4, 1.2 + 0.36 * len(table))
    rows = np.arange(len(table))[::-1]
    ax.barh(rows, table["inner training"], color=PALETTE[0], label="inner training: the GAN learns from these")
    ax.barh(
        rows, table["held out"], left=table["inner training"], color=PALETTE[1], hatch="//", edgecolor="white",
        label="held out: set the limits of the gate, measure recall",
    )  # fmt: skip
    for row, total in zip(rows, table["training"], strict=True):
        ax.annotate(f" {total}", (total, row), va="center", fontsize=8)
    ax.set_yticks(rows, table["class"])
    ax.set_xlabel("training cells")
    ax.margins(x=0.08)
    fig.legend(loc="outside lower center", ncols=1, **LEGEND)
    return fig


def gan_schematic() -> Figure:
    """Draw a schematic of generator, discriminator and gate."""
    fig, ax = new_figure(7.6, 3.5)
    ax.set(xlim=(0, 100), ylim=(0, 46))
    ax.axis("off")

    def box(x: float, y: float, w: float, h: float, text: str, colour: str) -> None:
        ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.6", fc=colour + "26", ec=colour, lw=1.3))
        ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=8, color=INK)

    def arrow(a: tuple[float, float], b: tuple[float, float], text: str = "", dx: float = 0, dy: float = 1.2) -> None:
        ax.add_patch(FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=10, lw=1.1, color=INK))
        if text:
            ax.text((a[0] + b[0]) / 2 + dx, (a[1] + b[1]) / 2 + dy, text, ha="center", fontsize=7.5, color=INK)

    box(2, 33, 17, 8, "real cells of class y\n(inner training)", PALETTE[0])
    box(2, 17, 17, 8, "noise z, class y", PALETTE[6])
    box(27, 17, 13, 8, "generator G", PALETTE[1])
    box(46, 25, 13, 8, "augment\n(prob. p of y)", PALETTE[4])
    box(66, 25, 15, 8, "discriminator D", PALETTE[3])
    ax.text(93, 29, "Δ = D(real) − D(fake)\nfor a pair of class y", ha="center", va="center", fontsize=8, color=INK)
    arrow((19.8, 37), (45.4, 31), "")
    arrow((19.8, 21), (26.2, 21))
    arrow((40.8, 22), (45.4, 27))
    arrow((59.8, 29), (65.2, 29))
    arrow((81.8, 29), (84.4, 29))
    ax.text(73.5, 36.5, "learns to make Δ large, with\ngradient penalties at both images", ha="center", fontsize=7.5)
    ax.text(31.5, 12.6, "learns to make Δ small", ha="right", fontsize=7.5)
    box(27, 2, 13, 7, "samples\nof class y", PALETTE[1])
    box(47, 2, 27, 7, "gate: right class? realistic?\nno copy? no duplicate?", PALETTE[2])
    box(84, 2, 15, 7, "delivered, up to\nthe quota of y", PALETTE[2])
    arrow((33.5, 16.2), (33.5, 9.9))
    arrow((40.8, 5.5), (46.2, 5.5))
    arrow((74.8, 5.5), (83.2, 5.5), "accepted")
    box(47, 14, 27, 5.5, "held-out real cells set the limits", PALETTE[0])
    arrow((60.5, 13.2), (60.5, 9.9))
    return fig


def trade_off(table: pd.DataFrame, controls: pd.DataFrame) -> Figure:
    """Draw accepted cells of the class against accepted cells of other classes.

    Args:
        table: One row per class and limit; columns class, own, other.
        controls: Columns image and accepted; the two rows of held-out cells mark the gate's choice.
    """
    fig, ax = new_figure(5.4, 3.9)
    names = list(dict.fromkeys(table["class"]))
    colours = class_colours(names)
    ax.axvspan(0, 5, ymin=0, color=PALETTE[2], alpha=0.12, lw=0)
    ax.axhline(80, color="#888888", lw=0.8, ls=":")
    for k, name in enumerate(names):
        part = table[table["class"] == name]
        ax.plot(
            100 * part["other"], 100 * part["own"], color=colours[name], label=name, lw=1.4,
            marker=MARKERS[k % len(MARKERS)], markevery=5, ms=4,
        )  # fmt: skip
    holdout = controls[controls["image"].str.startswith("held-out")]
    other, own = (holdout.loc[holdout["image"].str.contains(word), "accepted"] for word in ("another", "own"))
    if len(other) and len(own):
        ax.plot(100 * other.iloc[0], 100 * own.iloc[0], "*", color=INK, ms=12, label="the gate, all four tests")
    ax.set_xlabel("cells of other classes accepted, %")
    ax.set_ylabel("cells of the class accepted, %")
    ax.set_ylim(-3, 103)
    if ax.get_legend_handles_labels()[0]:
        fig.legend(loc="outside right upper", **LEGEND)
    return fig


def curves(history: pd.DataFrame, classes: Sequence[str], target: float) -> Figure:
    """Draw losses, penalties, r_t and p over the steps; columns step, loss_d, loss_g, r1, r2, r_<c>, p_<c>."""
    fig, axes = new_figure(8, 4.6, 2, 2, sharex=True)
    step = history["step"]
    for name, colour, label in (("loss_d", PALETTE[0], "discriminator"), ("loss_g", PALETTE[1], "generator")):
        axes[0, 0].plot(step, history[name], color=colour, alpha=0.25, lw=0.8)
        axes[0, 0].plot(step, _smooth(history[name]), color=colour, label=label)
    axes[0, 0].axhline(np.log(2), color="#888888", lw=0.8, ls=":", label="ln 2: no preference")
    axes[0, 0].set_ylabel("loss (nats)")
    axes[0, 0].legend(**LEGEND)
    for name, colour, label in (
        ("r1", PALETTE[2], "at real cells (R1)"),
        ("r2", PALETTE[3], "at synthetic cells (R2)"),
    ):
        if name in history:
            logged = history[["step", name]].dropna()
            axes[0, 1].plot(logged["step"], logged[name], color=colour, label=label, marker=".", ms=3, lw=0.8)
    axes[0, 1].set_yscale("symlog", linthresh=1e-2)
    axes[0, 1].set_ylabel("squared gradient norm of D")
    axes[0, 1].legend(**LEGEND)
    colours = class_colours(classes)
    for c, name in enumerate(classes):
        for ax, key in ((axes[1, 0], f"r_{c}"), (axes[1, 1], f"p_{c}")):
            if key in history:
                marker = {"marker": MARKERS[c % len(MARKERS)], "markevery": max(1, len(step) // 8), "ms": 4}
                ax.plot(step, history[key], color=colours[name], label=name, **marker)
    axes[1, 0].axhline(target, color="#888888", lw=0.8, ls=":")
    axes[1, 0].text(step.iloc[-1], target, "target", ha="right", va="bottom", fontsize=7.5)
    axes[1, 0].set_ylabel("r_t: mean sign of Δ")
    axes[1, 1].set_ylabel("p: probability of augmentation")
    axes[1, 1].set_ylim(-0.03, 1.03)
    axes[1, 1].legend(ncols=1 + len(classes) // 5, **LEGEND)
    for ax in axes[1]:
        ax.set_xlabel("optimiser step")
    return fig


def _smooth(values: pd.Series) -> pd.Series:
    return values.rolling(max(1, len(values) // 12), min_periods=1, center=True).mean()


def snapshots(images: np.ndarray, steps: Sequence[int], real: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw samples of the same latents at several steps, one row per class, with real cells in the last column.

    Args:
        images: Samples (T,K,n,S,S,3) uint8.
        steps: Their T steps.
        real: Real cells at the same resolution (K,n,S,S,3) uint8.
        classes: K class names.
    """
    times, n_classes = images.shape[:2]
    fig, axes = new_figure(1.0 * (times + 1) + 0.7, 1.0 * n_classes + 0.3, n_classes, times + 1, squeeze=False)
    for c in range(n_classes):
        for t in range(times + 1):
            ax = axes[c, t]
            ax.imshow(_tile(images[t, c] if t < times else real[c], 2), interpolation="nearest")
            image_axes(ax, "" if c else (f"step {steps[t]}" if t < times else "real"))
        axes[c, 0].set_ylabel(classes[c], rotation=0, ha="right", va="center", fontsize=8)
    return fig


def _tile(images: np.ndarray, rows: int) -> np.ndarray:
    """Tile (n,S,S,3) row by row into one image of ``rows`` rows, or of one row for fewer than three images."""
    rows = 1 if len(images) < 3 else rows
    return montage(images, fill=(252, 252, 252), grid_shape=(rows, -(-len(images) // rows)), channel_axis=-1)


def screened(groups: dict[str, tuple[np.ndarray, int]]) -> Figure:
    """Draw examples of accepted candidates and of each reason of rejection: name -> (images (n,S,S,3), total)."""
    columns = max([len(images) for images, _ in groups.values()] + [1])
    fig, axes = new_figure(
        0.72 * columns + 2.2, 0.8 * max(len(groups), 1) + 0.2, max(len(groups), 1), columns, squeeze=False
    )
    for row, (name, (images, total)) in enumerate(groups.items()):
        for column in range(columns):
            ax = axes[row, column]
            image_axes(ax)
            if column < len(images):
                ax.imshow(images[column], interpolation="nearest")
            else:
                ax.patch.set_alpha(0)
        axes[row, 0].set_ylabel(f"{name}\n({total})", rotation=0, ha="right", va="center", fontsize=8)
    return fig


def nearest_real(rows: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """Draw candidates and their nearest real cells, one row per (name, candidate (S,S,3), real cells (n,S,S,3))."""
    columns = 1 + max([len(real) for _, _, real in rows] + [1])
    half = -(-len(rows) // 2) if len(rows) > 5 else max(len(rows), 1)
    blocks = -(-len(rows) // half) if rows else 1
    fig, axes = new_figure((0.75 * columns + 1.1) * blocks, 0.78 * half + 0.4, half, columns * blocks, squeeze=False)
    for ax in axes.flat:
        image_axes(ax)
        ax.patch.set_alpha(0)
    for i, (name, synthetic, real) in enumerate(rows):
        row, first = i % half, i // half * columns
        for offset, image in enumerate([synthetic, *real]):
            axes[row, first + offset].imshow(image, interpolation="nearest")
            if row == 0:
                axes[row, first + offset].set_title("synthetic" if offset == 0 else f"real {offset}", fontsize=8)
        axes[row, first].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return fig


def delivered(table: pd.DataFrame) -> Figure:
    """Draw real cells, quota and delivered cells per class; columns class, real, quota, delivered."""
    fig, ax = new_figure(6.4, 1.1 + 0.42 * len(table))
    rows = np.arange(len(table))[::-1]
    ax.barh(rows, table["real"], height=0.6, color=PALETTE[0], label="real")
    ax.barh(rows, table["delivered"], left=table["real"], height=0.6, color=PALETTE[1], label="synthetic, delivered")
    ax.barh(
        rows, table["quota"], left=table["real"], height=0.6, fill=False, ec=INK, ls="--", lw=1, label="quota",
    )  # fmt: skip
    for row, entry in zip(rows, table.to_dict("records"), strict=True):
        ax.annotate(
            f"  {entry['delivered']} of {entry['quota']}",
            (entry["real"] + entry["quota"], row),
            va="center",
            fontsize=8,
        )
    ax.set_yticks(rows, table["class"])
    ax.set_xlabel("training cells")
    ax.margins(x=0.14)
    fig.legend(loc="outside lower center", ncols=3, **LEGEND)
    return fig


Neighbour = tuple[str, NDArray[np.uint8], float]  # class, image (S, S, 3), distance


def one_cell(
    cell: tuple[str, NDArray[np.uint8]], real: Neighbour, synthetic: Neighbour | None = None,
    source: Neighbour | None = None, copy_below: float = 0.0,
) -> Figure:  # fmt: skip
    """Draw the same cell, its nearest synthetic and training cells, and the training cell nearest to the synthetic one.

    Args:
        cell: Class and image of the cell.
        real: Nearest training cell, and its distance.
        synthetic: Nearest accepted synthetic cell; None if none was accepted.
        source: Training cell nearest to that synthetic one, and their distance.
        copy_below: Distance from this training cell below which the gate calls a synthetic cell memorised.
    """
    panels = {f"the cell\n{cell[0]}": same.picture(cell[1])}
    lengths = {"to the nearest training cell": real[2]}
    if synthetic is None or source is None:
        title, missing = "No synthetic cell to compare this cell with", "No synthetic cell was accepted in this run."
    else:
        panels[f"nearest synthetic cell\n{synthetic[0]}"] = same.picture(synthetic[1])
        panels[f"training cell nearest to it\n{source[0]}"] = same.picture(source[1])
        lengths["to the nearest synthetic cell"] = synthetic[2]
        lengths[f"between the two (copy: below {copy_below:.1f})"] = source[2]
        side = "farther from" if synthetic[2] > real[2] else "nearer to"
        title, missing = f"The nearest synthetic cell is {side} this cell than the nearest training cell is", ""
    panels[f"nearest training cell\n{real[0]}"] = same.picture(real[1])
    panels["distances"] = same.bars(lengths, "whitened features")
    return same.row(title, panels, missing=missing, widths=[0.85] * (len(panels) - 1) + [1.5])
