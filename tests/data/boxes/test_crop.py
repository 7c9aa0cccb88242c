"""Squares around boxes: centre, margin, border and square pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_lib.data.boxes.box import Box
from leuk_lib.data.boxes.clean import same_boxes
from leuk_lib.data.boxes.crop import cut, square_of
from leuk_lib.runs.errors import LeukError


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(20, 300), st.integers(20, 300)),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 1), st.floats(0.02, 1)),
    st.floats(0, 2),
    st.floats(0.4, 2.5),
)
def test_a_square_lies_inside_and_holds_its_box(
    size: tuple[int, int], box: tuple[float, float, float, float], padding: float, aspect: float
) -> None:
    width, height = size
    x0, y0 = box[0] * (width - 1), box[1] * (height - 1)
    x1, y1 = x0 + max(1.0, box[2] * (width - x0)), y0 + max(1.0, box[3] * (height - y0))
    x1, y1 = min(x1, width), min(y1, height)
    x, y, columns, rows, moved = square_of(Box(x0, y0, x1, y1, "a"), width, height, padding, aspect)
    assert x >= 0 and y >= 0 and columns >= 1 and rows >= 1 and x + columns <= width and y + rows <= height
    assert abs(columns / aspect - rows) <= 0.5 / aspect + 0.5 + 1e-9
    side = max((x1 - x0) / aspect, y1 - y0)
    if min(height, width / aspect) >= side:  # the field is large enough for the box
        assert x <= x0 + 1 and y <= y0 + 1 and x + columns >= x1 - 1 and y + rows >= y1 - 1
    if moved == 0:
        assert abs(x + columns / 2 - (x0 + x1) / 2) <= 0.51 and abs(y + rows / 2 - (y0 + y1) / 2) <= 0.51
    image = np.zeros((height, width, 3), np.uint8)
    out = cut(image, (x, y, columns, rows))
    assert out.shape[0] == out.shape[1]


def test_the_pixels_are_those_of_the_field() -> None:
    image = np.arange(60 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 80, 3)
    *square, moved = square_of(Box(30, 20, 50, 40, "a"), 80, 60, padding=0.0)
    assert square == [30, 20, 20, 20] and moved == 0
    assert np.array_equal(cut(image, tuple(square)), image[20:40, 30:50])


def test_at_the_border_the_square_is_moved_inwards() -> None:
    x, y, columns, rows, moved = square_of(Box(0, 40, 20, 60, "a"), 80, 60, padding=0.25)
    assert (x, y, columns, rows) == (0, 30, 30, 30)
    assert moved == pytest.approx(5 / 30)


def test_squeezed_cells_become_round_again() -> None:
    round_cell = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(round_cell, (100, 100), 50, (90, 40, 120), -1)
    field = cv2.resize(round_cell, (120, 200), interpolation=cv2.INTER_AREA)  # squeezed to 60 % of its width
    *square, _ = square_of(Box(30, 50, 90, 150, "a"), 120, 200, padding=0.2, aspect=0.6)
    cell = cut(field, tuple(square))[..., 1] < 128
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2
    squeezed = cut(field, (30, 50, 60, 60))[..., 1] < 128
    assert squeezed.shape == (60, 60)


def test_a_box_without_area_is_refused() -> None:
    for box in (Box(5, 5, 5, 9, "a"), Box(90, 5, 99, 9, "a"), Box(float("nan"), 5, 7, 9, "a")):
        with pytest.raises(LeukError, match="no area"):
            square_of(box, 80, 60)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.floats(0.3, 1))
def test_same_boxes_equals_all_pairs(seed: int, number: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 50, (max(1, number // 4), 2))
    start = base[rng.integers(0, len(base), number)] + rng.normal(0, 1, (number, 2))
    corners = np.c_[start, start + rng.uniform(8, 12, (number, 2))]
    expected = []
    for i in range(number):
        for j in range(i + 1, number):
            wide, high = np.clip(
                np.minimum(corners[i, 2:], corners[j, 2:]) - np.maximum(corners[i, :2], corners[j, :2]), 0, None
            )
            areas = [np.prod(corners[k, 2:] - corners[k, :2]) for k in (i, j)]
            if wide * high >= limit * (sum(areas) - wide * high):
                expected.append([i, j])
    assert same_boxes(corners, limit).tolist() == expected


def test_a_field_with_very_many_boxes() -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 4000, (20_000, 2))
    assert same_boxes(np.c_[start, start + 40]).shape[1] == 2
