"""Figures of chapters 9 and 10: the marks are at the data, axes and absent classes are labelled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evaluation.toys import made_up
from leuk_lib.audit import claims, published
from leuk_lib.chapters import results as chapter
from leuk_lib.evaluation import calibration, metrics
from leuk_lib.figures import claims as draw_claims
from leuk_lib.figures import results as draw
from leuk_lib.statistics.bootstrap import ClusterBootstrap

from .test_results import models


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def y_labels(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def errorbars(ax) -> list[tuple[float, float, float]]:
    """(value, low, high) of each horizontal error bar, in the order of drawing."""
    bars_drawn = []
    for container in ax.containers:
        points, _, (bars,) = container
        for x, ((low, _), (high, _)) in zip(points.get_xdata(), bars.get_segments(), strict=True):
            bars_drawn.append((float(x), float(low), float(high)))
    return bars_drawn


@pytest.fixture(params=[2, 8], ids=["2 classes", "8 classes"], scope="module")
def scored(request):
    parts = models(request.param, n=160)
    bootstrap = ClusterBootstrap(parts["wpat"].groups, 100, np.random.default_rng(0))
    return parts, chapter.score_models(parts, bootstrap), bootstrap


def test_forest_has_one_error_bar_per_model_at_its_score(scored):
    table = chapter.score_table(scored[1])
    figure = draw.forest(table, "wpat", metrics=("accuracy", "macro_auc"))
    for ax, metric in zip(figure.axes, ("accuracy", "macro_auc"), strict=True):
        rows = table[table["metric"] == metric]
        drawn = np.array(errorbars(ax))
        np.testing.assert_allclose(drawn[:, 0], rows["value"])
        np.testing.assert_allclose(drawn[:, 1], np.minimum(rows["low"], rows["value"]))
        np.testing.assert_allclose(drawn[:, 2], np.maximum(rows["high"], rows["value"]))
        assert ax.get_xlabel()
        reference = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert reference[0].get_xdata()[0] == rows["value"].iloc[0]
    assert y_labels(figure.axes[0]) == list(scored[0])


def test_differences_are_in_points_and_their_markers_show_the_sign(scored):
    table = chapter.difference_table(scored[1], "wpat")
    table.loc[table["baseline"] == "weak", ["low", "high"]] = [-0.01, 0.02]
    table.loc[table["baseline"] == "majority", ["low", "high"]] = [0.01, 0.9]
    (ax,) = draw.differences(table, "wpat", metrics=("accuracy",)).axes
    rows = table[table["metric"] == "accuracy"]
    np.testing.assert_allclose([x for x, _, _ in errorbars(ax)], 100 * rows["difference"])
    assert [container[0].get_marker() for container in ax.containers] == ["o", "^"]
    assert y_labels(ax) == list(rows["baseline"]) and "points" in ax.get_xlabel()


def test_confusion_shows_counts_and_shares(scored):
    part = scored[0]["wpat"]
    counts = metrics.confusion(part)
    ax = draw.confusion(counts, part.classes).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), counts / counts.sum(axis=1, keepdims=True))
    assert [int(text.split("\n")[1]) for text in texts(ax)] == counts.ravel().tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")


def test_recalls_are_drawn_with_their_intervals(scored):
    table = chapter.recall_table(scored[0]["wpat"])
    (ax,) = draw.recalls(table).axes
    np.testing.assert_allclose(errorbars(ax), table[["recall", "low", "high"]])
    assert [label.split("\n")[0] for label in y_labels(ax)] == list(table["class"])


def test_reliability_draws_the_bins_before_and_after(scored):
    before = calibration.reliability_table(scored[0]["wpat"])
    after = before.assign(accuracy=before["accuracy"] * 0.9)
    figure = draw.reliability(before, after, 2.5)
    for ax, table in zip(figure.axes, (before, after), strict=True):
        points = ax.containers[0][0]
        np.testing.assert_allclose(points.get_xydata(), table[["confidence", "accuracy"]])
    assert "2.50" in figure.axes[1].get_title()


def test_abstention_draws_one_curve_per_model_and_one_band(scored):
    parts, _, bootstrap = scored
    curves = {name: calibration.abstention_curve(parts[name], bootstrap) for name in ("wpat", "weak")}
    (ax,) = draw.abstention(curves, "wpat").axes
    for line, table in zip(ax.lines, curves.values(), strict=True):
        np.testing.assert_allclose(line.get_xydata(), table[["coverage", "accuracy"]])
    assert len(ax.collections) == 1
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((curves["wpat"]["low"].min(), curves["wpat"]["high"].max()))


def test_an_absent_class_is_labelled():
    part = made_up(k=3, classes=("a", "b", "c"))
    counts = metrics.confusion(part)
    counts[2] = 0
    assert "no cell" in texts(draw.confusion(counts, part.classes).axes[0])[-1]
    table = chapter.recall_table(part)
    table.loc[2, ["n", "recall", "low", "high"]] = [0, np.nan, np.nan, np.nan]
    (ax,) = draw.recalls(table).axes
    assert "no cell" in texts(ax)[-1] and len(errorbars(ax)) == 2


def test_figures_without_a_baseline_or_an_interval():
    columns = ["baseline", "metric", "difference", "low", "high"]
    assert not draw.differences(pd.DataFrame(columns=columns), "wpat").axes[0].containers
    rows = [("wpat", metric, 0.5, np.nan, np.nan) for metric in ("accuracy", "macro_f1", "macro_auc")]
    figure = draw.forest(pd.DataFrame(rows, columns=["model", "metric", "value", "low", "high"]), "wpat")
    figure.canvas.draw()
    assert [ax.containers[0][0].get_xdata().tolist() for ax in figure.axes] == [[0.5]] * 3


@pytest.fixture(scope="module")
def public():
    return claims.read_claims().published


def test_published_values_and_means_are_drawn(public):
    figure = draw_claims.published(public.values, "A")
    for ax, metric in zip(figure.axes, public.values["A"], strict=True):
        values = [lists[metric] for lists in public.values.values()]
        np.testing.assert_allclose([line.get_ydata() for line in ax.lines[::2]], values)
        np.testing.assert_allclose([line.get_ydata()[0] for line in ax.lines[1::2]], np.mean(values, axis=1))
        assert ax.get_ylabel() and ax.get_xlabel() == "model"


def test_p_values_are_drawn_for_each_test(public):
    tests = published.t_tests(public.values, public.comparisons(), "A")
    (ax,) = draw_claims.p_values(tests, "A").axes
    for line, column in zip(ax.lines[:3], draw_claims.TESTS, strict=True):
        np.testing.assert_allclose(line.get_xdata(), tests[column])
    assert ax.get_xscale() == "log" and len(y_labels(ax)) == len(tests)


def test_the_bound_is_drawn_and_runs_beyond_it_are_labelled(public):
    check = published.f1_check(public.values)
    (ax,) = draw_claims.f1_bound(check).axes
    recall, bound = ax.lines[0].get_data()
    np.testing.assert_allclose(bound, 100 * published.f1_bound(recall / 100))
    assert sum(len(line.get_xdata()) for line in ax.lines[1:]) == len(check)
    assert texts(ax) == ["model A, run 4"]


def test_the_interval_is_drawn_and_the_published_size_marked(public):
    table = published.interval_by_size(0.96, 186)
    (ax,) = draw_claims.interval_width(table, 0.96, 186).axes
    row = table[table["n"] == 186].iloc[0]
    assert texts(ax) == [f"n = 186: {100 * row['low']:.1f} to {100 * row['high']:.1f} %"]
    points, _, (bar,) = ax.containers[0]
    assert points.get_xdata()[0] == 186
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], [row["low"], row["high"]])
