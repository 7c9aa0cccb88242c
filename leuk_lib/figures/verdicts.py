"""The paper's claims as HTML: a verdict badge and a short reason each; test, tolerance and evidence fold away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from leuk_lib import quoting
from leuk_lib.figures.widgets import Widget, fragment

# Contrast of white text on each ground: above 6 (WCAG AA asks for 4.5).
GROUNDS = {"yes": "#00694d", "no": "#a33b00", "open": "#59616a"}
SIGNS = {"yes": "✓", "no": "✗", "open": "?"}
DETAILS = {
    "why": "reason", "tested": "test", "tolerance": "tolerance", "evidence": "evidence", "stated": "stated in",
    "data": "data", "run": "run",
}  # fmt: skip

STYLE = """
box-sizing:border-box;color:var(--ink);font-size:.95rem;
ul,li{list-style:none;margin:0;padding:0}
li{border-top:1px solid var(--line);padding:.6rem 0}
.leuk-badge{display:inline-block;padding:.1rem .55rem;border-radius:1rem;font-size:.82rem;font-weight:600;color:#fff;
background:var(--ground)}
.leuk-claim{font-weight:600;margin:.25rem 0 .1rem}
.leuk-values{margin:0;font-variant-numeric:tabular-nums}
.leuk-counts{display:flex;flex-wrap:wrap;gap:.4rem;margin:0 0 .8rem}
details{margin:.2rem 0 0;font-size:.9rem}
summary{cursor:pointer}
dl{display:grid;grid-template-columns:fit-content(8rem) minmax(0,1fr);gap:.1rem .8rem;margin:.3rem 0 0}
dt{font-weight:600}
dt,dd{margin:0;overflow-wrap:anywhere}
"""


def verdicts(table: pd.DataFrame, kinds: Mapping[str, str], title: str = "The paper's claims") -> Widget:
    """List the claims, each with its verdict, both values and a short reason; the rest unfolds.

    Args:
        table: Columns claim, paper, ours, verdict, reason and the keys of ``DETAILS``.
        kinds: Verdict -> "yes", "no" or "open"; all of them are counted above the list.
        title: What is listed.
    """
    counts = "".join(
        _badge(f"{name}: {n}", kind) for name, kind in kinds.items() if (n := int((table["verdict"] == name).sum()))
    )
    items = "".join(_item(row, kinds[row["verdict"]]) for row in table.to_dict("records"))
    body = f'<p class="leuk-counts">{counts}</p><ul>{items}</ul>'
    lines = [f"{row['verdict']}: {row['claim']} {row['reason']}" for row in table.to_dict("records")]
    return fragment("leuk-verdicts", STYLE, body, title, "\n".join([title, *lines]))


def _badge(text: str, kind: str) -> str:
    return f'<span class="leuk-badge" style="--ground:{GROUNDS[kind]}">{SIGNS[kind]} {quoting.html(text)}</span>'


def _item(row: Mapping[Any, Any], kind: str) -> str:
    details = "".join(f"<dt>{name}</dt><dd>{quoting.html(row[column])}</dd>" for column, name in DETAILS.items())
    return (
        f'<li>{_badge(row["verdict"], kind)}<p class="leuk-claim">{quoting.html(row["claim"])}</p>'
        f'<p class="leuk-values">Paper: {quoting.html(row["paper"])}. Here: {quoting.html(row["ours"])}. '
        f"{quoting.html(row['reason'])}</p>"
        f"<details><summary>How it is tested</summary><dl>{details}</dl></details></li>"
    )
