"""Figures of chapter 5: architecture, attention, training, comparison, explanation, leakage, robustness, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

from leuk_lib.figures.style import INK, MARKERS, PALETTE, PAPER, image_axes, new_figure

Array = NDArray[Any]
LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False}
LEGEND_OUTSIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), **LEGEND}
GRID: dict[str, Any] = {"color": "#E6E6E6", "lw": 0.6}
OURS, THEIRS = PALETTE[0], PALETTE[6]
COLUMN_COLOURS = (OURS, PALETTE[5])  # of the ladder: from FCMAE, from published weights


def _overlay(ax: Any, values: Array) -> None:
    """Draw a heat map over an image, transparent where its values are low.

    The scale ends at the 99.5th percentile, so that a single pixel does not hide all others.
    """
    shown = np.clip(values / max(float(np.quantile(values, 0.995)), 1e-12), 0, 1)
    ax.imshow(shown, cmap="viridis", alpha=0.85 * shown, vmin=0, vmax=1)


def _percent(table: pd.DataFrame) -> tuple[Array, Array]:
    """Values (n,) in per cent, and their error bars (2, n), from columns value, low, high (fractions)."""
    values = 100 * table["value"].to_numpy(dtype=float)
    return values, np.abs(100 * table[["low", "high"]].to_numpy(dtype=float).T - values)


def architecture(tensors: pd.DataFrame) -> Figure:
    """Draw each tensor as a block to scale.

    Args:
        tensors: Columns name, step, height, width, channels, in the order of the computation.
    """
    figure, ax = new_figure(9.5, 3.9)
    steps = list(dict.fromkeys(tensors["step"]))
    colours = {step: PALETTE[i % len(PALETTE)] for i, step in enumerate(steps)}
    largest = float(np.maximum(tensors["height"], tensors["width"]).max())
    site, channel = 1 / largest, 0.5 / float(tensors["channels"].max())
    left, centres, labels = 0.0, [], []
    for row in tensors.to_dict("records"):
        h, w, c = int(row["height"]), int(row["width"]), int(row["channels"])
        high, wide, deep = (max(extent, 0.006) for extent in (h * site, w * site, c * channel))
        base = -high / 2
        front = [(left, base), (left + deep, base), (left + deep, base + high), (left, base + high)]
        lean = 0.35 * wide
        top = [
            (left, base + high),
            (left + deep, base + high),
            (left + deep + lean, base + high + lean),
            (left + lean, base + high + lean),
        ]
        side = [
            (left + deep, base),
            (left + deep + lean, base + lean),
            (left + deep + lean, base + high + lean),
            (left + deep, base + high),
        ]
        for corners, alpha in ((front, 0.55), (top, 0.35), (side, 0.8)):
            ax.add_patch(Polygon(corners, facecolor=colours[row["step"]], edgecolor=INK, linewidth=0.5, alpha=alpha))
        centres.append(left + (deep + lean) / 2)
        size = f"{h}×{w}×{c}" if w > 1 else f"{h}×{c}"
        labels.append(f"{row['name']}\n{size}")
        left += max(deep + lean, 0.24) + 0.16
    for place, text in zip(centres, labels, strict=True):
        ax.text(place, -0.62, text, ha="center", va="top", fontsize=7, rotation=0)
    ax.set_xlim(-0.12, left + 0.02)
    ax.set_ylim(-0.95, 0.95)
    ax.set_aspect("equal")
    ax.axis("off")
    handles = [Rectangle((0, 0), 1, 1, facecolor=colours[s], edgecolor=INK, linewidth=0.5, alpha=0.6) for s in steps]
    ax.legend(handles, steps, loc="upper right", ncols=min(4, len(steps)), **LEGEND)
    return figure


def windows(image: Array, strides: Sequence[int], side: int, region: Array, latents: Array) -> Figure:
    """Show one cell with the windows of each feature level, the attention of region tokens, and that of latents.

    Args:
        image: (H, W, 3), uint8.
        strides: Stride of each level in pixels.
        side: Side of a window in tokens.
        region: Attention of region tokens within their windows (H, W).
        latents: Attention of some latents (n, H, W).
    """
    height, width = image.shape[:2]
    columns = max(len(strides) + 1, len(latents))
    figure, axes = new_figure(1.75 * columns, 4.0, 2, columns, squeeze=False)
    for ax in axes.flat:
        image_axes(ax)
    for ax, stride in zip(axes[0], strides, strict=False):
        ax.imshow(image)
        step = stride * side
        for x in range(0, width, step):
            ax.axvline(x - 0.5, color=PALETTE[0], linewidth=0.9)
        for y in range(0, height, step):
            ax.axhline(y - 0.5, color=PALETTE[0], linewidth=0.9)
        for x in range(0, width, stride):
            ax.axvline(x - 0.5, color=PALETTE[0], linewidth=0.25, alpha=0.6)
        for y in range(0, height, stride):
            ax.axhline(y - 0.5, color=PALETTE[0], linewidth=0.25, alpha=0.6)
        count = -(-height // step) * -(-width // step)
        ax.set_title(f"stride {stride} px: {count} window{'s' if count > 1 else ''}", fontsize=8)
    ax = axes[0, len(strides)]
    ax.imshow(image)
    _overlay(ax, region)
    ax.set_title("region tokens", fontsize=8)
    for number, (ax, values) in enumerate(zip(axes[1], latents, strict=False), start=1):
        ax.imshow(image)
        _overlay(ax, values)
        ax.set_title(f"latent {number}", fontsize=8)
    return figure


def curves(history: pd.DataFrame, curve: pd.DataFrame, best_step: int) -> Figure:
    """Plot training and validation curves, and mark the selected step.

    Args:
        history: Columns step, loss; one row per step.
        curve: Columns step, val_loss, val_accuracy, val_recall; one row per evaluation.
        best_step: The selected step.
    """
    figure, (left, right) = new_figure(9, 3.2, 1, 2)
    left.plot(
        history["step"] + 1, history["loss"], color=PALETTE[4], linewidth=0.6, alpha=0.6, label="training, one batch"
    )
    smooth = history["loss"].rolling(max(1, len(history) // 20), min_periods=1).mean()
    left.plot(history["step"] + 1, smooth, color=PALETTE[0], linewidth=1.5, label="training, running mean")
    left.plot(curve["step"], curve["val_loss"], color=PALETTE[1], marker="o", markersize=4, label="validation")
    left.set_ylabel("cross-entropy (nats)")
    right.plot(
        curve["step"], 100 * curve["val_recall"], color=PALETTE[1], marker="o", markersize=4, label="mean recall"
    )
    right.plot(curve["step"], 100 * curve["val_accuracy"], color=PALETTE[2], marker="s", markersize=4, label="accuracy")
    right.set_ylabel("validation (%)")
    right.set_ylim(-2, 102)
    for ax in (left, right):
        ax.axvline(best_step, color=INK, linestyle="--", linewidth=1, label="selected")
        ax.set_xlabel("optimiser step")
        ax.legend(**LEGEND)
    return figure


def cost(table: pd.DataFrame) -> Figure:
    """Plot operations against image size, in total and per pixel, on logarithmic axes.

    Args:
        table: Columns side, pixels, encoder, wpat, full_attention (GFLOP).
    """
    figure, (left, right) = new_figure(9, 3.3, 1, 2)
    names = {"encoder": "encoder", "wpat": "WPAT without encoder", "full_attention": "full attention instead"}
    for number, (column, name) in enumerate(names.items()):
        line: dict[str, Any] = {
            "color": PALETTE[number], "marker": MARKERS[number], "markersize": 4, "linewidth": 1.3, "label": name,
            "linestyle": "--" if column == "full_attention" else "-",
        }  # fmt: skip
        left.plot(table["pixels"], table[column], **line)
        per_pixel = table[column] / table["pixels"]
        right.plot(table["pixels"], per_pixel / per_pixel.iloc[0], **line)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("image side (px)")
        ticks = table[table["side"].isin([64, 128, 256, 448])] if len(table) > 4 else table
        ax.set_xticks(ticks["pixels"], [f"{side}" for side in ticks["side"]])
        ax.minorticks_off()
    left.set_ylabel("operations per image (GFLOP)")
    right.set_ylabel("operations per pixel,\nrelative to the smallest image")
    right.set_yticks([1, 2, 5, 10, 20, 40], ["1", "2", "5", "10", "20", "40"])
    left.legend(**LEGEND)
    return figure


def comparison(scores: pd.DataFrame, metric: str = "balanced_accuracy") -> Figure:
    """Plot a metric of each model on each split with its 95 % interval.

    Args:
        scores: Columns model, split, metric, value, low, high (fractions).
        metric: Which metric.
    """
    table = scores[scores["metric"] == metric]
    models, splits = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["split"]))
    figure, ax = new_figure(7, 0.45 * len(models) + 1.1)
    for number, split in enumerate(splits):
        part = table[table["split"] == split].set_index("model").reindex(models)
        places = np.arange(len(models)) + 0.18 * (number - (len(splits) - 1) / 2)
        values, bars = _percent(part)
        ax.errorbar(
            values, places, xerr=bars, fmt=MARKERS[number % len(MARKERS)], color=PALETTE[number % len(PALETTE)], markersize=5, capsize=3,
            linewidth=1.2, label=split,
        )  # fmt: skip
    ax.set_yticks(range(len(models)), models)
    ax.invert_yaxis()
    ax.set_xlim(-2, 102)
    ax.set_xlabel(f"{metric.replace('_', ' ')} (%), 95 % interval over groups")
    ax.legend(**LEGEND_OUTSIDE)
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
    colours = {arm: COLUMN_COLOURS[k] for k, column in enumerate(columns) for arm in column}
    full = [column[-1] for column in columns]
    figure, ax = new_figure(6.4, 1.0 + 0.32 * len(order))
    for place, arm in enumerate(order):
        value, low, high = 100 * table.loc[arm, ["value", "low", "high"]].to_numpy(dtype=float)
        colour, marker = colours.get(arm, THEIRS), "D" if arm in full else "o" if arm in ladder else "s"
        ax.hlines(place, low, high, color=colour, lw=1.6)
        ax.plot(value, place, marker, color=colour, ms=6.5 if arm in full else 5)
        ax.text(high + 0.8, place, f"{value:.1f}", va="center", fontsize=8)
    ax.set_yticks(range(len(order)), order)
    ax.invert_yaxis()
    ax.set_xlim(right=max(100.0, float(100 * table["high"].max())) + 4)
    ax.set_xlabel(f"balanced accuracy, % (95 % interval, {int(table['n'].iloc[0])} test cells over all repetitions)")
    ax.set_ylabel("model")
    top = 0
    for name, arms in parts.items():
        middle = top + (len(arms) - 1) / 2
        ax.text(1.02, middle, name, transform=ax.get_yaxis_transform(), rotation=90, va="center", fontsize=8)
        top += len(arms)
        if top < len(order):
            ax.axhline(top - 0.5, color="#BBBBBB", lw=0.8)
    ax.grid(axis="x", **GRID)
    ax.set_axisbelow(True)
    return figure


def accuracy_and_cost(table: pd.DataFrame, columns: Sequence[Sequence[str]]) -> Figure:
    """Plot balanced accuracy with intervals against processor time, on a logarithmic axis.

    Args:
        table: Columns arm, value, low, high (fractions), cpu seconds.
        columns: The ladder's models by column, which are joined by lines; other arms are baselines.
    """
    rows = table.set_index("arm")
    colours = {arm: COLUMN_COLOURS[k] for k, column in enumerate(columns) for arm in column}
    minutes, value = rows["cpu seconds"] / 60, 100 * rows["value"]
    figure, ax = new_figure(6.4, 4.2)
    for k, column in enumerate(columns):
        ax.plot(minutes[list(column)], value[list(column)], color=COLUMN_COLOURS[k], lw=1)
    for place, arm in enumerate(rows.index):
        colour = colours.get(arm, THEIRS)
        ax.vlines(minutes[arm], 100 * rows.loc[arm, "low"], 100 * rows.loc[arm, "high"], color=colour, lw=1.4)
        ax.plot(minutes[arm], value[arm], "o" if arm in colours else "s", color=colour, ms=5)
        ax.annotate(
            str(arm), (minutes[arm], value[arm]), xytext=(5, 4 if place % 2 else -11), textcoords="offset points",
            fontsize=8, color=colour,
        )  # fmt: skip
    ax.set_xscale("log")
    for axis_formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        axis_formatter("{x:g}")
    ax.set_xlabel("processor time of a training, with FCMAE's share (minutes, logarithmic)")
    ax.set_ylabel("balanced accuracy, %")
    ax.grid(**GRID)
    ax.margins(x=0.2)
    return figure


def ladder_differences(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot paired differences with intervals, one panel per table; hollow markers where the interval contains 0.

    Args:
        tables: Title -> columns arm, against, value, low, high (fractions).
    """
    longest = max(len(table) for table in tables.values())
    figure, axes = new_figure(8.6, 1.3 + 0.34 * longest, 1, len(tables), squeeze=False)
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        names = [f"{arm} over {against}" for arm, against in zip(table["arm"], table["against"], strict=True)]
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
        ax.set_title(title)
        ax.set_xlabel("points of balanced accuracy")
        ax.grid(axis="x", **GRID)
        ax.set_axisbelow(True)
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
    figure, axes = new_figure(
        1.35 * shown + 0.4, 1.52 * lines * len(rows) + 0.2, lines * len(rows), shown, squeeze=False
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
            arrow = "" if row["label"] == row["predicted"] else f"\n→ {row['predicted']}"
            part[0].set_title(f"{row['label']}{arrow} {100 * row['probability']:.0f} %", fontsize=7)
            for ax, values in zip(part[1:], maps.values(), strict=True):
                ax.imshow(images[position])
                _overlay(ax, values[position])
            if column == 0:
                part[0].set_ylabel(title, fontsize=8)
                for ax, method in zip(part[1:], maps, strict=True):
                    ax.set_ylabel(method, fontsize=8)
    return figure


def shares(summary: pd.DataFrame) -> Figure:
    """Plot the share of attribution on cell and nucleus, and the pointing game, with intervals and the share of the area.

    Args:
        summary: Columns method, region, measure (share, pointing), value, low, high, area (fractions); empty for cells
            without masks.
    """
    if summary.empty:
        figure, ax = new_figure(6, 1.0)
        ax.axis("off")
        ax.text(0.5, 0.5, "These cells have no masks of cell and nucleus.", ha="center", va="center")
        return figure
    measures = [("share", "share of attribution (%)"), ("pointing", "highest pixel inside (%)")]
    figure, axes = new_figure(8.5, 2.9, 1, 2, sharey=True)
    regions, methods = list(dict.fromkeys(summary["region"])), list(dict.fromkeys(summary["method"]))
    for ax, (measure, label) in zip(axes, measures, strict=True):
        for number, method in enumerate(methods):
            part = summary[(summary["method"] == method) & (summary["measure"] == measure)].set_index("region")
            part = part.reindex(regions)
            values, bars = _percent(part)
            places = np.arange(len(regions)) + 0.2 * (number - (len(methods) - 1) / 2)
            ax.errorbar(values, places, xerr=bars, fmt=MARKERS[number], color=PALETTE[number], capsize=3, label=method)
        area = 100 * summary.groupby("region", sort=False)["area"].mean().reindex(regions).to_numpy(dtype=float)
        ax.plot(area, np.arange(len(regions)), "|", color=INK, markersize=18, label="share of area (chance)")
        ax.set_yticks(range(len(regions)), regions)
        ax.set_ylim(len(regions) - 0.4, -0.6)
        ax.set_xlim(-2, 102)
        ax.set_xlabel(label)
    axes[1].legend(labelspacing=1.4, **LEGEND_OUTSIDE)
    return figure


def sanity(table: pd.DataFrame) -> Figure:
    """Plot the rank correlation of maps with the trained model's against the randomised parts, one line per method.

    Args:
        table: Columns method, randomised, value, low, high.
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
    ax.set_xticks(range(len(parts) + 1), ["none", *parts])
    ax.set_xlabel("randomised parts")
    ax.set_ylabel("rank correlation with\nthe trained model's map")
    ax.set_ylim(min(-0.35, float(table["low"].min()) - 0.05), 1.08)
    ax.legend(**LEGEND_OUTSIDE)
    return figure


def leakage(inflation: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the inflation of balanced accuracy by each leakage mode with 95 % intervals, one panel per data set.

    Args:
        inflation: Title -> columns condition, arm, against, value, low, high (fractions).
    """
    rows = {title: table[["arm", "against"]].drop_duplicates() for title, table in inflation.items()}
    heights = [max(2, len(steps)) for steps in rows.values()]
    figure, axes = new_figure(
        8.6, 0.42 * sum(heights) + 0.75 * len(rows), len(rows), 1, squeeze=False, height_ratios=heights, sharex=True
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
            values, bars = _percent(part)
            ax.errorbar(
                values, places, xerr=bars, fmt=MARKERS[number % len(MARKERS)], color=PALETTE[number % len(PALETTE)], markersize=5, capsize=3,
                linewidth=1.2, label=condition,
            )  # fmt: skip
        ax.set_yticks(range(len(steps)), [f"{arm}\n− {against}" for arm, against in steps])
        ax.set_ylim(len(steps) - 0.45, -0.55)
        ax.set_title(title, fontsize=9, loc="left")
        ax.legend(**LEGEND_OUTSIDE)
    axes[-1, 0].set_xlabel("points of balanced accuracy, 95 % interval")
    return figure


def robustness(table: pd.DataFrame, units: Mapping[str, str], full: str, measure: str) -> Figure:
    """Plot a score against the strength of a shift, with bands for 95 % intervals; one panel per kind of shift.

    Args:
        table: Columns model, kind, strength, value, low, high (fractions); strength 0 once, as kind "none".
        units: Kind of shift -> label of its strength.
        full: The model to emphasise.
        measure: Name of the score.
    """
    kinds, models = list(units), list(dict.fromkeys(table["model"]))
    figure, axes = new_figure(8.6, 5.2, 2, -(-len(kinds) // 2), sharey=True, squeeze=False)
    unshifted = table[table["kind"] == "none"]
    for ax, kind in zip(axes.flat[: len(kinds)], kinds, strict=True):
        for position, model in enumerate(models):
            part = pd.concat([unshifted, table[table["kind"] == kind]])
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
    """Plot ECE, NLL and Brier score of each model before (hollow) and after (filled) temperature scaling.

    Args:
        table: Columns arm, measure (ece, nll, brier), moment (before, after), value, low, high.
        full: The arm to emphasise.
    """
    names = {"ece": "adaptive calibration error", "nll": "negative log likelihood", "brier": "Brier score"}
    arms = list(dict.fromkeys(table["arm"]))
    figure, axes = new_figure(8.6, 1.4 + 0.42 * len(arms), 1, len(names), sharey=True)
    markers: dict[str, dict[str, Any]] = {"before": {"marker": "o", "mfc": PAPER}, "after": {"marker": "D"}}
    for ax, (measure, label) in zip(axes, names.items(), strict=True):
        for place, arm in enumerate(arms):
            colour = OURS if arm == full else THEIRS
            for offset, (moment, marker) in zip((-0.15, 0.15), markers.items(), strict=True):
                row = table[(table["arm"] == arm) & (table["measure"] == measure) & (table["moment"] == moment)].iloc[0]
                ax.plot([row["low"], row["high"]], [place + offset] * 2, color=colour, lw=1.2)
                ax.plot(row["value"], place + offset, color=colour, mew=1.3, ms=5, **marker)
        ax.set_xlim(left=0)
        ax.set_xlabel(f"{label}\n(lower is better)")
        ax.grid(axis="x", **GRID)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    for moment, marker in markers.items():
        axes[0].plot([], [], color=INK, mew=1.3, ms=5, ls="", label=f"{moment} temperature scaling", **marker)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
