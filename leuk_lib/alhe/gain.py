"""Where enhancement may act: on stain, not on background (Beer-Lambert optical density)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.tiles import quantile

WHITE = 0.98  # quantile of each channel that counts as unstained glass
DENSITY_MAX, DENSITY_BINS = 7.5, 2048  # three channels of at most log10(255) each
# Density of each 8-bit code against full scale; code 0 is read as 1.
DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


def optical_density(codes: NDArray[Any]) -> NDArray[Any]:
    """Sum over channels of -log10(I / I98), (H,W), of 8-bit RGB (H,W,3)."""
    glass = 0.0
    for channel in range(3):
        counts = cv2.calcHist([codes], [channel], None, [256], [0, 256]).ravel().astype(np.float64)
        glass -= float(np.log10(max(float(quantile(counts, WHITE)) - 0.5, 1.0) / 255))
    return cv2.transform(cv2.LUT(codes, DENSITY), np.array([[1.0, 1.0, 1.0, -glass]]))


def stain_gain(codes: NDArray[Any], params: EnhanceParams) -> NDArray[Any]:
    """Gain (H,W) in [0,1]: smoothstep of box-smoothed optical density between two of its percentiles."""
    box = (params.gain_box, params.gain_box)
    density = cv2.blur(optical_density(codes), box, borderType=cv2.BORDER_REFLECT_101)
    bins = np.clip(density * np.float32(DENSITY_BINS / DENSITY_MAX), 0, DENSITY_BINS - 1).astype(np.int64)
    counts = np.bincount(bins.ravel(), minlength=DENSITY_BINS).astype(np.float64)
    low, high = (
        float(quantile(counts, q / 100)) * DENSITY_MAX / DENSITY_BINS for q in (params.gain_low, params.gain_high)
    )
    x = np.clip((density - np.float32(low)) * np.float32(1 / max(high - low, 1e-6)), 0, 1)
    return x * x * (3 - 2 * x)
