"""Figures of chapter 10: the published values, their tests, the bound of F1, and the interval of the accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from leuk_lib.figures.style import INK, LEGEND, MARKERS, PALETTE, WIDTH, headline, light_grid, new_figure

NAMES = {"auc": "AUC", "recall": "recall (%)", "f1": "F1 (%)"}
TESTS = {"p unpaired": "unpaired, as published", "p paired": "paired", "p corrected": "corrected for repeated splits"}


def published(values: Mapping[str, Mapping[str, Sequence[float]]], proposed: str) -> Figure:
    """Plot the published values of each model, one panel per metric; the dash is the mean.

    Args:
        values: model -> metric -> one value per run.
        proposed: name of the proposed model.
    """
    metrics = list(values[proposed])
    figure, axes = new_figure(WIDTH, 2.8, 1, len(metrics), squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for position, lists in enumerate(values.values()):
            runs = np.asarray(lists[metric])
            offset = np.linspace(-0.18, 0.18, len(runs))
            ax.plot(position + offset, runs, MARKERS[position], color=PALETTE[position], ms=4, ls="")
            ax.plot([position - 0.32, position + 0.32], [runs.mean()] * 2, color=PALETTE[position], lw=1.4)
        ax.set_xticks(range(len(values)), list(values))
        ax.set_ylabel(NAMES.get(metric, metric))
        ax.set_xlabel("model")
        light_grid(ax, "y")
    highest = [max(values, key=lambda name: float(np.mean(values[name][metric]))) for metric in metrics]
    leads = sum(name == proposed for name in highest)
    headline(figure, f"The proposed model, {proposed}, has the highest mean in {leads} of {len(metrics)} measures")
    return figure


def p_values(tests: pd.DataFrame, proposed: str, level: float = 0.05) -> Figure:
    """Plot the p-values of the same comparisons under three tests; the dotted line is the usual level.

    Args:
        tests: columns versus, metric and those in ``TESTS``.
        proposed: name of the proposed model.
        level: significance level to mark.
    """
    figure, ax = new_figure(WIDTH, 1.4 + 0.3 * len(tests))
    y = np.arange(len(tests), dtype=float)
    for position, (column, label) in enumerate(TESTS.items()):
        ax.plot(tests[column], y, MARKERS[position], color=PALETTE[position], ms=6, ls="", label=label)
    for at, row in zip(y, tests.to_dict("records"), strict=True):
        p = [row[column] for column in TESTS]
        ax.plot([min(p), max(p)], [at, at], color="#CCCCCC", lw=1, zorder=0)
    ax.axvline(level, color=INK, lw=0.9, ls=":")
    ax.text(level, -0.7, f"p = {level:g}", ha="center", va="bottom", fontsize=8)
    ax.set_xscale("log")
    ax.set_yticks(
        y, [f"{proposed} – {row['versus']}, {NAMES[row['metric']].split(' ')[0]}" for row in tests.to_dict("records")]
    )
    ax.set_ylim(len(tests) - 0.5, -0.8)
    ax.set_xlabel("p-value (logarithmic)")
    figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    below = {column: int((tests[column] < level).sum()) for column in TESTS}
    headline(
        figure,
        f"p is below {level:g} in {below['p unpaired']} of {len(tests)} comparisons as published, in "
        f"{below['p corrected']} after the correction",
    )
    return figure


def f1_bound(check: pd.DataFrame) -> Figure:
    """Plot the published F1 of each run against its recall, with the largest F1 that a recall R allows, 2R/(1+R).

    Args:
        check: columns model, run, recall, F1 (in %), exceeds.
    """
    figure, ax = new_figure(WIDTH, 4.6)
    low, high = check["recall"].min() - 2, min(100.0, check["recall"].max() + 2)
    recall = np.linspace(low, high, 200)
    bound = 100 * 2 * recall / (100 + recall)
    ax.plot(recall, bound, color=INK, lw=1.2, label="largest possible: 2R/(1+R)")
    ax.fill_between(recall, bound, 101, color="#BBBBBB", alpha=0.35, lw=0, label="not possible")
    for position, (model, rows) in enumerate(check.groupby("model", sort=False)):
        ax.plot(
            rows["recall"], rows["F1"], MARKERS[position], color=PALETTE[position], ms=5, ls="", label=f"model {model}"
        )
    beyond = check[check["exceeds"]]
    for row in beyond.to_dict("records"):
        ax.annotate(
            f"model {row['model']}, run {row['run']}", (row["recall"], row["F1"]), xytext=(-10, 2),
            textcoords="offset points", fontsize=8, ha="right", va="center",
        )  # fmt: skip
    ax.set_xlim(low, high)
    ax.set_ylim(check["F1"].min() - 2, 100.5)
    ax.set_xlabel("macro recall R of a run (%)")
    ax.set_ylabel("macro F1 of the same run (%)")
    figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    headline(figure, f"{len(beyond)} of {len(check)} published pairs lie above the largest possible F1")
    return figure


def interval_width(table: pd.DataFrame, p: float, marked: int, level: float = 0.95) -> Figure:
    """Plot the interval of an accuracy against the number of test cells.

    Args:
        table: columns n, low, high (fractions).
        p: the accuracy.
        marked: number of cells to mark.
        level: coverage, for the label.
    """
    figure, ax = new_figure(WIDTH, 3.4)
    ax.fill_between(
        table["n"],
        table["low"],
        table["high"],
        color=PALETTE[0],
        alpha=0.22,
        lw=0,
        label=f"{100 * level:.0f} % interval",
    )
    ax.axhline(p, color=PALETTE[0], lw=1.4, label=f"accuracy {100 * p:.0f} %")
    row = table.iloc[(table["n"] - marked).abs().argmin()]
    ax.errorbar([row["n"]], [p], yerr=[[p - row["low"]], [row["high"] - p]], fmt="D", color=PALETTE[5], ms=5, capsize=4)
    ax.annotate(
        f"n = {row['n']:.0f}: {100 * row['low']:.1f} to {100 * row['high']:.1f} %", (row["n"], row["low"]),
        xytext=(8, -4), textcoords="offset points", fontsize=8, va="top",
    )  # fmt: skip
    ax.set_xscale("log")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    ax.yaxis.set_major_locator(MultipleLocator(0.05))
    ax.set_xlabel("independent test cells (logarithmic)")
    ax.set_ylabel("accuracy")
    ax.legend(loc="lower right", **LEGEND)
    width = 100 * (row["high"] - row["low"])
    headline(figure, f"With {row['n']:.0f} independent cells, the interval is {width:.1f} points wide")
    return figure
