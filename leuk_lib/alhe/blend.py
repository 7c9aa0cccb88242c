"""From the tiles' curves to a shift for every pixel: the four nearest curves at its level, blended bilinearly."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.tiles import BINS, Axis

MOST = 30000  # pixels along a side that OpenCV's remap can address


def blend(curves: NDArray[np.float64], levels: NDArray[np.float32], rows: Axis, columns: Axis) -> NDArray[np.float32]:
    """Shift (H,W) in grey levels of an image with lightness ``levels`` (H,W); curves (rows, columns, 257)."""
    table = Table(curves, rows, columns)
    strips = range(0, len(levels), MOST)
    return np.concatenate([table.read(levels[top : top + MOST], slice(top, top + MOST)) for top in strips])


class Table:
    """Curves (rows, columns, 257) of a grid of tiles, to be read at any pixel's level."""

    def __init__(self, curves: NDArray[np.float64], rows: Axis, columns: Axis) -> None:
        self.curves = curves.astype(np.float32).transpose(1, 0, 2)
        self.upper, self.down = rows.neighbours()
        self.left, self.across = columns.neighbours()

    def read(self, levels: NDArray[np.float32], band: slice) -> NDArray[np.float32]:
        """Shift (h,W) of the image's rows ``band``, h of at most MOST, at their ``levels`` (h,W)."""
        width = levels.shape[1]
        if width > MOST:
            parts = [slice(start, start + MOST) for start in range(0, width, MOST)]
            return np.concatenate([self._read(np.ascontiguousarray(levels[:, p]), band, p) for p in parts], axis=1)
        return self._read(levels, band, slice(None))

    def _read(self, levels: NDArray[np.float32], band: slice, part: slice) -> NDArray[np.float32]:
        upper, down, left, across = self.upper[band], self.down[band], self.left[part], self.across[part]
        columns, rows = (slice(int(near[0]), int(near[-1]) + 2) for near in (left, upper))
        chosen = self.curves[columns, rows]
        count = chosen.shape[1]
        # One long table: the tiles of a grid column below one another, column after column. A bilinear look-up in it
        # (OpenCV's remap) blends a pixel's level and its two grid rows at once; what is left is to blend across.
        long = chosen.reshape(-1, BINS + 1)
        place = (upper - rows.start + down).astype(np.float32)[:, None]
        where = place + ((left - columns.start) * count).astype(np.float32)
        here: NDArray[Any] = cv2.remap(long, levels, where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if len(chosen) == 1:
            return here
        where += np.float32(count)
        there: NDArray[Any] = cv2.remap(long, levels, where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        there -= here
        there *= across
        here += there
        return here
