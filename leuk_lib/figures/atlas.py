"""An interactive map of cells: every point is its picture; hover, click or arrow keys show it large with its record.

One HTML fragment that holds everything (pictures, script, style): it works offline, in a notebook, in the book and,
through :meth:`Atlas.page`, as a file of its own. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from leuk_lib.figures.atlas_parts import SCRIPT, STYLE
from leuk_lib.figures.style import class_colours

MOST_BYTES = 800_000  # of one fragment: a page of the book stays light enough for a phone


class Atlas:
    """What :func:`atlas` returns: shown by a notebook, ``page()`` is a whole HTML document, ``text`` says it in words."""

    def __init__(self, markup: str, text: str, title: str) -> None:
        self.markup, self.text, self.title = markup, text, title

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text

    def page(self) -> str:
        """The atlas as an HTML document that follows the reader's light or dark mode."""
        head = (
            f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(self.title)}'
            "</title><style>:root{color-scheme:light dark}body{font-family:sans-serif;max-width:70rem;margin:1rem auto;"
            "padding:0 1rem}</style>"
        )
        heading = f"<h1>{html.escape(self.title)}</h1>"
        return (
            f'<!DOCTYPE html><html lang="en"><head>{head}</head><body><main>{heading}{self.markup}</main></body></html>'
        )


def atlas(
    points: ArrayLike,
    thumbnails: NDArray[np.uint8],
    records: pd.DataFrame,
    *,
    label: str = "label",
    classes: Sequence[str] | None = None,
    axes: tuple[str, str] = ("", ""),
    title: str = "Atlas of cells",
    quality: int = 80,
) -> Atlas:
    """Map N cells: points (N,2) float, x to the right and y upwards; thumbnails (N,S,S,3) uint8 RGB, S from 8 to 96.

    ``records`` has a row for every cell; its column ``label`` colours the cell's frame, and the other columns are what
    the reader sees beside the enlarged cell, in their order. ``classes`` fixes order and colours (default: the labels
    sorted). ``axes`` names x and y with units and brings ticks; leave them empty for an embedding without units.
    ``quality`` (1-100) is the pictures' WebP quality.

    Raises ``ValueError`` for arrays that do not fit together, points that are not finite, labels missing from
    ``classes``, and for more pictures than a page can bear (over 800 kB: give fewer or smaller ones).
    """
    where = np.asarray(points, dtype=np.float64)
    n = len(thumbnails)
    if where.shape != (n, 2) or len(records) != n or n == 0:
        raise ValueError(
            f"atlas: points {where.shape}, {n} thumbnails and {len(records)} records: one of each for every cell"
        )
    if thumbnails.dtype != np.uint8 or thumbnails.ndim != 4 or thumbnails.shape[1] != thumbnails.shape[2]:
        raise ValueError(f"atlas: thumbnails must be (N,S,S,3) uint8, got {thumbnails.shape} {thumbnails.dtype}")
    if not 8 <= thumbnails.shape[1] <= 96 or thumbnails.shape[3] != 3:
        raise ValueError(f"atlas: thumbnails {thumbnails.shape} must be RGB with sides of 8 to 96 pixels")
    if not np.isfinite(where).all():
        raise ValueError("atlas: points must be finite")
    labels = [str(name) for name in records[label]]
    names = sorted(set(labels)) if classes is None else [str(name) for name in classes]
    if missing := sorted(set(labels) - set(names)):
        raise ValueError(f"atlas: labels {', '.join(missing)} are not among the classes {', '.join(names)}")

    columns = math.ceil(math.sqrt(n))
    low, span = where.min(axis=0), np.ptp(where, axis=0)
    place = np.rint(1000 * (where - low) / np.where(span > 0, span, 1)).astype(int)
    fields = [str(name) for name in records.columns if name != label]
    data = {
        "columns": columns,
        "rows": math.ceil(n / columns),
        "x": place[:, 0].tolist(),
        "y": place[:, 1].tolist(),
        "kind": [names.index(name) for name in labels],
        "classes": names,
        "colours": [class_colours(names)[name] for name in names],
        "label": label,
        "fields": fields,
        "records": [[_short(value) for value in row] for row in records[fields].itertuples(index=False, name=None)],
        "axes": list(axes),
        "ticks": [[_short(low[d] + span[d] * part / 2) for part in range(3)] if axes[d] else [] for d in range(2)],
    }
    sprite = _sprite(thumbnails, columns, quality)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    identity = f"atlas-{hashlib.sha256(text.encode() + sprite).hexdigest()[:12]}"
    if len(text) + 4 * len(sprite) / 3 > MOST_BYTES:
        raise ValueError(
            f"atlas: {n} pictures of {thumbnails.shape[1]} px make {(len(text) + 4 * len(sprite) / 3) / 1000:.0f} kB, over "
            f"{MOST_BYTES / 1000:.0f}: give fewer or smaller ones, or a lower quality"
        )
    said = f"{title}: {n} cells of {len(names)} classes ({', '.join(names)})"
    return Atlas(_markup(identity, text, sprite, said, data), said, title)


def _short(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if not math.isfinite(value) else f"{value:.3g}"
    return str(value)


def _sprite(thumbnails: NDArray[np.uint8], columns: int, quality: int) -> bytes:
    """All pictures in one WebP image, row by row."""
    n, side = thumbnails.shape[:2]
    rows = math.ceil(n / columns)
    sheet = np.zeros((rows * columns, side, side, 3), np.uint8)
    sheet[:n] = thumbnails
    whole = sheet.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
    stream = io.BytesIO()
    Image.fromarray(whole).save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()


def _markup(identity: str, text: str, sprite: bytes, said: str, data: dict[str, Any]) -> str:
    """The fragment. Without its script (an untrusted notebook, a print) it is a contact sheet of all cells."""
    picture = f"url(data:image/webp;base64,{base64.b64encode(sprite).decode()})"
    style = STYLE.replace("ROOT", f"#{identity}") + f"#{identity} .leuk-picture{{background-image:{picture}}}"
    sheet = (
        f'<div class="leuk-sheet leuk-picture" role="img" aria-label="Contact sheet. {html.escape(said, quote=True)}" '
        f'style="aspect-ratio:{data["columns"]}/{data["rows"]}"></div>'
    )
    script = f"({SCRIPT})(document.getElementById({json.dumps(identity)}),{text})"
    return (
        f'<div class="leuk-atlas" id="{identity}" role="group" aria-label="{html.escape(said, quote=True)}">'
        f"<style>{style}</style>{sheet}<script>{script}</script></div>"
    )
