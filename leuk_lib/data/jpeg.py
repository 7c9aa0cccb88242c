"""JPEG compression of decoded images, as an export or a viewer does it to them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor


def recompress(images: Tensor, quality: int) -> Tensor:
    """Compress images as JPEG and decode them again.

    Args:
        images: (N,3,H,W) uint8 RGB.
        quality: 0 (worst) to 100, as libjpeg counts it.

    Returns:
        (N,3,H,W) uint8.

    Raises:
        ValueError: An image cannot be encoded or decoded.
    """
    decoded = []
    for image in images.permute(0, 2, 3, 1).numpy():
        written, code = cv2.imencode(
            ".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        read = cv2.imdecode(code, cv2.IMREAD_COLOR) if written else None
        if read is None:
            raise ValueError(f"an image of shape {image.shape} cannot be compressed as JPEG of quality {quality}")
        decoded.append(read[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(np.ascontiguousarray(np.stack(decoded))) if decoded else images
