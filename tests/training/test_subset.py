"""Evenly spaced subsets: all if there are few, both ends, equal gaps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.training.subset import evenly_spaced


@given(st.integers(0, 5000), st.integers(2, 1000))
def test_positions_reach_both_ends_in_gaps_that_differ_by_one_at_most(count: int, limit: int):
    positions = evenly_spaced(count, limit)
    assert len(positions) == min(count, limit)
    if count <= limit:
        assert positions.tolist() == list(range(count))
    else:
        gaps = positions.diff()
        assert positions[0] == 0 and positions[-1] == count - 1 and gaps.max() - gaps.min() <= 1
