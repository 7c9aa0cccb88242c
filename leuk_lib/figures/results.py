"""Figures of chapter 9: scores with intervals, differences, confusion, calibration, abstention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from leuk_lib.figures import one_cell as same
from leuk_lib.figures.models import OURS, THEIRS, model_colour
from leuk_lib.figures.style import INK, LEGEND, LINES, MARKERS, PALETTE, WIDTH, headline, light_grid, new_figure

NAMES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1",
    "macro_auc": "macro AUC\n(one vs rest)",
}  # fmt: skip


def _whiskers(
    ax, value: pd.Series, low: pd.Series, high: pd.Series, y: NDArray[np.float64], colour: str, marker: str = "o"
):
    # The percentile interval of a skewed statistic can exclude its value; errorbar takes no negative lengths.
    error = np.abs(np.stack([np.minimum(low, value) - value, np.maximum(high, value) - value]))
    ax.errorbar(value, y, xerr=error, fmt=marker, color=colour, ms=5, capsize=3, lw=1.4)


def forest(scores: pd.DataFrame, full: str, metrics: Sequence[str] = ("accuracy", "macro_f1", "macro_auc")) -> Figure:
    """Plot the metrics of all models with intervals, one panel per metric.

    Args:
        scores: columns model, metric, value, low, high (fractions).
        full: the model drawn in colour.
        metrics: metrics to show.
    """
    models = list(dict.fromkeys(scores["model"]))
    figure, axes = new_figure(WIDTH, 1.3 + 0.3 * len(models), 1, len(metrics), sharey=True, squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        rows = scores[scores["metric"] == metric].set_index("model").reindex(models)
        y = np.arange(len(models), dtype=float)
        for name, at in zip(models, y, strict=True):
            row = rows.loc[[name]]
            colour, marker = model_colour(name, full), "D" if name == full else "o"
            _whiskers(ax, row["value"], row["low"], row["high"], np.array([at]), colour, marker)
        reference = rows["value"].get(full)
        if reference is not None and np.isfinite(reference):
            ax.axvline(reference, color=OURS, lw=0.7, ls=":", zorder=0)
        ax.set_xlabel(NAMES.get(metric, metric.replace("_", " ")))
        ax.set_yticks(y, models)
        ax.locator_params(axis="x", nbins=2)
        light_grid(ax, "x")
    axes[0][0].invert_yaxis()
    values = scores[scores["metric"] == metrics[0]].set_index("model")["value"]
    rank = 1 + int((values > values[full]).sum())
    headline(figure, f"In {NAMES.get(metrics[0], metrics[0])}, {full} is number {rank} of {len(models)} models")
    return figure


def differences(table: pd.DataFrame, full: str, metrics: Sequence[str] = ("accuracy", "macro_f1")) -> Figure:
    """Plot the lead of the full model over each baseline, in points, with paired intervals.

    Args:
        table: columns baseline, metric, difference, low, high (fractions).
        full: name of the full model.
        metrics: metrics to show.
    """
    baselines = list(dict.fromkeys(table["baseline"]))
    rows_high = max(1, len(baselines))
    figure, axes = new_figure(WIDTH, 1.5 + 0.3 * rows_high, 1, len(metrics), sharey=True, squeeze=False)
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
        ax.set_xlabel(f"{NAMES.get(metric, metric)} (points)")
        ax.set_yticks(y, baselines)
        ax.locator_params(axis="x", nbins=4)
        light_grid(ax, "x")
    axes[0][0].invert_yaxis()
    first = table[table["metric"] == metrics[0]]
    above, below = int((first["low"] > 0).sum()), int((first["high"] < 0).sum())
    measure = NAMES.get(metrics[0], metrics[0])
    headline(
        figure, f"In {measure}, {full} is clearly ahead of {above} and clearly behind {below} of {len(first)} baselines"
    )
    return figure


def agreement(pairs: pd.DataFrame, model: str) -> Figure:
    """Plot Cohen's kappa of each pair of readers with its interval; pairs with the model in colour.

    Args:
        pairs: columns first, second, cells, kappa, low, high; a kappa that is undefined is left out.
        model: name of the model.
    """
    rows = pairs[np.isfinite(pairs["kappa"].astype(float))].reset_index(drop=True)
    figure, ax = new_figure(WIDTH, 1.3 + 0.36 * max(1, len(rows)))
    for at, row in enumerate(rows.to_dict("records")):
        ours = model in (row["first"], row["second"])
        part = rows.loc[[at], ["kappa", "low", "high"]].astype(float)
        colour, marker = (OURS, "D") if ours else (THEIRS, "o")
        low, high = (part[end].fillna(part["kappa"]) for end in ("low", "high"))
        _whiskers(ax, part["kappa"], low, high, np.array([float(at)]), colour, marker)
    names = [f"{row['first']} and {row['second']}\n{row['cells']} cells" for row in rows.to_dict("records")]
    ax.set_yticks(np.arange(len(rows), dtype=float), names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.axvline(1, color=INK, lw=0.7, ls=":")
    ax.set_xlabel("Cohen's kappa (0: chance, 1: full agreement)")
    light_grid(ax, "x")
    if len(rows):
        best = rows.iloc[int(rows["kappa"].astype(float).argmax())]
        headline(figure, f"{best['first']} and {best['second']} agree most: kappa {best['kappa']:.2f}")
    return figure


def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Plot a confusion matrix (K,K) of counts, coloured by the share of the true class; rows true, columns predicted."""
    counts = np.asarray(counts)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    k = len(classes)
    figure, ax = new_figure(WIDTH, 1.6 + 0.45 * k)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i in range(k):
        for j in range(k):
            if total[i, 0]:
                text = f"{100 * share[i, j]:.0f} %\n{counts[i, j]}"
                ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if share[i, j] > 0.5 else INK)
    for i in np.flatnonzero(total[:, 0] == 0).tolist():
        ax.text((k - 1) / 2, i, "no cell in the test part", ha="center", va="center", fontsize=8, color=INK)
    slanted = k > 4 or max(map(len, classes)) > 8
    ax.set_xticks(range(k), classes, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    ax.set_yticks(range(k), [f"{name}\nn = {n}" for name, n in zip(classes, total[:, 0], strict=True)])
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    errors = np.where(np.eye(k, dtype=bool), 0.0, share)
    true, taken = divmod(int(errors.argmax()), k)
    found = f"The most frequent error: {100 * errors.max():.0f} % of {classes[true]} are taken for {classes[taken]}"
    headline(figure, found if errors.any() else "No class is taken for another")
    return figure


def recalls(table: pd.DataFrame) -> Figure:
    """Plot the recall per class with its interval.

    Args:
        table: columns class, n, groups, recall, low, high; a class without a cell is labelled so.
    """
    figure, ax = new_figure(WIDTH, 1.2 + 0.36 * len(table))
    y = np.arange(len(table), dtype=float)
    present = (table["n"] > 0).to_numpy()
    rows = table[present]
    _whiskers(ax, rows["recall"], rows["low"], rows["high"], y[present], OURS)
    for at in y[~present]:
        ax.text(0.5, at, "no cell in the test part", ha="center", va="center", fontsize=8, color=INK)
    labels = [f"{row['class']}\n{row['n']} cells, {row['groups']} groups" for row in table.to_dict("records")]
    ax.set_yticks(y, labels)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    ax.set_xlabel("recall: share of the class's cells that are recognised")
    light_grid(ax, "x")
    if len(rows):
        lowest = rows.iloc[int(rows["recall"].argmin())]
        headline(figure, f"{lowest['class']} has the lowest recall: {100 * lowest['recall']:.0f} %")
    return figure


def reliability(before: pd.DataFrame, after: pd.DataFrame, temperature: float) -> Figure:
    """Plot stated confidence against observed accuracy, before and after temperature scaling.

    Args:
        before: one row per bin of equal counts: n, confidence, accuracy, low, high.
        after: the same after scaling.
        temperature: the temperature, for the title.
    """
    figure, axes = new_figure(WIDTH, 3.3, 1, 2, sharex=True, sharey=True)
    lowest = min(before["confidence"].min(), after["confidence"].min(), before["low"].min(), after["low"].min(), 0.5)
    for ax, table, title in (
        (axes[0], before, "before scaling"),
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
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("stated confidence")
        ax.set_xlim(max(0.0, lowest - 0.05), 1.02)
        ax.set_ylim(max(0.0, lowest - 0.05), 1.02)
    axes[0].set_ylabel("observed accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, **LEGEND)
    gaps = [np.average(np.abs(t["accuracy"] - t["confidence"]), weights=t["n"]) for t in (before, after)]
    headline(figure, f"The mean gap to the diagonal is {gaps[0]:.3f} before scaling and {gaps[1]:.3f} after")
    return figure


def abstention(curves: dict[str, pd.DataFrame], full: str) -> Figure:
    """Plot the accuracy on the kept cells against coverage, one curve per model; the full model's interval is shaded.

    Args:
        curves: name of a model -> columns coverage, accuracy, low, high.
        full: name of the full model.
    """
    figure, ax = new_figure(WIDTH, 3.8)
    for position, (name, table) in enumerate(curves.items()):
        is_full = name == full
        colour = model_colour(name, full)
        ax.plot(
            table["coverage"],
            table["accuracy"],
            color=colour,
            marker="D" if is_full else MARKERS[position % 3],
            ms=3,
            lw=1.6 if is_full else 1.0,
            ls="-" if is_full else LINES[position % 3],
            label=name,
        )
        if is_full and table["low"].notna().sum() > 1:  # more than that of all cells
            ax.fill_between(
                table["coverage"], table["low"], table["high"], color=colour, alpha=0.18, lw=0, label="interval"
            )
    ax.set_xlim(1.02, 0)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    ax.set_xlabel("coverage: cells that the model decides (others go to a human)")
    ax.set_ylabel("accuracy on these cells")
    figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    light_grid(ax)
    ours = curves[full]
    whole, half = (ours.iloc[int((ours["coverage"] - share).abs().argmin())] for share in (1.0, 0.5))
    headline(
        figure,
        f"Deciding {100 * half['coverage']:.0f} % of the cells, {full} is right in {100 * half['accuracy']:.0f} %; "
        f"deciding all, in {100 * whole['accuracy']:.0f} %",
    )
    return figure


def one_cell(
    image: NDArray[np.uint8],
    truth: str,
    classes: Sequence[str],
    probs: Mapping[str, NDArray[np.float64]],
    shown: int = 8,
) -> Figure:
    """Draw the same cell and the probabilities that each model states for it.

    Args:
        image: (S, S, 3), raw.
        truth: The true class.
        classes: Names of the K classes.
        probs: Model -> probabilities (K,), the full model first.
        shown: Largest number of classes, the most probable ones; the true class is always among them.
    """
    table = np.stack(list(probs.values()))
    predicted = [classes[k] for k in table.argmax(axis=1)]
    right = sum(name == truth for name in predicted)
    first = next(iter(probs))
    said = f"so does {first}" if predicted[0] == truth else f"{first} says {predicted[0]}"
    kept = same.most_probable(table, classes, truth, shown)
    columns = [classes[k] for k in kept]
    return same.row(
        f"{right} of {len(probs)} models recognise this cell as {truth}; {said} ({100 * table[0].max():.0f} %)",
        {f"{truth}, raw": same.picture(image), "stated probability (%)": same.matrix(list(probs), columns, table[:, kept], truth)},
        widths=(1, same.ROOM), height=0.24 * len(probs) + 0.6,
    )  # fmt: skip
