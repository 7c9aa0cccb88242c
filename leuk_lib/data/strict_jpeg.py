"""Decode JPEG with libjpeg's warnings as errors; OpenCV and Pillow decode damaged pixels without an error."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.image_files import Unreadable

# libjpeg's warning about bytes before the end marker, which some cameras and programs write; the pixels may be intact.
SURPLUS = "extraneous bytes before marker 0xd9"
# The revision number of JFIF; libjpeg warns about unknown ones, which do not concern the pixels.
REVISION = re.compile(rb"JFIF\0..", re.DOTALL)


def jpeg_pixels(data: bytes, findings: list[str], colours: str = "RGB") -> NDArray[np.uint8] | None:
    """Decode a JPEG.

    Args:
        data: The whole file.
        findings: Gets the finding about surplus bytes.
        colours: "RGB" or "CMYK".

    Returns:
        (H,W,3) or (H,W,4); None if its colour subsampling is legal, but not supported by TurboJPEG.

    Raises:
        Unreadable: If libjpeg has an error or a warning about the coded pixels.
    """
    import simplejpeg  # rendered cells do without it

    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        reason = str(error)
        if SURPLUS in reason:
            findings.append("suspicious JPEG: surplus bytes after the pixels")
            image = simplejpeg.decode_jpeg(data, colours, strict=False)
        elif "JFIF" in reason and (known := REVISION.sub(b"JFIF\0\1\1", data)) != data:
            return jpeg_pixels(known, findings, colours)
        elif "subsampling" in reason:
            return None
        else:
            raise Unreadable(f"damaged ({reason})") from error
    return image
