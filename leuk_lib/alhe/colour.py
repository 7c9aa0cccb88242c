"""CIELAB without its detour: the cube roots f(X/Xn), f(Y/Yn), f(Z/Zn) of which L*, a* and b* are made.

L* = 116 fY - 16, a* = 500 (fX - fY), b* = 200 (fY - fZ). To move L* and leave a* and b* alone is to add one number to
all three roots. 8-bit images go through tables over 16-bit light, several times faster than computing and never half a
code away from it; 16-bit and float images are computed.
Source: CIE 15 (2004), CIE 1976 L*a*b*; sRGB after IEC 61966-2-1, D65.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

DELTA = 6 / 29
CORNER = DELTA**3  # f is the cube root above, and linear below
SLOPE, OFFSET = 1 / (3 * DELTA**2), 4 / 29

# Linear sRGB to X/Xn, Y/Yn, Z/Zn: every row sums to 1, so that grey stays grey.
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
TO_XYZ = _XYZ / _XYZ.sum(axis=1, keepdims=True)
FROM_XYZ = np.linalg.inv(TO_XYZ)
TO_WORDS = np.column_stack([65535 * FROM_XYZ, [0.5] * 3])  # to 16-bit words, whose whole part is then taken

LEVELS_PER_ROOT = 116 * 2.56  # 256 grey levels over L* from 0 to 100


def decode(srgb: NDArray[Any]) -> NDArray[np.float32]:
    """sRGB in [0,1] to linear light."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / np.float32(12.92), cv2.pow((srgb + 0.055) / np.float32(1.055), 2.4))


def encode(linear: NDArray[Any]) -> NDArray[np.float32]:
    """Linear light to sRGB in [0,1]; light outside [0,1] is clipped."""
    linear = np.clip(np.asarray(linear, np.float32), 0, 1)
    power = cv2.pow(linear, 1 / 2.4) * np.float32(1.055) - np.float32(0.055)
    return np.where(linear <= 0.0031308, linear * np.float32(12.92), power)


def roots(xyz: NDArray[Any]) -> NDArray[np.float32]:
    """f of X/Xn, Y/Yn, Z/Zn in [0,1]."""
    xyz = np.asarray(xyz, np.float32)
    return np.where(xyz > CORNER, cv2.pow(xyz, 1 / 3), xyz * np.float32(SLOPE) + np.float32(OFFSET))


_CODES, _WORDS = np.arange(256)[:, None] / 255, np.arange(65536)[:, None] / 65535
LINEAR = decode(_CODES).ravel()  # of 8-bit codes
LINEAR_16 = decode(_WORDS).ravel()  # of 16-bit codes
WORD = np.rint(LINEAR * 65535).astype(np.uint16)  # of 8-bit codes: linear light as a 16-bit word
ROOT = roots(_WORDS).ravel()  # of words
LEVEL = np.clip((ROOT - OFFSET) * LEVELS_PER_ROOT, 0, 256).astype(np.float32)  # of words of Y
CODE = np.rint(encode(_WORDS) * 255).astype(np.uint8).ravel()  # of words


def light_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type of ``light_of`` an image of that type: uint16 words of X, Y, Z for uint8, float32 roots for all others."""
    return np.dtype(np.uint16 if dtype == np.uint8 else np.float32)


def light_of(rgb: NDArray[Any]) -> NDArray[Any]:
    """What is kept of RGB (H,W,3), uint8, uint16 or float in [0,1], between reading and writing (H,W,3)."""
    if rgb.dtype == np.uint8:
        return cv2.transform(cv2.LUT(rgb, WORD), TO_XYZ)
    linear = cv2.LUT(rgb, LINEAR_16) if rgb.dtype == np.uint16 else decode(rgb)
    return roots(np.clip(cv2.transform(linear, TO_XYZ), 0, 1))


def levels_of(light: NDArray[Any]) -> NDArray[Any]:
    """Lightness (H,W) in grey levels [0,256]."""
    middle = cv2.extractChannel(light, 1)
    if middle.dtype == np.uint16:
        return cv2.LUT(middle, LEVEL)
    return np.clip((middle - np.float32(OFFSET)) * np.float32(LEVELS_PER_ROOT), 0, 256)


def moved(light: NDArray[Any], shift: NDArray[np.float32]) -> NDArray[Any]:
    """RGB (H,W,3) with lightness moved by ``shift`` (H,W) grey levels: uint8 of words, float32 in [0,1] of roots."""
    step = shift * np.float32(1 / LEVELS_PER_ROOT)
    f: NDArray[Any] = cv2.merge([step, step, step])
    np.add(f, cv2.LUT(light, ROOT) if light.dtype == np.uint16 else light, out=f)
    dark = np.minimum(f - np.float32(DELTA), 0) if f.min() < DELTA else None
    if dark is not None:
        np.maximum(f, np.float32(DELTA), out=f)  # cv2.max would read a number as a scalar of four channels
    xyz: NDArray[Any] = cv2.pow(f, 3, dst=f)
    if dark is not None:
        xyz += dark * np.float32(1 / SLOPE)
    if light.dtype != np.uint16:
        return encode(cv2.transform(xyz, FROM_XYZ))
    words = cv2.transform(xyz, TO_WORDS)
    return cv2.LUT(np.clip(words, 0, 65535, out=words).astype(np.uint16), CODE)
