"""Sphinx extension of this book: banners of the run on every page, docstrings as plain text, tidier HTML.

The banners say what the numbers on the page are worth: that a smoke run is not a result, and that rendered cells
show that the code works. They come from ``book/generated/run.json``, which the build writes for the run it shows.
"""

from __future__ import annotations

import html
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SMOKE = "Smoke run: not a result. Sizes and steps are cut down so that the whole sequence can be tested in minutes."
RENDERED = "Rendered cells: shows that the method and the code work, not how well leukemia is recognised."
RESEARCH = "Research software, no medical device."
FIRST_HEADING = re.compile(r"</h1>")
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
LITERAL = re.compile(r"(``.+?``)", re.DOTALL)
ROLE = re.compile(r":(?:meth|func|class|mod|attr|data|exc|obj):`~?([^`]+)`")
SPECIAL = re.compile(r"([\\*`|])")
TRAILING_UNDERSCORE = re.compile(r"(?<=\w)_(?=\W|$)")


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


def plain_docstring(lines: list[str]) -> list[str]:
    """Docstring lines as reStructuredText that reads as it was written and is always well formed.

    Docstrings here are plain text with ``literals`` and ``- `` lists; ``|x|``, ``*`` or ``x_`` in a formula are not
    markup. Doctests and indented blocks after ``::`` stay as they are.
    """
    shown: list[str] = []
    literal = False
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        rows = block.split("\n")
        if literal and all(row.startswith(" ") for row in rows if row):
            shown.append("\n".join(rows))
            continue
        if block.lstrip().startswith(">>>"):
            shown.append(textwrap.dedent(block).strip("\n"))
            continue
        literal = block.rstrip().endswith("::")
        items: list[str] = []
        for row in filter(None, (row.strip() for row in rows)):
            if row.startswith(("- ", "* ")) or not items:
                items.append(row)
            else:
                items[-1] += f" {row}"
        shown += [_prose(item) for item in items]
    return [*"\n\n".join(shown).split("\n"), ""]


def _prose(text: str) -> str:
    """One paragraph or list item in which only ``literals`` are markup."""
    bullet = "- " if text.startswith(("- ", "* ")) else ""
    text = ROLE.sub(lambda match: f"``{match.group(1)}``", text.removeprefix("- ").removeprefix("* "))
    pieces = LITERAL.split(text)
    pieces[::2] = [_escape(_single(piece)) for piece in pieces[::2]]
    return bullet + "".join(pieces)


def _single(text: str) -> str:
    """Names in single backticks lose them: reStructuredText would look for a reference."""
    return re.sub(r"`([^`\n]+)`_{0,2}", r"\1", text)


def _escape(text: str) -> str:
    return TRAILING_UNDERSCORE.sub(r"\\_", SPECIAL.sub(r"\\\1", text))


def safe_docstring(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """``autodoc-process-docstring``: see :func:`plain_docstring`."""
    lines[:] = plain_docstring(lines)


def skip_foreign(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """``autodoc-skip-member``: what other packages define has its documentation there."""
    home = getattr(obj, "__module__", None)
    foreign = isinstance(home, str) and not home.startswith("leuk_lib") and callable(obj)
    return True if foreign or name in ("model_config", "model_post_init") else None


def read_facts(app: Sphinx, config: Any) -> None:
    """Read the facts of the run that this book shows."""
    path = Path(app.srcdir) / "book" / "generated" / "run.json"
    config.leuk_run = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("leuk_run", {}, "html", dict)
    # Jupyter Book sets it for an extension that this book leaves out.
    app.add_config_value("comments_config", {}, "html", dict)
    app.connect("config-inited", read_facts)
    app.connect("html-page-context", add_banner)
    app.connect("html-page-context", name_toggles, priority=900)  # after the theme's own additions
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("autodoc-process-docstring", safe_docstring)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
