"""The same cells under several methods, one method at a time: radio buttons change all pictures in place.

One HTML fragment that holds everything and needs no script: it works offline, with mouse and keyboard (the arrow keys go
from method to method), in light and dark mode, and shows the first method where styles are not allowed to act.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leuk_lib.figures.atlas import Atlas

MOST_BYTES = 450_000  # of one fragment
EDGE = 2  # pixels that repeat a cell's rim, so that scaling does not mix it with its neighbour
STYLE = """
#ROOT{margin:1rem 0}
#ROOT fieldset{border:1px solid #888;border-radius:.4rem;padding:.4rem .8rem;margin:0 0 .6rem;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
#ROOT legend{font-size:.85rem;padding:0 .3rem;width:auto;margin:0}
#ROOT label{display:inline-flex;align-items:center;gap:.35rem;font-size:.9rem;padding:.25rem .1rem;cursor:pointer;margin:0}
#ROOT input{width:1.05rem;height:1.05rem;margin:0;accent-color:#0072B2}
#ROOT input:focus-visible{outline:3px solid #E69F00;outline-offset:2px}
#ROOT label:has(:checked){font-weight:bold}
#ROOT .cells{display:grid;grid-template-columns:repeat(auto-fill,minmax(7rem,1fr));gap:.5rem;max-width:60rem}
#ROOT figure{margin:0;text-align:center}
#ROOT figcaption{font-size:.8rem;margin-top:.15rem}
#ROOT .cell{aspect-ratio:1;background-image:var(--sheet);background-size:WIDE% HIGH%;border-radius:.2rem}
#ROOT .said{min-height:3.2em;margin:.5rem 0 0;font-size:.9rem}
#ROOT .said span{display:none}
@media print{#ROOT fieldset{display:none}}
"""


def switch(
    pictures: Mapping[str, NDArray[np.uint8]],
    captions: Sequence[str],
    said: Mapping[str, str],
    *,
    title: str = "Cells under several methods",
    quality: int = 90,
) -> Atlas:
    """N cells under M methods: method name -> (N,S,S,3) uint8 RGB, all of one shape; the first is shown at first.

    ``captions``: what stands under each cell; ``said``: method -> a sentence about it, shown with its pictures.
    ``quality`` (1-100) is the pictures' WebP quality. Raises ``ValueError`` for shapes that differ, a method without a
    sentence, and for more pictures than a page can bear (over 450 kB: give fewer or smaller ones).
    """
    names = list(pictures)
    shapes = {images.shape for images in pictures.values()}
    if len(names) < 2 or len(shapes) != 1:
        raise ValueError(
            f"switch: {len(names)} methods with pictures of shapes {sorted(shapes)}; two or more of one shape"
        )
    n, side = next(iter(shapes))[:2]
    if next(iter(shapes)) != (n, side, side, 3) or any(images.dtype != np.uint8 for images in pictures.values()):
        raise ValueError(f"switch: pictures must be (N,S,S,3) uint8, got {next(iter(shapes))}")
    if len(captions) != n or n == 0:
        raise ValueError(f"switch: {n} cells and {len(captions)} captions: one for every cell")
    if missing := [name for name in names if name not in said]:
        raise ValueError(f"switch: nothing is said about {', '.join(missing)}")
    sheets = [_sheet(pictures[name], quality) for name in names]
    size = sum(len(sheet) for sheet in sheets) * 4 // 3
    if size > MOST_BYTES:
        raise ValueError(
            f"switch: {n} cells of {side} px under {len(names)} methods make {size // 1000} kB, over {MOST_BYTES // 1000}: give fewer or smaller ones"
        )
    return Atlas(_markup(names, captions, said, sheets, side, title), f"{title}: {n} cells, {', '.join(names)}", title)


def _sheet(images: NDArray[np.uint8], quality: int) -> bytes:
    """All cells of one method beside one another, as WebP."""
    stream = io.BytesIO()
    edged = np.pad(images, ((0, 0), (EDGE, EDGE), (EDGE, EDGE), (0, 0)), mode="edge")
    Image.fromarray(np.concatenate(list(edged), axis=1)).save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()


def _markup(
    names: Sequence[str],
    captions: Sequence[str],
    said: Mapping[str, str],
    sheets: Sequence[bytes],
    side: int,
    title: str,
) -> str:
    n, whole = len(captions), side + 2 * EDGE
    root = f"switch-{hashlib.sha256(b''.join(sheets)).hexdigest()[:12]}"
    style = (
        STYLE.replace("ROOT", root)
        .replace("WIDE", f"{100 * n * whole / side:.4f}")
        .replace("HIGH", f"{100 * whole / side:.4f}")
    )
    for k, sheet in enumerate(sheets):
        chosen = f'#{root}:has(input[value="{k}"]:checked)' if k else f"#{root}"
        style += f"{chosen} .cells{{--sheet:url(data:image/webp;base64,{base64.b64encode(sheet).decode()})}}\n"
        style += f'#{root}:has(input[value="{k}"]:checked) .said .s{k}{{display:inline}}\n'
    buttons = "".join(
        f'<label><input type="radio" name="{root}" value="{k}"{" checked" if k == 0 else ""}>{html.escape(name)}</label>'
        for k, name in enumerate(names)
    )
    cells = "".join(
        f'<figure><div class="cell" role="img" aria-label="{html.escape(caption, quote=True)}, cell {k + 1}" '
        f'style="background-position:{100 * (k * whole + EDGE) / (n * whole - side):.4f}% 50%"></div><figcaption>{html.escape(caption)}</figcaption></figure>'
        for k, caption in enumerate(captions)
    )
    words = "".join(
        f'<span class="s{k}"><strong>{html.escape(name)}</strong>: {html.escape(said[name])}</span>'
        for k, name in enumerate(names)
    )
    return (
        f'<div class="leuk-switch" id="{root}" role="group" aria-label="{html.escape(title, quote=True)}"><style>{style}</style>'
        f'<fieldset><legend>Show all cells as</legend>{buttons}</fieldset><div class="cells">{cells}</div>'
        f'<p class="said" aria-live="polite">{words}</p></div>'
    )
