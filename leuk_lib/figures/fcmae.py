"""Figures of the chapter on masked pretraining; they take arrays and data frames only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from leuk_lib.figures.style import INK, MARKERS, PALETTE, class_colours, image_axes, new_figure

HIDDEN = 0.62  # grey of a hidden patch


def reconstructions(
    images: NDArray[Any], visible: NDArray[np.bool_], painted: NDArray[Any], names: Sequence[str]
) -> Figure:
    """Rows of input, masked input, reconstruction and absolute error.

    images, painted (N, H, W, 3) in [0,1]; visible (N, H, W), True where the encoder could look; names: N labels.
    """
    n = len(images)
    fig, axes = new_figure(6.4, 0.45 + 1.5 * n, n, 4, squeeze=False)
    error = np.abs(painted - images).mean(-1)
    # Colour by what is hidden: visible pixels are copied, their error of 0 says nothing.
    error = np.where(visible, np.nan, error)
    top = max(float(np.nanquantile(error, 0.995)), 1e-3)
    mesh: Any = None
    for row, (ax, image, seen, paint, err) in enumerate(zip(axes, images, visible, painted, error, strict=True)):
        masked = np.where(seen[..., None], image, HIDDEN)
        for column, (picture, title) in enumerate(
            [(image, "input"), (masked, "what the encoder sees"), (paint, "filled in")]
        ):
            ax[column].imshow(picture, vmin=0, vmax=1, interpolation="nearest")
            image_axes(ax[column], title if row == 0 else "")
        ax[3].set_facecolor("#E4E4E4")
        mesh = ax[3].imshow(err, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        image_axes(ax[3], "absolute error, hidden part" if row == 0 else "")
        ax[0].set_ylabel(names[row], fontsize=8)
    bar = fig.colorbar(mesh, ax=axes[:, 3].tolist(), shrink=min(1.0, 2.2 / n), aspect=18)
    bar.set_label("mean |error| of R, G, B (0 to 1)", fontsize=8)
    return fig


def learning_curves(history: pd.DataFrame, window: int = 0) -> Figure:
    """Loss on hidden patches over steps, stained patches and empty field apart, and the learning rate.

    history: columns step, loss, stained, field, lr. Thin: every step; thick: running median over `window` steps
    (0: a twentieth of the run).
    """
    window = window or max(len(history) // 20, 1)
    fig, (top, low) = new_figure(6.4, 3.9, 2, 1, sharex=True, height_ratios=(4, 1))
    kinds = [
        ("stained", "stained patches (cells)", PALETTE[5]),
        ("loss", "all hidden patches", INK),
        ("field", "empty field", PALETTE[0]),
    ]
    for (column, label, colour), style in zip(kinds, ("-", "--", "-."), strict=True):
        if column not in history or history[column].notna().sum() == 0:
            continue
        values = history[column]
        top.plot(history["step"], values, color=colour, lw=0.6, alpha=0.35)
        smooth = values.rolling(window, center=True, min_periods=1).median()
        top.plot(history["step"], smooth, style, color=colour, lw=2, label=label)
    top.set_ylabel("mean squared error\n(target of the loss)")
    top.set_ylim(bottom=0)
    top.legend()
    low.plot(history["step"], history["lr"], color=PALETTE[2], lw=1.5)
    low.set_ylabel("learning\nrate")
    low.set_xlabel("optimiser step")
    low.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return fig


def probe_over_time(table: pd.DataFrame, encoder: str = "FCMAE encoder") -> Figure:
    """Accuracy of the frozen encoder over pretraining, beside baselines that need none; 95 % intervals.

    table: columns features, probe, step, accuracy, low, high, n; rows of `encoder` make the curve.
    """
    probes = list(dict.fromkeys(table["probe"]))
    fig, axes = new_figure(6.8, 3.3, 1, len(probes), sharey=True, squeeze=False)
    rivals = [name for name in dict.fromkeys(table["features"]) if name != encoder]
    for ax, probe in zip(axes[0], probes, strict=True):
        part = table[table["probe"] == probe]
        ours = part[part["features"] == encoder].sort_values("step")
        first, last = float(ours["step"].min()), max(float(ours["step"].max()), 1.0)
        for position, name in enumerate(rivals):
            row = part[part["features"] == name].iloc[0]
            colour = PALETTE[(1, 2, 3)[position % 3]]
            ax.axhspan(row["low"], row["high"], color=colour, alpha=0.13, lw=0)
            ax.axhline(row["accuracy"], color=colour, ls=("--", "-.", ":")[position % 3], lw=1.5, label=name)
        start = ours.iloc[0]
        ax.axhline(start["accuracy"], color=PALETTE[6], lw=1, ls=(0, (1, 2)), label="random initialisation")
        error = np.abs(ours[["low", "high"]].to_numpy().T - ours["accuracy"].to_numpy())
        ax.errorbar(
            ours["step"], ours["accuracy"], yerr=error, color=PALETTE[0], marker="o", ms=5, capsize=3, lw=1.8,
            label="FCMAE, frozen",
        )  # fmt: skip
        ax.set_xlim(first - 0.05 * last, 1.05 * last)
        ax.set_title(f"{probe} probe (n = {int(start['n'])})")
        ax.set_xlabel("optimiser steps of pretraining")
    axes[0][0].set_ylabel("accuracy, validation cells")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


def embedding_map(
    points: NDArray[Any],
    images: NDArray[Any],
    labels: NDArray[Any],
    classes: Sequence[str],
    axes: Sequence[str],
    thumbnails: int = 60,
) -> Figure:
    """Cells placed by two embedding coordinates: a point a cell, and pictures of some with their class's frame.

    points (N, 2); images (N, H, W, 3) uint8; labels (N,) positions in `classes`; axes: their two names.
    """
    fig, ax = new_figure(7.0, 5.6)
    colours = class_colours(classes)
    for position, name in enumerate(classes):
        mine = points[labels == position]
        marker = MARKERS[position % len(MARKERS)]
        ax.scatter(mine[:, 0], mine[:, 1], s=16, color=colours[name], marker=marker, alpha=0.8, lw=0, label=name)
    span = np.ptp(points, axis=0)
    span[span == 0] = 1
    for i in _spread(points / span, thumbnails):
        picture = OffsetImage(images[i], zoom=25 / images.shape[1], interpolation="bilinear")
        frame = {"edgecolor": colours[classes[int(labels[i])]], "lw": 1.8, "boxstyle": "square,pad=0.08"}
        ax.add_artist(AnnotationBbox(picture, (points[i, 0], points[i, 1]), bboxprops=frame, pad=0.05))
    ax.set_xlabel(axes[0])
    ax.set_ylabel(axes[1])
    ax.margins(0.06)
    fig.legend(loc="outside lower center", ncols=min(len(classes), 4), title="frame and point: class", title_fontsize=8)
    return fig


def _spread(points: NDArray[Any], count: int) -> list[int]:
    """Positions of up to `count` points, each the farthest from those before (no two pictures on one spot)."""
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(0), axis=1)))]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)) and distance.max() > 0.07:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen
