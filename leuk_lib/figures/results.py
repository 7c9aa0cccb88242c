"""Figures of the results chapter: scores with intervals, differences, confusion, calibration, abstention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from leuk_lib.figures.style import INK, PALETTE, new_figure

OURS, THEIRS = PALETTE[0], PALETTE[6]
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}
NAMES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1",
    "macro_auc": "macro AUC (one vs rest)",
}  # fmt: skip


def _whiskers(
    ax, value: pd.Series, low: pd.Series, high: pd.Series, y: NDArray[np.float64], colour: str, marker: str = "o"
):
    # A percentile interval of a skewed statistic can leave its point outside: a whisker never has negative length.
    error = np.abs(np.stack([np.minimum(low, value) - value, np.maximum(high, value) - value]))
    ax.errorbar(value, y, xerr=error, fmt=marker, color=colour, ms=5, capsize=3, lw=1.4)


def forest(scores: pd.DataFrame, full: str, metrics: Sequence[str] = ("accuracy", "macro_f1", "macro_auc")) -> Figure:
    """Every model's metrics with intervals, one panel a metric.

    ``scores`` has columns model, metric, value, low, high; the model ``full`` is drawn in colour.
    """
    models = list(dict.fromkeys(scores["model"]))
    figure, axes = new_figure(7.4, 0.9 + 0.34 * len(models), 1, len(metrics), sharey=True, squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        rows = scores[scores["metric"] == metric].set_index("model").reindex(models)
        y = np.arange(len(models), dtype=float)
        for name, at in zip(models, y, strict=True):
            row = rows.loc[[name]]
            mine = name == full
            _whiskers(
                ax,
                row["value"],
                row["low"],
                row["high"],
                np.array([at]),
                OURS if mine else THEIRS,
                "D" if mine else "o",
            )
        best = rows["value"].get(full)
        if best is not None and np.isfinite(best):
            ax.axvline(best, color=OURS, lw=0.7, ls=":", zorder=0)
        ax.set_xlabel(NAMES.get(metric, metric.replace("_", " ")))
        ax.set_yticks(y, models)
        ax.grid(axis="x", color="#E6E6E6", lw=0.6)
        ax.set_axisbelow(True)
    axes[0][0].invert_yaxis()
    axes[0][0].set_ylabel("model")
    return figure


def differences(table: pd.DataFrame, full: str, metrics: Sequence[str] = ("accuracy", "macro_f1")) -> Figure:
    """What the full model is ahead by, in points, with paired intervals; right of zero: the full model is better.

    ``table`` has columns baseline, metric, difference, low, high (fractions).
    """
    baselines = list(dict.fromkeys(table["baseline"]))
    figure, axes = new_figure(7.0, 1.1 + 0.36 * max(1, len(baselines)), 1, len(metrics), sharey=True, squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        rows = table[table["metric"] == metric].set_index("baseline").reindex(baselines)
        y = np.arange(len(baselines), dtype=float)
        for name, at in zip(baselines, y, strict=True):
            row = 100 * rows.loc[[name], ["difference", "low", "high"]].astype(float)
            low, high = row["low"].iloc[0], row["high"].iloc[0]
            colour = PALETTE[2] if low > 0 else PALETTE[5] if high < 0 else THEIRS
            marker = "^" if low > 0 else "v" if high < 0 else "o"
            _whiskers(ax, row["difference"], row["low"], row["high"], np.array([at]), colour, marker)
        ax.axvline(0, color=INK, lw=0.9)
        ax.set_xlabel(f"{NAMES.get(metric, metric)}:\n{full} minus baseline (points)")
        ax.set_yticks(y, baselines)
        ax.grid(axis="x", color="#E6E6E6", lw=0.6)
        ax.set_axisbelow(True)
    axes[0][0].invert_yaxis()
    axes[0][0].set_ylabel("baseline")
    return figure


def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Confusion matrix (K,K): colour the share of the true class, numbers the cells; rows true, columns predicted."""
    counts = np.asarray(counts)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    k = len(classes)
    figure, ax = new_figure(2.6 + 0.55 * k, 1.9 + 0.5 * k)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(k):
        for j in range(k):
            if total[i, 0]:
                text = f"{100 * share[i, j]:.0f} %\n{counts[i, j]}"
                ax.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if share[i, j] > 0.5 else INK)
    for i in np.flatnonzero(total[:, 0] == 0).tolist():
        ax.text((k - 1) / 2, i, "no cell in the test part", ha="center", va="center", fontsize=7, color=INK)
    slanted = k > 4 or max(map(len, classes)) > 8
    ax.set_xticks(range(k), classes, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    ax.set_yticks(range(k), [f"{name} (n = {n})" for name, n in zip(classes, total[:, 0], strict=True)])
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    bar = figure.colorbar(image, ax=ax, shrink=0.8, format=PercentFormatter(1.0, decimals=0))
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def recalls(table: pd.DataFrame) -> Figure:
    """Recall of each class with its interval; columns class, n, groups, recall, low, high. Absent classes are named."""
    figure, ax = new_figure(6.4, 1.0 + 0.34 * len(table))
    y = np.arange(len(table), dtype=float)
    here = (table["n"] > 0).to_numpy()
    rows = table[here]
    _whiskers(ax, rows["recall"], rows["low"], rows["high"], y[here], OURS)
    for at in y[~here]:
        ax.text(0.5, at, "no cell in the test part", ha="center", va="center", fontsize=8, color=INK)
    labels = [f"{row['class']}\n{row['n']} cells, {row['groups']} groups" for row in table.to_dict("records")]
    ax.set_yticks(y, labels)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("recall (share of the class's cells that are recognised)")
    ax.set_ylabel("class")
    ax.grid(axis="x", color="#E6E6E6", lw=0.6)
    ax.set_axisbelow(True)
    return figure


def reliability(before: pd.DataFrame, after: pd.DataFrame, temperature: float) -> Figure:
    """Stated confidence against observed accuracy, before and after temperature scaling.

    Both tables have columns n, confidence, accuracy, low, high, a row a bin of equal counts.
    """
    figure, axes = new_figure(7.0, 3.5, 1, 2, sharex=True, sharey=True)
    lowest = min(before["confidence"].min(), after["confidence"].min(), before["low"].min(), after["low"].min(), 0.5)
    for ax, table, title in (
        (axes[0], before, "as the model states it"),
        (axes[1], after, f"after scaling, T = {temperature:.2f}"),
    ):
        ax.plot([0, 1], [0, 1], color=INK, lw=0.8, ls="--", label="perfectly calibrated")
        error = np.abs(np.stack([table["accuracy"] - table["low"], table["high"] - table["accuracy"]]))
        ax.errorbar(
            table["confidence"],
            table["accuracy"],
            yerr=error,
            fmt="o-",
            color=OURS,
            ms=4,
            capsize=2,
            lw=1.2,
            label="bins of equal counts",
        )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("stated confidence")
        ax.set_xlim(max(0.0, lowest - 0.05), 1.02)
        ax.set_ylim(max(0.0, lowest - 0.05), 1.02)
    axes[0].set_ylabel("observed accuracy")
    axes[0].legend(loc="upper left", **LEGEND)
    return figure


def abstention(curves: dict[str, pd.DataFrame], full: str) -> Figure:
    """Accuracy on the kept cells against coverage; one curve a model, the full model's interval shaded.

    Each table has columns coverage, accuracy, low, high.
    """
    figure, ax = new_figure(6.2, 3.6)
    for position, (name, table) in enumerate(curves.items()):
        mine = name == full
        colour = OURS if mine else PALETTE[1 + position % (len(PALETTE) - 1)]
        ax.plot(
            table["coverage"],
            table["accuracy"],
            color=colour,
            marker="o" if mine else "s",
            ms=3,
            lw=1.6 if mine else 1.0,
            ls="-" if mine else "--",
            label=name,
        )
        if mine:
            ax.fill_between(
                table["coverage"], table["low"], table["high"], color=colour, alpha=0.18, lw=0, label="its interval"
            )
    ax.set_xlim(1.02, 0)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("coverage: cells that the model decides (the rest goes to a human)")
    ax.set_ylabel("accuracy on these cells")
    ax.legend(loc="lower right", **LEGEND)
    ax.grid(color="#E6E6E6", lw=0.6)
    ax.set_axisbelow(True)
    return figure
