"""Cohen's kappa: by hand, as scikit-learn and statsmodels have it, and over resampled groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.agreement import agreement, kappa_of_counts
from leuk_lib.statistics.bootstrap import ClusterBootstrap


def bootstrap(groups: np.ndarray, n: int = 500) -> ClusterBootstrap:
    return ClusterBootstrap(groups, n, np.random.default_rng(0))


def readers(n: int = 400, noise: float = 0.2, n_groups: int = 40, seed: int = 0):
    rng = np.random.default_rng(seed)
    first = rng.choice(["AML", "CML", "ALL"], n, p=[0.6, 0.3, 0.1])
    second = np.where(rng.random(n) < noise, rng.choice(["AML", "CML", "other"], n), first)
    return first, second, rng.integers(0, n_groups, n).astype(str)


def test_by_hand():
    """20 + 15 of 50 agree; chance: 25/50 * 30/50 + 25/50 * 20/50 = 1/2; (0.7 - 0.5) / 0.5 = 0.4."""
    assert kappa_of_counts([[20, 5], [10, 15]]) == pytest.approx(0.4)
    assert kappa_of_counts([[5, 0], [0, 5]]) == 1
    assert kappa_of_counts([[0, 5], [5, 0]]) == -1
    assert kappa_of_counts([[25, 25], [25, 25]]) == 0
    assert np.isnan(kappa_of_counts([[7, 0], [0, 0]])) and np.isnan(kappa_of_counts([[0, 0], [0, 0]]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40))
def test_equals_the_libraries(pairs: list[tuple[int, int]]):
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    counts = np.zeros((4, 4))
    np.add.at(counts, (first, second), 1)
    ours = float(kappa_of_counts(counts))
    if np.isnan(ours):
        assert len(set(first.tolist() + second.tolist())) == 1
        return
    assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert ours == pytest.approx(cohens_kappa(counts, return_results=False), abs=1e-12)


def test_the_interval_is_close_to_the_formula_where_cells_are_independent():
    first, second, _ = readers(n=600)
    groups = np.arange(600).astype(str)
    ours = agreement(first, second, groups, bootstrap(groups, 2000))
    names = sorted({*first, *second})
    counts = np.array([[((first == a) & (second == b)).sum() for b in names] for a in names])
    theirs = cohens_kappa(counts)
    assert ours.kappa == pytest.approx(theirs.kappa)
    np.testing.assert_allclose(ours.kappa_interval, (theirs.kappa_low, theirs.kappa_upp), atol=0.012)


def test_readers_who_differ_by_patient_are_less_certain():
    rng = np.random.default_rng(1)
    first = rng.choice(["a", "b"], 400)
    groups = np.repeat(np.arange(20), 20).astype(str)
    strange = np.repeat(rng.random(20) < 0.3, 20)  # all cells of some patients are read the other way round
    second = np.where(strange, np.where(first == "a", "b", "a"), first)
    by_patient = agreement(first, second, groups, bootstrap(groups))
    alone = np.arange(400).astype(str)
    by_cell = agreement(first, second, alone, bootstrap(alone))
    assert by_patient.kappa == by_cell.kappa
    assert np.diff(by_patient.kappa_interval) > 2 * np.diff(by_cell.kappa_interval)


def test_full_agreement_is_not_certain():
    labels, groups = np.array(["a", "b"] * 15), np.repeat(["p", "q", "r"], 10)
    result = agreement(labels, labels, groups, bootstrap(groups))
    assert result.kappa == 1 and result.agreement == 1
    assert result.kappa_interval[0] < 0.5 and result.kappa_interval[1] == 1


def test_one_group_and_one_class():
    labels = np.array(["a", "b", "a", "b"])
    groups = np.full(4, "p")
    one_group = agreement(labels, labels[::-1], groups, bootstrap(groups))
    assert one_group.kappa == -1 and np.isnan(one_group.kappa_interval).all()
    groups = np.array(list("pqrs"))
    one_class = agreement(["a"] * 4, ["a"] * 4, groups, bootstrap(groups))
    assert np.isnan(one_class.kappa) and np.isnan(one_class.kappa_interval).all() and one_class.agreement == 1


def test_classes_of_one_reader_only_count_as_disagreement():
    groups = np.array(list("pqrs"))
    result = agreement(["a", "b", "a", "b"], ["a", "b", "c", "c"], groups, bootstrap(groups))
    assert result.agreement == 0.5 and result.kappa == pytest.approx((0.5 - 0.25) / 0.75)


def test_lengths_must_fit():
    groups = np.array(["p", "q"])
    with pytest.raises(LeukError, match="each cell needs both"):
        agreement(["a", "b"], ["a"], groups, bootstrap(groups))
    with pytest.raises(LeukError, match="1 of 2 cells have no label"):
        agreement(["a", "b"], ["a", None], groups, bootstrap(groups))
