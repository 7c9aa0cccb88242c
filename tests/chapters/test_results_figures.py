"""Figures of chapters 6 and 7: drawn for any number of classes and models, axes named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evaluation.toys import made_up
from leuk_lib.audit import claims, published
from leuk_lib.chapters import results as report
from leuk_lib.evaluation import calibration, metrics
from leuk_lib.figures import claims as draw_claims
from leuk_lib.figures import results as draw
from leuk_lib.statistics.bootstrap import ClusterBootstrap

from .test_results import models


def texts(figure) -> str:
    return " ".join(text.get_text() for ax in figure.axes for text in [*ax.texts, ax.xaxis.label, ax.yaxis.label])


@pytest.mark.parametrize("k", [2, 8])
def test_results_figures(k):
    part = models(k, n=160)
    bootstrap = ClusterBootstrap(part["wpat"].groups, 100, np.random.default_rng(0))
    scores = report.score_models(part, bootstrap)
    table = calibration.reliability_table(part["wpat"])
    curve = calibration.abstention_curve(part["wpat"], bootstrap)
    drawn = [
        draw.forest(report.score_table(scores), "wpat"),
        draw.differences(report.difference_table(scores, "wpat"), "wpat"),
        draw.confusion(metrics.confusion(part["wpat"]), part["wpat"].classes),
        draw.recalls(report.recall_table(part["wpat"])),
        draw.reliability(table, table, 1.0),
        draw.abstention({"wpat": curve, "weak": curve}, "wpat"),
    ]
    for figure in drawn:
        figure.canvas.draw()
        assert all(ax.get_xlabel() or ax.get_ylabel() for ax in figure.axes)


def test_an_absent_class_is_written_into_the_figures():
    part = made_up(k=3, classes=("a", "b", "c"))
    counts = metrics.confusion(part)
    counts[2] = 0
    assert "no cell" in texts(draw.confusion(counts, part.classes))
    table = report.recall_table(part)
    table.loc[2, ["n", "recall", "low", "high"]] = [0, np.nan, np.nan, np.nan]
    assert "no cell" in texts(draw.recalls(table))


def test_figures_without_a_baseline_or_an_interval():
    columns = ["baseline", "metric", "difference", "low", "high"]
    draw.differences(pd.DataFrame(columns=columns), "wpat").canvas.draw()
    rows = [("wpat", metric, 0.5, np.nan, np.nan) for metric in ("accuracy", "macro_f1", "macro_auc")]
    draw.forest(pd.DataFrame(rows, columns=["model", "metric", "value", "low", "high"]), "wpat").canvas.draw()


def test_claims_figures():
    public = claims.read_claims().published
    figure = draw_claims.f1_bound(published.f1_check(public.values))
    assert "model A, run 4" in texts(figure)
    for drawn in (
        figure,
        draw_claims.published(public.values, "A"),
        draw_claims.p_values(published.t_tests(public.values, public.comparisons(), "A"), "A"),
        draw_claims.interval_width(published.interval_by_size(0.96, 186), 0.96, 186),
    ):
        drawn.canvas.draw()
        assert all(ax.get_xlabel() and ax.get_ylabel() for ax in drawn.axes)
