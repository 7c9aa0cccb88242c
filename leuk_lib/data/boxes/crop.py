"""Cut a cell out of its field: a square around its box, in square pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.boxes.box import Box
from leuk_lib.runs.errors import LeukError

SHIFTED = 0.02  # of the square's side: smaller shifts at the border are not reported


def square_of(
    box: Box, width: int, height: int, padding: float = 0.25, aspect: float = 1.0
) -> tuple[int, int, int, int, float]:
    """Place the square of a box in its field.

    The square has the box's centre and its longer side plus ``padding`` of it on both sides. At the border it is moved
    inwards, so that it shows real pixels only: reflected ones would add a second, mirrored nucleus. A square larger than
    the field is reduced to it.

    Args:
        box: In pixels of the field.
        width: Of the field, pixels.
        height: Of the field, pixels.
        padding: Margin on each side, as a share of the box's longer side.
        aspect: Width of a pixel over its height as recorded; the square is ``aspect`` times as wide as high in pixels.

    Returns:
        x, y, columns and rows of the square, and by which share of its side it was moved or reduced at the border.

    Raises:
        LeukError: If the box has no area or its centre is not in the field.
    """
    wide, high = (box.x1 - box.x0) / aspect, box.y1 - box.y0
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    if not (wide > 0 and high > 0 and 0 <= x <= width and 0 <= y <= height):
        raise LeukError(f"box {box.source}: no area, or its centre is outside of the field")
    wanted = max(wide, high) * (1 + 2 * padding)
    side = min(wanted, float(height), width / aspect)
    columns = max(1, min(width, round(side * aspect)))
    rows = max(1, min(height, round(side)))
    # A millionth, since fractions of an image (YOLO) may fall short of the half pixel.
    left, top = math.floor(x - columns / 2 + 0.500001), math.floor(y - rows / 2 + 0.500001)
    inner_left, inner_top = (min(max(left, 0), width - columns), min(max(top, 0), height - rows))
    moved = max(abs(inner_left - left) / columns, abs(inner_top - top) / rows, 1 - side / wanted)
    return inner_left, inner_top, columns, rows, moved


def cut(image: NDArray[np.uint8], square: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Cut a square out of a field and give it square pixels.

    Args:
        image: (H,W,3) uint8 field.
        square: x, y, columns and rows, inside of the field.

    Returns:
        (S,S,3) uint8, S the larger of columns and rows, so that no detail is lost; where they are equal, the field's pixels.
    """
    x, y, columns, rows = square
    part = image[y : y + rows, x : x + columns]
    if columns == rows:
        return np.ascontiguousarray(part)
    side = max(columns, rows)
    out: NDArray[np.uint8] = cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC)
    return out
