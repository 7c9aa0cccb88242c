"""How long a page takes to read: its words, and a look at each figure."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

WORDS_A_MINUTE = 200  # of technical prose; a common rule of thumb, not measured on readers of this book
SECONDS_A_FIGURE = 15
NOT_READ = re.compile(
    r"^(`{3,}|~{3,})[^\n]*\n.*?^\1[^\n]*$|<[^>]+>|\{[a-z:-]+\}|https?://\S+", re.DOTALL | re.MULTILINE
)
WORD = re.compile(r"[^\W_][\w’'-]*")


def words(markdown: str) -> int:
    """Words of a markdown text without code blocks, directives' names, tags and addresses."""
    return len(WORD.findall(NOT_READ.sub(" ", markdown)))


def minutes(word_count: int, figures: int = 0) -> int:
    """Whole minutes, at least one."""
    return max(1, math.ceil(word_count / WORDS_A_MINUTE + figures * SECONDS_A_FIGURE / 60))


def page_minutes(path: Path) -> int:
    """Reading time of a page's source: ``.md``, or a notebook, of which the text cells and the figures count."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return minutes(words(text))
    cells = json.loads(text)["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    figures = sum("mystnb" in cell.get("metadata", {}) for cell in cells if cell["cell_type"] == "code")
    return minutes(words(prose), figures)


def reading_times(root: Path) -> dict[str, int]:
    """Page name (as Sphinx calls it) -> minutes, of every written page and chapter; generated reference pages are left out."""
    pages = [*sorted((root / "book").rglob("*.md")), *sorted((root / "book" / "chapters").glob("*.ipynb"))]
    told = [path for path in pages if not {"generated", "_build"} & set(path.relative_to(root / "book").parts)]
    return {path.relative_to(root).with_suffix("").as_posix(): page_minutes(path) for path in told}
