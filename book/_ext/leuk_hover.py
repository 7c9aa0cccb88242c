"""Sphinx extension: a link to a glossary term or to a reference shows what it leads to, on hover and on focus.

The tooltips are Bootstrap's, which the theme brings and starts for every element with ``data-bs-toggle="tooltip"``.
"""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PAGES = {"glossary": "book/glossary", "bibliography": "book/bibliography"}
LINK = re.compile(r'<a class="reference internal" href="(?P<page>[^"#]*)#(?P<id>[^"]+)"(?P<rest>[^>]*)>')
LONGEST = 420


def shorten(text: str) -> str:
    """``text`` in one line, cut at a word's end where it is too long to be read in a tooltip."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def definitions(tree: nodes.document) -> dict[str, str]:
    """Anchor -> text of every term of a glossary and of every entry of a bibliography."""
    found = {}
    for item in tree.findall(nodes.definition_list_item):
        told = " ".join(part.astext() for part in item.findall(nodes.definition))
        found.update({anchor: shorten(told) for term in item.findall(nodes.term) for anchor in term["ids"]})
    for entry in tree.findall(nodes.citation):
        told = " ".join(part.astext() for part in entry.children if not isinstance(part, nodes.label))
        found.update({anchor: shorten(told) for anchor in entry["ids"]})
    return found


def with_hover(markup: str, known: dict[str, dict[str, str]]) -> str:
    """``markup`` in which links to known anchors carry their text; ``known``: page's file name -> anchor -> text."""

    def told(match: re.Match[str]) -> str:
        page = match["page"].rsplit("/", 1)[-1].removesuffix(".html")
        text = known.get(page, {}).get(match["id"])
        if not text or "data-bs-toggle" in match["rest"]:
            return match.group(0)
        rest = re.sub(r'\s*title="[^"]*"', "", match["rest"])
        return (
            f'<a class="reference internal" href="{match["page"]}#{match["id"]}"{rest} data-bs-toggle="tooltip" '
            f'data-bs-title="{html.escape(text, quote=True)}">'
        )

    return LINK.sub(told, markup)


def add_hover(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give the page's links to terms and references their text."""
    if doctree is None or not context.get("body") or pagename in PAGES.values():
        return
    known = getattr(app, "leuk_definitions", None)
    if known is None:
        documents = {name: page for name, page in PAGES.items() if page in app.env.found_docs}
        known = {
            name: definitions(app.env.get_and_resolve_doctree(page, app.builder)) for name, page in documents.items()
        }
        app.leuk_definitions = known  # type: ignore[attr-defined]
    context["body"] = with_hover(context["body"], known)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("html-page-context", add_hover)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
