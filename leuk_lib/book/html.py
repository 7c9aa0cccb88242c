"""Checks of the built HTML: local files and anchors exist, images have alt text, and nothing loads from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes from which a browser loads something by itself. Links that a reader may follow do not count.
LOADED = {
    ("img", "src"), ("img", "srcset"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"),
    ("source", "srcset"), ("video", "src"), ("audio", "src"), ("object", "data"), ("embed", "src"), ("image", "href"),
    ("use", "href"), ("input", "src"), ("video", "poster"),
}  # fmt: skip
# Values of <link rel=…> that load nothing.
NOT_LOADED_RELATIONS = {"next", "prev", "canonical", "author", "search", "index", "help", "license", "up", "top"}
CSS_URL = re.compile(r"""url\(\s*['"]?([^'")]+)['"]?\s*\)|@import\s+['"]([^'"]+)['"]""")
# Calls in scripts that load from a fixed external address. Addresses that a script only mentions do not count.
JS_LOAD = re.compile(r"""(?:fetch|import|importScripts|\.open)\(\s*['"`](?:GET['"`]\s*,\s*['"`])?(https?:)?//[^'"`]+""")


class Page(HTMLParser):
    """Collects what a page loads, its links, anchors, styles, and images without alt text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.loaded: list[tuple[str, str]] = []
        self.without_alt: list[str] = []
        self.styles: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the element loads, links to, and is called."""
        values = {name: value or "" for name, value in attrs}
        self.inside = tag if tag in ("style", "script") else self.inside
        self.anchors |= {values["id"]} if values.get("id") else set()
        if tag == "a":
            self.anchors |= {values["name"]} if values.get("name") else set()
            self.links += [values["href"]] if values.get("href") else []
        if "style" in values:
            self.styles.append(values["style"])
        if tag == "img" and not is_alt_text(values.get("alt", ""), values.get("src", "")):
            self.without_alt.append(values.get("src", "?")[:100])
        if tag == "link" and set(values.get("rel", "").split()) <= NOT_LOADED_RELATIONS:
            return
        for name, value in values.items():
            if (tag, name.removeprefix("xlink:")) in LOADED and value:
                addresses = (
                    [part.split()[0] for part in value.split(",") if part.strip()] if name == "srcset" else [value]
                )
                self.loaded += [(tag, address) for address in addresses]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Handle an element without content."""
        self.handle_starttag(tag, attrs)
        self.inside = ""

    def handle_endtag(self, tag: str) -> None:
        """Leave a style or script."""
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        """Collect the text of styles."""
        if self.inside == "style":
            self.styles.append(data)


def is_alt_text(alt: str, source: str) -> bool:
    """Return whether ``alt`` describes the image. Sphinx puts the file name where no text was given."""
    return bool(alt.strip()) and Path(urlsplit(alt).path).name != Path(urlsplit(source).path).name


def is_external(address: str) -> bool:
    """Return whether an address is on another machine (``https://…``, ``//…``)."""
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ws", "wss", "ftp")


def local_file(page: Path, html: Path, address: str) -> Path | None:
    """Return the file of a local address, or None for data, anchors and script addresses."""
    parts = urlsplit(address.strip())
    if is_external(address) or parts.scheme in ("data", "javascript", "blob", "about", "mailto") or not parts.path:
        return None
    base = html if parts.path.startswith("/") else page.parent
    return base / unquote(parts.path).lstrip("/")


def read_page(page: Path) -> Page:
    """Parse one built page."""
    parser = Page()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def page_problems(page: Path, html: Path, parser: Page) -> list[str]:
    """Return the problems of one page, without those of its links. ``html`` is the folder of the book."""
    problems = [f"an image has no alt text: {source}" for source in parser.without_alt]
    for tag, address in parser.loaded:
        if is_external(address):
            problems.append(f"<{tag}> loads from outside: {address}")
        elif (path := local_file(page, html, address)) is not None:
            if not path.is_file():
                problems.append(f"<{tag}> names a missing file: {address}")
            elif path.stat().st_size == 0:
                problems.append(f"<{tag}> names an empty file: {address}")
    problems += [f"a style loads from outside: {address}" for address in style_addresses("\n".join(parser.styles))]
    return problems


def link_problems(page: Path, html: Path, pages: Mapping[Path, Page]) -> list[str]:
    """Return the links of one page whose file or anchor does not exist.

    ``pages`` maps resolved paths to all pages of the book.
    """
    problems = []
    for address in dict.fromkeys(pages[page.resolve()].links):
        parts = urlsplit(address.strip())
        if is_external(address) or parts.scheme:
            continue
        target = local_file(page, html, address) or page
        target = (target / "index.html" if target.is_dir() else target).resolve()
        if not target.is_file():
            problems.append(f"a link names a missing file: {address}")
        elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
            problems.append(f"a link names a missing anchor: {address}")
    return problems


def style_addresses(css: str) -> list[str]:
    """Return the external addresses that a style sheet loads."""
    addresses = [first or second for first, second in CSS_URL.findall(css)]
    return [address for address in addresses if is_external(address)]


def script_addresses(script: str) -> list[str]:
    """Return the fixed external addresses that a script loads."""
    return [match.group(0)[:120] for match in JS_LOAD.finditer(script)]


def problems(html: Path) -> Iterator[str]:
    """Yield every problem of a built book, each with the name of its file."""
    paths = [page for page in sorted(html.rglob("*.html")) if "_static" not in page.relative_to(html).parts]
    if not paths:
        yield f"{html}: no pages"
    pages = {page.resolve(): read_page(page) for page in paths}
    for page in paths:
        for problem in page_problems(page, html, pages[page.resolve()]) + link_problems(page, html, pages):
            yield f"{page.relative_to(html)}: {problem}"
    for suffix, external_addresses in (("css", style_addresses), ("js", script_addresses)):
        for file in sorted(html.rglob(f"*.{suffix}")):
            for address in external_addresses(file.read_text(encoding="utf-8", errors="replace")):
                yield f"{file.relative_to(html)}: loads from outside: {address}"
