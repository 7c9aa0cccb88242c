"""Figure of chapter 7: accuracy inflation by each leakage mode."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from leuk_lib.figures.models import percent
from leuk_lib.figures.style import INK, LEGEND, MARKERS, PALETTE, WIDTH, headline, new_figure


def leakage(inflation: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the inflation of balanced accuracy by each leakage mode with 95 % intervals, one panel per data set.

    Args:
        inflation: Title -> columns condition, arm, against, value, low, high (fractions).
    """
    rows = {title: table[["arm", "against"]].drop_duplicates() for title, table in inflation.items()}
    heights = [max(2, len(steps)) for steps in rows.values()]
    figure, axes = new_figure(
        WIDTH, 0.55 * sum(heights) + 1.2 * len(rows), len(rows), 1, squeeze=False, height_ratios=heights, sharex=True
    )
    for ax, (title, table) in zip(axes[:, 0], inflation.items(), strict=True):
        steps = [tuple(pair) for pair in rows[title].itertuples(index=False, name=None)]
        conditions = list(dict.fromkeys(table["condition"]))
        ax.axvline(0, color=INK, linewidth=0.8)
        for number, condition in enumerate(conditions):
            part = table[table["condition"] == condition].set_index(["arm", "against"])
            part = part.loc[[step for step in steps if step in part.index]]
            places = np.array([steps.index(step) for step in part.index], dtype=float)
            places += 0.17 * (number - (len(conditions) - 1) / 2)
            values, bars = percent(part)
            ax.errorbar(
                values, places, xerr=bars, fmt=MARKERS[number % len(MARKERS)], color=PALETTE[(1 + number) % len(PALETTE)], markersize=5, capsize=3,
                linewidth=1.2, label=_two_lines(condition),
            )  # fmt: skip
        ax.set_yticks(range(len(steps)), [f"{_two_lines(arm)}\n− {_two_lines(against)}" for arm, against in steps])
        ax.set_ylim(len(steps) - 0.45, -0.55)
        ax.legend(
            title=title,
            alignment="left",
            title_fontsize=9,
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=2,
            **LEGEND,
        )
    axes[-1, 0].set_xlabel("points of balanced accuracy, 95 % interval")
    every = pd.concat(inflation.values())
    raised = int((every["low"] > 0).sum())
    headline(figure, f"{raised} of {len(every)} comparisons raise the score by more than chance; no model is better")
    return figure


def _two_lines(name: str) -> str:
    """Break a long name once, at the space nearest to its middle."""
    if len(name) <= 24:
        return name
    at = min((k for k, letter in enumerate(name) if letter == " "), key=lambda k: abs(k - len(name) / 2))
    return f"{name[:at]}\n{name[at + 1 :]}"
