"""Wilson's interval against published examples; groups reduce the effective sample size."""

from __future__ import annotations

import numpy as np
import pytest

from leuk_lib.statistics.intervals import clustered_wilson, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_newcombe_1998_table_1(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_if_all_cells_agree_the_groups_are_the_sample():
    low, high, size = clustered_wilson(np.ones(300, bool), np.repeat(["a", "b", "c"], 100))
    assert (low, high) == pytest.approx(wilson(3, 3))
    assert size == 3


def test_identical_cells_of_a_group_count_once():
    hits = np.repeat([1, 0, 1, 1, 0, 1], 10)
    size = clustered_wilson(hits, np.repeat(np.arange(6), 10))[2]
    assert size == pytest.approx(6, rel=0.2)  # 6 patients, not 60 cells; the factor G/(G-1) takes one of them


def test_the_design_effect_is_never_below_one():
    hits = np.tile([True, True, False, True], 25)
    assert (
        clustered_wilson(hits, np.repeat(np.arange(25), 4))[2] == 100
    )  # all groups alike: less than binomial variance
    assert clustered_wilson([], [])[2] == 0
