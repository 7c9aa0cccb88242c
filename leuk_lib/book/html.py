"""Checks of the built HTML: local files and anchors exist, pictures have a text, nothing is asked of another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes by which a browser loads something on its own. Links that a reader may follow do not count.
LOADED = {
    ("img", "src"), ("img", "srcset"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"),
    ("source", "srcset"), ("video", "src"), ("audio", "src"), ("object", "data"), ("embed", "src"), ("image", "href"),
    ("use", "href"), ("input", "src"), ("video", "poster"),
}  # fmt: skip
# <link> kinds that name a relation and load nothing.
NOT_LOADED_RELATIONS = {"next", "prev", "canonical", "author", "search", "index", "help", "license", "up", "top"}
CSS_URL = re.compile(r"""url\(\s*['"]?([^'")]+)['"]?\s*\)|@import\s+['"]([^'"]+)['"]""")
# Calls in scripts that load from a fixed outer address. Addresses that a script merely mentions do not count.
JS_LOAD = re.compile(r"""(?:fetch|import|importScripts|\.open)\(\s*['"`](?:GET['"`]\s*,\s*['"`])?(https?:)?//[^'"`]+""")


class Page(HTMLParser):
    """Collects what one page loads, where it leads, its anchors, its pictures without text, its styles and scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.loaded: list[tuple[str, str]] = []
        self.without_text: list[str] = []
        self.styles: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.inside = tag if tag in ("style", "script") else self.inside
        self.anchors |= {values["id"]} if values.get("id") else set()
        if tag == "a":
            self.anchors |= {values["name"]} if values.get("name") else set()
            self.links += [values["href"]] if values.get("href") else []
        if "style" in values:
            self.styles.append(values["style"])
        if tag == "img" and not tells_something(values.get("alt", ""), values.get("src", "")):
            self.without_text.append(values.get("src", "?")[:100])
        if tag == "link" and set(values.get("rel", "").split()) <= NOT_LOADED_RELATIONS:
            return
        for name, value in values.items():
            if (tag, name.removeprefix("xlink:")) in LOADED and value:
                many = [part.split()[0] for part in value.split(",") if part.strip()] if name == "srcset" else [value]
                self.loaded += [(tag, address) for address in many]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.inside = ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.styles.append(data)


def tells_something(alt: str, source: str) -> bool:
    """False for an empty text and for one that is the picture's file name, which Sphinx puts where none was given."""
    return bool(alt.strip()) and Path(urlsplit(alt).path).name != Path(urlsplit(source).path).name


def is_external(address: str) -> bool:
    """True for an address on another machine (``https://…``, ``//…``); false for local files, data and anchors."""
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ws", "wss", "ftp")


def local_file(page: Path, html: Path, address: str) -> Path | None:
    """The file that a local address means; None for data, anchors and script addresses."""
    parts = urlsplit(address.strip())
    if is_external(address) or parts.scheme in ("data", "javascript", "blob", "about", "mailto") or not parts.path:
        return None
    base = html if parts.path.startswith("/") else page.parent
    return base / unquote(parts.path).lstrip("/")


def read_page(page: Path) -> Page:
    """What one built page holds."""
    parser = Page()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def page_problems(page: Path, html: Path, parser: Page) -> list[str]:
    """What is wrong with one built page by itself; ``html`` is the folder of the whole book."""
    problems = [f"a picture has no alt text: {source}" for source in parser.without_text]
    for tag, address in parser.loaded:
        if is_external(address):
            problems.append(f"<{tag}> loads from outside: {address}")
        elif (path := local_file(page, html, address)) is not None:
            if not path.is_file():
                problems.append(f"<{tag}> names a file that is not there: {address}")
            elif path.stat().st_size == 0:
                problems.append(f"<{tag}> names an empty file: {address}")
    problems += [f"a style loads from outside: {address}" for address in style_addresses("\n".join(parser.styles))]
    return problems


def link_problems(page: Path, html: Path, pages: Mapping[Path, Page]) -> list[str]:
    """Links of one page that lead to no file, or to no anchor of the page that they name.

    ``pages`` are all pages of the book by their resolved paths.
    """
    problems = []
    for address in dict.fromkeys(pages[page.resolve()].links):
        parts = urlsplit(address.strip())
        if is_external(address) or parts.scheme:
            continue
        target = local_file(page, html, address) or page
        target = (target / "index.html" if target.is_dir() else target).resolve()
        if not target.is_file():
            problems.append(f"a link leads nowhere: {address}")
        elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
            problems.append(f"a link leads to no place of its page: {address}")
    return problems


def style_addresses(css: str) -> list[str]:
    """Outer addresses that a style sheet loads."""
    found = [first or second for first, second in CSS_URL.findall(css)]
    return [address for address in found if is_external(address)]


def script_addresses(script: str) -> list[str]:
    """Outer addresses that a script asks for in plain sight."""
    return [match.group(0)[:120] for match in JS_LOAD.finditer(script)]


def problems(html: Path) -> Iterator[str]:
    """Every problem of a built book, each beginning with the file it is in."""
    written = [page for page in sorted(html.rglob("*.html")) if "_static" not in page.relative_to(html).parts]
    if not written:
        yield f"{html}: no pages"
    pages = {page.resolve(): read_page(page) for page in written}
    for page in written:
        found = page_problems(page, html, pages[page.resolve()]) + link_problems(page, html, pages)
        yield from (f"{page.relative_to(html)}: {problem}" for problem in found)
    for sheet in sorted(html.rglob("*.css")):
        found = style_addresses(sheet.read_text(encoding="utf-8", errors="replace"))
        yield from (f"{sheet.relative_to(html)}: loads from outside: {address}" for address in found)
    for script in sorted(html.rglob("*.js")):
        found = script_addresses(script.read_text(encoding="utf-8", errors="replace"))
        yield from (f"{script.relative_to(html)}: loads from outside: {address}" for address in found)
