"""Output of a stage in its notebook: banners, accessible tables, figures, the library's source, numbers for the book."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from leuk_lib import quoting

RESEARCH_USE = "Research software. Not a medical device; nothing on this page may be used for a diagnosis."
RENDERED = "Rendered cells: the numbers show that the code works, not how well leukemia is recognised."
INTERVAL = re.compile(r"\[[-−+]?[\d.]+(?:,| to) [-−+]?[\d.]+\]")
SMOKE = "Smoke run: not a result. Sizes and steps are reduced so that all chapters run in minutes."


def shell() -> Any:
    """Return the shell of the running Jupyter kernel, or None outside a notebook."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    running = get_ipython()
    return running if hasattr(running, "kernel") else None


@dataclass(frozen=True)
class Link:
    """A table cell with a link. ``target`` is another chapter's notebook in the same folder."""

    text: str
    target: str

    def __str__(self) -> str:
        return self.text


class Html:
    """HTML for a notebook, plain text elsewhere."""

    def __init__(self, markup: str, text: str) -> None:
        self.markup, self.text = markup, text

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def show(item: Any) -> None:
    """Display ``item`` in a notebook; print it elsewhere."""
    if shell() is not None:
        from IPython.display import display

        display(item)
    else:
        print(item)


def banner(lines: list[str], kind: str = "warning") -> Html:
    """Return an admonition with one paragraph per line."""
    body = "".join(f"<p>{quoting.html(line)}</p>" for line in lines)
    return Html(f'<div class="admonition {kind} leuk-banner" role="note">{body}</div>', "\n".join(lines))


def table(frame: Any, caption: str = "") -> Html:
    """Return an accessible HTML table of a data frame: caption, column scopes, numbers to four digits.

    The columns "low" and "high" after a number join it as "0.5 [0.4, 0.6]". A single wide row, and few rows of many
    intervals, become columns.
    """
    plain = f"{caption}\n{frame.to_string(index=False)}"
    frame = _turned(_with_intervals(frame))

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "–" if value != value else f"{value:.4g}"
        if isinstance(value, Link):
            return f'<a href="{quoting.html(value.target)}">{breakable(value.text)}</a>'
        return breakable(value)

    head = "".join(f'<th scope="col">{breakable(name)}</th>' for name in frame.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    title = f"<caption>{quoting.html(caption)}</caption>" if caption else ""
    markup = (
        '<div class="leuk-table" tabindex="0" role="region" aria-label="'
        f'{quoting.html(caption or "table")}"><table class="table">{title}'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return Html(markup, plain)


def _with_intervals(frame: Any) -> Any:
    """Join the columns "low" and "high" to the number in the column before them; fractions have three decimals."""
    names = list(frame.columns)
    if "low" not in names[1:] or names[names.index("low") :][:2] != ["low", "high"]:
        return frame
    name = names[names.index("low") - 1]
    if names.count(name) > 1 or frame[name].dtype.kind not in "iuf":
        return frame
    numbers = frame[[name, "low", "high"]].astype(float)
    digits = ".3f" if numbers.abs().max().max() <= 1 else ".4g"

    def joined(value: float, low: float, high: float) -> str:
        if value != value:
            return "–"
        return f"{value:{digits}}" + ("" if low != low or high != high else f" [{low:{digits}}, {high:{digits}}]")

    text = [joined(*row) for row in numbers.itertuples(index=False, name=None)]
    return frame.assign(**{name: text}).drop(columns=["low", "high"]).rename(columns={name: f"{name} [interval]"})


def _turned(frame: Any) -> Any:
    """Exchange rows and columns of a single row that is wide, and of few rows with many intervals, one per method."""
    if len(frame) == 1 and len(frame.columns) > 4:
        return frame.iloc[0].rename("value").rename_axis("item").reset_index()
    with_intervals = [frame.iloc[:, k].astype(str).str.contains(INTERVAL).any() for k in range(1, len(frame.columns))]
    if sum(with_intervals) < 6 or len(frame) > 4:
        return frame
    turned = frame.iloc[:, 1:].T
    turned.columns = list(frame.iloc[:, 0])
    turned.insert(0, "method", list(frame.columns[1:]), allow_duplicates=True)
    return turned


def breakable(text: Any) -> str:
    r"""Quote for HTML, with breaks in long names and hashes, so that a table is no wider than the page.

    A name may break after ``_``, ``@`` and ``/``, a hash after 16 digits. An interval stays in one line.

    >>> breakable("efficientnet_lite0")
    'efficientnet_<wbr>lite0'
    >>> breakable("0.5 [0.4, 0.6]")
    '0.5 [0.4,\xa00.6]'
    """
    joined = INTERVAL.sub(lambda match: match.group().replace(" ", "\xa0"), quoting.html(text))
    return re.sub(r"([_@/]|[0-9a-f]{16})(?=.)", r"\1<wbr>", joined)


def sentences(text: str) -> Html:
    """Return a text with one paragraph per line."""
    return Html("".join(f"<p>{quoting.html(line)}</p>" for line in text.splitlines()), text)


def folded(item: Html, summary: str, is_open: bool = False) -> Html:
    """Return ``item`` under a line that unfolds it."""
    state = " open" if is_open else ""
    markup = f'<details class="leuk-details"{state}><summary>{quoting.html(summary)}</summary>{item.markup}</details>'
    return Html(markup, item.text)


class Source:
    """Code that is highlighted wherever a notebook shows Markdown (JupyterLab, the book), and plain text elsewhere."""

    def __init__(self, code: str, origin: str) -> None:
        self.code, self.origin = code, origin

    def _repr_markdown_(self) -> str:
        return f"{self.origin}:\n\n```python\n{self.code}\n```\n"

    def __repr__(self) -> str:
        return f"{self.origin}:\n\n{self.code}"


def source(*objects: Any) -> Source:
    """Show how the library implements functions, methods or classes: their lines as they stand in their file now.

    Docstrings are left out, because the text around the code explains it; the API reference has them.

    Args:
        *objects: Of one module, in the order in which they are shown.
    """
    file = f"{objects[0].__module__.replace('.', '/')}.py"
    methods = ", ".join(f"`{item.__qualname__}`" for item in objects if "." in item.__qualname__)
    code = "\n\n\n".join(_without_docstring(textwrap.dedent(inspect.getsource(item))) for item in objects)
    return Source(code, f"`{file}`, {methods}" if methods else f"`{file}`")


def _without_docstring(code: str) -> str:
    """Cut the docstring of a definition out of its source, and change nothing else."""
    lines = code.rstrip("\n").split("\n")
    definition = ast.parse(code).body[0]
    if isinstance(definition, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(definition) is not None:
        docstring = definition.body[0]
        del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "\n".join(lines)


def parameter_table(stage: str, params: Any) -> Html:
    """Return a table of a stage's parameters with meanings and the laptop profile's value where it differs."""
    import pandas as pd

    fields = type(params).model_fields
    rows = [
        {"parameter": name, "value": str(value), "laptop": "same" if value == fields[name].default else str(fields[name].default),
         "meaning": fields[name].description or ""}
        for name, value in params
    ]  # fmt: skip
    return folded(table(pd.DataFrame(rows), f"Parameters of stage {stage}"), f"Parameters of this stage ({len(rows)})")


def cost_row(card: dict[str, Any]) -> dict[str, Any]:
    """Return the time, memory, device and profile of a stage."""
    return {
        "stage": card["stage"], "profile": card["profile"], "seconds": card["seconds"], "peak memory (MB)": card["peak_rss_mb"],
        "peak GPU memory (MB)": card["peak_gpu_mb"], "device": card["device"],
    }  # fmt: skip


def card_table(card: dict[str, Any]) -> Html:
    """Return a short form of a finished card: cost, commit, hashes, notes. All of it is in ``card.json``."""
    import pandas as pd

    git = card["git"]
    commit = f"{(git['commit'] or 'none')[:12]}{' with uncommitted changes' if git['dirty'] else ''}"
    rows = [
        ("state", card["state"]), ("identity", card["identity"]), ("git commit", commit),
        ("data, inputs", ", ".join(card["inputs"]) or "none"), ("outputs", f"{len(card['outputs'])} files, hashed in card.json"),
        *(("note", note) for note in card["notes"]), *((key, f"{value:.4g}") for key, value in card["measured"].items()),
    ]  # fmt: skip
    cost = table(pd.DataFrame([cost_row(card)]), f"Cost of stage {card['stage']}")
    rest = table(pd.DataFrame(rows, columns=["item", "value"]), f"Run card of stage {card['stage']}")
    return Html(cost.markup + rest.markup, f"{cost.text}\n{rest.text}")


class Picture:
    """A rendered figure: SVG for line art, PNG for figures with images."""

    def __init__(self, mime: str, data: bytes) -> None:
        self.mime, self.data = mime, data

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        import base64

        data = self.data.decode() if self.mime == "image/svg+xml" else base64.b64encode(self.data).decode()
        return {self.mime: data, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<figure, {self.mime}, {len(self.data)} bytes>"


def render(figure: Any) -> Picture:
    """Render a matplotlib figure to bytes that depend only on its content, without dates and random ids."""
    holds_images = any(ax.images or len(ax.collections) > 40 for ax in figure.axes) or bool(figure.images)
    crowded = any(
        sum(c.get_offsets().shape[0] for c in ax.collections if hasattr(c, "get_offsets")) > 2000 for ax in figure.axes
    )
    kind = "png" if holds_images or crowded else "svg"
    return Picture("image/svg+xml" if kind == "svg" else "image/png", _drawn(figure, kind))


def render_pdf(figure: Any) -> bytes:
    """Render a figure as a PDF page whose text remains text."""
    return _drawn(figure, "pdf")


_TICK = re.compile(r"\$\\mathdefault\{[-+.\d^{}e\\times ×−]*\}\$")  # what matplotlib's formatters write


def _names_are_text(figure: Any) -> None:
    """Draw dollar signs as such: no figure has formulas but those of its ticks; a name may have dollar signs."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if "$" in text.get_text() and not _TICK.fullmatch(text.get_text()):
            text.set_parse_math(False)


def _drawn(figure: Any, kind: str) -> bytes:
    import matplotlib

    _names_are_text(figure)
    dates: dict[str, dict[str, None]] = {
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "leuk", "svg.fonttype": "path", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=144, bbox_inches="tight", metadata=dates[kind])
    return buffer.getvalue()


def glue(name: str, value: float | int) -> None:
    """Glue a number under ``name`` for the pages of the book, without showing it.

    Writes what ``myst_nb.glue(name, value, display=False)`` does. Importing that takes 1.5 s, since nbformat compiles the
    grammars of all formats of JSON Schema.
    """
    from IPython.display import display

    prefix = "application/papermill.record/"
    display(
        {f"{prefix}text/plain": repr(value)}, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": prefix}}
    )
