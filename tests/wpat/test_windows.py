"""Windows: the round trip, the padding mask, the places."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_lib.wpat.windows import centres, grid, is_real, merge, pad_mask, partition

sides = st.integers(1, 7)
lengths = st.integers(1, 19)


@given(height=lengths, width=lengths, side=sides)
@settings(max_examples=60, deadline=None)
def test_round_trip_is_exact_for_any_size(height, width, side):
    tokens = torch.randn(2, height, width, 3)
    windows = partition(tokens, side, value=7.0)
    rows, columns = grid(height, width, side)
    assert windows.shape == (2, rows * columns, side * side, 3)
    assert torch.equal(merge(windows, height, width, side), tokens)


@given(height=lengths, width=lengths, side=sides)
@settings(max_examples=60, deadline=None)
def test_every_window_holds_real_tokens_and_all_are_counted(height, width, side):
    real = is_real(height, width, side)
    assert int(real.sum()) == height * width
    assert bool(real.any(dim=1).all())
    places = centres(height, width, side)
    assert places.shape == (real.shape[0], 2)
    assert bool(((places > 0) & (places < 1)).all())


def test_tokens_of_a_window_are_neighbours():
    rows = torch.arange(6)[:, None].expand(6, 6)
    columns = torch.arange(6)[None].expand(6, 6)
    windows = partition(torch.stack([rows, columns], dim=-1)[None].float(), 3)[0]
    assert windows[1, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert windows[1, :, 1].tolist() == [3, 4, 5] * 3


def test_padding_has_an_id_of_its_own():
    mask = pad_mask(is_real(3, 3, 2))
    assert torch.equal(mask[0], torch.zeros(5, 5))  # a full window masks nothing
    corner = mask[3]  # one real token: region 0 and token 1 see each other, padding 2..4 sees padding
    assert bool((corner[:2, :2] == 0).all()) and bool((corner[2:, 2:] == 0).all())
    assert bool(torch.isinf(corner[:2, 2:]).all()) and bool(torch.isinf(corner[2:, :2]).all())
    assert not bool(torch.isnan(mask.softmax(dim=-1)).any())
