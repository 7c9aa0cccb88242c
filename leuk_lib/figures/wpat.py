"""Figures of chapter 5: architecture, attention of windows and latents, training, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

from leuk_lib.figures.models import OURS, THEIRS, overlay
from leuk_lib.figures.style import INK, LEGEND, MARKERS, PALETTE, WIDTH, headline, image_axes, new_figure

Array = NDArray[Any]


def architecture(tensors: pd.DataFrame) -> Figure:
    """Draw each tensor as a block to scale.

    Args:
        tensors: Columns name, step, height, width, channels, in the order of the computation.
    """
    per_row = 5
    rows = -(-len(tensors) // per_row)
    figure, ax = new_figure(WIDTH, 1.0 + 1.05 * rows)
    steps = list(dict.fromkeys(tensors["step"]))
    colours = {step: PALETTE[i % len(PALETTE)] for i, step in enumerate(steps)}
    largest = float(np.maximum(tensors["height"], tensors["width"]).max())
    site, channel = 0.62 / largest, 0.6 / float(tensors["channels"].max())
    for position, row in enumerate(tensors.to_dict("records")):
        h, w, c = int(row["height"]), int(row["width"]), int(row["channels"])
        high, wide, deep = (max(extent, 0.006) for extent in (h * site, w * site, c * channel))
        lean = 0.35 * wide
        left, base = position % per_row - (deep + lean) / 2, -1.1 * (position // per_row) - (high + lean) / 2
        front = [(left, base), (left + deep, base), (left + deep, base + high), (left, base + high)]
        top = [
            (left, base + high),
            (left + deep, base + high),
            (left + deep + lean, base + high + lean),
            (left + lean, base + high + lean),
        ]
        side = [
            (left + deep, base),
            (left + deep + lean, base + lean),
            (left + deep + lean, base + high + lean),
            (left + deep, base + high),
        ]
        for corners, alpha in ((front, 0.55), (top, 0.35), (side, 0.8)):
            ax.add_patch(Polygon(corners, facecolor=colours[row["step"]], edgecolor=INK, linewidth=0.5, alpha=alpha))
        size = f"{h}×{w}×{c}" if w > 1 else f"{h}×{c}"
        label = f"{row['name']}\n{size}"
        ax.text(position % per_row, -1.1 * (position // per_row) - 0.45, label, ha="center", va="top", fontsize=8)
    ax.set_xlim(-0.5, per_row - 0.5)
    ax.set_ylim(-1.1 * rows + 0.35, 0.5)
    ax.set_aspect("equal")
    ax.axis("off")
    handles = [Rectangle((0, 0), 1, 1, facecolor=colours[s], edgecolor=INK, linewidth=0.5, alpha=0.6) for s in steps]
    figure.legend(handles, steps, loc="outside lower center", ncols=min(4, len(steps)), **LEGEND)
    first, last = (tensors.iloc[k] for k in (0, -1))
    headline(
        figure,
        f"From {first['height']}×{first['width']}×{first['channels']} numbers of an image to {last['height']} logits "
        f"in {len(tensors)} tensors",
    )
    return figure


def windows(image: Array, strides: Sequence[int], side: int, region: Array, latents: Array) -> Figure:
    """Show the same cell with the windows of each feature level, the attention of region tokens, and that of latents.

    Args:
        image: (H, W, 3), uint8.
        strides: Stride of each level in pixels.
        side: Side of a window in tokens.
        region: Attention of region tokens within their windows (H, W).
        latents: Attention of some latents (n, H, W).
    """
    height, width = image.shape[:2]
    columns = max(len(strides) + 1, len(latents))
    figure, axes = new_figure(WIDTH, 0.9 + 2 * WIDTH / columns, 2, columns, squeeze=False)
    for ax in axes.flat:
        image_axes(ax)
    for ax, stride in zip(axes[0], strides, strict=False):
        ax.imshow(image)
        step = stride * side
        for x in range(0, width, step):
            ax.axvline(x - 0.5, color=PALETTE[0], linewidth=0.9)
        for y in range(0, height, step):
            ax.axhline(y - 0.5, color=PALETTE[0], linewidth=0.9)
        for x in range(0, width, stride):
            ax.axvline(x - 0.5, color=PALETTE[0], linewidth=0.25, alpha=0.6)
        for y in range(0, height, stride):
            ax.axhline(y - 0.5, color=PALETTE[0], linewidth=0.25, alpha=0.6)
        count = -(-height // step) * -(-width // step)
        ax.set_title(f"stride {stride} px:\n{count} window{'s' if count > 1 else ''}", fontsize=8)
    ax = axes[0, len(strides)]
    ax.imshow(image)
    overlay(ax, region)
    ax.set_title("region tokens", fontsize=8)
    for number, (ax, values) in enumerate(zip(axes[1], latents, strict=False), start=1):
        ax.imshow(image)
        overlay(ax, values)
        ax.set_title(f"latent {number}", fontsize=8)
    step = strides[0] * side
    count = -(-height // step) * -(-width // step)
    small = f"{count} small window{'s' if count > 1 else ''}"
    headline(figure, f"WPAT sees this cell in {small}, and as a whole through its latents")
    return figure


def curves(history: pd.DataFrame, curve: pd.DataFrame, best_step: int) -> Figure:
    """Plot training and validation curves, and mark the selected step.

    Args:
        history: Columns step, loss; one row per step.
        curve: Columns step, val_loss, val_accuracy, val_recall; one row per evaluation.
        best_step: The selected step.
    """
    figure, (upper, lower) = new_figure(WIDTH, 5.0, 2, 1, sharex=True)
    upper.plot(
        history["step"] + 1, history["loss"], color=PALETTE[4], linewidth=0.6, alpha=0.6, label="training, one batch"
    )
    smooth = history["loss"].rolling(max(1, len(history) // 20), min_periods=1).mean()
    upper.plot(history["step"] + 1, smooth, color=PALETTE[0], linewidth=1.5, label="training, running mean")
    upper.plot(curve["step"], curve["val_loss"], color=PALETTE[1], marker="o", markersize=4, label="validation")
    upper.set_ylabel("cross-entropy (nats)")
    lower.plot(
        curve["step"], 100 * curve["val_recall"], color=PALETTE[1], marker="o", markersize=4, label="mean recall"
    )
    lower.plot(curve["step"], 100 * curve["val_accuracy"], color=PALETTE[2], marker="s", markersize=4, label="accuracy")
    lower.set_ylabel("validation (%)")
    lower.set_ylim(-2, 102)
    for ax in (upper, lower):
        ax.axvline(best_step, color=INK, linestyle="--", linewidth=1, label="selected")
        ax.legend(**LEGEND)
    lower.set_xlabel("optimiser step")
    headline(figure, f"The loss on validation cells is lowest at step {best_step} of {int(history['step'].max()) + 1}")
    return figure


def cost(table: pd.DataFrame) -> Figure:
    """Plot operations against image size, in total and per pixel, on logarithmic axes.

    Args:
        table: Columns side, pixels, encoder, wpat, full_attention (GFLOP).
    """
    figure, (upper, lower) = new_figure(WIDTH, 5.4, 2, 1, sharex=True)
    names = {"encoder": "encoder", "wpat": "WPAT without encoder", "full_attention": "full attention instead"}
    per_pixel = table[list(names)].div(table["pixels"], axis=0)
    grown = per_pixel / per_pixel.iloc[0]
    colours = {"encoder": THEIRS, "wpat": OURS, "full_attention": PALETTE[2]}
    for number, (column, name) in enumerate(names.items()):
        line: dict[str, Any] = {
            "color": colours[column], "marker": MARKERS[number], "markersize": 4, "linewidth": 1.3, "label": name,
            "linestyle": "--" if column == "full_attention" else "-",
        }  # fmt: skip
        upper.plot(table["pixels"], table[column], **line)
        lower.plot(table["pixels"], grown[column], **line)
    for ax in (upper, lower):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ticks = table[table["side"].isin([64, 128, 256, 448])] if len(table) > 4 else table
        ax.set_xticks(ticks["pixels"], [f"{side}" for side in ticks["side"]])
        ax.minorticks_off()
    upper.set_ylabel("operations per image (GFLOP)")
    lower.set_ylabel("operations per pixel,\nrelative to the smallest image")
    lower.set_yticks([1, 2, 5, 10, 20, 40], ["1", "2", "5", "10", "20", "40"])
    lower.set_xlabel("image side (px)")
    upper.legend(**LEGEND)
    headline(
        figure,
        f"From {table['side'].iloc[0]} to {table['side'].iloc[-1]} px, a pixel costs {grown['wpat'].iloc[-1]:.2f} times as "
        f"much with WPAT, {grown['full_attention'].iloc[-1]:.1f} times with full attention",
    )
    return figure
