"""More figures of chapter 5: what pixels cost, whether maps are the model's, what mistakes of evaluation buy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from leuk_lib.figures.style import INK, MARKERS, PALETTE, new_figure

LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False}


def cost(table: pd.DataFrame) -> Figure:
    """Operations against pixels, both axes logarithmic; a straight line of slope 1 is linear.

    ``table``: pixels, side, encoder, wpat, full_attention (GFLOP), as ``wpat.cost.cost_table`` gives them.
    """
    figure, (left, right) = new_figure(9, 3.3, 1, 2)
    names = {"encoder": "encoder", "wpat": "WPAT on top of it", "full_attention": "full attention instead"}
    for number, (column, name) in enumerate(names.items()):
        look: dict[str, Any] = {
            "color": PALETTE[number], "marker": MARKERS[number], "markersize": 4, "linewidth": 1.3, "label": name,
            "linestyle": "--" if column == "full_attention" else "-",
        }  # fmt: skip
        left.plot(table["pixels"], table[column], **look)
        a_pixel = table[column] / table["pixels"]
        right.plot(table["pixels"], a_pixel / a_pixel.iloc[0], **look)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("side of the image (px)")
        shown = table[table["side"].isin([64, 128, 256, 448])] if len(table) > 4 else table
        ax.set_xticks(shown["pixels"], [f"{side}" for side in shown["side"]])
        ax.minorticks_off()
    left.set_ylabel("operations an image (GFLOP)")
    right.set_ylabel("operations a pixel,\nrelative to the smallest image")
    right.set_yticks([1, 2, 5, 10, 20, 40], ["1", "2", "5", "10", "20", "40"])
    left.legend(**LEGEND)
    return figure


def sanity(table: pd.DataFrame) -> Figure:
    """Rank correlation of maps with the trained model's, as more of the model is random; a line a method, with intervals.

    ``table``: method, randomised, value, low, high.
    """
    figure, ax = new_figure(7, 3.1)
    parts = list(dict.fromkeys(table["randomised"]))
    ax.axhline(0, color=INK, linewidth=0.8)
    for number, (method, part) in enumerate(table.groupby("method", sort=False)):
        part = part.set_index("randomised").reindex(parts)
        values = np.r_[1.0, part["value"].to_numpy(dtype=float)]
        low, high = (np.r_[1.0, part[side].to_numpy(dtype=float)] for side in ("low", "high"))
        places = np.arange(len(parts) + 1) + 0.06 * (number - 1)
        ax.errorbar(
            places, values, yerr=np.abs(np.stack([low, high]) - values), fmt=f"{MARKERS[number]}-",
            color=PALETTE[number], markersize=5, capsize=3, linewidth=1.2, label=str(method),
        )  # fmt: skip
    ax.set_xticks(range(len(parts) + 1), ["nothing", *parts])
    ax.set_xlabel("made random")
    ax.set_ylabel("rank correlation with\nthe trained model's map")
    ax.set_ylim(min(-0.35, float(table["low"].min()) - 0.05), 1.08)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **LEGEND)
    return figure


def leakage(bought: Mapping[str, pd.DataFrame]) -> Figure:
    """Points of balanced accuracy that each step of the ladder buys, with 95 % intervals: a panel a set of cells.

    ``bought``: title -> table with condition, arm, against, value, low, high (fractions).
    """
    rows = {title: table[["arm", "against"]].drop_duplicates() for title, table in bought.items()}
    heights = [max(2, len(steps)) for steps in rows.values()]
    figure, axes = new_figure(
        8.6, 0.42 * sum(heights) + 0.75 * len(rows), len(rows), 1, squeeze=False, height_ratios=heights, sharex=True
    )
    for ax, (title, table) in zip(axes[:, 0], bought.items(), strict=True):
        steps = [tuple(pair) for pair in rows[title].itertuples(index=False, name=None)]
        conditions = list(dict.fromkeys(table["condition"]))
        ax.axvline(0, color=INK, linewidth=0.8)
        for number, condition in enumerate(conditions):
            part = table[table["condition"] == condition].set_index(["arm", "against"])
            part = part.loc[[step for step in steps if step in part.index]]
            places = np.array([steps.index(step) for step in part.index], dtype=float)
            places += 0.17 * (number - (len(conditions) - 1) / 2)
            values = 100 * part["value"].to_numpy(dtype=float)
            bars = np.abs(100 * part[["low", "high"]].to_numpy(dtype=float).T - values)
            ax.errorbar(
                values, places, xerr=bars, fmt=MARKERS[number], color=PALETTE[number], markersize=5, capsize=3,
                linewidth=1.2, label=condition,
            )  # fmt: skip
        ax.set_yticks(range(len(steps)), [f"{arm}\n− {against}" for arm, against in steps])
        ax.set_ylim(len(steps) - 0.45, -0.55)
        ax.set_title(title, fontsize=9, loc="left")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **LEGEND)
    axes[-1, 0].set_xlabel("points of balanced accuracy, 95 % interval")
    return figure
