"""Links to terms and references carry their text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
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
    shortened = hover.shorten(text)
    page = hover.with_tooltips(
        '<a class="reference internal" href="../glossary.html#t">x</a>', {"glossary": {"t": shortened}}
    )
    (link,) = BeautifulSoup(page, "html.parser").find_all("a")
    if shortened.isprintable():
        assert link["data-bs-title"] == shortened
    assert (
        link["data-bs-toggle"] == "tooltip"
        and link["href"] == "../glossary.html#t"
        and len(shortened) <= hover.MAX_LENGTH + 2
    )


def test_the_text_of_a_term_is_its_first_paragraph(hover: ModuleType) -> None:
    term = nodes.term("", "gain", ids=["term-gain"])
    definition = nodes.definition("", nodes.paragraph("", "A share."), nodes.paragraph("", "Chapter 2; code: x."))
    tree = nodes.section("", nodes.definition_list("", nodes.definition_list_item("", term, definition)))
    assert hover.definitions(tree) == {"term-gain": "A share."}


@pytest.mark.parametrize("link", ['<a class="reference internal" href="../other.html#t">x</a>', '<a class="headerlink" href="../glossary.html#t">#</a>',
                                  '<a class="reference internal" href="../glossary.html#unknown">x</a>'])  # fmt: skip
def test_other_links_stay(hover: ModuleType, link: str) -> None:
    assert hover.with_tooltips(link, {"glossary": {"t": "text"}}) == link


def test_tooltips_are_added_once_and_replace_a_title(hover: ModuleType) -> None:
    known = {"bibliography": {"id1": "A book"}}
    once = hover.with_tooltips('<a class="reference internal" href="bibliography.html#id1" title="old">x</a>', known)
    assert 'title="old"' not in once and 'data-bs-title="A book"' in once
    assert hover.with_tooltips(once, known) == once
