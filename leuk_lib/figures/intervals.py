"""Intervals as HTML that fits any width: a forest plot of differences with links, and cards of cell types with ranges.

Text stays text, so that it can be read on a phone, searched, and followed. Each is a :class:`leuk_lib.figures.widgets.Widget` without a script.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib import quoting
from leuk_lib.figures.widgets import Widget, fragment, webp

SIGNS = {"helps": "▲", "harms": "▼", "inconclusive": "○"}  # shape and colour both say which side of zero
TICKS = 7  # at most, along an axis
MARGIN = 0.06  # share of a plot's width outside its first and last tick
FAR = 0.1  # share of the intervals that may end beyond the axis on each side, if this halves it

STYLE = """
container-type:inline-size;box-sizing:border-box;color:var(--ink);font-size:.9rem;font-variant-numeric:tabular-nums;
ul,li{list-style:none;margin:0;padding:0}
.leuk-range{position:relative;height:1.2rem;min-width:0}
.leuk-range>i{position:absolute;top:calc(50% - 1.5px);height:3px;min-width:2px;background:var(--mark);
left:calc(100%*var(--from));width:calc(100%*(var(--to) - var(--from)))}
.leuk-range>b{position:absolute;top:50%;left:calc(100%*var(--at));transform:translate(-50%,-50%);line-height:1;
font-size:.95rem;font-weight:400;color:var(--mark)}
"""

FOREST = """
.leuk-question{display:flex;justify-content:space-between;gap:.8rem;font-weight:600;margin:.8rem 0 .2rem;padding-top:.4rem;
border-top:1px solid var(--line)}
.leuk-question a{font-weight:400;white-space:nowrap}
.leuk-row{display:grid;grid-template-columns:minmax(0,11rem) minmax(8rem,1fr) 10.4rem 5.6rem;gap:.1rem .6rem;
align-items:center;padding:.15rem 0;line-height:1.3}
.leuk-plot{position:relative}
.leuk-plot::before{content:"";position:absolute;inset:-.3rem auto -.3rem calc(100%*var(--zero));width:1px;
background:var(--ink);opacity:.55}
.leuk-beyond{position:absolute;top:50%;left:calc(100%*var(--edge));transform:translate(-50%,-50%);line-height:1;color:var(--mark)}
.helps{--mark:#0a9070}.harms{--mark:#d55e00}.inconclusive{--mark:#808890}
.leuk-row.helps .leuk-verdict,.leuk-row.harms .leuk-verdict{font-weight:600}
.leuk-axis .leuk-range span{position:absolute;left:calc(100%*var(--at));transform:translateX(-50%);font-size:.8rem}
.leuk-axis .leuk-plot::before{display:none}
.leuk-number{white-space:nowrap}
.leuk-key{margin:.3rem 0 .8rem;font-size:.85rem}
.leuk-key b{color:var(--mark);font-weight:400}
@container (max-width:38rem){.leuk-row{grid-template-columns:minmax(0,1fr) auto;padding:.35rem 0}
.leuk-name,.leuk-plot{grid-column:1/-1}.leuk-plot::before{top:0;bottom:0}}
"""

CARDS = """
&>ul{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19.5rem),1fr));gap:.8rem}
.leuk-type{display:grid;grid-template-columns:5rem minmax(0,1fr);gap:.4rem .8rem;align-items:center;align-content:start;
padding:.6rem;border:1px solid var(--line);border-radius:.3rem;background:var(--ground)}
.leuk-type img{width:100%;border-radius:.2rem;margin:0;padding:0!important}
dl{display:grid;grid-template-columns:minmax(0,8.6rem) minmax(2.5rem,1fr) 4.6rem;gap:0 .5rem;margin:0;font-size:.82rem;
align-items:center;grid-column:1/-1}
dt,dd{margin:0;font-weight:400}
dd.leuk-range{--mark:#2f86c9;height:1.15rem;background:linear-gradient(var(--line),var(--line)) 0 50%/100% 1px no-repeat}
dd.leuk-range>i{height:7px;top:calc(50% - 3.5px)}
dd.leuk-range.described>i{box-sizing:border-box;background:var(--ground);border:1.5px solid var(--mark);min-width:4px}
"""


def forest(rows: pd.DataFrame, title: str, unit: str = "percentage points") -> Widget:
    """Plot differences with their intervals under the questions that they answer.

    Args:
        rows: One per answer: question, compared, value, low, high (in ``unit``), verdict (a key of ``SIGNS``), read as
            (the verdict in words), study (its name), target (address of its chapter). Equal questions are neighbours.
        title: What is shown.
        unit: Unit of the differences.

    Few intervals that are far longer than the others end at the edge of the axis, with an arrow.

    Raises:
        ValueError: No row, or a number that is not finite.
    """
    numbers = rows[["value", "low", "high"]].to_numpy(dtype=float)
    if not len(rows) or not np.isfinite(numbers).all():
        raise ValueError(f"forest: {len(rows)} rows; at least one, with finite numbers, is needed")
    ticks = _axis(numbers)
    span = ticks[-1] - ticks[0]
    first, last = ticks[0] - span * MARGIN / 2, ticks[-1] + span * MARGIN / 2

    def at(value: float) -> str:  # room at both ends for half a label
        return f"{MARGIN + (1 - 2 * MARGIN) * (min(max(value, first), last) - ticks[0]) / span:.4f}"

    def beyond(row: Mapping[Hashable, Any]) -> str:
        ends = {"◂": (row["low"] < first, MARGIN / 4), "▸": (row["high"] > last, 1 - MARGIN / 4)}
        return "".join(
            f'<span class="leuk-beyond" style="--edge:{edge:.4f}">{arrow}</span>'
            for arrow, (is_beyond, edge) in ends.items()
            if is_beyond
        )

    parts = []
    for question, group in rows.groupby("question", sort=False):
        items = []
        for row in group.to_dict("records"):
            name = quoting.html(row["compared"]).replace("@", "<wbr>@")  # network@weights
            sign = f"<b>{SIGNS[row['verdict']]}</b>" if first <= row["value"] <= last else ""
            text = f"{row['value']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]".replace("-", "−")
            items.append(
                f'<li class="leuk-row {row["verdict"]}"><span class="leuk-name">{name}</span>'
                f'<span class="leuk-plot"><span class="leuk-range" style="display:block;--from:{at(row["low"])};'
                f'--to:{at(row["high"])};--at:{at(row["value"])}" aria-hidden="true"><i></i>'
                f'{sign}{beyond(row)}</span></span><span class="leuk-number">{text}</span><span class="leuk-verdict">{quoting.html(row["read as"])}</span></li>'
            )
        studies = dict(zip(group["study"], group["target"], strict=True))
        links = " ".join(f'<a href="{quoting.html(to)}">{quoting.html(name)}</a>' for name, to in studies.items())
        parts.append(
            f'<p class="leuk-question"><span>{quoting.html(question)}</span><span>{links}</span></p>'
            f"<ul>{''.join(items)}</ul>"
        )
    labels = "".join(
        f'<span style="--at:{at(tick)}">{f"{tick:+g}".replace("-", "−") if tick else 0}</span>' for tick in ticks
    )
    axis = (
        '<div class="leuk-row leuk-axis" aria-hidden="true"><span class="leuk-name"></span><span class="leuk-plot">'
        f'<span class="leuk-range" style="display:block">{labels}</span></span><span>{quoting.html(unit)}</span></div>'
    )
    key = ", ".join(
        f'<span class="{name}"><b aria-hidden="true">{SIGNS[name]}</b> {words}</span>'
        for name, words in {
            "helps": "the whole interval is above zero", "harms": "below zero", "inconclusive": "it includes zero",
        }.items()
    )  # fmt: skip
    if numbers.min() < first or numbers.max() > last:
        key += "; ◂ ▸ it goes on beyond the axis"
    body = f'{axis}{"".join(parts)}{axis}<p class="leuk-key">{key}.</p>'
    return fragment(
        "leuk-forest", STYLE + FOREST, body, title, f"{title}: {len(rows)} differences", f"--zero:{at(0.0)}"
    )


def cell_types(
    pictures: Mapping[str, NDArray[np.uint8]], ranges: pd.DataFrame, quantities: Mapping[str, str], title: str
) -> Widget:
    """Show a picture of each cell type beside the ranges of its main quantities.

    Args:
        pictures: Cell type -> RGB (S, S, 3) uint8.
        ranges: Columns cell type, quantity, low, high, basis ("stated" or "described"), source.
        quantities: Quantities to show, in order -> their names here; each scale runs from 0 to the quantity's largest
            value. What a cell type does not have is left out.
        title: What is shown.
    """
    largest = ranges.groupby("quantity")["high"].max()
    cards = []
    for name, picture in pictures.items():
        own = {row["quantity"]: row for row in ranges[ranges["cell type"] == name].to_dict("records")}
        rows = []
        for quantity, label in quantities.items():
            if quantity not in own:
                continue
            row, top = own[quantity], float(largest[quantity])
            low, high = float(row["low"]), float(row["high"])
            text = (f"{low:g}" if low == high else f"{low:g}–{high:g}") + "*" * (row["basis"] == "described")
            rows.append(
                f'<dt>{quoting.html(label)}</dt><dd class="leuk-range {row["basis"]}" aria-hidden="true" '
                f'style="--from:{low / top:.3f};--to:{high / top:.3f}"><i></i></dd>'
                f'<dd title="{quoting.html(row["source"])}">{text}</dd>'
            )
        cards.append(
            f'<li class="leuk-type"><img src="{webp(picture, 88)}" alt="A rendered {quoting.html(name)}">'
            f"<strong>{quoting.html(name)}</strong><dl>{''.join(rows)}</dl></li>"
        )
    body = f"<ul>{''.join(cards)}</ul>"
    return fragment("leuk-types", STYLE + CARDS, body, title, f"{title}: {', '.join(pictures)}")


def _axis(numbers: NDArray[np.float64]) -> list[float]:
    """Ticks for values and ends of intervals (N,3): of all, or of nearly all if few of them would double the axis."""
    whole = _ticks(min(0.0, numbers.min()), max(0.0, numbers.max()))
    few = int(FAR * len(numbers))
    most = _ticks(min(0.0, np.sort(numbers[:, 1])[few]), max(0.0, np.sort(numbers[:, 2])[-1 - few]))
    return most if whole[-1] - whole[0] >= 2 * (most[-1] - most[0]) else whole


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose an interval, at most ``TICKS`` of them, evenly spaced and through 0."""
    for exponent in range(-3, 9):
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            if last - first < TICKS:
                last = max(last, first + 1)
                return [round(step * n, 6) for n in range(first, last + 1)]
    raise ValueError(f"no axis for {low} to {high}")
