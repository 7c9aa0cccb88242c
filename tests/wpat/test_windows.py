"""Windows: round trip, padding mask, centres."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_lib.wpat.windows import (
    padding_mask,
    valid_tokens,
    window_centres,
    window_grid,
    window_partition,
    window_reverse,
)

sides = st.integers(1, 7)
lengths = st.integers(1, 19)


@given(height=lengths, width=lengths, side=sides)
@settings(max_examples=60, deadline=None)
def test_round_trip_is_exact_for_any_size(height, width, side):
    tokens = torch.randn(2, height, width, 3)
    windows = window_partition(tokens, side, value=7.0)
    rows, columns = window_grid(height, width, side)
    assert windows.shape == (2, rows * columns, side * side, 3)
    assert torch.equal(window_reverse(windows, height, width, side), tokens)


@given(height=lengths, width=lengths, side=sides)
@settings(max_examples=60, deadline=None)
def test_every_window_has_valid_tokens_and_each_token_is_in_one(height, width, side):
    valid = valid_tokens(height, width, side)
    assert int(valid.sum()) == height * width
    assert bool(valid.any(dim=1).all())
    centres = window_centres(height, width, side)
    assert centres.shape == (valid.shape[0], 2)
    assert bool(((centres > 0) & (centres < 1)).all())


def test_tokens_of_a_window_are_neighbours():
    rows = torch.arange(6)[:, None].expand(6, 6)
    columns = torch.arange(6)[None].expand(6, 6)
    windows = window_partition(torch.stack([rows, columns], dim=-1)[None].float(), 3)[0]
    assert windows[1, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert windows[1, :, 1].tolist() == [3, 4, 5] * 3


def test_padding_and_valid_tokens_do_not_attend_to_each_other():
    mask = padding_mask(valid_tokens(3, 3, 2))
    assert torch.equal(mask[0], torch.zeros(5, 5))  # a full window masks nothing
    corner = mask[3]  # one valid token: region 0 and token 1 attend to each other, padding 2..4 to padding
    assert bool((corner[:2, :2] == 0).all()) and bool((corner[2:, 2:] == 0).all())
    assert bool(torch.isinf(corner[:2, 2:]).all()) and bool(torch.isinf(corner[2:, :2]).all())
    assert not bool(torch.isnan(mask.softmax(dim=-1)).any())
