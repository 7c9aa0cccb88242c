"""HTML pages that load nothing, because their pictures are part of them."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib import quoting

QUALITY = 85  # of the JPEGs
STYLE = """
:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;margin:1.5rem auto;padding:0 1rem;color:CanvasText;background:Canvas}
img{border-radius:.25rem;margin-right:.3rem;background:#fff}
"""


def html_page(title: str, style: str, body: str) -> str:
    """Return a page.

    Args:
        title: Its title, as text.
        style: Rules in CSS, after ``STYLE``.
        body: Its content, as HTML.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{quoting.html(title)}</title><style>{STYLE}{style}</style>"
    )
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body><main>{body}</main></body></html>\n'


def picture(image: NDArray[np.uint8], side: int, alt: str) -> str:
    """Return an ``<img>`` element of a whole image.

    Args:
        image: (H,W,3) uint8 RGB.
        side: Longer side of the picture in pixels.
        alt: What it shows, as text.
    """
    scale = side / max(image.shape[:2])
    width, height = (max(1, round(scale * n)) for n in (image.shape[1], image.shape[0]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    code = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    source = f"data:image/jpeg;base64,{base64.b64encode(code).decode()}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{quoting.html(alt)}">'
