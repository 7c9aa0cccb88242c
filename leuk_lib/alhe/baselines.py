"""The usual enhancements that ALHE is compared with, by name: (H,W,3) uint8 RGB in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.enhance import alhe
from leuk_lib.alhe.params import EnhanceParams

Method = Callable[[NDArray[Any]], NDArray[Any]]
GRID = (8, 8)  # OpenCV's and scikit-image's default
GAMMA = 1.5

# An ablation of ALHE: instead of the contrast floor, activity that ends where a tile's spread nears 90 grey levels.
SPREAD_LIMITED = EnhanceParams(clip_limit=3.0, contrast_floor=0.0, spread_limit=90.0)


def identity(image: NDArray[Any]) -> NDArray[Any]:
    """The input itself, to which ratios are taken."""
    return image


def clahe(image: NDArray[Any], clip_limit: float) -> NDArray[Any]:
    """OpenCV's CLAHE on CIELAB lightness, with 8x8 tiles.

    Args:
        image: (H,W,3) uint8 RGB.
        clip_limit: in mean bin counts, above 0.

    References:
        Zuiderveld, K. (1994). Contrast limited adaptive histogram equalization. Graphics Gems IV, 474-485.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness = np.ascontiguousarray(lab[..., 0])
    lab[..., 0] = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=GRID).apply(lightness)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def clahe_2(image: NDArray[Any]) -> NDArray[Any]:
    """CLAHE with clip limit 2, the usual choice in papers."""
    return clahe(image, 2.0)


def clahe_40(image: NDArray[Any]) -> NDArray[Any]:
    """CLAHE with clip limit 40, OpenCV's default: close to unlimited."""
    return clahe(image, 40.0)


def equalize_adapthist(image: NDArray[Any]) -> NDArray[Any]:
    """scikit-image's CLAHE with its defaults, on the V of HSV."""
    from skimage import exposure

    return np.rint(exposure.equalize_adapthist(image) * 255).astype(np.uint8)


def gamma(image: NDArray[Any]) -> NDArray[Any]:
    """Gamma 1.5 on every channel: darkens all places alike."""
    table = np.rint((np.arange(256) / 255) ** GAMMA * 255).astype(np.uint8)
    return cv2.LUT(image, table)


# What each method does, in a line for the reader.
DESCRIPTIONS = {
    "input": "the cells as the camera took them.",
    "ALHE": "clip limit per tile, contrast floor, gain on the stain: the background is left as it is.",
    "ALHE, spread limit": "no contrast floor; a tile that holds both nucleus and background is hardly enhanced.",
    "CLAHE 2": "clip limit 2, the usual choice: every part of the image is enhanced.",
    "CLAHE 40": "clip limit 40, OpenCV's default: close to plain equalisation of each tile.",
    "equalize_adapthist": "scikit-image's default, on the brightest channel instead of lightness.",
    "gamma 1.5": "every pixel is darkened in the same way.",
}


def methods(params: EnhanceParams | None = None) -> dict[str, Method]:
    """All enhancements by the name that tables use; ``params`` are ALHE's."""
    params = params or EnhanceParams()
    return {
        "input": identity,
        "ALHE": lambda image: alhe(image, params),
        "ALHE, spread limit": lambda image: alhe(image, SPREAD_LIMITED),
        "CLAHE 2": clahe_2,
        "CLAHE 40": clahe_40,
        "equalize_adapthist": equalize_adapthist,
        "gamma 1.5": gamma,
    }
