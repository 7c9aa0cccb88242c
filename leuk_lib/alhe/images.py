"""The images that ALHE accepts, and their types and layouts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.runs.errors import LeukError

MIN_SIDE = 8
FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


def check_image(image: Any) -> NDArray[Any]:
    """Return ``image`` in native byte order if ALHE accepts it.

    Accepted are (H,W), (H,W,3) RGB and (H,W,4) RGBA; uint8, uint16 and float in [0,1].

    Raises:
        LeukError: not an array, empty, a side below 8 pixels, another shape or type, NaN, or values outside [0,1].
    """
    if not isinstance(image, np.ndarray):
        raise LeukError(f"alhe: expected a NumPy array, got {type(image).__name__}")
    if image.size == 0:
        raise LeukError(f"alhe: the image is empty (shape {image.shape})")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise LeukError(f"alhe: expected (H,W), (H,W,3) or (H,W,4), got shape {image.shape}")
    check_size(*image.shape[:2])
    if not image.dtype.isnative:
        image = image.astype(image.dtype.newbyteorder("="))
    if image.dtype in FULL_SCALE:
        return image
    if image.dtype.kind != "f":
        raise LeukError(f"alhe: type {image.dtype} is not supported; use uint8, uint16 or float in [0,1]")
    check_range(bool(np.isfinite(image).all()), float(image.min()), float(image.max()))
    return image


def check_size(height: int, width: int) -> None:
    """Raise ``LeukError`` for an image with a side below ``MIN_SIDE`` pixels."""
    if min(height, width) < MIN_SIDE:
        raise LeukError(f"alhe: {height}x{width} pixels; both sides must be at least {MIN_SIDE}")


def check_range(finite: bool, low: float, high: float) -> None:
    """Raise ``LeukError`` for float values that are not all ``finite``, or whose range is not within [0,1]."""
    if not finite:
        raise LeukError("alhe: the image has NaN or infinite values; replace them first")
    if low < 0:
        raise LeukError(f"alhe: the image has negative values (least {low:.4g}); float images must be in [0,1]")
    if high > 1:
        raise LeukError(
            f"alhe: the image has values up to {high:.4g}; float images must be in [0,1] (divide by the full scale)"
        )


def to_rgb(image: NDArray[Any]) -> NDArray[Any]:
    """RGB (H,W,3) of a checked image in its own type; grey is repeated, alpha is left out."""
    if image.ndim == 2:
        return cv2.merge([image, image, image])
    return np.ascontiguousarray(image[..., :3])


def to_rgb8(image: NDArray[Any]) -> NDArray[Any]:
    """RGB (H,W,3) of a checked image, rounded to uint8; grey is repeated, alpha is left out."""
    rgb = to_rgb(image)
    if image.dtype == np.uint8:
        return rgb
    scale = 255.0 / FULL_SCALE.get(image.dtype, 1.0)
    values = rgb.astype(np.float32)
    return cv2.addWeighted(values, scale, values, 0.0, 0.0, dtype=cv2.CV_8U)  # rounds and saturates in one pass


def restore_layout(image: NDArray[Any], rgb: NDArray[Any], shift: NDArray[np.float32]) -> NDArray[Any]:
    """Bring ``rgb`` to the type and layout of ``image``.

    Args:
        image: the original, (H,W), (H,W,3) or (H,W,4); gives type, layout, alpha, and all pixels whose shift is 0.
        rgb: (H,W,3) uint8 for a uint8 image, else float in [0,1].
        shift: (H,W) shift of lightness. In 8 bits an unshifted colour comes back as it was, and nothing is copied.
    """
    if image.dtype == np.uint8:
        if image.ndim == 2:
            return np.ascontiguousarray(rgb[..., 0])
        return np.dstack([rgb, image[..., 3]]) if image.shape[2] == 4 else rgb
    values = rgb[..., 0] if image.ndim == 2 else rgb
    full_scale = FULL_SCALE.get(image.dtype)
    if full_scale is not None:
        values = np.rint(values * np.float32(full_scale))
    out = image.copy()
    target = out if image.ndim == 2 else out[..., :3]
    changed = shift != 0
    np.copyto(target, values.astype(image.dtype), where=changed if image.ndim == 2 else changed[..., None])
    return out
