"""The findings of ``leuk data check`` as text for the terminal and as one HTML page with thumbnails."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from leuk_lib import quoting
from leuk_lib.data.check import exit_code
from leuk_lib.data.decode import Unreadable, decode_file
from leuk_lib.data.findings import SEVERITIES
from leuk_lib.data.html_page import html_page, picture
from leuk_lib.data.image_files import is_inside

MEANING = {"error": "left out", "warning": "used, look at it", "info": "nothing to do"}
VERDICTS = ("clean", "findings: see above", "unusable: fewer than two classes hold a usable image")
SIDE = 112  # longer side of a thumbnail, pixels
MAX_ROWS = 60  # per kind, with thumbnails; the CSV file has all

STYLE = """
body{max-width:64rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
caption{text-align:left;font-weight:600;padding:.4rem 0}
th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid GrayText;overflow-wrap:anywhere}
th{white-space:nowrap}td.pictures{white-space:nowrap;width:1%}
.error{border-left:.3rem solid #c0392b}.warning{border-left:.3rem solid #d68910}.info{border-left:.3rem solid #2471a3}
h2{padding-left:.6rem;margin-top:2rem}
nav ul{padding-left:1.2rem}
@media (max-width:40rem){table{table-layout:fixed}th,td.pictures{white-space:normal;width:auto}img{max-width:100%;height:auto}}
"""


def summary_lines(findings: pd.DataFrame) -> tuple[str, str]:
    """Summarise the folder in one line and its classes in another."""
    about = findings.attrs
    return (
        f"{about['root']}: {sum(about['classes'].values())} usable cells, {len(about['classes'])} classes, "
        f"{about['groups']} groups (by {about['grouped_by']}), {'with' if about['masks'] else 'no'} masks",
        ", ".join(f"{name} {n}" for name, n in about["classes"].items()),
    )


def render_text(findings: pd.DataFrame, limit: int = 12) -> str:
    """Render the summary and the findings by kind, with advice.

    Args:
        findings: Result of ``check.check_folder``.
        limit: Files listed per kind; the others are counted.
    """
    first, second = summary_lines(findings)
    lines = [first, f"  {second}", *(f"  {line}" for line in findings.attrs.get("understood", []))]
    for severity in SEVERITIES:
        some = findings[findings["severity"] == severity]
        if len(some):
            lines.append(f"{severity.upper()} ({MEANING[severity]}): {len(some)}")
        for kind, rows in some.groupby("kind", sort=True):
            lines.append(f"  {kind}: {len(rows)}; {rows['advice'].iloc[0]}")
            lines += [
                f"    {row.path}" + ("" if row.finding == kind else f": {row.finding}")
                for row in rows.head(limit).itertuples()
            ]
            if len(rows) > limit:
                lines.append(f"    … and {len(rows) - limit} more")
    return "\n".join(quoting.terminal(line) for line in [*lines, f"Verdict: {VERDICTS[exit_code(findings)]}"])


def render_page(findings: pd.DataFrame) -> str:
    """Render the findings as one HTML page that loads nothing.

    The thumbnails are read again from the folder in ``findings.attrs["root"]``, for at most 60 rows per kind.

    Args:
        findings: Result of ``check.check_folder``.
    """
    first, second = summary_lines(findings)
    verdict = VERDICTS[exit_code(findings)].removesuffix(": see above")
    sections: list[str] = []
    contents: list[str] = []
    for severity in SEVERITIES:
        some = findings[findings["severity"] == severity]
        for kind, rows in some.groupby("kind", sort=True):
            anchor = f"{severity}-{len(contents)}"
            contents.append(
                f'<li><a href="#{anchor}">{quoting.html(severity)}: {quoting.html(str(kind))} ({len(rows)})</a></li>'
            )
            sections.append(_section(anchor, severity, str(kind), rows, Path(findings.attrs["root"])))
    title = f"Check of {Path(findings.attrs['root']).name}"
    body = (
        f"<h1>{quoting.html(title)}</h1><p><strong>Verdict: {quoting.html(verdict)}.</strong></p>"
        f"<p>{quoting.html(first)}</p><p>{quoting.html(second)}</p>"
        + (f'<nav aria-label="Findings"><ul>{"".join(contents)}</ul></nav>' if contents else "<p>No findings.</p>")
        + "".join(sections)
    )
    return html_page(title, STYLE, body)


def _section(anchor: str, severity: str, kind: str, rows: pd.DataFrame, root: Path) -> str:
    lines = []
    for row in rows.head(MAX_ROWS).itertuples():
        thumbnails = "".join(_thumbnail(root, str(name)) for name in (row.path, row.other) if name)
        cells = (
            f'<td class="pictures">{thumbnails}</td>',
            *(f"<td>{quoting.html(str(x))}</td>" for x in (row.path, row.finding)),
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    more = f"<p>… and {len(rows) - MAX_ROWS} more (all are in the CSV).</p>" if len(rows) > MAX_ROWS else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("images", "file, class or group", "finding"))
    advice = str(rows["advice"].iloc[0])
    caption = f"{len(rows)} found; {MEANING[severity]}. {advice[:1].upper()}{advice[1:]}."
    return (
        f'<section><h2 class="{severity}" id="{anchor}">{quoting.html(kind)}</h2><table><caption>{quoting.html(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}</section>"
    )


def _thumbnail(root: Path, name: str) -> str:
    """Return an ``<img>`` element, or "" if the file is no readable image."""
    path = root / name
    if not path.is_file() or not is_inside(path, root):
        return ""
    try:
        return picture(decode_file(path).image, SIDE, name)  # the whole image: the shared part may be at its border
    except Unreadable:
        return ""
