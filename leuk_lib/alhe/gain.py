"""Where enhancement may act: on stain, not on background (Beer-Lambert optical density)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.tiles import quantiles

DENSITY_BINS = 256  # between the image's least and greatest density
# Density of each 8-bit code against full scale; code 0 is read as 1.
DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
_X = np.arange(65536) / 65535
SMOOTHSTEP = (_X * _X * (3 - 2 * _X)).astype(np.float32)


def optical_density(codes: NDArray[Any]) -> NDArray[Any]:
    """Sum over channels of -log10(I), (H,W), of 8-bit RGB (H,W,3), I = code/255.

    Against the light of unstained glass, -log10(I / I98), every pixel would have the same constant less, which the
    gain's percentiles take off again: I98 need not be known.
    """
    return cv2.transform(cv2.LUT(codes, DENSITY), np.ones((1, 3)))


def smoothed(density: NDArray[Any], params: EnhanceParams) -> NDArray[Any]:
    """Box-smoothed density, the border mirrored; ``density`` is overwritten."""
    box = (params.gain_box, params.gain_box)
    return cv2.blur(density, box, dst=density, borderType=cv2.BORDER_REFLECT_101)


def limits(density: NDArray[Any], params: EnhanceParams) -> tuple[float, float]:
    """The densities at which the gain starts and is full: two of the image's percentiles."""
    least, most, _, _ = cv2.minMaxLoc(density)
    step = max(most - least, 1e-6) / DENSITY_BINS
    # The bin of a density is the whole part of (density - least) / step; rounding half a bin lower gives it.
    bins = cv2.convertScaleAbs(density, alpha=1 / step, beta=-least / step - 0.5)
    counts = cv2.calcHist([bins], [0], None, [DENSITY_BINS], [0, DENSITY_BINS]).ravel().astype(np.float64)
    low, high = (least + step * float(q) for q in quantiles(counts, params.gain_low / 100, params.gain_high / 100))
    return low, max(high, low + 1e-6)


def smoothstep(density: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """3x^2 - 2x^3 of x = (density - low) / (high - low), clipped to [0,1]; x is read at 16 bits."""
    scale = 65535 / (high - low)
    return cv2.LUT(cv2.addWeighted(density, scale, density, 0.0, -low * scale, dtype=cv2.CV_16U), SMOOTHSTEP)
