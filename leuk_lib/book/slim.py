"""Remove scripts that a built page does not use. The theme puts more than 3.8 MB of them on every page.

- ``fontawesome.js`` draws as SVG the icons that the theme's own style sheet draws with a font.
- ``searchindex.js`` with its tools serves search-as-you-type, which this book does not use. The search page keeps them.
- MathJax is removed from pages without a formula.
"""

from __future__ import annotations

import re
from pathlib import Path

from leuk_lib.runs.files import write_text

ICONS = re.compile(r'\s*<script[^>]*src="[^"]*/scripts/fontawesome\.js[^"]*"[^>]*></script>')
SEARCH = re.compile(r'\s*<script[^>]*src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"[^>]*></script>')
MATHJAX = re.compile(r'\s*<script[^>]*src="[^"]*tex-svg\.js[^"]*"[^>]*></script>')
FORMULA = re.compile(r'class="[^"]*\bmath\b')


def slim(markup: str, is_search: bool = False) -> str:
    """Return one page without the scripts that it does not use."""
    markup = ICONS.sub("", markup)
    if not is_search:
        markup = SEARCH.sub("", markup)
    return markup if FORMULA.search(markup) else MATHJAX.sub("", markup)


def slim_pages(html: Path) -> None:
    """Apply :func:`slim` to every page of a built book."""
    for page in sorted(html.rglob("*.html")):
        if "_static" not in page.relative_to(html).parts:
            write_text(page, slim(page.read_text(encoding="utf-8"), is_search=page.name == "search.html"))
