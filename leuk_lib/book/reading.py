"""Reading time of a page, from its words and figures."""

from __future__ import annotations

import math
import re
from pathlib import Path

from leuk_lib.runs.notebooks import read_notebook

WORDS_PER_MINUTE = 200  # a rule of thumb for technical prose, not measured
SECONDS_PER_FIGURE = 15
NOT_READ = re.compile(
    r"^(`{3,}|~{3,})[^\n]*\n.*?^\1[^\n]*$|<[^>]+>|\{[a-z:-]+\}|https?://\S+", re.DOTALL | re.MULTILINE
)
WORD = re.compile(r"[^\W_][\w’'-]*")


def words(markdown: str) -> int:
    """Count the words of a Markdown text without code blocks, names of directives, tags and addresses.

    >>> words("Two words `x`{term}")
    3
    """
    return len(WORD.findall(NOT_READ.sub(" ", markdown)))


def minutes(word_count: int, figures: int = 0) -> int:
    """Return the reading time in whole minutes, at least 1."""
    return max(1, math.ceil(word_count / WORDS_PER_MINUTE + figures * SECONDS_PER_FIGURE / 60))


def page_minutes(path: Path) -> int:
    """Return the reading time of an ``.md`` file or of a notebook's text and figures, in minutes."""
    if path.suffix != ".ipynb":
        return minutes(words(path.read_text(encoding="utf-8")))
    cells = read_notebook(path)["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    figures = sum("mystnb" in cell.get("metadata", {}) for cell in cells if cell["cell_type"] == "code")
    return minutes(words(prose), figures)


def reading_times(root: Path) -> dict[str, int]:
    """Return ``{Sphinx's page name: minutes}`` of every written page and chapter, without generated pages."""
    pages = [*sorted((root / "book").rglob("*.md")), *sorted((root / "book" / "chapters").glob("*.ipynb"))]
    written = [
        path for path in pages if not {"generated", "_build", "changes"} & set(path.relative_to(root / "book").parts)
    ]
    return {path.relative_to(root).with_suffix("").as_posix(): page_minutes(path) for path in written}
