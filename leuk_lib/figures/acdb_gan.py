"""Figures of chapter 3, ACDB-GAN."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray
from skimage.util import montage

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.models import OURS, PARTLY, THEIRS
from leuk_lib.figures.style import (
    INK,
    LEGEND,
    MARKERS,
    PALETTE,
    PAPER,
    WIDTH,
    class_colours,
    headline,
    image_axes,
    light_grid,
    new_figure,
)


def gan_schematic() -> Figure:
    """Draw a schematic of generator, discriminator and gate."""
    fig, ax = new_figure(WIDTH, 4.0)
    ax.set(xlim=(-1, 67), ylim=(0, 53))
    ax.axis("off")

    def box(x: float, y: float, text: str, colour: str) -> None:
        ax.add_patch(FancyBboxPatch((x, y), 18, 9, boxstyle="round,pad=0.6", fc=colour + "26", ec=colour, lw=1.3))
        ax.text(x + 9, y + 4.5, text, ha="center", va="center", fontsize=8, color=INK)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, lw=1.1, color=INK))

    def note(x: float, y: float, text: str, side: str = "center") -> None:
        ax.text(x, y, text, ha=side, va="center", fontsize=8, color=INK)

    box(0, 42, "real cells of\nclass y", PALETTE[0])
    box(24, 42, "augmentation\n(probability p)", PALETTE[4])
    box(48, 42, "discriminator D", PALETTE[3])
    box(0, 24, "noise z, class y", PALETTE[6])
    box(24, 24, "generator G", PALETTE[1])
    box(0, 2, "held-out real\ncells: limits", PALETTE[0])
    box(24, 2, "gate: right class?\nrealistic? no copy?\nno duplicate?", PALETTE[2])
    box(48, 2, "delivered, up to\nthe quota of y", PALETTE[2])
    for y, columns in ((46.5, (0, 24)), (28.5, (0,)), (6.5, (0, 24))):
        for x in columns:
            arrow((x + 18.6, y), (x + 23.4, y))
    arrow((33, 33.8), (33, 41.2))
    arrow((33, 23.2), (33, 11.8))
    arrow((57, 41.2), (57, 36.8))
    note(57, 29, "Δ = D(real)\n− D(synthetic);\nD makes Δ large,\nG makes it small")
    note(34.5, 17.5, "samples of class y", "left")
    headline(fig, "Two networks compete; only cells that pass the gate are delivered")
    return fig


def trade_off(table: pd.DataFrame, controls: pd.DataFrame) -> Figure:
    """Draw accepted cells of the class against accepted cells of other classes.

    Args:
        table: One row per class and limit; columns class, own, other.
        controls: Columns image and accepted; the two rows of held-out cells mark the gate's choice.
    """
    fig, ax = new_figure(WIDTH, 3.9)
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
    title = "What a stricter or looser limit of test 1 would let through"
    if len(other) and len(own):
        ax.plot(100 * other.iloc[0], 100 * own.iloc[0], "*", color=INK, ms=12, label="the gate, all four tests")
        if not np.isnan([own.iloc[0], other.iloc[0]]).any():
            title = f"The gate accepts {100 * own.iloc[0]:.0f} % of the class's real cells, {100 * other.iloc[0]:.0f} % of others"
            copies = controls.loc[controls["image"].str.startswith("training cells"), "accepted"]
            title += f", {100 * copies.mean():.0f} % of copies" if copies.notna().any() else ""
    ax.set_xlabel("cells of other classes accepted, %")
    ax.set_ylabel("cells of the class accepted, %")
    ax.set_ylim(-3, 103)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower right", **LEGEND)
    headline(fig, title)
    return fig


def curves(history: pd.DataFrame, classes: Sequence[str], target: float) -> Figure:
    """Draw losses, penalties, r_t and p over the steps; columns step, loss_d, loss_g, r1, r2, r_<c>, p_<c>."""
    fig, axes = new_figure(5.4, 5.0, 2, 2, sharex=True)
    step, ends = history["step"], {}
    for name, colour, label in (("loss_d", PALETTE[0], "discriminator"), ("loss_g", PALETTE[1], "generator")):
        smooth = _smooth(history[name])
        axes[0, 0].plot(step, history[name], color=colour, alpha=0.25, lw=0.8)
        axes[0, 0].plot(step, smooth, color=colour, label=label)
        ends[label] = float(smooth.iloc[-1])
    axes[0, 0].axhline(np.log(2), color="#888888", lw=0.8, ls=":", label="ln 2: no preference")
    axes[0, 0].set_title("loss (nats)", fontsize=8.5)
    axes[0, 0].legend(**LEGEND)
    for name, colour, label in (("r1", PALETTE[2], "real cells (R1)"), ("r2", PALETTE[3], "synthetic cells (R2)")):
        if name in history:
            logged = history[["step", name]].dropna()
            axes[0, 1].plot(logged["step"], logged[name], color=colour, label=label, marker=".", ms=3, lw=0.8)
    axes[0, 1].set_yscale("symlog", linthresh=1e-2)
    axes[0, 1].set_title("squared gradient norm of D", fontsize=8.5)
    axes[0, 1].legend(**LEGEND)
    colours = class_colours(classes)
    for c, name in enumerate(classes):
        for ax, key in ((axes[1, 0], f"r_{c}"), (axes[1, 1], f"p_{c}")):
            if key in history:
                marker = {"marker": MARKERS[c % len(MARKERS)], "markevery": max(1, len(step) // 8), "ms": 4}
                ax.plot(step, history[key], color=colours[name], label=name, **marker)
    axes[1, 0].axhline(target, color="#888888", lw=0.8, ls=":")
    axes[1, 0].set_title("r_t: mean sign of Δ (dotted: target)", fontsize=8.5)
    axes[1, 1].set_title("p: probability of augmentation", fontsize=8.5)
    axes[1, 1].set_ylim(-0.03, 1.03)
    for ax in axes[1]:
        ax.set_xlabel("optimiser step")
    handles, labels = axes[1, 1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, **LEGEND)
    losses = " and ".join(f"{value:.2f} ({name})" for name, value in ends.items())
    headline(fig, f"The losses end at {losses}; at 0.69 neither network wins")
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
    fig, axes = new_figure(0.75 * (times + 1) + 0.7, 0.78 * n_classes + 0.5, n_classes, times + 1, squeeze=False)
    for c in range(n_classes):
        for t in range(times + 1):
            ax = axes[c, t]
            ax.imshow(_tile(images[t, c] if t < times else real[c], 2), interpolation="nearest")
            image_axes(ax, "" if c else (f"step {steps[t]}" if t < times else "real"))
        axes[c, 0].set_ylabel(classes[c], rotation=0, ha="right", va="center", fontsize=8)
    headline(
        fig, f"Samples of the same noise up to step {steps[-1]}, beside real cells" if len(steps) else "Real cells"
    )
    return fig


def _tile(images: np.ndarray, rows: int) -> np.ndarray:
    """Tile (n,S,S,3) row by row into one image of ``rows`` rows, or of one row for fewer than three images."""
    rows = 1 if len(images) < 3 else rows
    return montage(images, fill=(252, 252, 252), grid_shape=(rows, -(-len(images) // rows)), channel_axis=-1)


def screened(groups: dict[str, tuple[np.ndarray, int]]) -> Figure:
    """Draw examples of accepted candidates and of each reason of rejection: name -> (images (n,S,S,3), total)."""
    columns = max([len(images) for images, _ in groups.values()] + [1])
    fig, axes = new_figure(
        0.62 * columns + 1.3, 0.7 * max(len(groups), 1) + 0.4, max(len(groups), 1), columns, squeeze=False
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
    totals = [total for _, total in groups.values()]
    headline(fig, f"{totals[0] if totals else 0} of {sum(totals)} candidates pass all four tests")
    return fig


def nearest_real(rows: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """Draw candidates and their nearest real cells, one row per (name, candidate (S,S,3), real cells (n,S,S,3))."""
    columns = 1 + max([len(real) for _, _, real in rows] + [1])
    fig, axes = new_figure(
        0.85 * columns + 1.1, 0.85 * max(len(rows), 1) + 0.5, max(len(rows), 1), columns, squeeze=False
    )
    for ax in axes.flat:
        image_axes(ax)
        ax.patch.set_alpha(0)
    for row, (name, synthetic, real) in enumerate(rows):
        for column, image in enumerate([synthetic, *real]):
            axes[row, column].imshow(image, interpolation="nearest")
            if row == 0:
                axes[row, column].set_title(f"real {column}" if column else "synthetic", fontsize=8)
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    headline(fig, "Synthetic cells beside the real cells nearest to them")
    return fig


def delivered(table: pd.DataFrame) -> Figure:
    """Draw real cells, quota and delivered cells per class; columns class, real, quota, delivered."""
    fig, ax = new_figure(WIDTH, 1.3 + 0.42 * len(table))
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
    ax.margins(x=0.2)
    fig.legend(loc="outside lower center", ncols=3, **LEGEND)
    headline(fig, f"{table['delivered'].sum()} of {table['quota'].sum()} synthetic cells of the quotas are delivered")
    return fig


def remedies(table: pd.DataFrame) -> Figure:
    """Draw what each remedy adds to each score, with intervals; hollow where the interval includes zero.

    Args:
        table: Columns condition (the score), arm, value, low, high, as shares; drawn in percentage points. The first score
            gives the title.
    """
    scores, arms = list(dict.fromkeys(table["condition"])), list(dict.fromkeys(table["arm"]))
    fig, axes = new_figure(5.2, 1.3 + 0.28 * len(arms), 1, len(scores), sharey=True, squeeze=False)
    for ax, score in zip(axes[0], scores, strict=True):
        part = table[table["condition"] == score].set_index("arm")
        for place, arm in enumerate(arms):
            value, low, high = (100 * float(part.loc[arm, name]) for name in ("value", "low", "high"))
            gan = "GAN" in arm
            colour = OURS if re.search(r"\bgated", arm) else PARTLY if gan else THEIRS
            face = colour if low > 0 or high < 0 else PAPER
            ax.hlines(place, low, high, color=colour, lw=1.6)
            ax.plot(value, place, "o" if gan else "s", mfc=face, mec=colour, mew=1.3, ms=5.5, ls="")
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_title(score, fontsize=9)
        ax.set_xlabel("percentage points")
        light_grid(ax, "x")
    axes[0, 0].set_yticks(range(len(arms)), arms)
    axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    best = table.loc[table[table["condition"] == scores[0]]["value"].idxmax()]
    headline(fig, f"Of all remedies, {best['arm']} adds most to {scores[0]}: {100 * best['value']:+.0f} points")
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
    return same.row(title, panels, missing=missing, widths=[0.75] * (len(panels) - 1) + [1.5])
