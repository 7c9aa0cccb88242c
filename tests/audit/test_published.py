"""The audit: the figures that the design states come out of the lists in book/claims.yml."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score, recall_score

from leuk_lib.audit import claims
from leuk_lib.audit import published as audit


@pytest.fixture(scope="module")
def public():
    return claims.read_claims().published


def test_every_reported_p_and_difference_is_recomputed(public):
    table = audit.t_tests(public.values, public.comparisons(), public.proposed)
    assert len(table) == 9 and set(table["same p"]) == set(table["same difference"]) == {"yes"}
    b = table[table["versus"] == "B"]["p unpaired"].round(6).tolist()
    assert b == [0.000720, 0.002172, 0.002187]


def test_corrected_p_of_the_design(public):
    table = audit.t_tests(public.values, public.comparisons(), public.proposed, train_part=0.8).set_index(
        ["versus", "metric"]
    )
    assert table.loc[("B", "recall"), "p corrected"] == pytest.approx(0.029, abs=5e-4)
    assert (table["p corrected"] > table["p paired"]).all()
    assert table["p corrected, Holm"].max() < 0.05


def test_corrected_p_by_hand(public):
    d = np.subtract(public.values["A"]["recall"], public.values["B"]["recall"])
    t = d.mean() / np.sqrt((1 / 5 + 0.2 / 0.8) * d.var(ddof=1))
    table = audit.t_tests(public.values, public.comparisons(), "A").set_index(["versus", "metric"])
    assert table.loc[("B", "recall"), "p corrected"] == pytest.approx(2 * stats.t.sf(t, 4))


def test_one_run_lies_beyond_the_bound_if_the_lists_are_aligned(public):
    check = audit.f1_check(public.values)
    beyond = check[check["exceeds"]]
    assert beyond[["model", "run", "recall", "F1"]].to_numpy().tolist() == [["A", 4, 94.42, 98.19]]
    assert beyond["bound"].iloc[0] == pytest.approx(97.13, abs=5e-3)
    assert audit.orders(public.values)["some order fits"].tolist() == ["yes"] * 4


def test_orders_tells_when_no_order_can_help():
    values = {"X": {"recall": [50.0, 60.0], "f1": [76.0, 60.0]}}
    assert audit.orders(values)["some order fits"].tolist() == ["no"]


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(8, 60))
@settings(max_examples=60, deadline=None)
def test_no_classifier_passes_the_bound(seed, k, n):
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(k), rng.integers(0, k, n - k)]
    z = np.where(rng.random(n) < rng.random(), y, rng.integers(0, k, n))
    for average in ("macro", "weighted"):
        recall = recall_score(y, z, average=average, zero_division=0)
        f1 = f1_score(y, z, average=average, zero_division=0)
        assert f1 <= audit.f1_bound(recall) + 1e-12


def test_ten_points_lie_between_a_and_c(public):
    found = audit.figures(public)
    assert found["margin_B_recall"] == pytest.approx(3.686) and found["margin_B_f1"] == pytest.approx(3.414)
    assert found["margin_C_recall"] == pytest.approx(9.180) and found["margin_C_f1"] == pytest.approx(9.646)
    wide = audit.margin_table(public.values, public.proposed).set_index("model")
    assert wide.loc["B", "recall, A ahead by"] == found["margin_B_recall"] and wide.loc["A", "f1, A ahead by"] == 0
    assert found["margin_best_rival_recall"] == found["margin_B_recall"]


def test_interval_of_the_published_accuracy(public):
    found = audit.figures(public)
    assert (100 * found["accuracy_low"], 100 * found["accuracy_high"]) == pytest.approx((92.1, 98.0), abs=0.05)
    table = audit.interval_by_size(0.96, 186)
    row = table[table["n"] == 186].iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((found["accuracy_low"], found["accuracy_high"]))
    assert table["width"].is_monotonic_decreasing
