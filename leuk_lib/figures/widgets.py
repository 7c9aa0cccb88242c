"""Interactive views of cells: ``atlas``, a map with a record per cell, and ``switch``, the same cells under each method.

Each is one HTML fragment that holds its images, style and script, so it works offline: in a notebook, in the book, and
as a file of its own (:meth:`Widget.page`). The choice of classes or methods needs no script. The script adds the
enlarged cell, its record, and selection by pointer and arrow keys.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from leuk_lib import quoting
from leuk_lib.figures.style import class_colours

EDGE = 2  # pixels around each cell that repeat its rim, so that scaling does not mix neighbours


@dataclass(frozen=True)
class Widget:
    """An HTML fragment that a notebook displays.

    Attributes:
        markup: the fragment.
        summary: what it shows, in one line of text.
        title: heading of the page made by :meth:`page`.
    """

    markup: str
    summary: str
    title: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.summary

    def page(self) -> str:
        """Return an HTML document that follows the reader's light or dark mode."""
        title = quoting.html(self.title)
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{title}</title><style>:root{{color-scheme:light dark}}body{{font-family:sans-serif;max-width:70rem;"
            f"margin:1rem auto;padding:0 1rem}}</style></head><body><main><h1>{title}</h1>{self.markup}</main></body></html>"
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
) -> Widget:
    """Place cells on a map; the reader selects classes, and a cell to see it enlarged with its record.

    Args:
        points: position of each cell, (N, 2), x to the right and y upwards.
        thumbnails: RGB images, (N, S, S, 3) uint8, S from 8 to 96.
        records: one row per cell; all columns are shown beside the enlarged cell, in their order.
        label: column whose value colours the frame of a cell.
        classes: order of the classes, which fixes their colours; by default the sorted labels.
        axes: names of x and y with units; empty for an embedding without units, which then has no ticks.
        title: what the map shows.
        quality: WebP quality of the images, 1 to 100.

    Raises:
        ValueError: arrays that do not fit together, points that are not finite, labels that are not among ``classes``,
            or more than 800 kB of markup.
    """
    place = np.asarray(points, dtype=np.float64)
    n = len(thumbnails)
    if place.shape != (n, 2) or len(records) != n or n == 0:
        raise ValueError(f"atlas: points {place.shape}, {n} thumbnails, {len(records)} records: one of each per cell")
    _check_images("atlas: thumbnails", thumbnails)
    if not 8 <= thumbnails.shape[1] <= 96:
        raise ValueError(f"atlas: thumbnails {thumbnails.shape} must have sides of 8 to 96 pixels")
    if not np.isfinite(place).all():
        raise ValueError("atlas: points must be finite")
    labels = [str(name) for name in records[label]]
    names = sorted(set(labels)) if classes is None else [str(name) for name in classes]
    if missing := sorted(set(labels) - set(names)):
        raise ValueError(f"atlas: labels {', '.join(missing)} are not among the classes {', '.join(names)}")

    low, span = place.min(axis=0), np.ptp(place, axis=0)
    unit = (place - low) / np.where(span > 0, span, 1)
    fields = [label, *(str(name) for name in records.columns if name != label)]
    rows = [[_short(value) for value in row] for row in records[fields].itertuples(index=False, name=None)]
    cells = [
        (f"k{names.index(kind)}", f"--x:{x:.3f};--y:{y:.3f}", ", ".join(row[:3]), "")
        for kind, (x, y), row in zip(labels, unit, rows, strict=True)
    ]
    style = "".join(
        f".k{k}{{--frame:{colour}}}&:has([name][value='{k}']:not(:checked)) .leuk-cell.k{k}{{display:none}}"
        for k, colour in enumerate(class_colours(names).values())
    )
    summary = f"{title}: {n} cells of {len(names)} classes ({', '.join(names)})"
    ticks = ["", ""]
    for d, name in enumerate(axes):
        if name:
            left, middle, right = (_short(low[d] + span[d] * part / 2) for part in range(3))
            ticks[d] = f'title="middle: {middle}"><span>{left}</span><b>{quoting.html(name)}</b><span>{right}</span>'
    field = (
        f'<div class="leuk-plot"><div class="leuk-ticks leuk-up" {ticks[1] or ">"}</div>FIELD<span></span>'
        f'<div class="leuk-ticks" {ticks[0] or ">"}</div></div>'
    )
    markup = _markup(
        "leuk-map", summary, label, "checkbox", names, [_sprite(thumbnails, quality)], thumbnails.shape, cells, style,
        field, (fields, rows),
    )  # fmt: skip
    return Widget(_limited(markup, 800_000, f"atlas: {n} cells"), summary, title)


def switch(
    images: Mapping[str, NDArray[np.uint8]],
    captions: Sequence[str],
    descriptions: Mapping[str, str],
    *,
    title: str = "Cells under several methods",
    quality: int = 90,
) -> Widget:
    """Show cells under one of several methods; radio buttons change all images in place.

    Args:
        images: method to RGB images, (N, S, S, 3) uint8, of one shape; the first method is shown first.
        captions: text under each of the N cells.
        descriptions: method to a sentence about it, shown with its images.
        title: what the view shows.
        quality: WebP quality of the images, 1 to 100.

    Raises:
        ValueError: shapes that differ, a method without a description, or more than 450 kB of markup.
    """
    names = list(images)
    shapes = {stack.shape for stack in images.values()}
    if len(names) < 2 or len(shapes) != 1:
        raise ValueError(f"switch: {len(names)} methods with images {sorted(shapes)}; two or more of one shape")
    for name, stack in images.items():
        _check_images(f"switch: images of {name}", stack)
    (shape,) = shapes
    if len(captions) != shape[0] or not shape[0]:
        raise ValueError(f"switch: {shape[0]} cells and {len(captions)} captions: one per cell")
    if missing := [name for name in names if name not in descriptions]:
        raise ValueError(f"switch: no description of {', '.join(missing)}")

    cells = [("", "", f"{caption}, cell {k}", caption) for k, caption in enumerate(captions, 1)]
    style = "".join(
        f"&:has([name][value='{k}']:checked){{--sheet:var(--sheet{k});.m{k}{{display:inline}}}}"
        for k in range(len(names))
    )
    described = "".join(
        f'<span class="m{k}"><strong>{quoting.html(name)}</strong>: {quoting.html(descriptions[name])}</span>'
        for k, name in enumerate(names)
    )
    sheets = [_sprite(images[name], quality) for name in names]
    markup = _markup(
        "leuk-grid", title, "Show all cells as", "radio", names, sheets, shape, cells, style,
        f'<div>FIELD<p class="leuk-description" aria-live="polite">{described}</p></div>', (["cell"], [[cell[2]] for cell in cells]),
    )  # fmt: skip
    summary = f"{title}: {shape[0]} cells, {', '.join(names)}"
    return Widget(_limited(markup, 450_000, f"switch: {shape[0]} cells under {len(names)} methods"), summary, title)


def _check_images(what: str, images: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"{what} must be (N, S, S, 3) uint8, got {images.shape} {images.dtype}")


def _limited(markup: str, limit: int, what: str) -> str:
    if len(markup) > limit:
        raise ValueError(
            f"{what} make {len(markup) // 1000} kB, over {limit // 1000}: give fewer or smaller images, or a lower quality"
        )
    return markup


def _short(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if not math.isfinite(value) else f"{value:.3g}"
    return str(value)


def _columns(n: int) -> int:
    return math.ceil(math.sqrt(n))


def _sprite(images: NDArray[np.uint8], quality: int) -> str:
    """Put images (N, S, S, 3) into one WebP image, row by row, each with its rim repeated ``EDGE`` times."""
    n, columns = len(images), _columns(len(images))
    tiles = np.pad(images, ((0, -n % columns), (EDGE, EDGE), (EDGE, EDGE), (0, 0)), mode="edge")
    side = tiles.shape[1]
    sheet = tiles.reshape(-1, columns, side, side, 3).swapaxes(1, 2).reshape(-1, columns * side, 3)
    return webp(sheet, quality)


def webp(image: NDArray[np.uint8], quality: int) -> str:
    """Return an image, RGB (H, W, 3), as the address of a WebP image that contains it."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def fragment(kind: str, style: str, body: str, title: str, summary: str, variables: str = "") -> Widget:
    """Return a widget without a script.

    Args:
        kind: its CSS class.
        style: CSS rules inside the selector of that class.
        body: markup.
        title: what it shows; its accessible name.
        summary: what it shows, as text.
        variables: CSS declarations of the widget itself.
    """
    markup = (
        f'<div class="{kind}" role="group" aria-label="{quoting.html(title)}" style="{variables}">'
        f"<style>.{kind}{{{THEME}{style}}}</style>{body}</div>"
    )
    return Widget(markup, summary, title)


def _markup(
    layout: str,
    summary: str,
    legend: str,
    control: str,
    choices: Sequence[str],
    sheets: Sequence[str],
    shape: tuple[int, ...],
    cells: Iterable[tuple[str, str, str, str]],
    style: str,
    body: str,
    records: tuple[Sequence[str], Sequence[Sequence[str]]],
) -> str:
    """Build the fragment.

    Args:
        layout: "leuk-map" (cells at --x, --y) or "leuk-grid".
        summary: accessible name of the widget.
        legend: name of the choice.
        control: "checkbox" or "radio".
        choices: names to choose from.
        sheets: sprite sheets; the first is shown until a rule of ``style`` sets ``--sheet``.
        shape: (N, S, S, 3) of the images in a sheet.
        cells: class, style, accessible name and caption of each cell.
        style: CSS rules that act on the choice.
        body: markup around the cells, which replace FIELD.
        records: names of the fields, and their values per cell.
    """
    n, side = shape[:2]
    columns, whole = _columns(n), side + 2 * EDGE
    rows = math.ceil(n / columns)
    sprites = "".join(f"--sheet{k}:url({sheet});" for k, sheet in enumerate(sheets))
    geometry = (
        f"--sheet:var(--sheet0);{sprites}.leuk-image{{"
        f"background-size:{100 * columns * whole / side:.4f}% {100 * rows * whole / side:.4f}%;"
        f"background-position:calc(100%*(var(--column)*{whole} + {EDGE})/{columns * whole - side}) "
        f"calc(100%*(var(--row)*{whole} + {EDGE})/{rows * whole - side})}}"
    )
    cell_markup = "".join(
        f'<div class="leuk-cell {kind}" role="img" aria-label="{quoting.html(name)}" '
        f'style="--column:{i % columns};--row:{i // columns};{position}"><div class="leuk-image"></div>'
        f"{quoting.html(caption) and f'<span>{quoting.html(caption)}</span>'}</div>"
        for i, (kind, position, name, caption) in enumerate(cells)
    )
    field = f'<div class="leuk-field">{cell_markup}</div>'
    data = quoting.script(records)
    root = f"leuk-{hashlib.sha256((geometry + style + field + data).encode()).hexdigest()[:12]}"
    several, checked, chip = control == "checkbox", " checked", '<span class="leuk-chip k{}"></span>'
    inputs = "".join(
        f'<label><input type="{control}" name="{root}" value="{k}"{checked * (several or k == 0)}>'
        f"{chip.format(k) * several}{quoting.html(name)}</label>"
        for k, name in enumerate(choices)
    )
    return (
        f'<div class="leuk-cells {layout}" id="{root}" role="group" aria-label="{quoting.html(summary)}">'
        f"<style>#{root}{{{THEME}{STYLE}{geometry}{style}}}</style>"
        f'<div class="leuk-bar"><fieldset><legend>{quoting.html(legend)}</legend>{inputs}</fieldset>{SLIDER}</div>'
        f'<div class="leuk-body">{body.replace("FIELD", field, 1)}{CARD}</div>'
        f'<script>({SCRIPT})(document.getElementById("{root}"),...{data})</script></div>'
    )


SLIDER = '<label class="leuk-script">size of the images<input type="range" min="10" max="160"></label>'
CARD = (
    '<div class="leuk-card leuk-script" role="group" aria-label="Selected cell"><div class="leuk-image" role="img"></div>'
    '<dl></dl><p class="leuk-how">Point at a cell, or move the focus to the cells and use the arrow keys. Click or Enter '
    "keeps a cell, Escape releases it; Page Up and Page Down go through its class.</p></div>"
)

# Colours of all widgets: they follow the book's theme, JupyterLab's, or the browser's mode.
THEME = """
--ink:var(--pst-color-text-base,var(--jp-ui-font-color1,CanvasText));
--line:var(--pst-color-border,var(--jp-border-color1,GrayText));
--ground:var(--pst-color-surface,var(--jp-layout-color2,Canvas));
"""

# Rules inside the fragment's own selector.
STYLE = """
container-type:inline-size;box-sizing:border-box;padding:4px;font-size:.9rem;color:var(--ink);
&:not(.leuk-live) .leuk-script,.leuk-description span{display:none}
.leuk-bar{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:center;margin:0 0 .5rem}
fieldset{display:flex;flex-wrap:wrap;gap:.25rem .9rem;border:0;margin:0;padding:0;min-width:0}
legend{float:left;padding:0;margin:0 .3rem 0 0;font-size:inherit;font-weight:600;width:auto}
label{display:inline-flex;align-items:center;gap:.3rem;margin:0;cursor:pointer}
.leuk-chip{width:.9rem;height:.9rem;border-radius:.2rem;border:1px solid var(--ink);background:var(--frame)}
.leuk-body{display:grid;gap:1rem;align-items:start}
&.leuk-live .leuk-body{grid-template-columns:minmax(0,1fr) 14rem}
.leuk-image{box-sizing:border-box;aspect-ratio:1;border:2px solid var(--frame,transparent);border-radius:3px;
background-image:var(--sheet);background-repeat:no-repeat;background-origin:border-box}
.leuk-field:focus-visible,input:focus-visible{outline:3px solid var(--pst-color-primary,Highlight);outline-offset:2px}
[aria-selected=true] .leuk-image{box-shadow:0 0 0 2px var(--ground),0 0 0 4px var(--ink)}
&.leuk-map .leuk-field{position:relative;aspect-ratio:4/3;border:1px solid var(--line);background:var(--ground);
overflow:hidden;border-radius:.3rem;cursor:crosshair}
&.leuk-map .leuk-cell{--side:var(--size,clamp(18px,3.4vw,30px));position:absolute;width:var(--side);
left:calc((100% - var(--side))*var(--x));bottom:calc((100% - var(--side))*var(--y))}
&.leuk-map [aria-selected=true]{z-index:2;transform:scale(1.7)}
&.leuk-grid .leuk-field{display:grid;grid-template-columns:repeat(auto-fill,minmax(var(--size,7rem),1fr));gap:.5rem}
&.leuk-grid .leuk-cell{text-align:center;font-size:.8rem}
.leuk-plot{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.2rem .4rem}
.leuk-ticks{display:flex;justify-content:space-between;gap:.3rem;font-size:.8rem;font-variant-numeric:tabular-nums}
.leuk-ticks.leuk-up{writing-mode:vertical-rl;transform:rotate(180deg)}
.leuk-ticks b{font-weight:600;text-align:center}
.leuk-description{min-height:3.2em;margin:.5rem 0 0}
.leuk-card{border:1px solid var(--line);border-radius:.3rem;padding:.6rem;background:var(--ground);min-width:0}
.leuk-card .leuk-image{max-width:11rem;border-width:4px}
dl{margin:.5rem 0 0;display:grid;grid-template-columns:fit-content(9rem) minmax(0,1fr);gap:.1rem .6rem;font-size:.82rem}
dt{font-weight:600;margin:0}
dd{margin:0;overflow-wrap:break-word;font-variant-numeric:tabular-nums}
.leuk-how{font-size:.82rem;margin:.4rem 0 0}
@container (max-width:44rem){&.leuk-live .leuk-body{grid-template-columns:minmax(0,1fr)}
.leuk-card{display:grid;grid-template-columns:min(11rem,32%) minmax(0,1fr);gap:.6rem}
dl{margin:0;align-content:start}.leuk-how{grid-column:1/-1}}
@media print{.leuk-bar,.leuk-how{display:none}}
"""

# Called with the fragment's element, the names of the fields, and their values per cell.
SCRIPT = """(root, fields, records) => {
  const field = root.querySelector('.leuk-field'), cells = [...field.children];
  const list = root.querySelector('dl'), large = root.querySelector('.leuk-card .leuk-image');
  let current = -1, pinned = false;
  root.classList.add('leuk-live');
  field.tabIndex = 0;
  field.setAttribute('role', 'listbox');
  field.setAttribute('aria-label', root.getAttribute('aria-label'));
  cells.forEach((cell, i) => {
    cell.id = `${root.id}-${i}`;
    cell.setAttribute('role', 'option');
    cell.setAttribute('aria-selected', 'false');
  });
  const make = (tag, text) => Object.assign(document.createElement(tag), {textContent: text});
  const show = i => {
    large.className = cells[i].className.replace('leuk-cell', 'leuk-image');
    large.style.cssText = cells[i].style.cssText;
    large.setAttribute('aria-label', `Cell enlarged: ${cells[i].getAttribute('aria-label')}`);
    list.replaceChildren(...fields.flatMap((name, f) => [make('dt', name), make('dd', records[i][f])]));
  };
  const select = i => {
    cells[current]?.setAttribute('aria-selected', 'false');
    current = i;
    if (i < 0) { pinned = false; field.removeAttribute('aria-activedescendant'); return; }
    cells[i].setAttribute('aria-selected', 'true');
    field.setAttribute('aria-activedescendant', cells[i].id);
    show(i);
  };
  const visible = () => [...cells.keys()].filter(i => cells[i].getClientRects().length);
  root.addEventListener('change', () => { if (current >= 0 && !visible().includes(current)) select(-1); });
  root.querySelector('[type=range]').addEventListener('input', event =>
    root.style.setProperty('--size', `${event.target.value}px`));

  const index = event => cells.indexOf(event.target.closest('.leuk-cell'));
  field.addEventListener('pointerover', event => { if (!pinned && index(event) >= 0) select(index(event)); });
  field.addEventListener('click', event => {
    const i = index(event), keep = i >= 0 && !(pinned && i === current);
    select(i);
    pinned = keep;
  });

  const centre = i => { const box = cells[i].getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; };
  const step = (dx, dy) => {  // the nearest cell in this direction; distance to the side counts double
    const [x, y] = centre(current);
    let best = current, least = Infinity;
    for (const i of visible()) {
      const [u, v] = centre(i), along = (u - x) * dx + (v - y) * dy, aside = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
      const covered = Math.abs(along) < .5 && aside < .5 && i > current;
      if (i !== current && (along >= .5 || covered) && along + 2 * aside < least) { best = i; least = along + 2 * aside; }
    }
    return best;
  };
  const alike = by => {
    const same = visible().filter(i => i === current || cells[i].className === cells[current].className);
    return same[(same.indexOf(current) + by + same.length) % same.length];
  };
  const moves = {
    ArrowRight: () => step(1, 0), ArrowLeft: () => step(-1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    PageDown: () => alike(1), PageUp: () => alike(-1), Home: () => visible()[0], End: () => visible().at(-1),
  };
  field.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !visible().length) return;
    if (moves[event.key]) {
      select(current < 0 ? visible()[0] : moves[event.key]());
      pinned = true;
    } else if (event.key === 'Enter' || event.key === ' ') {
      pinned = current >= 0;
    } else if (event.key === 'Escape') {
      select(-1);
    } else return;
    event.preventDefault();
  });
  show(0);
}"""
