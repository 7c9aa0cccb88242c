"""Properties of quota and sampling weights: monotone in need, capped, zero without need, damped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.gan import balance

COUNTS = st.lists(st.integers(0, 5000), min_size=1, max_size=10)
RECALLS = st.lists(st.floats(0, 1), min_size=10, max_size=10)


@given(st.integers(0, 10_000), st.floats(0.5, 0.9999))
def test_effective_number(n: int, beta: float) -> None:
    value = balance.effective_number([n], beta)[0]
    assert value == pytest.approx((1 - beta**n) / (1 - beta), rel=1e-6, abs=1e-9)
    assert value <= n + 1e-6 and value <= 1 / (1 - beta) + 1e-6
    assert value <= balance.effective_number([n + 1], beta)[0]


@given(COUNTS, RECALLS, st.floats(0, 1))
def test_quota_is_capped_and_whole(counts: list[int], recalls: list[float], rho: float) -> None:
    q = balance.quota(counts, recalls[: len(counts)], rho=rho)
    assert q.dtype == np.int64 and (q >= 0).all() and (q <= np.floor(rho * np.array(counts))).all()


@given(st.integers(1, 3000), st.integers(1, 10), st.floats(0, 1))
def test_quota_is_zero_without_need(n: int, classes: int, recall: float) -> None:
    assert not balance.quota([n] * classes, [recall] * classes).any()


@given(COUNTS, RECALLS, st.integers(0, 9), st.floats(0, 1))
def test_quota_does_not_fall_when_recall_falls(
    counts: list[int], recalls: list[float], index: int, drop: float
) -> None:
    index %= len(counts)
    before = np.array(recalls[: len(counts)])
    after = before.copy()
    after[index] *= drop
    assert balance.quota(counts, after)[index] >= balance.quota(counts, before)[index]


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_the_rarer_class_has_the_quota(a: int, b: int) -> None:
    few, many = sorted((a, b))
    q = balance.quota([few, many], [0.5, 0.5])
    assert q[1] == 0 and (few == many or q[0] > 0)


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=1, max_size=8), st.floats(0, 0.99))
def test_damping_stays_between(pairs: list[tuple[int, int]], damping: float) -> None:
    old, new = np.array(pairs).T
    mixed = balance.damped(old, new, damping)
    assert (mixed >= np.minimum(old, new)).all() and (mixed <= np.maximum(old, new)).all()
    assert np.array_equal(balance.damped(old, new, 0), new)


@given(st.lists(st.integers(1, 500), min_size=2, max_size=8), RECALLS)
def test_sampling_weights_are_a_distribution_that_favours_weak_and_large(
    counts: list[int], recalls: list[float]
) -> None:
    flat = balance.sampling_weights(counts, [0.7] * len(counts))
    np.testing.assert_allclose(flat, np.sqrt(counts) / np.sqrt(counts).sum())
    pi = balance.sampling_weights(counts, recalls[: len(counts)], eta=2.0)
    assert pi.sum() == pytest.approx(1) and (pi > 0).all()
    weakest = int(np.argmin(recalls[: len(counts)]))
    assert pi[weakest] >= flat[weakest] - 1e-12


def test_sampling_leaves_small_classes_out() -> None:
    assert balance.sampling_weights([1, 100], [0.0, 1.0], min_count=12).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="no class"):
        balance.sampling_weights([1, 2], [1, 1], min_count=12)


def test_shrunk_recall() -> None:
    r = balance.shrunk_recall([10, 0, 0], [10, 1, 0], strength=10)
    np.testing.assert_allclose(r, [15 / 20, 5 / 11, 0.5])  # mean over seen classes is 0.5
    assert balance.shrunk_recall([0, 0], [0, 0]).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(balance.shrunk_recall([1, 3], [4, 4], strength=0), [0.25, 0.75])


def test_one_image_class_does_not_break_anything() -> None:
    assert balance.quota([1, 121], [0.0, 1.0])[0] == 1
    assert balance.quota([0, 5], [0.0, 1.0])[0] == 0
