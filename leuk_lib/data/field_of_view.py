"""Recognise images that are fields of view, not single cells: no nucleus in the centre, nuclei all over, a scale bar.

The rules were set on the real cells and fields of ``tests/data/test_field_of_view.py``.
"""

from __future__ import annotations

import itertools
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Kind = Literal["no nucleus in its centre", "nuclei far from its centre"]
BAR = "a scale bar"
# Share of images up to which such images are no surprise; up to 1 % of single cells are taken for fields.
FALSE_ALARMS = 0.04

MIN_CONTRAST = 12.0  # purple of nuclei over that of the background, grey levels; less: nothing is stained
GREEN = 30.0  # grey levels by which green stands out; no part of a stained smear does so
MAX_GREEN = 0.02  # share of an image
MIN_PURPLE = 0.35  # of the strongest purple: from here on a pixel is stained
LARGE = 0.3  # of the largest stained area: smaller ones are platelets and specks
CENTRE = 0.06  # of the side: a cell's nucleus comes as close to the centre of its image
MIDDLE = 0.25  # of the side: radius of the middle
MAX_OUTSIDE = 0.66  # share of the stained area that may lie outside of the middle
BAR_SIDE = 640  # longest side of the copy in which a scale bar is looked for, pixels
BAR_LENGTH = (20, 0.05)  # shortest scale bar: pixels, and share of the width
BAR_HEIGHT = 0.05  # of the width: largest height of a scale bar
BAR_FILLED = 0.9  # of its bounding box: it is straight
BAR_SHARE = 0.25  # of all pixels of its colour; the others are its inscription
MAX_PURE = 0.03  # share of the image up to which a colour can be a bar's, not the background's
PURE = 40  # grey levels by which a channel of a bar's colour may differ from 0 or 255 (JPEG)


def field_signs(thumb: NDArray[np.uint8]) -> Kind | None:
    """Return what makes a small image look like a field of view; None for one cell and where nothing is stained.

    Args:
        thumb: (T,T,3) uint8 RGB thumbnail of the centre square, T about 32.
    """
    side = thumb.shape[0]
    rgb = thumb.astype(np.float32)
    if (rgb[..., 1] > rgb[..., [0, 2]].max(axis=2) + GREEN).mean() > MAX_GREEN:
        return None  # no azure and eosin: another stain, or no smear
    # Azure-stained nuclei take green out of the light; red cells take blue as well.
    purple = cv2.GaussianBlur(np.minimum(rgb[..., 0], rgb[..., 2]) - rgb[..., 1], (0, 0), side / 48)
    low, high = float(np.percentile(purple, 10)), float(purple.max())
    if high - low < MIN_CONTRAST:
        return None
    levels = np.clip((purple - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    limit, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    stained = (levels > max(limit, 255 * MIN_PURPLE)).astype(np.uint8)
    gap = max(1, round(side / 16))  # lobes of one nucleus
    stained = cv2.morphologyEx(stained, cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8))
    _, number, stats, _ = cv2.connectedComponentsWithStats(stained, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    axis = (np.arange(side) + 0.5) / side - 0.5
    distance = np.hypot(axis[None, :], axis[:, None])
    large = (areas >= LARGE * areas.max()) & (areas > 0)
    if distance[large[number]].min() > CENTRE:
        return "no nucleus in its centre"
    weight = np.where(stained > 0, np.maximum(levels.astype(np.float32) - 255 * MIN_PURPLE, 0), 0)
    if weight[distance >= MIDDLE].sum() > MAX_OUTSIDE * weight.sum():
        return "nuclei far from its centre"
    return None


def has_scale_bar(image: NDArray[np.uint8]) -> bool:
    """Whether an image shows a scale bar: a thin, straight, horizontal bar in a pure colour that reaches no border.

    Pure colours have 0 or 255 in each channel: black, white, red, yellow and so on.

    Args:
        image: (H,W,3) uint8 RGB.
    """
    step = -(-max(image.shape[:2]) // BAR_SIDE)
    small = np.ascontiguousarray(image[::step, ::step])
    height, width = small.shape[:2]
    length = max(BAR_LENGTH[0], round(BAR_LENGTH[1] * width))
    if width < 3 * length:
        return False
    row = cv2.getStructuringElement(cv2.MORPH_RECT, (length, 1))
    for colour in itertools.product((0, 255), repeat=3):
        mask = cv2.inRange(small, np.subtract(colour, PURE), np.add(colour, PURE))
        pixels = cv2.countNonZero(mask)
        if not length <= pixels <= MAX_PURE * mask.size:
            continue
        bars = cv2.morphologyEx(mask, cv2.MORPH_OPEN, row)
        _, _, stats, _ = cv2.connectedComponentsWithStats(bars, connectivity=4)
        for x, y, w, h, area in stats[1:].tolist():
            if x < 2 or y < 2 or x + w > width - 2 or y + h > height - 2:
                continue
            if w < 4 * h or h > max(2, BAR_HEIGHT * width) or area < max(BAR_FILLED * w * h, BAR_SHARE * pixels):
                continue
            if mask[[y - 2, y + h + 1], x : x + w].mean() < 255 * (1 - BAR_FILLED):
                return True
    return False
