"""Figures of chapter 5: the architecture, windows and latents, learning curves, comparison, confusion, gallery, shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

from leuk_lib.figures.style import INK, MARKERS, PALETTE, image_axes, new_figure

Array = NDArray[Any]
LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False}


def _overlay(ax: Any, values: Array) -> None:
    """A heat map over the image, the clearer the higher: where nothing is, the image stays as it is.

    Its top is the 99.5th percentile, so that one pixel does not hide all others.
    """
    shown = np.clip(values / max(float(np.quantile(values, 0.995)), 1e-12), 0, 1)
    ax.imshow(shown, cmap="viridis", alpha=0.85 * shown, vmin=0, vmax=1)


def architecture(tensors: pd.DataFrame) -> Figure:
    """Every tensor as a block: height and width its rows and columns of sites, depth its channels, all to scale.

    ``tensors``: name, step, height, width, channels, count, in the order of the computation.
    """
    figure, ax = new_figure(9.5, 3.9)
    steps = list(dict.fromkeys(tensors["step"]))
    colours = {step: PALETTE[i % len(PALETTE)] for i, step in enumerate(steps)}
    largest = float(np.maximum(tensors["height"], tensors["width"]).max())
    site, channel = 1 / largest, 0.5 / float(tensors["channels"].max())
    left, centres, labels = 0.0, [], []
    for row in tensors.to_dict("records"):
        h, w, c = int(row["height"]), int(row["width"]), int(row["channels"])
        high, wide, deep = (max(extent, 0.006) for extent in (h * site, w * site, c * channel))
        base = -high / 2
        front = [(left, base), (left + deep, base), (left + deep, base + high), (left, base + high)]
        lean = 0.35 * wide
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
        centres.append(left + (deep + lean) / 2)
        size = f"{h}×{w}×{c}" if w > 1 else f"{h}×{c}"
        labels.append(f"{row['name']}\n{size}")
        left += max(deep + lean, 0.24) + 0.16
    for place, text in zip(centres, labels, strict=True):
        ax.text(place, -0.62, text, ha="center", va="top", fontsize=7, rotation=0)
    ax.set_xlim(-0.12, left + 0.02)
    ax.set_ylim(-0.95, 0.95)
    ax.set_aspect("equal")
    ax.axis("off")
    handles = [Rectangle((0, 0), 1, 1, facecolor=colours[s], edgecolor=INK, linewidth=0.5, alpha=0.6) for s in steps]
    ax.legend(handles, steps, loc="upper right", ncols=min(4, len(steps)), **LEGEND)
    return figure


def windows(image: Array, strides: Sequence[int], side: int, region: Array, latents: Array) -> Figure:
    """One cell under the windows of every scale, what region tokens look at inside them, and what latents read.

    image (H,W,3) uint8; region (H,W): attention inside windows; latents (n,H,W): attention of some latents.
    """
    height, width = image.shape[:2]
    columns = max(len(strides) + 1, len(latents))
    figure, axes = new_figure(1.75 * columns, 4.0, 2, columns, squeeze=False)
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
        ax.set_title(f"stride {stride} px: {count} window{'s' if count > 1 else ''}", fontsize=8)
    ax = axes[0, len(strides)]
    ax.imshow(image)
    _overlay(ax, region)
    ax.set_title("region tokens look", fontsize=8)
    for number, (ax, one) in enumerate(zip(axes[1], latents, strict=False), start=1):
        ax.imshow(image)
        _overlay(ax, one)
        ax.set_title(f"latent {number} reads", fontsize=8)
    return figure


def curves(history: pd.DataFrame, curve: pd.DataFrame, best_step: int) -> Figure:
    """Training loss a step (with its running mean), validation loss and mean recall a look, and the chosen look."""
    figure, (left, right) = new_figure(9, 3.2, 1, 2)
    left.plot(
        history["step"] + 1, history["loss"], color=PALETTE[4], linewidth=0.6, alpha=0.6, label="training, a batch"
    )
    smooth = history["loss"].rolling(max(1, len(history) // 20), min_periods=1).mean()
    left.plot(history["step"] + 1, smooth, color=PALETTE[0], linewidth=1.5, label="training, running mean")
    left.plot(curve["step"], curve["val_loss"], color=PALETTE[1], marker="o", markersize=4, label="validation")
    left.set_ylabel("cross-entropy (nats)")
    right.plot(
        curve["step"], 100 * curve["val_recall"], color=PALETTE[1], marker="o", markersize=4, label="mean recall"
    )
    right.plot(curve["step"], 100 * curve["val_accuracy"], color=PALETTE[2], marker="s", markersize=4, label="accuracy")
    right.set_ylabel("validation (%)")
    right.set_ylim(-2, 102)
    for ax in (left, right):
        ax.axvline(best_step, color=INK, linestyle="--", linewidth=1, label="chosen")
        ax.set_xlabel("optimiser step")
        ax.legend(**LEGEND)
    return figure


def comparison(scores: pd.DataFrame, metric: str = "balanced_accuracy") -> Figure:
    """Every model's ``metric`` on each split with its 95 % interval. ``scores``: model, split, metric, value, low, high."""
    table = scores[scores["metric"] == metric]
    models, splits = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["split"]))
    figure, ax = new_figure(7, 0.45 * len(models) + 1.1)
    for number, split in enumerate(splits):
        part = table[table["split"] == split].set_index("model").reindex(models)
        places = np.arange(len(models)) + 0.18 * (number - (len(splits) - 1) / 2)
        values = 100 * part["value"].to_numpy(dtype=float)
        bars = np.abs(100 * part[["low", "high"]].to_numpy(dtype=float).T - values)
        ax.errorbar(
            values, places, xerr=bars, fmt=MARKERS[number], color=PALETTE[number], markersize=5, capsize=3,
            linewidth=1.2, label=split,
        )  # fmt: skip
    ax.set_yticks(range(len(models)), models)
    ax.invert_yaxis()
    ax.set_xlim(-2, 102)
    ax.set_xlabel(f"{metric.replace('_', ' ')} (%), 95 % interval over groups")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **LEGEND)
    return figure


def confusion(counts: Array, classes: Sequence[str]) -> Figure:
    """Confusion matrix (K,K): rows true, columns predicted; colour the share of the row, text counts and shares."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 1.6 + 0.62 * len(classes)
    figure, ax = new_figure(side + 0.9, side)
    drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(classes)):
        for j in range(len(classes)):
            colour = "white" if shares[i, j] > 0.55 else INK
            share = f"\n{100 * shares[i, j]:.0f} %" if totals[i, 0] else ""
            ax.text(j, i, f"{counts[i, j]}{share}", ha="center", va="center", fontsize=7, color=colour)
    slant: dict[str, Any] = {"rotation": 40, "ha": "right"} if max(map(len, classes)) > 5 else {}
    ax.set_xticks(range(len(classes)), classes, **slant)
    ax.set_yticks(range(len(classes)), classes)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    bar = figure.colorbar(drawn, ax=ax, shrink=0.8)
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def gallery(rows: Mapping[str, pd.DataFrame], images: Array, maps: Mapping[str, Array], shown: int = 6) -> Figure:
    """Cells and where the model looks: a block of rows each for right and wrong cells.

    ``rows``: title -> table with position (into images and maps), label, predicted, probability; ``images`` (n,H,W,3)
    uint8; ``maps``: method -> (n,H,W). A title without a cell says so.
    """
    lines = 1 + len(maps)
    figure, axes = new_figure(
        1.35 * shown + 0.4, 1.52 * lines * len(rows) + 0.2, lines * len(rows), shown, squeeze=False
    )
    for block, (title, table) in enumerate(rows.items()):
        for column in range(shown):
            part = axes[block * lines : (block + 1) * lines, column]
            for ax in part:
                image_axes(ax)
            if column >= len(table):
                if column == 0:
                    part[0].text(0, 0.5, f"{title}: none", fontsize=8, transform=part[0].transAxes)
                continue
            row = table.iloc[column]
            position = int(row["position"])
            part[0].imshow(images[position])
            arrow = "" if row["label"] == row["predicted"] else f"\n→ {row['predicted']}"
            part[0].set_title(f"{row['label']}{arrow} {100 * row['probability']:.0f} %", fontsize=7)
            for ax, values in zip(part[1:], maps.values(), strict=True):
                ax.imshow(images[position])
                _overlay(ax, values[position])
            if column == 0:
                part[0].set_ylabel(title, fontsize=8)
                for ax, method in zip(part[1:], maps, strict=True):
                    ax.set_ylabel(method, fontsize=8)
    return figure


def shares(summary: pd.DataFrame) -> Figure:
    """Attribution on cell and nucleus, and the pointing game, each method with interval; the mark is the area's share.

    ``summary``: method, region, measure, value, low, high, area; without rows the figure says that there are no masks.
    """
    if summary.empty:
        figure, ax = new_figure(6, 1.0)
        ax.axis("off")
        ax.text(0.5, 0.5, "These cells have no masks: where cell and nucleus lie is unknown.", ha="center", va="center")
        return figure
    measures = [("share", "share of attribution (%)"), ("pointing", "highest pixel inside (%)")]
    figure, axes = new_figure(8.5, 2.9, 1, 2, sharey=True)
    regions, methods = list(dict.fromkeys(summary["region"])), list(dict.fromkeys(summary["method"]))
    for ax, (measure, label) in zip(axes, measures, strict=True):
        for number, method in enumerate(methods):
            part = summary[(summary["method"] == method) & (summary["measure"] == measure)].set_index("region")
            part = part.reindex(regions)
            values = 100 * part["value"].to_numpy(dtype=float)
            bars = np.abs(100 * part[["low", "high"]].to_numpy(dtype=float).T - values)
            places = np.arange(len(regions)) + 0.2 * (number - (len(methods) - 1) / 2)
            ax.errorbar(values, places, xerr=bars, fmt=MARKERS[number], color=PALETTE[number], capsize=3, label=method)
        area = 100 * summary.groupby("region", sort=False)["area"].mean().reindex(regions).to_numpy(dtype=float)
        ax.plot(area, np.arange(len(regions)), "|", color=INK, markersize=18, label="share of area (chance)")
        ax.set_yticks(range(len(regions)), regions)
        ax.set_ylim(len(regions) - 0.4, -0.6)
        ax.set_xlim(-2, 102)
        ax.set_xlabel(label)
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), labelspacing=1.4, **LEGEND)
    return figure
