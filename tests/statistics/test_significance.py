"""Tests of difference against published worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics import significance as sig

# DeLong, DeLong & Clarke-Pearson (1988), the 43 complete patients: albumin, total protein, K-G score, benefit.
# Expected values: SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves".
OVARIAN = """
3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1 3.8 5.7 5 1 3.7 6.7 6 1
3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1
3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1
3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1
3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1
"""


def ovarian():
    table = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4)
    return table[:, 3] == 1, table[:, 0], table[:, 1], 10 - table[:, 2]


def test_delong_areas_and_errors_of_the_1988_example():
    benefit, albumin, protein, kg = ovarian()
    areas, covariance = sig.delong_covariance(benefit, [albumin, kg, protein])
    assert areas == pytest.approx([0.7366, 0.7258, 0.6478], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1028, 0.1000], abs=6e-5)


def test_delong_differences_of_the_1988_example():
    benefit, albumin, protein, kg = ovarian()
    first, second = sig.delong(benefit, albumin, kg), sig.delong(benefit, protein, kg)
    assert (first.first - first.second, first.standard_error, first.p) == pytest.approx(
        (0.0108, 0.0953, 0.9102), abs=6e-5
    )
    assert (second.first - second.second, second.standard_error, second.p) == pytest.approx(
        (-0.0780, 0.1046, 0.4561), abs=6e-5
    )


def test_delong_error_of_the_hanley_mcneil_1982_table():
    # 58 normal and 51 abnormal CT images in five ratings; area and error as in Stata's manual, [R] roctab.
    normal, abnormal = np.repeat(np.arange(5), [33, 6, 6, 11, 2]), np.repeat(np.arange(5), [3, 2, 2, 11, 33])
    areas, covariance = sig.delong_covariance(np.repeat([False, True], [58, 51]), np.r_[normal, abnormal])
    assert areas[0] == pytest.approx(0.8932, abs=5e-5)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(0.0307, abs=5e-5)


def test_delong_area_is_sklearns_and_swapping_changes_the_sign():
    rng = np.random.default_rng(0)
    y, a, b = rng.random(80) < 0.4, rng.normal(size=80).round(1), rng.normal(size=80).round(1)
    test, swapped = sig.delong(y, a, b), sig.delong(y, b, a)
    assert test.first == pytest.approx(roc_auc_score(y, a)) and test.second == pytest.approx(roc_auc_score(y, b))
    assert test.z == pytest.approx(-swapped.z) and test.p == pytest.approx(swapped.p)
    assert sig.delong(y, a, a).p == 1.0


def test_delong_false_alarm_rate():
    rng = np.random.default_rng(1)
    y = np.arange(80) < 40
    p = [sig.delong(y, rng.normal(size=80) + y, rng.normal(size=80) + y).p for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_delong_of_two_and_two_cells_is_undecidable_where_the_estimated_error_is_zero():
    y = [True, True, False, False]
    reversed_ = sig.delong(y, [4, 3, 2, 1], [1, 2, 3, 4])  # pROC warns here: "the variance can't be calculated"
    assert (reversed_.first, reversed_.second, reversed_.standard_error) == (1, 0, 0)
    assert np.isnan(reversed_.z) and np.isnan(reversed_.p)
    constant = sig.delong(y, [4, 3, 2, 1], [1, 1, 1, 1])
    assert (constant.first, constant.second) == (1, 0.5) and np.isnan(constant.p)
    assert sig.delong(y, [4, 3, 2, 1], [3, 4, 1, 2]).p == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(LeukError, match="1 of 4 cells have NaN or infinite scores"):
        sig.delong([True, True, False, False], [1, bad, 3, 4], [1, 2, 3, 4])
    with pytest.raises(LeukError, match="NaN or infinite"):
        sig.t_corrected([1, 2, bad], [1, 1, 1], 0.25)
    with pytest.raises(LeukError, match="0 or 1"):
        sig.mcnemar_exact([1, 0, bad], [1, 0, 1])
    with pytest.raises(LeukError, match="a label, 0 or 1"):
        sig.delong([1, bad, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4])
    with pytest.raises(LeukError, match="positive ratio"):
        sig.t_corrected([1, 2, 4], [1, 1, 1], bad)
    if not np.isnan(bad):  # which stands for a test that could not be made
        with pytest.raises(LeukError, match=r"not in \[0, 1\]"):
            sig.holm([0.5, bad])


def test_delong_needs_both_classes():
    with pytest.raises(LeukError, match="two positive"):
        sig.delong([True, False, False], [1, 2, 3], [3, 2, 1])


def hits(only_first: int, only_second: int, both: int = 5) -> tuple[np.ndarray, np.ndarray]:
    first = np.r_[np.ones(only_first), np.zeros(only_second), np.ones(both)].astype(bool)
    return first, np.r_[np.zeros(only_first), np.ones(only_second), np.ones(both)].astype(bool)


@pytest.mark.parametrize(
    ("b", "c", "p"), [(12, 5, 0.1435), (11, 1, 26 / 4096), (0, 0, 1.0), (4, 4, 1.0), (5, 0, 0.0625)]
)
def test_mcnemar_exact_is_the_binomial_test(b, c, p):
    # 12 against 5: p .1435; 11 against 1: 2 (1 + 12) / 2^12.
    test = sig.mcnemar_exact(*hits(b, c))
    assert (test.only_first, test.only_second) == (b, c)
    assert test.p == pytest.approx(p, abs=5e-5)


def test_mcnemar_of_agrestis_approval_ratings():
    # Agresti, Categorical Data Analysis: 794 approve twice, 150 only first, 86 only second, 570 never. The exact p is
    # what R's exact2x2::mcnemar.exact prints for this table.
    first = np.repeat([True, True, False, False], [794, 150, 86, 570])
    second = np.repeat([True, False, True, False], [794, 150, 86, 570])
    assert sig.mcnemar_exact(first, second).p == pytest.approx(3.716e-05, rel=5e-4)


@pytest.mark.parametrize(
    ("b", "c", "exact", "mid_p"),
    [(1, 7, 0.0703, 0.0391), (6, 16, 0.0525, 0.0347), (4, 4, 1.0, 1.0), (0, 0, 1.0, 1.0)],
)
def test_mid_p_of_fagerland_2013(b, c, exact, mid_p):
    # Fagerland, Lydersen & Laake 2013, the two examples (airway reactivity of 21 children, complaints of 161 patients).
    test = sig.mcnemar_exact(*hits(b, c))
    assert (test.p, test.mid_p) == pytest.approx((exact, mid_p), rel=5e-3)


def test_mcnemar_needs_the_same_cells():
    with pytest.raises(LeukError, match="same cells"):
        sig.mcnemar_exact([True], [True, False])


def test_holm_of_wikipedia_and_nan():
    # The textbook's four hypotheses: .01 .04 .03 .005 -> .03 .06 .06 .02 (R's p.adjust gives the same).
    assert sig.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    random = np.random.default_rng(0).random(20) ** 3
    assert sig.holm(random) == pytest.approx(multipletests(random, method="holm")[1])
    assert sig.holm([]).shape == (0,) and np.isnan(sig.holm([np.nan])).all()
    with pytest.raises(LeukError, match=r"not in \[0, 1\]"):
        sig.holm([0.5, -0.1])
    assert sig.holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


def test_corrected_t_shrinks_the_paired_t_by_its_known_factor():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=10), rng.normal(size=10) - 1
    paired, corrected = stats.ttest_rel(a, b), sig.t_corrected(a, b, test_over_train=0.2 / 0.8)
    assert corrected.t == pytest.approx(paired.statistic / np.sqrt(1 + 10 * 0.25))
    assert corrected.p == pytest.approx(2 * stats.t.sf(abs(corrected.t), 9))
    assert corrected.df == 9


def test_corrected_t_worked_by_hand():
    # Differences 1 … 5: mean 3, variance 2.5; t = 3 / sqrt((1/5 + 20/80) 2.5) = 2 sqrt(2), where the plain t is 3 sqrt(2).
    # With 4 degrees of freedom the tail has a closed form: P(T > t) = 1/2 - (3/4) s + s^3 / 4, s = t / sqrt(t^2 + 4).
    test = sig.t_corrected([3, 5, 7, 9, 11], [2, 3, 4, 5, 6], test_over_train=20 / 80)
    assert test.t == pytest.approx(2 * np.sqrt(2))
    s = test.t / np.sqrt(test.t**2 + 4)
    assert test.p == pytest.approx(2 * (0.5 - 0.75 * s + s**3 / 4))
    assert test.p == pytest.approx(0.0474, abs=5e-5)


def test_corrected_t_keeps_its_level_on_repeated_splits_where_the_paired_one_does_not():
    # Nadeau & Bengio's own argument: the mean of a random half, split after split, of the same 60 numbers.
    rng = np.random.default_rng(2)
    alarms = {"paired": 0, "corrected": 0}
    rounds = 300
    for _ in range(rounds):
        data = rng.normal(size=60)
        means = np.array([data[rng.permutation(60)[:20]].mean() for _ in range(15)])
        alarms["paired"] += stats.ttest_1samp(means, 0).pvalue < 0.05
        alarms["corrected"] += sig.t_corrected(means, np.zeros(15), 20 / 40).p < 0.05
    assert alarms["corrected"] / rounds < 0.12 < 0.3 < alarms["paired"] / rounds


def test_corrected_t_refuses_equal_differences_and_one_split():
    with pytest.raises(LeukError, match="equal"):
        sig.t_corrected([2, 2, 2], [1, 1, 1], 0.25)
    below = np.array([0.3, 0.35, 0.41])
    assert np.ptp((below + 39 / 160) - below) > 0  # equal but for the last bit
    with pytest.raises(LeukError, match="equal"):
        sig.t_corrected(below + 39 / 160, below, 0.25)
    with pytest.raises(LeukError, match="two splits"):
        sig.t_corrected([2], [1], 0.25)
