"""The usual enhancements, by name, to stand beside ALHE: (H,W,3) uint8 RGB in, the same out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.alhe.enhance import alhe
from leuk_lib.alhe.params import EnhanceParams

Method = Callable[[NDArray[Any]], NDArray[Any]]
GRID = (8, 8)  # OpenCV's and scikit-image's own default
GAMMA = 1.5

# ALHE as it was first written down: no contrast floor, and no activity where a tile's spread nears 90 grey levels.
FIRST_DESIGN = EnhanceParams(kappa_max=3.0, contrast_floor=0.0, spread_limit=90.0)


def unchanged(image: NDArray[Any]) -> NDArray[Any]:
    """The input itself: the yardstick of every ratio."""
    return image


def clahe(image: NDArray[Any], clip_limit: float) -> NDArray[Any]:
    """OpenCV's CLAHE on CIELAB lightness, 8x8 tiles (Zuiderveld 1994)."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness = np.ascontiguousarray(lab[..., 0])
    lab[..., 0] = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=GRID).apply(lightness)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def clahe_2(image: NDArray[Any]) -> NDArray[Any]:
    """CLAHE with the clip limit 2 that most papers use."""
    return clahe(image, 2.0)


def clahe_40(image: NDArray[Any]) -> NDArray[Any]:
    """CLAHE with OpenCV's default clip limit, 40: hardly limited at all."""
    return clahe(image, 40.0)


def equalize_adapthist(image: NDArray[Any]) -> NDArray[Any]:
    """scikit-image's CLAHE with its defaults (on the V of HSV)."""
    from skimage import exposure

    return np.rint(exposure.equalize_adapthist(image) * 255).astype(np.uint8)


def gamma(image: NDArray[Any]) -> NDArray[Any]:
    """Gamma 1.5 on every channel: darkens, knows nothing of place."""
    table = np.rint((np.arange(256) / 255) ** GAMMA * 255).astype(np.uint8)
    return cv2.LUT(image, table)


# A sentence for the reader about each of them.
SAID = {
    "input": "the cells as the camera took them.",
    "ALHE": "chromatin parts into strands; edges stay where they were, and the background stays as it is.",
    "ALHE, first design": "hardly anything moves, since a tile that holds both nucleus and background is silenced.",
    "CLAHE 2": "the usual choice: more texture, nucleus and cytoplasm closer together, the background bleached.",
    "CLAHE 40": "OpenCV's default: grain everywhere, and rims around the cells.",
    "equalize_adapthist": "scikit-image's default, on the brightest channel: texture within the cell, tiles in the glass.",
    "gamma 1.5": "everything darker, nothing sharper.",
}


def methods(params: EnhanceParams | None = None) -> dict[str, Method]:
    """All of them by the name they carry in tables; ``params`` are ALHE's."""
    params = params or EnhanceParams()
    return {
        "input": unchanged,
        "ALHE": lambda image: alhe(image, params),
        "ALHE, first design": lambda image: alhe(image, FIRST_DESIGN),
        "CLAHE 2": clahe_2,
        "CLAHE 40": clahe_40,
        "equalize_adapthist": equalize_adapthist,
        "gamma 1.5": gamma,
    }
