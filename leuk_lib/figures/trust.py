"""Figures of chapter 8: robustness, calibration, and maps that explain a prediction."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.models import model_colour, overlay, percent
from leuk_lib.figures.style import (
    INK,
    LEGEND,
    LINES,
    MARKERS,
    PALETTE,
    PAPER,
    WIDTH,
    headline,
    image_axes,
    light_grid,
    message,
    new_figure,
)  # fmt: skip

Array = NDArray[Any]


def robustness(table: pd.DataFrame, units: Mapping[str, str], full: str, measure: str) -> Figure:
    """Plot a score against the strength of a shift, with bands for 95 % intervals; one panel per kind of shift.

    Args:
        table: Columns model, kind, strength, value, low, high (fractions); strength 0 once, as kind "none".
        units: Kind of shift -> label of its strength.
        full: The model to emphasise.
        measure: Name of the score.
    """
    kinds, models = list(units), list(dict.fromkeys(table["model"]))
    figure, axes = new_figure(
        WIDTH, 1.2 + 1.7 * -(-len(kinds) // 2), -(-len(kinds) // 2), 2, sharey=True, squeeze=False
    )
    unshifted = table[table["kind"] == "none"]
    for ax, kind in zip(axes.flat[: len(kinds)], kinds, strict=True):
        for position, model in enumerate(models):
            part = pd.concat([unshifted, table[table["kind"] == kind]])
            part = part[part["model"] == model].sort_values("strength")
            colour = model_colour(model, full)
            low, value, high = (100 * part[name].to_numpy(dtype=float) for name in ("low", "value", "high"))
            ax.fill_between(part["strength"], low, high, color=colour, alpha=0.13, lw=0)
            ax.plot(
                part["strength"], value, color=colour, marker="D" if model == full else MARKERS[1 + position % 8], ms=4,
                lw=1.9 if model == full else 1.2, ls="-" if model == full else LINES[position % 3],
                label=model,
            )  # fmt: skip
        ax.set_title(kind, fontsize=9)
        ax.set_xlabel(units[kind])
        light_grid(ax, "y")
    for ax in axes.flat[len(kinds) :]:
        ax.axis("off")
    figure.supylabel(f"{measure}, %", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, **LEGEND)
    ours = table[table["model"] == full]
    strongest = ours[ours["kind"] != "none"].sort_values("strength").groupby("kind", sort=False)["value"].last()
    loss = 100 * (float(ours.loc[ours["kind"] == "none", "value"].iloc[0]) - strongest)
    headline(figure, f"Of the strongest shifts, {loss.idxmax()} costs {full} most: {loss.max():.0f} points")
    return figure


def calibration(table: pd.DataFrame, full: str) -> Figure:
    """Plot ECE, NLL and Brier score of each model before (hollow) and after (filled) temperature scaling.

    Args:
        table: Columns arm, measure (ece, nll, brier), moment (before, after), value, low, high.
        full: The arm to emphasise.
    """
    names = {"ece": "calibration\nerror", "nll": "log loss\n(nats)", "brier": "Brier\nscore"}
    arms = list(dict.fromkeys(table["arm"]))
    figure, axes = new_figure(WIDTH, 1.6 + 0.34 * len(arms), 1, len(names), sharey=True)
    markers: dict[str, dict[str, Any]] = {"before": {"marker": "o", "mfc": PAPER}, "after": {"marker": "D"}}
    for ax, (measure, label) in zip(axes, names.items(), strict=True):
        for place, arm in enumerate(arms):
            colour = model_colour(arm, full)
            for offset, (moment, marker) in zip((-0.15, 0.15), markers.items(), strict=True):
                row = table[(table["arm"] == arm) & (table["measure"] == measure) & (table["moment"] == moment)].iloc[0]
                ax.plot([row["low"], row["high"]], [place + offset] * 2, color=colour, lw=1.2)
                ax.plot(row["value"], place + offset, color=colour, mew=1.3, ms=5, **marker)
        ax.set_xlim(left=0)
        ax.set_xlabel(label)
        ax.locator_params(axis="x", nbins=3)
        light_grid(ax, "x")
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    for moment, marker in markers.items():
        axes[0].plot([], [], color=INK, mew=1.3, ms=5, ls="", label=f"{moment} temperature scaling", **marker)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, **LEGEND)
    errors = table[table["measure"] == "ece"].pivot(index="arm", columns="moment", values="value")
    lower = int((errors["after"] < errors["before"]).sum())
    headline(figure, f"Scaling lowers the calibration error of {lower} of {len(arms)} models (lower is better)")
    return figure


def gallery(rows: Mapping[str, pd.DataFrame], images: Array, maps: Mapping[str, Array], shown: int = 6) -> Figure:
    """Show cells with their attribution maps, in one block of rows per table.

    Args:
        rows: Title -> columns position (in images and maps), label, predicted, probability; may be empty.
        images: (n, H, W, 3), uint8.
        maps: Method -> (n, H, W).
        shown: Number of columns.
    """
    lines = 1 + len(maps)
    side = (WIDTH - 0.3) / shown
    figure, axes = new_figure(
        WIDTH, ((side + 0.06) * lines + 0.55) * len(rows) + 0.4, lines * len(rows), shown, squeeze=False
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
            names = [row["label"]] if row["label"] == row["predicted"] else [row["label"], f"→ {row['predicted']}"]
            titles = [line for name in names for line in textwrap.wrap(name, int(14 * side))]
            part[0].set_title("\n".join([*titles, f"{100 * row['probability']:.0f} %"]), fontsize=8)
            for ax, values in zip(part[1:], maps.values(), strict=True):
                ax.imshow(images[position])
                overlay(ax, values[position])
            if column == 0:
                part[0].set_ylabel(title, fontsize=8)
                for ax, method in zip(part[1:], maps, strict=True):
                    ax.set_ylabel(method, fontsize=8)
    headline(figure, "Where WPAT looks when it is right and when it is wrong")
    return figure


def shares(summary: pd.DataFrame) -> Figure:
    """Plot the share of attribution on cell and nucleus, and the pointing game, with intervals and the share of the area.

    Args:
        summary: Columns method, region, measure (share, pointing), value, low, high, area (fractions); empty for cells
            without masks.
    """
    if summary.empty:
        return message("These cells have no masks of cell and nucleus.")
    measures = [("share", "share of attribution (%)"), ("pointing", "highest pixel inside (%)")]
    figure, axes = new_figure(WIDTH, 3.6, 1, 2, sharey=True)
    regions, methods = list(dict.fromkeys(summary["region"])), list(dict.fromkeys(summary["method"]))
    for ax, (measure, label) in zip(axes, measures, strict=True):
        for number, method in enumerate(methods):
            part = summary[(summary["method"] == method) & (summary["measure"] == measure)].set_index("region")
            part = part.reindex(regions)
            values, bars = percent(part)
            places = np.arange(len(regions)) + 0.2 * (number - (len(methods) - 1) / 2)
            ax.errorbar(values, places, xerr=bars, fmt=MARKERS[number], color=PALETTE[number], capsize=3, label=method)
        area = 100 * summary.groupby("region", sort=False)["area"].mean().reindex(regions).to_numpy(dtype=float)
        ax.plot(area, np.arange(len(regions)), "|", color=INK, markersize=18, label="share of area (chance)")
        ax.set_yticks(range(len(regions)), regions)
        ax.set_ylim(len(regions) - 0.4, -0.6)
        ax.set_xlim(-2, 102)
        ax.set_xlabel(label)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, labelspacing=1, **LEGEND)
    share = summary[summary["measure"] == "share"].groupby(["method", "region"], sort=False)["value"].first()
    first, last = (100 * float(share[method, regions[0]]) for method in (methods[0], methods[-1]))
    headline(
        figure,
        f"{methods[0].capitalize()} has {first:.0f} % of its weight on the {regions[0]}, the map “{methods[-1]}” {last:.0f} %",
    )
    return figure


def sanity(table: pd.DataFrame) -> Figure:
    """Plot the rank correlation of maps with the trained model's against the randomised parts, one line per method.

    Args:
        table: Columns method, randomised, value, low, high.
    """
    figure, ax = new_figure(WIDTH, 3.5)
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
    ax.set_xticks(range(len(parts) + 1), ["none", *parts])
    ax.set_xlabel("randomised parts")
    ax.set_ylabel("rank correlation with\nthe trained model's map")
    ax.set_ylim(min(-0.35, float(table["low"].min()) - 0.05), 1.08)
    figure.legend(loc="outside lower center", ncols=4, **LEGEND)
    last = table[table["randomised"] == parts[-1]].set_index("method")["value"]
    headline(figure, f"With all weights random, the correlation of {last.index[0]} is {last.iloc[0]:.2f}")
    return figure


def one_cell(
    images: Array, maps: Array, probs: Array, classes: Sequence[str], truth: str, shift: str, shown: int = 6
) -> Figure:
    """Draw the same cell as it is and shifted, the attention on it, and the calibrated probabilities.

    Args:
        images: The two images (2, H, W, 3), uint8, as the model sees them.
        maps: Attention of the predicted class (2, H, W).
        probs: Probabilities (2, K).
        classes: Names of the K classes.
        truth: The true class.
        shift: Kind and strength of the shift.
        shown: Largest number of classes, the most probable ones; the true class is always among them.
    """
    predicted = [classes[k] for k in probs.argmax(axis=1)]
    outcome = {
        (True, True): f"stays right ({truth})", (True, False): f"turns wrong ({predicted[1]})",
        (False, True): f"turns right ({truth})",
        (False, False): f"is wrong both times ({', then '.join(dict.fromkeys(predicted))})",
    }[predicted[0] == truth, predicted[1] == truth]  # fmt: skip
    kept = same.most_probable(probs, classes, truth, shown)
    lines: list[dict[str, same.Panel]] = [
        {
            name: same.picture(images[k]), f"attention on {predicted[k]}": same.picture(images[k], heat=maps[k]),
            "": same.probabilities([classes[c] for c in kept], probs[k][kept], truth, "probability after scaling (%)"),
        }
        for k, name in enumerate(("as it is", "shifted"))
    ]  # fmt: skip
    short = max(map(len, classes)) <= 8
    return same.row(
        f"Under a {shift}, the prediction for this cell {outcome}",
        *lines,
        widths=(0.8, 0.8, 1.4) if short else (1, 1, same.ROOM),
    )
