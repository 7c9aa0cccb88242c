"""Figures of chapter 6: the models of a run, and the ladder and its baselines on real cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator
from matplotlib.transforms import BboxBase

from leuk_lib.figures.models import OURS, PUBLISHED, THEIRS, percent
from leuk_lib.figures.style import INK, LEGEND, MARKERS, PALETTE, PAPER, WIDTH, headline, light_grid, new_figure

COLUMN_COLOURS = (OURS, PUBLISHED)  # of the ladder: from FCMAE, from published weights
BUDGET_COLOURS = (PUBLISHED, THEIRS)  # the full model on published weights, and the plain network


def comparison(scores: pd.DataFrame, metric: str = "balanced_accuracy") -> Figure:
    """Plot a metric of each model on each split with its 95 % interval.

    Args:
        scores: Columns model, split, metric, value, low, high (fractions).
        metric: Which metric.
    """
    table = scores[scores["metric"] == metric]
    models, splits = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["split"]))
    figure, ax = new_figure(WIDTH, 0.4 * len(models) + 1.5)
    for number, split in enumerate(splits):
        part = table[table["split"] == split].set_index("model").reindex(models)
        places = np.arange(len(models)) + 0.18 * (number - (len(splits) - 1) / 2)
        values, bars = percent(part)
        ax.errorbar(
            values, places, xerr=bars, fmt=MARKERS[number % len(MARKERS)], color=PALETTE[number % len(PALETTE)], markersize=5, capsize=3,
            linewidth=1.2, label=split,
        )  # fmt: skip
    ax.set_yticks(range(len(models)), models)
    ax.invert_yaxis()
    ax.set_xlim(-2, 102)
    ax.set_xlabel(f"{metric.replace('_', ' ')} (%), 95 % interval over groups")
    figure.legend(loc="outside lower center", ncols=len(splits), **LEGEND)
    named = "test" if "test" in splits else splits[-1]
    shown = table[table["split"] == named].set_index("model")["value"]
    headline(figure, f"On {named} cells, {shown.idxmax()} has the highest {metric.replace('_', ' ')}")
    return figure


def ladder_scores(scores: pd.DataFrame, columns: Sequence[Sequence[str]]) -> Figure:
    """Plot balanced accuracy with intervals: the ladder's models by column in colour, below them the baselines in grey.

    Args:
        scores: Columns arm, value, low, high (fractions), n.
        columns: The ladder's models by column, each ending with its full model.
    """
    table = scores.set_index("arm")
    ladder = [arm for column in columns for arm in column]
    baselines = list(table.drop(index=ladder).sort_values("value", ascending=False).index)
    parts = {"ladder": list(columns[0]), "published": [arm for column in columns[1:] for arm in column]}
    parts = {name: arms for name, arms in (parts | {"baselines": baselines}).items() if arms}
    order = [arm for arms in parts.values() for arm in arms]
    colours = _colours(columns, COLUMN_COLOURS)
    full = [column[-1] for column in columns]
    figure, ax = new_figure(WIDTH, 1.4 + 0.3 * len(order))
    for place, arm in enumerate(order):
        value, low, high = 100 * table.loc[arm, ["value", "low", "high"]].to_numpy(dtype=float)
        colour, marker = colours.get(arm, THEIRS), "D" if arm in full else "o" if arm in ladder else "s"
        ax.hlines(place, low, high, color=colour, lw=1.6)
        ax.plot(value, place, marker, color=colour, ms=6.5 if arm in full else 5)
        ax.text(high + 2, place, f"{value:.1f}", va="center", fontsize=8)
    ax.set_yticks(range(len(order)), order)
    ax.invert_yaxis()
    ax.set_xlim(right=max(100.0, float(100 * table["high"].max())) + 12)
    ax.set_xlabel(
        f"balanced accuracy, %, with 95 % intervals\n({int(table['n'].iloc[0])} test cells over all repetitions)"
    )
    top = 0
    for name, arms in parts.items():
        middle = top + (len(arms) - 1) / 2
        ax.text(1.02, middle, name, transform=ax.get_yaxis_transform(), rotation=90, va="center", fontsize=8)
        top += len(arms)
        if top < len(order):
            ax.axhline(top - 0.5, color="#BBBBBB", lw=0.8)
    light_grid(ax, "x")
    best = table["value"].idxmax()
    headline(figure, f"On real cells, {best} is the most accurate: {100 * table['value'].max():.1f} %")
    return figure


def _colours(columns: Sequence[Sequence[str]], of_column: Sequence[str]) -> dict[str, str]:
    """Arm -> colour, for the arms of each column."""
    return {arm: of_column[k] for k, column in enumerate(columns) for arm in column}


def accuracy_and_cost(
    table: pd.DataFrame, curves: Sequence[Sequence[str]], curve_colours: Sequence[str] = COLUMN_COLOURS
) -> Figure:
    """Plot balanced accuracy with intervals against processor time, on a logarithmic axis.

    Args:
        table: Columns arm, value, low, high (fractions), cpu seconds.
        curves: Arms that are joined by a line, such as the ladder's columns; other arms are baselines.
        curve_colours: A colour per curve.
    """
    rows = table.set_index("arm")
    colours = _colours(curves, curve_colours)
    minutes, value = rows["cpu seconds"] / 60, 100 * rows["value"]
    figure, ax = new_figure(WIDTH, 4.2)
    for curve in curves:
        ax.plot(minutes[list(curve)], value[list(curve)], color=colours[curve[0]], lw=1)
    for arm in rows.index:
        colour, low, high = colours.get(arm, THEIRS), 100 * rows.loc[arm, "low"], 100 * rows.loc[arm, "high"]
        ax.vlines(minutes[arm], low, high, color=colour, lw=1.4)
        ax.plot(minutes[arm], value[arm], "o" if arm in colours else "s", color=colour, ms=5)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    for axis_formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        axis_formatter("{x:g}")
    ax.set_xlabel("processor time on the cells (minutes, logarithmic)")
    ax.set_ylabel("balanced accuracy, %")
    light_grid(ax)
    ax.margins(x=0.2, y=0.2)
    best = str(value.idxmax())
    headline(figure, f"The most accurate, {best}, takes {minutes[best]:.1f} minutes; the quickest, {minutes.min():.1f}")
    figure.draw_without_rendering()  # the layout, which the names must not change
    _name_points(ax, 100 * rows[["low", "value", "high"]], minutes, colours, curves)
    return figure


def _name_points(
    ax: Axes, ends: pd.DataFrame, x: pd.Series, colours: Mapping[str, str], curves: Sequence[Sequence[str]]
) -> None:
    """Write each arm's name above, below or beside its interval, at the first place that is free."""
    shape = [np.stack([np.repeat(x[arm], 2), ends.loc[arm, ["low", "high"]]], axis=1) for arm in ends.index]
    shape += [np.stack([x[list(curve)], ends["value"][list(curve)]], axis=1) for curve in curves]
    lines = [Path(ax.transData.transform(points.astype(float))) for points in shape]
    taken: list[BboxBase] = []
    places = (
        ("high", (0, 4), "center", "bottom"), ("low", (0, -4), "center", "top"), ("value", (6, 0), "left", "center"),
        ("value", (-6, 0), "right", "center"), ("high", (5, 0), "right", "bottom"), ("low", (5, -3), "right", "top"),
    )  # fmt: skip
    for arm in ends.index:
        name = re.sub(r"(?<=\S) (?=\+ )|(?<=,) |(?=@)", "\n", str(arm))
        for number, (end, offset, ha, va) in enumerate(places, 1):
            label = ax.annotate(
                name, (x[arm], ends.loc[arm, end]), xytext=offset, textcoords="offset points", ha=ha, va=va, fontsize=8,
                color=colours.get(arm, THEIRS), path_effects=[withStroke(linewidth=2.5, foreground=PAPER)], zorder=5,
            )  # fmt: skip
            label.set_in_layout(False)
            box = label.get_window_extent()
            inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
            crosses = box.count_overlaps(taken) or any(line.intersects_bbox(box, False) for line in lines)
            if number == len(places) or (inside and not crosses):
                taken.append(box)
                break
            label.remove()


def ladder_differences(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot paired differences with intervals, one panel per table; hollow markers where the interval contains 0.

    Args:
        tables: Title -> columns arm, against, value, low, high (fractions).
    """
    heights = [len(table) + 1.5 for table in tables.values()]
    figure, axes = new_figure(
        WIDTH, 0.9 + 0.32 * sum(heights), len(tables), 1, squeeze=False, sharex=True, height_ratios=heights
    )
    for ax, (title, table) in zip(axes[:, 0], tables.items(), strict=True):
        names = [f"{arm}\nover {against}" for arm, against in zip(table["arm"], table["against"], strict=True)]
        value, low, high = (100 * table[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
        for place in range(len(table)):
            significant = low[place] > 0 or high[place] < 0
            colour = PALETTE[2] if low[place] > 0 else PALETTE[5] if high[place] < 0 else THEIRS
            marker = "^" if low[place] > 0 else "v" if high[place] < 0 else "o"
            ax.hlines(place, low[place], high[place], color=colour, lw=1.6)
            ax.plot(value[place], place, marker, mfc=colour if significant else PAPER, mec=colour, mew=1.3, ms=6, ls="")
        ax.axvline(0, color=INK, lw=0.9)
        ax.set_yticks(range(len(table)), names)
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xlabel("points of balanced accuracy")
        ax.tick_params(labelbottom=True)
        light_grid(ax, "x")
    every = pd.concat(tables.values())
    above, below = int((every["low"] > 0).sum()), int((every["high"] < 0).sum())
    headline(figure, f"Of {len(every)} differences, {above} lie clearly above zero and {below} below")
    return figure
