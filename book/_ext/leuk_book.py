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

SMOKE = "Smoke run: not a result. Sizes and steps are cut down so that the whole sequence can be tested in minutes."
RENDERED = "Rendered cells: shows that the method and the code work, not how well leukemia is recognised."
RESEARCH = "Research software, no medical device."
FIRST_HEADING = re.compile(r"</h1>")
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)


def banner_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """``(kind, text)`` of the banners that a run's pages carry."""
    lines = []
    if facts.get("profile") == "smoke":
        lines.append(("smoke", SMOKE))
    if facts.get("rendered"):
        lines.append(("rendered", RENDERED))
    return lines


def banner_html(facts: dict[str, Any], page: str = "") -> str:
    """The banner under a page's title: what the run is, what its numbers are not, how long the page takes to read."""
    commit = f", commit {facts['commit'][:10]}" + ("*" if facts.get("dirty") else "") if facts.get("commit") else ""
    told = f"Data set “{facts['dataset']}”, profile “{facts['profile']}”, run “{facts['run']}”{commit}. {RESEARCH}"
    minutes = facts.get("reading", {}).get(page)
    if minutes:
        told += f" Reading time: about {minutes} min."
    parts = [f'<p class="leuk-{kind}">{html.escape(text)}</p>' for kind, text in banner_lines(facts)]
    return f'<div class="leuk-run" role="note">{"".join(parts)}<p class="leuk-run-facts">{html.escape(told)}</p></div>'


def add_banner(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the banner under the title of every page that has content."""
    facts = app.config.leuk_run
    if doctree is None or not facts or not context.get("body"):
        return
    context["body"] = FIRST_HEADING.sub(
        lambda match: match.group(0) + banner_html(facts, pagename), context["body"], count=1
    )


def tidy(markup: str) -> str:
    """Markup that assistive technology stumbles over, put right.

    Signatures over several lines are no definition lists, and the roles of a bibliography's entries do not belong
    to its elements.
    """

    def signature(match: re.Match[str]) -> str:
        text = re.sub(r"<dl>", '<span class="leuk-params">', match.group(0)).replace("</dl>", "</span>")
        return re.sub(r"<dd>", '<span class="leuk-param">', text).replace("</dd>", "</span>")

    markup = SIGNATURE.sub(signature, markup)
    markup = markup.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    markup = markup.replace('<summary aria-label="Toggle hidden content">', "<summary>")  # it shows another text
    return markup.replace(' role="doc-biblioentry"', "")


def name_toggles(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Tidy the page's body, and give the arrows that unfold the table of contents a name."""
    if context.get("body"):
        context["body"] = tidy(context["body"])
    tree = context.get("generate_toctree_html")
    if tree is None:
        return

    def named(*args: Any, **settings: Any) -> Any:
        made = tree(*args, **settings)
        if settings.get("kind") != "sidebar":
            return made
        return str(made).replace("<summary>", '<summary aria-label="Subsections">')

    context["generate_toctree_html"] = named


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
    # Jupyter Book sets it for an extension that this book leaves out.
    app.add_config_value("comments_config", {}, "html", dict)
    app.connect("config-inited", read_facts)
    app.connect("config-inited", bundle_mathjax)
    app.connect("html-page-context", add_banner)
    app.connect("html-page-context", name_toggles, priority=900)  # after the theme's own additions
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
