"""Arithmetic on the published figures, and the statements about them in chapter 10 and book/claims.yml."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score, recall_score

from leuk_lib.audit import claims, published


@pytest.fixture(scope="module")
def public():
    return claims.read_claims().published


def test_reported_p_values_and_differences_are_recomputed(public):
    table = published.t_tests(public.values, public.comparisons(), public.proposed)
    assert len(table) == 9 and set(table["same p"]) == set(table["same difference"]) == {"yes"}
    b = table[table["versus"] == "B"]["p unpaired"].round(6).tolist()
    assert b == [0.000720, 0.002172, 0.002187]


def test_corrected_p_values_are_the_largest_and_still_below_the_level(public):
    table = published.t_tests(public.values, public.comparisons(), public.proposed, train_part=0.8).set_index(
        ["versus", "metric"]
    )
    assert table.loc[("B", "recall"), "p corrected"] == pytest.approx(0.029, abs=5e-4)
    assert (table["p corrected"] > table[["p paired", "p unpaired"]].max(axis=1)).all()
    factor = table["p corrected"] / table["p unpaired"]
    remark = next(claim.remark for claim in claims.read_claims().claims if claim.id == "significance")
    assert f"{factor.min():.0f} to {round(factor.max(), -3):,.0f} times" in remark
    assert table["p corrected, Holm"].max() < 0.05


def test_corrected_p_value_by_hand(public):
    d = np.subtract(public.values["A"]["recall"], public.values["B"]["recall"])
    t = d.mean() / np.sqrt((1 / 5 + 0.2 / 0.8) * d.var(ddof=1))
    table = published.t_tests(public.values, public.comparisons(), "A").set_index(["versus", "metric"])
    assert table.loc[("B", "recall"), "p corrected"] == pytest.approx(2 * stats.t.sf(t, 4))


def test_one_of_twenty_runs_exceeds_the_bound_if_the_lists_are_aligned(public):
    check = published.f1_check(public.values)
    assert len(check) == 20
    beyond = check[check["exceeds"]]
    assert beyond[["model", "run", "recall", "F1"]].to_numpy().tolist() == [["A", 4, 94.42, 98.19]]
    assert beyond["bound"].iloc[0] == pytest.approx(97.13, abs=5e-3)
    assert published.orders(public.values)["some order fits"].tolist() == ["yes"] * 4


def test_no_order_fits_if_the_sorted_lists_conflict():
    values = {"X": {"recall": [50.0, 60.0], "f1": [76.0, 60.0]}}
    assert published.orders(values)["some order fits"].tolist() == ["no"]


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(8, 60))
@settings(max_examples=60, deadline=None)
def test_no_classifier_exceeds_the_bound(seed, k, n):
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(k), rng.integers(0, k, n - k)]
    z = np.where(rng.random(n) < rng.random(), y, rng.integers(0, k, n))
    for average in ("macro", "weighted"):
        recall = recall_score(y, z, average=average, zero_division=0)
        f1 = f1_score(y, z, average=average, zero_division=0)
        assert f1 <= published.f1_bound(recall) + 1e-12


def test_the_models_have_one_order_in_all_metrics(public):
    means = published.margins(public.values, public.proposed).pivot(index="model", columns="metric", values="mean")
    for metric in means:
        assert means[metric].sort_values(ascending=False).index.tolist() == ["A", "B", "C", "D"]


def test_ten_points_are_between_a_and_c(public):
    audit = published.figures(public)
    assert audit["margin_B_recall"] == pytest.approx(3.686) and audit["margin_B_f1"] == pytest.approx(3.414)
    assert audit["margin_C_recall"] == pytest.approx(9.180) and audit["margin_C_f1"] == pytest.approx(9.646)
    wide = published.margin_table(public.values, public.proposed).set_index("model")
    assert wide.loc["B", "recall, A ahead by"] == audit["margin_B_recall"] and wide.loc["A", "f1, A ahead by"] == 0
    assert audit["margin_best_baseline_recall"] == audit["margin_B_recall"]
    remark = next(claim.remark for claim in claims.read_claims().claims if claim.id == "margin-published")
    assert f"{audit['margin_B_recall']:.1f} points of recall and {audit['margin_B_f1']:.1f} points of F1" in remark


def test_interval_of_the_published_accuracy(public):
    audit = published.figures(public)
    assert (100 * audit["accuracy_low"], 100 * audit["accuracy_high"]) == pytest.approx((92.1, 98.0), abs=0.05)
    table = published.interval_by_size(0.96, 186)
    row = table[table["n"] == 186].iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((audit["accuracy_low"], audit["accuracy_high"]))
    assert table["width"].is_monotonic_decreasing
