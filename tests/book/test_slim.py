"""Pages lose the scripts that they do not use, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from leuk_lib.book.slim import slim, slim_pages

ICONS = '<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>'
SEARCH = '<script src="../_static/searchtools.js"></script><script src="../searchindex.js"></script>'
MATHJAX = '<script defer="defer" src="../_static/tex-svg.js?v=5"></script>'
KEPT = '<script src="../_static/leuk.js"></script><script>let a = 1</script>'
FORMULA = '<span class="math notranslate nohighlight">x</span>'


@pytest.mark.parametrize(
    ("body", "is_search", "left"),
    [("", False, ""), ("", True, SEARCH), (FORMULA, False, MATHJAX + FORMULA), ("aftermath", False, "aftermath"),
     ('<p class="aftermath">', False, '<p class="aftermath">')],
)  # fmt: skip
def test_what_goes_and_what_stays(body: str, is_search: bool, left: str) -> None:
    page = f"<html>{KEPT}{ICONS}{SEARCH}{MATHJAX}{body}</html>"
    assert slim(page, is_search) == f"<html>{KEPT}{left}</html>"
    assert slim(slim(page, is_search), is_search) == slim(page, is_search)


def test_all_pages_but_the_static_ones(tmp_path: Path) -> None:
    for name in ("a.html", "search.html", "_static/webpack-macros.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ICONS + SEARCH)
    slim_pages(tmp_path)
    assert [(tmp_path / name).read_text() for name in ("a.html", "search.html", "_static/webpack-macros.html")] == [
        "", SEARCH, ICONS + SEARCH
    ]  # fmt: skip
