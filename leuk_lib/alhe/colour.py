r"""CIELAB lightness by way of the cube roots that L*, a* and b* are made of.

.. math::

    L^* = 116 f_Y - 16, \quad a^* = 500 (f_X - f_Y), \quad b^* = 200 (f_Y - f_Z),

    f(t) = \begin{cases} t^{1/3} & t > \delta^3 \\ t / (3 \delta^2) + 4/29 & \text{else} \end{cases}, \quad
    \delta = 6/29,

with :math:`f_X = f(X/X_n)` and so on. To move L* and keep a* and b* is to add one number to all three roots. 8-bit
images go through tables over 16-bit XYZ ("words"), several times faster than computing and never half a code away from
it; 16-bit and float images are computed.

What histograms are made of is exact, so that it does not depend on the order of sums: the matrix holds multiples of
2^-15, which mix words in whole numbers, and lightness is read in multiples of ``LEVEL_STEP``.

References:
    CIE 15 (2004): Colorimetry. IEC 61966-2-1 (1999): sRGB, with white D65.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.tiles import BINS

# The curve of sRGB: a line below the corner, a power above it.
SRGB_CORNER, LINEAR_CORNER = 0.04045, 0.0031308  # of the code and of the light, both in [0,1]
SRGB_SLOPE, SRGB_OFFSET, SRGB_GAMMA = 12.92, 0.055, 2.4

DELTA = 6 / 29
CORNER = DELTA**3  # f is the cube root above, and linear below
SLOPE, OFFSET = 1 / (3 * DELTA**2), 4 / 29

# Linear sRGB to X/Xn, Y/Yn, Z/Zn in multiples of 1/MIX_UNIT: every row sums to 1, so that grey stays grey.
MIX_BITS = 15
MIX_UNIT = 1 << MIX_BITS  # times a 16-bit word and summed over three channels this stays below 2^31
MIX = np.array([[14220, 12327, 6221], [6969, 23434, 2365], [582, 3587, 28599]])
TO_XYZ = MIX / MIX_UNIT
FROM_XYZ = np.linalg.inv(TO_XYZ)
MIX_WORDS = np.column_stack([TO_XYZ, [0.25 / MIX_UNIT] * 3])  # rounds half a word up: a tie is none
TO_WORDS = np.column_stack([65535 * FROM_XYZ, [0.5] * 3])  # to 16-bit words, whose whole part is then taken

LEVELS_PER_ROOT = 116 * 2.56  # 256 grey levels over L* from 0 to 100
LEVEL_STEP = 1 / 4096  # grey levels; second differences of multiples of it are exact in float32


def decode(srgb: NDArray[Any]) -> NDArray[np.float32]:
    """Decode sRGB in [0,1] to linear light."""
    srgb = np.asarray(srgb, np.float32)
    power = cv2.pow((srgb + SRGB_OFFSET) / np.float32(1 + SRGB_OFFSET), SRGB_GAMMA)
    return np.where(srgb <= SRGB_CORNER, srgb / np.float32(SRGB_SLOPE), power)


def encode(linear: NDArray[Any]) -> NDArray[np.float32]:
    """Encode linear light to sRGB in [0,1]; light outside [0,1] is clipped."""
    linear = np.clip(np.asarray(linear, np.float32), 0, 1)
    power = cv2.pow(linear, 1 / SRGB_GAMMA) * np.float32(1 + SRGB_OFFSET) - np.float32(SRGB_OFFSET)
    return np.where(linear <= LINEAR_CORNER, linear * np.float32(SRGB_SLOPE), power)


def roots(xyz: NDArray[Any]) -> NDArray[np.float32]:
    """Roots f of X/Xn, Y/Yn, Z/Zn in [0,1]."""
    xyz = np.asarray(xyz, np.float32)
    return np.where(xyz > CORNER, cv2.pow(xyz, 1 / 3), xyz * np.float32(SLOPE) + np.float32(OFFSET))


_CODES, _WORDS = np.arange(256)[:, None] / 255, np.arange(65536)[:, None] / 65535
LINEAR_OF_CODE = decode(_CODES).ravel()  # of 8-bit codes
LINEAR_OF_CODE_16 = decode(_WORDS).ravel()
WORD_OF_CODE = np.rint(LINEAR_OF_CODE * 65535).astype(np.int32)
WORD_OF_CODE_16 = np.rint(LINEAR_OF_CODE_16 * 65535).astype(np.int32)
ROOT_OF_WORD = roots(_WORDS).ravel()
_LEVELS = np.clip((ROOT_OF_WORD - OFFSET) * LEVELS_PER_ROOT, 0, BINS)
LEVEL_OF_WORD = (np.rint(_LEVELS / LEVEL_STEP) * LEVEL_STEP).astype(np.float32)  # of words of Y
CODE_OF_WORD = np.rint(encode(_WORDS) * 255).astype(np.uint8).ravel()


def xyz_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type of ``to_xyz`` of an image of type ``dtype``: uint16 for uint8, float32 for all others."""
    return np.dtype(np.uint16 if dtype == np.uint8 else np.float32)


def to_xyz(rgb: NDArray[Any]) -> NDArray[Any]:
    """XYZ of an image, kept between reading and writing it.

    Args:
        rgb: (H,W,3) uint8, uint16 or float in [0,1].

    Returns:
        (H,W,3): uint16 words of X/Xn, Y/Yn, Z/Zn for uint8, else their roots f in float32.
    """
    if rgb.dtype == np.uint8:
        return _mixed_words(cv2.LUT(rgb, WORD_OF_CODE))
    linear = cv2.LUT(rgb, LINEAR_OF_CODE_16) if rgb.dtype == np.uint16 else decode(rgb)
    return roots(np.clip(cv2.transform(linear, TO_XYZ), 0, 1))


def _mixed_words(words: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Words of XYZ of 16-bit words of linear light (H,W,3): OpenCV mixes int32 in double, hence exactly."""
    return cv2.transform(words, MIX_WORDS).astype(np.uint16)


def exact_levels(rgb: NDArray[Any], xyz: NDArray[Any]) -> NDArray[np.float32]:
    """Lightness for histograms: in multiples of ``LEVEL_STEP``, the same by every order of arithmetic.

    Args:
        rgb: (H,W,3) uint8, uint16 or float in [0,1]; the latter is read at 16 bits.
        xyz: (H,W,3), ``to_xyz``'s result of it.

    Returns:
        (H,W) grey levels in [0,256].
    """
    if xyz.dtype != np.uint16:
        if rgb.dtype != np.uint16:
            rgb = np.rint(rgb.astype(np.float32) * np.float32(65535)).astype(np.uint16)
        xyz = _mixed_words(cv2.LUT(rgb, WORD_OF_CODE_16))
    return cv2.LUT(cv2.extractChannel(xyz, 1), LEVEL_OF_WORD)


def lightness_levels(xyz: NDArray[Any]) -> NDArray[Any]:
    """Lightness (H,W) in grey levels [0,256] of ``to_xyz``'s result (H,W,3); L* is 1/2.56 of it."""
    y = cv2.extractChannel(xyz, 1)
    if y.dtype == np.uint16:
        return cv2.LUT(y, LEVEL_OF_WORD)
    return np.clip((y - np.float32(OFFSET)) * np.float32(LEVELS_PER_ROOT), 0, BINS)


def shift_lightness(xyz: NDArray[Any], shift: NDArray[np.float32]) -> NDArray[Any]:
    """RGB with its lightness shifted; a* and b* stay.

    Args:
        xyz: (H,W,3), ``to_xyz``'s result.
        shift: (H,W) grey levels.

    Returns:
        (H,W,3) uint8 for uint16 words, float32 in [0,1] for roots.
    """
    step = shift * np.float32(1 / LEVELS_PER_ROOT)
    f: NDArray[Any] = cv2.merge([step, step, step])
    np.add(f, cv2.LUT(xyz, ROOT_OF_WORD) if xyz.dtype == np.uint16 else xyz, out=f)
    dark = np.minimum(f - np.float32(DELTA), 0) if f.min() < DELTA else None
    if dark is not None:
        np.maximum(f, np.float32(DELTA), out=f)  # cv2.max would read a number as a scalar of four channels
    light: NDArray[Any] = cv2.pow(f, 3, dst=f)
    if dark is not None:
        light += dark * np.float32(1 / SLOPE)
    if xyz.dtype != np.uint16:
        return encode(cv2.transform(light, FROM_XYZ))
    words = cv2.transform(light, TO_WORDS)
    return cv2.LUT(np.clip(words, 0, 65535, out=words).astype(np.uint16), CODE_OF_WORD)
