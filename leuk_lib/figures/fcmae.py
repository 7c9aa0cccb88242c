"""Figures of the chapter on masked pretraining; they take arrays and data frames only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leuk_lib.figures.style import INK, PALETTE, image_axes, new_figure

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

    history: columns step, loss, stained, field, lr, and contrast where there was such a term. Thin: every step; thick: running median over `window` steps
    (0: a twentieth of the run).
    """
    window = window or max(len(history) // 20, 1)
    contrast = "contrast" in history
    ratios = (4, 2, 1) if contrast else (4, 1)
    fig, axes = new_figure(6.4, 3.9 + 1.2 * contrast, len(ratios), 1, sharex=True, height_ratios=ratios)
    top, low = axes[0], axes[-1]

    def draw(ax: Any, column: str, label: str, colour: str, style: str) -> None:
        ax.plot(history["step"], history[column], color=colour, lw=0.6, alpha=0.35)
        smooth = history[column].rolling(window, center=True, min_periods=1).median()
        ax.plot(history["step"], smooth, style, color=colour, lw=2, label=label)

    kinds = [
        ("stained", "stained patches (cells)", PALETTE[5]),
        ("loss", "all hidden patches", INK),
        ("field", "empty field", PALETTE[0]),
    ]
    for (column, label, colour), style in zip(kinds, ("-", "--", "-."), strict=True):
        if column in history and history[column].notna().any():
            draw(top, column, label, colour, style)
    top.set_ylabel("mean squared error\n(target of the loss)")
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
    return fig


def probe_over_time(table: pd.DataFrame, judged_on: str = "validation cells") -> Figure:
    """Accuracy of frozen encoders over pretraining, beside rivals that need none; 95 % intervals.

    table: columns features, probe, step, accuracy, low, high, n. Features with more than one step make a curve, the
    others a line with a band; the step 0 that all curves share is the random start.
    """
    probes = list(dict.fromkeys(table["probe"]))
    fig, axes = new_figure(2.5 + 2.3 * len(probes), 3.4, 1, len(probes), sharey=True, squeeze=False)
    steps = table.groupby("features", sort=False)["step"].nunique()
    rivals, curves = list(steps.index[steps == 1]), list(steps.index[steps > 1])
    for ax, probe in zip(axes[0], probes, strict=True):
        part = table[table["probe"] == probe]
        last = max(float(part["step"].max()), 1.0)
        for position, name in enumerate(rivals):
            row = part[part["features"] == name].iloc[0]
            colour = PALETTE[(1, 2, 3)[position % 3]]
            ax.axhspan(row["low"], row["high"], color=colour, alpha=0.13, lw=0)
            ax.axhline(row["accuracy"], color=colour, ls=("--", "-.", ":")[position % 3], lw=1.5, label=name)
        start = part[(part["features"] == curves[0]) & (part["step"] == 0)].iloc[0]
        ax.axhline(start["accuracy"], color=PALETTE[6], lw=1, ls=(0, (1, 2)), label="random initialisation")
        for position, name in enumerate(curves):
            ours = part[part["features"] == name].sort_values("step")
            error = np.abs(ours[["low", "high"]].to_numpy().T - ours["accuracy"].to_numpy())
            ax.errorbar(
                ours["step"] + 0.012 * last * position, ours["accuracy"], yerr=error, color=PALETTE[(0, 5)[position % 2]],
                marker="os"[position % 2], ms=5, capsize=3, lw=1.8, label=f"{name}, frozen",
            )  # fmt: skip
        ax.set_xlim(-0.05 * last, 1.07 * last)
        ax.set_title(f"{probe} (n = {int(start['n'])})")
        ax.set_xlabel("optimiser steps of pretraining")
    axes[0][0].set_ylabel(f"accuracy, {judged_on}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


def from_study(curve: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """The pretraining study's tables in the form that `probe_over_time` draws; rivals without steps are at step 0."""
    rivals = probes[~probes["arm"].isin([*curve["arm"].unique(), "random initialisation"])]
    names = {"arm": "features", "condition": "probe", "value": "accuracy"}
    return pd.concat([curve.rename(columns=names), rivals.rename(columns=names).assign(step=0)], ignore_index=True)


def label_efficiency(labels: pd.DataFrame) -> Figure:
    """Accuracy after fine-tuning against the share of the labels that it may use, one curve a start; 95 % intervals.

    labels: columns condition (a share, as text), arm, value, low, high, n, seeds.
    """
    fig, ax = new_figure(6.0, 3.5)
    for position, (arm, part) in enumerate(labels.groupby("arm", sort=False)):
        share = part["condition"].astype(float) * 100
        error = np.abs(part[["low", "high"]].to_numpy().T - part["value"].to_numpy())
        ax.errorbar(
            share * (1 + 0.02 * position), part["value"], yerr=error, color=PALETTE[(6, 0)[position % 2]], ls=("--", "-")[position % 2],
            marker="so"[position % 2], ms=5, capsize=3, lw=1.8, label=str(arm),
        )  # fmt: skip
    ax.set_xscale("log")
    shares = sorted(set(labels["condition"].astype(float) * 100))
    ax.set_xticks(shares, [f"{share:g} %" for share in shares])
    ax.minorticks_off()
    ax.set_xlabel("share of the training labels that fine-tuning may use")
    ax.set_ylabel("balanced accuracy, test cells")
    ax.legend(title="start of fine-tuning")
    return fig
