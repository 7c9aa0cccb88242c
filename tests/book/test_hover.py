"""Links to terms and references carry what they lead to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def hover(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("leuk_hover", root / "book" / "_ext" / "leuk_hover.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(text=st.text(min_size=1).filter(str.strip))
def test_any_text_is_one_attribute(hover: ModuleType, text: str) -> None:
    told = hover.shorten(text)
    page = hover.with_hover('<a class="reference internal" href="../glossary.html#t">x</a>', {"glossary": {"t": told}})
    (link,) = BeautifulSoup(page, "html.parser").find_all("a")
    if told.isprintable():
        assert link["data-bs-title"] == told
    assert (
        link["data-bs-toggle"] == "tooltip" and link["href"] == "../glossary.html#t" and len(told) <= hover.LONGEST + 2
    )


@pytest.mark.parametrize("link", ['<a class="reference internal" href="../other.html#t">x</a>', '<a class="headerlink" href="../glossary.html#t">#</a>',
                                  '<a class="reference internal" href="../glossary.html#unknown">x</a>'])  # fmt: skip
def test_other_links_stay(hover: ModuleType, link: str) -> None:
    assert hover.with_hover(link, {"glossary": {"t": "told"}}) == link


def test_twice_is_once_and_a_title_makes_room(hover: ModuleType) -> None:
    known = {"bibliography": {"id1": "A book"}}
    once = hover.with_hover('<a class="reference internal" href="bibliography.html#id1" title="old">x</a>', known)
    assert 'title="old"' not in once and 'data-bs-title="A book"' in once
    assert hover.with_hover(once, known) == once
