"""Figures of chapter 4, masked pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.models import OURS, PARTLY, PUBLISHED, THEIRS
from leuk_lib.figures.style import INK, LEGEND, PALETTE, WIDTH, headline, image_axes, message, new_figure

HIDDEN = 0.62  # grey level of a hidden patch
#: Colour, line and marker of each encoder.
CURVES: dict[str, tuple[str, str, str]] = {
    "random initialisation": (THEIRS, "--", "s"), "FCMAE": (PARTLY, "-", "^"), "FCMAE + contrast": (OURS, "-", "o"),
    "FCMAE encoder": (OURS, "-", "o"), "published weights": (PUBLISHED, "-.", "D"),
}  # fmt: skip


def reconstructions(
    images: NDArray[Any], visible: NDArray[np.bool_], reconstructed: NDArray[Any], names: Sequence[str]
) -> Figure:
    """Rows of input, visible part, reconstruction and absolute error.

    Args:
        images: (N, H, W, 3) in [0, 1].
        visible: (N, H, W), True where visible.
        reconstructed: (N, H, W, 3) in [0, 1].
        names: N labels of the rows.
    """
    n = len(images)
    fig, axes = new_figure(WIDTH, 1.1 + 1.2 * n, n, 4, squeeze=False)
    error = np.abs(reconstructed - images).mean(-1)
    error = np.where(visible, np.nan, error)  # visible pixels are copied
    top = max(float(np.nanquantile(error, 0.995)), 1e-3)
    mesh: Any = None
    for row, (ax, image, mask, prediction, err) in enumerate(
        zip(axes, images, visible, reconstructed, error, strict=True)
    ):
        masked = np.where(mask[..., None], image, HIDDEN)
        for column, (picture, title) in enumerate(
            [(image, "input"), (masked, "visible part"), (prediction, "reconstruction")]
        ):
            ax[column].imshow(picture, vmin=0, vmax=1, interpolation="nearest")
            image_axes(ax[column], title if row == 0 else "")
        ax[3].set_facecolor("#E4E4E4")
        mesh = ax[3].imshow(err, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        image_axes(ax[3], "error" if row == 0 else "")
        ax[0].set_ylabel(names[row], fontsize=8)
    bar = fig.colorbar(mesh, ax=axes.ravel().tolist(), location="bottom", shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("absolute error, mean of R, G, B (0 to 1)", fontsize=8)
    headline(fig, f"The network fills in the hidden {100 * (1 - visible.mean()):.0f} % of each image")
    return fig


def learning_curves(history: pd.DataFrame, window: int = 0) -> Figure:
    """Loss on hidden patches over steps, also separately for stained patches and empty field, and the learning rate.

    Thin lines show each step, thick lines a running median.

    Args:
        history: Columns step, loss, lr (without rows if there was no training), and where they exist stained, field, contrast.
        window: Steps of the running median; 0: a twentieth of the run.
    """
    if history.empty:
        return untrained()
    window = window or max(len(history) // 20, 1)
    contrast = "contrast" in history
    ratios = (4, 2, 1) if contrast else (4, 1)
    fig, axes = new_figure(WIDTH, 3.9 + 1.2 * contrast, len(ratios), 1, sharex=True, height_ratios=ratios)
    top, low = axes[0], axes[-1]

    def draw(ax: Any, column: str, label: str, colour: str, style: str) -> None:
        ax.plot(history["step"], history[column], color=colour, lw=0.6, alpha=0.35)
        smooth = history[column].rolling(window, center=True, min_periods=1).median()
        ax.plot(history["step"], smooth, style, color=colour, lw=2, label=label)
        ends[column] = float(smooth.iloc[-1])

    ends: dict[str, float] = {}
    kinds = [
        ("stained", "stained patches (cells)", PALETTE[5]),
        ("loss", "all hidden patches", INK),
        ("field", "empty field", PALETTE[0]),
    ]
    for (column, label, colour), style in zip(kinds, ("-", "--", "-."), strict=True):
        if column in history and history[column].notna().any():
            draw(top, column, label, colour, style)
    top.set_ylabel("mean squared error\n(units of the target)")
    top.set_ylim(bottom=0)
    top.legend()
    if contrast:
        draw(axes[1], "contrast", "contrastive term", PALETTE[1], "-")
        axes[1].set_ylabel("cross-entropy\n(nats)")
        axes[1].legend()
    low.plot(history["step"], history["lr"], color=PALETTE[2], lw=1.5)
    low.set_ylabel("learning\nrate")
    low.set_xlabel("optimiser step")
    low.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if {"stained", "field"} <= ends.keys():
        headline(fig, f"The error ends at {ends['stained']:.2g} on cells and at {ends['field']:.2g} on empty field")
        return fig
    headline(fig, f"The error on hidden patches ends at {ends['loss']:.2g}")
    return fig


def untrained() -> Figure:
    """A line instead of a figure that only training could fill."""
    return message("No training: the given weights are taken as they are (steps = 0).")


def probe_over_time(table: pd.DataFrame, title: str, cells: str = "validation cells") -> Figure:
    """Accuracy of frozen encoders during pretraining, and of baselines without any, with 95 % intervals.

    Args:
        table: Columns features, probe, step, accuracy, low, high, n. Features with several steps become curves, which
            start at step 0; the others become lines with bands. Without any, the first features become points. If
            "random initialisation" is among the features, step 0 is another start: given weights.
        title: What the figure shows.
        cells: Label of the cells that the accuracy is computed on.
    """
    probes = list(dict.fromkeys(table["probe"]))
    fig, axes = new_figure(WIDTH, 1.6 + 1.6 * len(probes), len(probes), 1, sharex=True, sharey=True, squeeze=False)
    steps = table.groupby("features", sort=False)["step"].nunique()
    curves = list(steps.index[steps > 1]) or [steps.index[0]]
    baselines = [name for name in steps.index if name not in curves]
    begin = "given weights" if "random initialisation" in baselines else "random initialisation"
    last = max(float(table["step"].max()), 1.0)
    for ax, probe in zip(axes[:, 0], probes, strict=True):
        part = table[table["probe"] == probe]
        for position, name in enumerate(baselines):
            row = part[part["features"] == name].iloc[0]
            colour = THEIRS if name in CURVES else PALETTE[(1, 2, 3)[position % 3]]
            ax.axhspan(row["low"], row["high"], color=colour, alpha=0.13, lw=0)
            ax.axhline(row["accuracy"], color=colour, ls=("--", "-.", ":")[position % 3], lw=1.5, label=name)
        start = part[(part["features"] == curves[0]) & (part["step"] == 0)].iloc[0]
        ax.axhline(start["accuracy"], color=THEIRS if begin in CURVES else INK, lw=1, ls=(0, (1, 2)), label=begin)
        for position, name in enumerate(curves):
            curve = part[part["features"] == name].sort_values("step")
            error = np.abs(curve[["low", "high"]].to_numpy().T - curve["accuracy"].to_numpy())
            colour, _, marker = CURVES[name]
            ax.errorbar(
                curve["step"] + 0.012 * last * position, curve["accuracy"], yerr=error, color=colour, marker=marker, ms=5,
                capsize=3, lw=1.8, label=f"{name}, frozen",
            )  # fmt: skip
        ax.set_xlim(-0.05 * last, 1.07 * last)
        if not table["step"].any():  # nothing was trained
            ax.set_xticks([0])
        ax.set_title(f"{probe} (n = {int(start['n'])})", fontsize=9)
    axes[-1, 0].set_xlabel("optimiser steps of pretraining")
    fig.supylabel(f"accuracy, {cells}", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, **LEGEND)
    headline(fig, title)
    return fig


def from_study(curve: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Tables of the pretraining study in the form that `probe_over_time` takes; baselines are at step 0."""
    baselines = probes[~probes["arm"].isin([*curve["arm"].unique(), "random initialisation"])]
    names = {"arm": "features", "condition": "probe", "value": "accuracy"}
    return pd.concat([curve.rename(columns=names), baselines.rename(columns=names).assign(step=0)], ignore_index=True)


def label_efficiency(labels: pd.DataFrame, title: str) -> Figure:
    """Accuracy after fine-tuning against the share of the labels, one curve per start, with 95 % intervals.

    Args:
        labels: Columns condition (the share, as text), arm (a key of ``CURVES``), value, low, high.
        title: What the figure shows.
    """
    fig, ax = new_figure(WIDTH, 3.8)
    for position, (arm, part) in enumerate(labels.groupby("arm", sort=False)):
        share = part["condition"].astype(float) * 100
        error = np.abs(part[["low", "high"]].to_numpy().T - part["value"].to_numpy())
        colour, line, marker = CURVES[str(arm)]
        ax.errorbar(
            share * (1 + 0.03 * position), part["value"], yerr=error, color=colour, ls=line, marker=marker, ms=5,
            capsize=3, lw=1.8, label=str(arm),
        )  # fmt: skip
    ax.set_xscale("log")
    shares = sorted(set(labels["condition"].astype(float) * 100))
    ax.set_xticks(shares, [f"{share:g} %" for share in shares])
    ax.minorticks_off()
    ax.set_xlabel("share of the training labels used in fine-tuning")
    ax.set_ylabel("balanced accuracy, test cells")
    fig.legend(title="start of fine-tuning", title_fontsize=8, loc="outside lower center", ncols=3, **LEGEND)
    headline(fig, title)
    return fig


def one_cell(
    image: NDArray[Any], visible: NDArray[np.bool_], reconstructed: NDArray[Any] | None, errors: Sequence[float]
) -> Figure:
    """Draw the same cell, its visible part, its reconstruction, and the error beside that of one plain colour.

    Args:
        image: (H, W, 3) in [0, 1].
        visible: (H, W), True where visible.
        reconstructed: (H, W, 3) in [0, 1]; None if the decoder was not trained.
        errors: Root mean squared error in the hidden part (0 to 1), of the reconstruction and of the mean colour of the
            visible part.
    """
    panels = {"input": same.picture(image), "visible part": same.picture(np.where(visible[..., None], image, HIDDEN))}
    hidden = f"{100 * (1 - visible.mean()):.0f} %"
    if reconstructed is None:
        return same.row(
            f"{hidden} of this cell is hidden", panels,
            missing="No reconstruction: without training (steps = 0) the decoder has random weights.",
        )  # fmt: skip
    panels["reconstruction"] = same.picture(reconstructed)
    panels["error in the hidden part"] = same.bars(
        dict(zip(("reconstruction", "one plain colour"), errors, strict=True)), "root mean square (0 to 1)", "{:.3f}"
    )
    side = "nearer to" if errors[0] < errors[1] else "no nearer to"
    return same.row(
        f"With {hidden} hidden, the reconstruction is {side} this cell than one plain colour", panels,
        widths=(1, 1, 1, 1.4),
    )  # fmt: skip
