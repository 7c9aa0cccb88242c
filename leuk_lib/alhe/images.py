"""What an image may be when it enters the enhancement, and how it leaves: same type, same layout."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.runs.errors import LeukError

MIN_SIDE = 8
FULL = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


def check_image(image: Any) -> NDArray[Any]:
    """The image itself if it can be enhanced: (H,W), (H,W,3) RGB or (H,W,4) RGBA; uint8, uint16 or float in [0,1].

    Raises ``LeukError``, one line, for anything else: too small, other types or channels, NaN, values out of range.
    """
    if not isinstance(image, np.ndarray):
        raise LeukError(f"alhe: expected a NumPy array, got {type(image).__name__}")
    if image.size == 0:
        raise LeukError(f"alhe: the image is empty (shape {image.shape})")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise LeukError(f"alhe: expected (H,W), (H,W,3) or (H,W,4), got shape {image.shape}")
    if min(image.shape[:2]) < MIN_SIDE:
        raise LeukError(f"alhe: {image.shape[0]}x{image.shape[1]} pixels; both sides must be at least {MIN_SIDE}")
    if image.dtype in FULL:
        return image
    if image.dtype.kind != "f":
        raise LeukError(f"alhe: type {image.dtype} is not understood; use uint8, uint16 or float in [0,1]")
    if not np.isfinite(image).all():
        raise LeukError("alhe: the image holds NaN or infinite values; replace them first")
    low, high = float(image.min()), float(image.max())
    if low < 0:
        raise LeukError(f"alhe: the image holds negative values (least {low:.4g}); float images must be in [0,1]")
    if high > 1:
        raise LeukError(f"alhe: the image holds {high:.4g}; float images must be in [0,1] (divide by the full scale)")
    return image


def codes_of(image: NDArray[Any]) -> NDArray[Any]:
    """(H,W,3) RGB of a checked image, read at 8 bits; grey is repeated, alpha is left out."""
    colour = colour_of(image)
    if image.dtype == np.uint8:
        return colour
    scale = 255.0 / FULL.get(image.dtype, 1.0)
    values = colour.astype(np.float32)
    return cv2.addWeighted(values, scale, values, 0.0, 0.0, dtype=cv2.CV_8U)  # rounds and saturates in one pass


def colour_of(image: NDArray[Any]) -> NDArray[Any]:
    """(H,W,3) RGB of a checked image in its own type; grey is repeated, alpha is left out."""
    if image.ndim == 2:
        return cv2.merge([image, image, image])
    return np.ascontiguousarray(image[..., :3])


def like(image: NDArray[Any], rgb: NDArray[Any], shift: NDArray[np.float32]) -> NDArray[Any]:
    """``rgb`` (H,W,3) in the type and layout of ``image``; where ``shift`` (H,W) is 0 the image's own pixels.

    ``rgb`` is uint8 for a uint8 image, else float in [0,1]. In 8 bits every colour comes back as it was where nothing
    moved it, and nothing needs to be put back.
    """
    if image.dtype == np.uint8:
        if image.ndim == 2:
            return np.ascontiguousarray(rgb[..., 0])
        return np.dstack([rgb, image[..., 3]]) if image.shape[2] == 4 else rgb
    values = rgb[..., 0] if image.ndim == 2 else rgb
    full = FULL.get(image.dtype)
    if full is not None:
        values = np.rint(values * np.float32(full))
    out = image.copy()
    target = out if image.ndim == 2 else out[..., :3]
    changed = shift != 0
    np.copyto(target, values.astype(image.dtype), where=changed if image.ndim == 2 else changed[..., None])
    return out
