"""Sphinx extension of this book: a banner on every page, MathJax without a network, fixes of the theme's HTML.

The banner names the run and says what its numbers are worth: a smoke run is not a result, and rendered cells only
show that the code works. It is made from ``book/generated/run.json``, which the build writes.
"""

from __future__ import annotations

import html
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from leuk_lib.runs.display import RENDERED, SMOKE

FIRST_HEADING = re.compile(r"</h1>")
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)


def banner_html(facts: dict[str, Any], page: str = "") -> str:
    """Return the banner under a page's title: the run, what its numbers are worth, and the reading time."""
    warnings = {
        "smoke": SMOKE if facts["profile"] == "smoke" else "",
        "rendered": RENDERED if facts["rendered"] else "",
    }
    commit = f", commit {facts['commit'][:10]}" + ("*" if facts.get("dirty") else "") if facts.get("commit") else ""
    text = f"Data set “{facts['dataset']}”, profile “{facts['profile']}”, run “{facts['run']}”{commit}."
    if minutes := facts.get("reading", {}).get(page):
        text += f" Reading time: about {minutes} min."
    parts = [f'<p class="leuk-{kind}">{html.escape(line)}</p>' for kind, line in warnings.items() if line]
    return f'<div class="leuk-run" role="note">{"".join(parts)}<p class="leuk-run-facts">{html.escape(text)}</p></div>'


def add_banner(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the banner under the title of every page."""
    facts = app.config.leuk_run
    if doctree is None or not facts or not context.get("body"):
        return
    context["body"] = FIRST_HEADING.sub(
        lambda match: match.group(0) + banner_html(facts, pagename), context["body"], count=1
    )


def tidy(markup: str) -> str:
    """Fix markup that assistive technology misreads.

    Signatures over several lines are not definition lists, and the entries of a bibliography have roles that their
    elements may not have.
    """

    def signature(match: re.Match[str]) -> str:
        text = re.sub(r"<dl>", '<span class="leuk-params">', match.group(0)).replace("</dl>", "</span>")
        return re.sub(r"<dd>", '<span class="leuk-param">', text).replace("</dd>", "</span>")

    markup = SIGNATURE.sub(signature, markup)
    markup = markup.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    markup = markup.replace('<summary aria-label="Toggle hidden content">', "<summary>")  # its visible text differs
    return markup.replace(' role="doc-biblioentry"', "")


def tidy_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Fix the page's body, and name the arrows that unfold the table of contents."""
    if context.get("body"):
        context["body"] = tidy(context["body"])
    tree = context.get("generate_toctree_html")
    if tree is None:
        return

    def with_named_arrows(*args: Any, **settings: Any) -> Any:
        markup = tree(*args, **settings)
        if settings.get("kind") != "sidebar":
            return markup
        return str(markup).replace("<summary>", '<summary aria-label="Subsections">')

    context["generate_toctree_html"] = with_named_arrows


def read_facts(app: Sphinx, config: Any) -> None:
    """Read the facts of the run that this book shows."""
    path = Path(app.srcdir) / "book" / "generated" / "run.json"
    config.leuk_run = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def bundle_mathjax(app: Sphinx, config: Any) -> None:
    """Copy MathJax's one-file SVG build into the book.

    It comes from the package ``sphinx-mathjax-offline``, which as an extension would copy all 24 MB of MathJax and
    choose the HTML output, whose fonts Firefox does not load in pages opened from disk.
    """
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or not package.submodule_search_locations:
        raise ExtensionError("the package sphinx-mathjax-offline is not installed: run `make env`")
    config.html_static_path.append(f"{package.submodule_search_locations[0]}/static/mathjax/{config.mathjax_path}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("leuk_run", {}, "html", dict)
    # Jupyter Book sets this value for an extension that this book does not use.
    app.add_config_value("comments_config", {}, "html", dict)
    app.connect("config-inited", read_facts)
    app.connect("config-inited", bundle_mathjax)
    app.connect("html-page-context", add_banner)
    app.connect("html-page-context", tidy_page, priority=900)  # after the theme
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
