"""Figures of chapter 5's comparison: the ladder and its rivals, robustness curves, calibration. Tables in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from leuk_lib.figures.style import INK, MARKERS, PALETTE, PAPER, new_figure

OURS, THEIRS = PALETTE[0], PALETTE[6]
GRID: dict[str, Any] = {"color": "#E6E6E6", "lw": 0.6}


def standing(scores: pd.DataFrame, ladder: Sequence[str], full: str) -> Figure:
    """Balanced accuracy of every model with its interval: the ladder above in colour, the rivals below in grey.

    scores: columns arm, value, low, high (shares), n; one condition.
    """
    table = scores.set_index("arm")
    rivals = table.drop(index=list(ladder)).sort_values("value", ascending=False).index
    order = [*ladder, *rivals]
    figure, ax = new_figure(6.4, 1.0 + 0.32 * len(order))
    for place, arm in enumerate(order):
        value, low, high = (100 * float(table.loc[arm, name]) for name in ("value", "low", "high"))
        colour, marker = (OURS, "D" if arm == full else "o") if arm in ladder else (THEIRS, "s")
        ax.hlines(place, low, high, color=colour, lw=1.6)
        ax.plot(value, place, marker, color=colour, ms=6.5 if arm == full else 5)
        ax.text(high + 0.8, place, f"{value:.1f}", va="center", fontsize=8)
    ax.axhline(len(ladder) - 0.5, color="#BBBBBB", lw=0.8)
    ax.set_yticks(range(len(order)), order)
    ax.invert_yaxis()
    ax.set_xlim(right=max(100.0, float(100 * table["high"].max())) + 4)
    ax.set_xlabel(f"balanced accuracy, % (95 % interval, {int(table['n'].iloc[0])} test cells over all repetitions)")
    ax.set_ylabel("model")
    for name, top, bottom in (("ladder", 0, len(ladder)), ("rivals", len(ladder), len(order))):
        ax.text(
            1.02, (top + bottom - 1) / 2, name, transform=ax.get_yaxis_transform(), rotation=90, va="center", fontsize=8
        )
    ax.grid(axis="x", **GRID)
    ax.set_axisbelow(True)
    return figure


def gains(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Differences with intervals about the line of no difference, a panel a table; hollow where the interval holds 0.

    tables: title -> columns arm, against, value, low, high (shares; drawn in points).
    """
    longest = max(len(table) for table in tables.values())
    figure, axes = new_figure(8.6, 1.3 + 0.34 * longest, 1, len(tables), squeeze=False)
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        names = [f"{arm} over {against}" for arm, against in zip(table["arm"], table["against"], strict=True)]
        value, low, high = (100 * table[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
        for place in range(len(table)):
            sure = low[place] > 0 or high[place] < 0
            colour = PALETTE[2] if low[place] > 0 else PALETTE[5] if high[place] < 0 else THEIRS
            marker = "^" if low[place] > 0 else "v" if high[place] < 0 else "o"
            ax.hlines(place, low[place], high[place], color=colour, lw=1.6)
            ax.plot(value[place], place, marker, mfc=colour if sure else PAPER, mec=colour, mew=1.3, ms=6, ls="")
        ax.axvline(0, color=INK, lw=0.9)
        ax.set_yticks(range(len(table)), names)
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.set_title(title)
        ax.set_xlabel("points of balanced accuracy")
        ax.grid(axis="x", **GRID)
        ax.set_axisbelow(True)
    return figure


def robustness(table: pd.DataFrame, units: Mapping[str, str], full: str, measure: str) -> Figure:
    """A panel a kind of shift: ``measure`` against strength, a curve a model, bands for 95 % intervals.

    table: columns model, kind, strength, value, low, high (shares); strength 0 once, under kind ``none``.
    """
    kinds, models = list(units), list(dict.fromkeys(table["model"]))
    figure, axes = new_figure(8.6, 5.2, 2, -(-len(kinds) // 2), sharey=True, squeeze=False)
    plain = table[table["kind"] == "none"]
    for ax, kind in zip(axes.flat[: len(kinds)], kinds, strict=True):
        for position, model in enumerate(models):
            part = pd.concat([plain, table[table["kind"] == kind]])
            part = part[part["model"] == model].sort_values("strength")
            colour = OURS if model == full else PALETTE[1 + position % (len(PALETTE) - 1)]
            low, value, high = (100 * part[name].to_numpy(dtype=float) for name in ("low", "value", "high"))
            ax.fill_between(part["strength"], low, high, color=colour, alpha=0.13, lw=0)
            ax.plot(
                part["strength"], value, color=colour, marker="D" if model == full else MARKERS[1 + position % 8], ms=4,
                lw=1.9 if model == full else 1.2, ls="-" if model == full else ("--", "-.", ":")[position % 3],
                label=model,
            )  # fmt: skip
        ax.set_title(kind)
        ax.set_xlabel(units[kind])
        ax.grid(axis="y", **GRID)
        ax.set_axisbelow(True)
    for ax in axes.flat[len(kinds) :]:
        ax.axis("off")
    for row in axes:
        row[0].set_ylabel(f"{measure}, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(models))
    return figure


def calibration(table: pd.DataFrame, full: str) -> Figure:
    """Adaptive ECE, NLL and Brier score of every model before (hollow) and after (full) temperature scaling.

    table: columns arm, measure (ece, nll, brier), moment (before, after), value, low, high.
    """
    names = {"ece": "adaptive calibration error", "nll": "negative log likelihood", "brier": "Brier score"}
    arms = list(dict.fromkeys(table["arm"]))
    figure, axes = new_figure(8.6, 1.4 + 0.42 * len(arms), 1, len(names), sharey=True)
    looks: dict[str, dict[str, Any]] = {"before": {"marker": "o", "mfc": PAPER}, "after": {"marker": "D"}}
    for ax, (measure, label) in zip(axes, names.items(), strict=True):
        for place, arm in enumerate(arms):
            colour = OURS if arm == full else THEIRS
            for aside, (moment, look) in zip((-0.15, 0.15), looks.items(), strict=True):
                row = table[(table["arm"] == arm) & (table["measure"] == measure) & (table["moment"] == moment)].iloc[0]
                ax.plot([row["low"], row["high"]], [place + aside] * 2, color=colour, lw=1.2)
                ax.plot(row["value"], place + aside, color=colour, mew=1.3, ms=5, **look)
        ax.set_xlim(left=0)
        ax.set_xlabel(f"{label}\n(lower is better)")
        ax.grid(axis="x", **GRID)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    for (_, look), label in zip(looks.items(), ("as the model states it", "after temperature scaling"), strict=True):
        axes[0].plot([], [], color=INK, mew=1.3, ms=5, ls="", label=label, **look)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
