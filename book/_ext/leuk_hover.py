"""Sphinx extension: links to glossary terms and references show their text in a tooltip, on hover and on focus.

The theme brings Bootstrap, which makes a tooltip of every element with ``data-bs-toggle="tooltip"``.
"""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PAGES = {"glossary": "book/glossary", "bibliography": "book/bibliography"}
LINK = re.compile(r'<a class="reference internal" href="(?P<page>[^"#]*)#(?P<id>[^"]+)"(?P<rest>[^>]*)>')
MAX_LENGTH = 420


def shorten(text: str) -> str:
    """Put ``text`` on one line and cut it after a word if it is too long for a tooltip."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH].rsplit(" ", 1)[0] + " …"


def definitions(tree: nodes.document) -> dict[str, str]:
    """Return ``{anchor: text}`` of the terms of a glossary and the entries of a bibliography.

    The text of a term is the first paragraph of its definition; the second one links to chapter and code.
    """
    texts = {}
    for item in tree.findall(nodes.definition_list_item):
        text = " ".join(part.children[0].astext() for part in item.findall(nodes.definition))
        texts.update({anchor: shorten(text) for term in item.findall(nodes.term) for anchor in term["ids"]})
    for entry in tree.findall(nodes.citation):
        text = " ".join(part.astext() for part in entry.children if not isinstance(part, nodes.label))
        texts.update({anchor: shorten(text) for anchor in entry["ids"]})
    return texts


def with_tooltips(markup: str, texts: dict[str, dict[str, str]]) -> str:
    """Add tooltips to links. ``texts`` maps the names of pages to ``{anchor: text}``."""

    def with_tooltip(match: re.Match[str]) -> str:
        page = match["page"].rsplit("/", 1)[-1].removesuffix(".html")
        text = texts.get(page, {}).get(match["id"])
        if not text or "data-bs-toggle" in match["rest"]:
            return match.group(0)
        rest = re.sub(r'\s*title="[^"]*"', "", match["rest"])
        return (
            f'<a class="reference internal" href="{match["page"]}#{match["id"]}"{rest} data-bs-toggle="tooltip" '
            f'data-bs-title="{html.escape(text, quote=True)}">'
        )

    return LINK.sub(with_tooltip, markup)


def add_tooltips(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add tooltips to the page's links to terms and references."""
    if doctree is None or not context.get("body") or pagename in PAGES.values():
        return
    texts = getattr(app, "leuk_definitions", None)
    if texts is None:
        documents = {name: page for name, page in PAGES.items() if page in app.env.found_docs}
        texts = {
            name: definitions(app.env.get_and_resolve_doctree(page, app.builder)) for name, page in documents.items()
        }
        app.leuk_definitions = texts  # type: ignore[attr-defined]
    context["body"] = with_tooltips(context["body"], texts)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("html-page-context", add_tooltips)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
