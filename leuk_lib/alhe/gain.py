r"""Where enhancement may act: on stain, not on background.

The gain :math:`g` follows the optical density (Beer-Lambert), box-smoothed over the image:

.. math:: D = -\sum_c \log_{10} I_c, \qquad x = \Big[\frac{D - D_{low}}{D_{high} - D_{low}}\Big]_0^1,
          \qquad g = 3x^2 - 2x^3,

with :math:`D_{low}` and :math:`D_{high}` two of the image's percentiles. Measured against the light of unstained glass,
:math:`-\log_{10}(I / I_{98})`, every pixel and hence both percentiles would shift by the same constant: :math:`I_{98}`
need not be known.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.tiles import histogram_quantiles

DENSITY_UNIT = 1 << 12  # steps per unit of density: whole numbers, whose sums over any box float32 holds exactly
DENSITY_BINS = 256  # at most, from the least to the greatest density; their width is a power of 2
LEAST_RANGE = 0.01  # steps between the two percentiles: an image of one density divides by this
# Density of each 8-bit code against full scale, in steps; code 0 is read as 1.
DENSITY_OF_CODE = np.rint(-np.log10(np.maximum(np.arange(256), 1) / 255) * DENSITY_UNIT).astype(np.float32)
_X = np.arange(65536) / 65535
SMOOTHSTEP = (_X * _X * (3 - 2 * _X)).astype(np.float32)


def optical_density(codes: NDArray[Any]) -> NDArray[Any]:
    """Sum over channels of -log10(code / 255), in steps of 1/4096: (H,W) float32 of 8-bit RGB (H,W,3)."""
    return cv2.transform(cv2.LUT(codes, DENSITY_OF_CODE), np.ones((1, 3)))


def box_smooth(density: NDArray[Any], params: EnhanceParams) -> NDArray[Any]:
    """Sum of densities (H,W) uint16 over a box of side ``gain_box``, the border mirrored: (H,W) float32."""
    box = (params.gain_box, params.gain_box)
    return cv2.boxFilter(density, cv2.CV_32F, box, normalize=False, borderType=cv2.BORDER_REFLECT_101)


def bin_width(extent: int) -> int:
    """The least power of 2 by which ``extent`` steps fall into at most 256 bins.

    >>> [bin_width(extent) for extent in (0, 255, 256, 1000)]
    [1, 1, 2, 4]
    """
    return 1 << max(0, extent.bit_length() - 8)


def gain_limits(density: NDArray[Any], params: EnhanceParams) -> tuple[float, float]:
    """Densities at which the gain starts and is full: two percentiles, the second the greater.

    Args:
        density: (H,W) whole numbers below 2^23.
        params: Uses gain_low and gain_high.
    """
    least, greatest, _, _ = cv2.minMaxLoc(density)
    width = bin_width(int(greatest - least))
    # The bin of a density is the whole part of (density - least) / width. Rounding half a bin lower gives it, and half
    # a step higher, so that no density is a tie.
    half = 0.5 if width > 1 else 0.0
    bins = cv2.convertScaleAbs(density, alpha=1 / width, beta=(half - least) / width - half)
    counts = cv2.calcHist([bins], [0], None, [DENSITY_BINS], [0, DENSITY_BINS]).ravel().astype(np.float64)
    quantiles = histogram_quantiles(counts, params.gain_low / 100, params.gain_high / 100)
    low, high = (least + width * float(quantile) for quantile in quantiles)
    return low, max(high, low + LEAST_RANGE)


def smoothstep(density: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Gain (H,W) in [0,1] of densities (H,W); the position between ``low`` and ``high`` is read at 16 bits.

    >>> smoothstep(np.array([[0.0, 1.0, 1.5, 2.0, 9.0]], np.float32), 1.0, 2.0).round(3).tolist()
    [[0.0, 0.0, 0.5, 1.0, 1.0]]
    """
    scale, whole = 65535 / (high - low), np.floor(low)
    density = density - np.float32(whole)  # exact: what is left is small where it counts
    position = cv2.addWeighted(density, scale, density, 0.0, (whole - low) * scale, dtype=cv2.CV_16U)
    return cv2.LUT(position, SMOOTHSTEP)
