"""The built book in Chromium: every page in both colour modes, axe-core, search, links, keyboard, printing.

Needs Chromium and a built book (``LEUK_BOOK_HTML`` or ``book/_build/html``); ``make book`` or ``make test`` builds one.
Screenshots land in ``results/screenshots/``.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe

from leuk_lib.stages import STAGES

pytestmark = pytest.mark.browser

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
MODES = ("light", "dark")
PAPER_WIDTH = 680  # pixels of the 180 mm between the margins of A4
# Findings of axe-core of these grades fail. ALLOWED maps ids of exceptions to their reasons; there are none.
GRADES = {"serious", "critical"}
ALLOWED: dict[str, str] = {}
STILL = "*, *::before, *::after { transition: none !important; animation: none !important }"
FIRST_PAGE, FIRST_PAGE_BYTES = "book/index.html", 1_000_000
API = "book/generated/"
API_PAGE = f"{API}api/leuk_lib.quoting.html"
Rules = Literal["all", "colours", "others"]
Options = dict[str, Any]  # of Chromium
COLOURS = ["color-contrast", "link-in-text-block"]  # most of axe-core's time
# Scripts that report problems of the open page.
IMAGES = """() => [...document.images].filter(i => getComputedStyle(i).display !== 'none' && i.naturalWidth === 0)
            .map(i => i.currentSrc.slice(0, 120))"""
OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"
MATHS = "() => document.querySelectorAll('.math').length - document.querySelectorAll('.math mjx-container svg').length"


# Waits for formulas and fonts.
SETTLED = """async () => { await document.fonts.ready;
                          if (window.MathJax && MathJax.startup) await MathJax.startup.promise; }"""
CUT = """() => [...document.querySelectorAll('article pre')].filter(pre =>
    pre.checkVisibility({contentVisibilityAuto: true}) && pre.scrollWidth > pre.clientWidth + 1).map(pre => pre.innerText)"""
# How many links, buttons and folds of the page come before the first that a selector finds.
BEFORE = """(selector) => {
  const first = document.querySelector(selector);
  return [...document.querySelectorAll("a[href], button, summary, [tabindex='0']")].filter(
    (element) => element.checkVisibility() && first.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_PRECEDING
  ).length;
}"""
# Cells with an interval that takes more than two lines, and tables that are cut at the right edge.
LINES = """() => [...document.querySelectorAll('article td')].filter(cell =>
    cell.checkVisibility({contentVisibilityAuto: true}) && /^[-+−]?[\\d.]+ \\[[^\\]]+\\]$/.test(cell.innerText.trim()))
  .filter(cell => { const range = document.createRange(); range.selectNodeContents(cell);
    return new Set([...range.getClientRects()].map(line => Math.round(line.top))).size > 2 }).map(cell => cell.innerText)"""
CUT_TABLES = """() => [...document.querySelectorAll('article .leuk-table')].filter(table =>
    table.checkVisibility({contentVisibilityAuto: true}) && table.scrollWidth > table.clientWidth + 1)
  .map(table => table.innerText.slice(0, 80))"""
SKIPPED = "() => document.activeElement.textContent.trim()"
SWITCH = "mode => { document.documentElement.dataset.mode = document.documentElement.dataset.theme = mode }"
# Contrast ratio (WCAG 2) of the running text against the page.
CONTRAST = """() => {
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const text = light(getComputedStyle(document.querySelector('article p, article, p')).color);
  return (Math.max(ground, text) + .05) / (Math.min(ground, text) + .05) }"""


class Quiet(SimpleHTTPRequestHandler):
    """A file server without a log line per request."""

    def log_message(self, format: str, *args: object) -> None:
        return


@dataclass
class Watched:
    """A browser page and the problems that occurred on it."""

    page: object
    base: str
    problems: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        self.page.goto(self.base + address)
        self.page.wait_for_load_state("load")
        self.page.add_style_tag(content=STILL)  # no colours in transition
        self.page.evaluate(SETTLED)


@pytest.fixture(scope="module")
def html(root: Path) -> Path:
    folder = Path(os.environ.get("LEUK_BOOK_HTML") or root / "book" / "_build" / "html")
    if not (folder / "index.html").exists():
        pytest.skip(f"no built book at {folder} (run `make book`, or set LEUK_BOOK_HTML)")
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback interface; the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def base(html: Path) -> Iterator[str]:
    """Address of the book."""
    with served(html) as address:
        yield address


@pytest.fixture(scope="module")
def screenshots(root: Path) -> Path:
    folder = root / "results" / "screenshots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def browse(playwright: object, chromium: Options, base: str, mode: str, width: str) -> Iterator[Watched]:
    """A new browser with a new user folder, watched for errors and requests to other machines."""
    with tempfile.TemporaryDirectory() as user:
        context = playwright.chromium.launch_persistent_context(
            user, **chromium, color_scheme=mode,
            viewport=dict(zip(("width", "height"), WIDTHS[width], strict=True)),
        )  # fmt: skip
        context.add_init_script(f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')")
        page = context.pages[0]
        watched = Watched(page, base)
        note = watched.problems.append
        page.on("pageerror", lambda error: note(f"{page.url}: script error: {error}"))
        page.on(
            "console", lambda message: note(f"{page.url}: console: {message.text}") if message.type == "error" else None
        )
        local = (base, "data:", "blob:", "about:")
        page.on("request", lambda sent: None if sent.url.startswith(local) else note(f"{page.url}: asked {sent.url}"))
        page.on("response", lambda got: note(f"{got.url}: status {got.status}") if got.status >= 400 else None)
        yield watched
        context.close()


@pytest.fixture(params=WIDTHS)
def reader(
    request: pytest.FixtureRequest, playwright: object, chromium: Options, base: str
) -> Iterator[tuple[Watched, str]]:
    for watched in browse(playwright, chromium, base, "light", request.param):
        yield watched, request.param


@pytest.fixture
def desk(playwright: object, chromium: Options, base: str) -> Iterator[Watched]:
    yield from browse(playwright, chromium, base, "light", "desktop")


def axe_findings(page: object, rules: Rules = "all") -> list[str]:
    """Return the findings of axe-core of the grades that fail."""
    # Without preload, since axe looks for the sheet that theme.css imports in the wrong folder.
    options: dict[str, object] = {"resultTypes": ["violations"], "preload": False}
    if rules == "colours":
        options["runOnly"] = {"type": "rule", "values": COLOURS}
    elif rules == "others":
        options["rules"] = {name: {"enabled": False} for name in COLOURS}
    violations = Axe().run(page, options=options).response["violations"]
    return [
        f"axe: {finding['id']} ({finding['impact']}): {finding['nodes'][0]['html'][:120]}"
        for finding in violations
        if finding["impact"] in GRADES and finding["id"] not in ALLOWED
    ]


def rules_of(name: str, mode: str, width: str) -> Rules | None:
    """Return which rules of axe-core a page must keep in a mode and at a width, without what is checked elsewhere.

    Colours do not depend on the width, and the rest does not depend on the mode. The pages of the API are large and
    uniform: they are checked at one width, and their colours on one of them (on all in ``make test-long``).
    """
    api = name.startswith(API)
    colours = name == FIRST_PAGE or (width == "desktop" and (not api or name == API_PAGE))
    others = mode == "light" and (width == "desktop" or not api)
    return "all" if colours and others else "colours" if colours else "others" if others else None


def page_names(html: Path) -> list[str]:
    """Return all pages of the book without the sources and the redirect to the first page."""
    names = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))
    return [name for name in names if not name.startswith(("_static", "_modules")) and name != "index.html"]


@pytest.mark.timeout(1500)
@pytest.mark.slow
def test_every_page_in_both_modes(html: Path, screenshots: Path, reader: tuple[Watched, str]) -> None:
    watched, width = reader
    page, note = watched.page, watched.problems.append
    for name in page_names(html):
        watched.open(name)
        if name.startswith("book/"):
            if (titles := page.locator("article h1").count()) != 1:
                note(f"{name}: {titles} titles")
            if page.locator(".leuk-run-facts").count() != 1:
                note(f"{name}: does not say which run it shows")
        if "not a medical device" not in page.locator("footer.bd-footer-content").inner_text():
            note(f"{name}: its footer does not say that this is research software")
        watched.problems += [f"{name}: picture not shown: {source}" for source in page.evaluate(IMAGES)]
        if width == "desktop" and not name.startswith(API):
            watched.problems += [f"{name}: code is cut: {code[:80]}" for code in page.evaluate(CUT)]
            watched.problems += [f"{name}: an interval over several lines: {cell}" for cell in page.evaluate(LINES)]
            watched.problems += [f"{name}: a table is cut: {table}" for table in page.evaluate(CUT_TABLES)]
        if page.evaluate(MATHS) > 0:
            note(f"{name}: a formula was not rendered")
        for mode in MODES:
            page.evaluate(SWITCH, mode)
            if page.evaluate(CONTRAST) < 7:
                note(f"{name}: text is hard to read in {mode} mode")
            if rules := rules_of(name, mode, width):
                watched.problems += [f"{name}, {mode}, {width}: {finding}" for finding in axe_findings(page, rules)]
            if (over := page.evaluate(OVERFLOW)) > 1:
                note(f"{name}: {over} px wider than the {width} screen")
            if name in (FIRST_PAGE, API_PAGE) or (not name.startswith(API) and (mode == "light" or width == "desktop")):
                file = f"{name.removesuffix('.html').replace('/', '-')}-{width}-{mode}.png"
                page.screenshot(path=screenshots / file, full_page=True)
    assert API_PAGE in page_names(html) and watched.problems == []


@pytest.mark.long
def test_colours_of_all_api_pages(html: Path, desk: Watched) -> None:
    names = [name for name in page_names(html) if name.startswith(API)]
    for name in names:
        desk.open(name)
        for mode in MODES:
            desk.page.evaluate(SWITCH, mode)
            desk.problems += [f"{name}, {mode}: {finding}" for finding in axe_findings(desk.page, "colours")]
    assert names and desk.problems == []


def test_walk_from_the_first_page_to_the_last(html: Path, desk: Watched) -> None:
    desk.page.goto(desk.base)
    desk.page.wait_for_url("**/book/index.html")
    visited = [desk.page.url]
    while (following := desk.page.locator("a.right-next")).count():
        following.first.click()
        desk.page.wait_for_load_state("load")
        assert desk.page.url not in visited, f"the next links form a cycle at {desk.page.url}"
        assert desk.page.locator("article h1").inner_text().strip()
        visited.append(desk.page.url)
    walked = {address.removeprefix(desk.base).split("#")[0] for address in visited}
    chapters = {name for name in page_names(html) if name.startswith("book/chapters/")}
    assert chapters and chapters <= walked
    written = {name for name in page_names(html) if name.startswith("book/")}
    assert written <= walked, f"no link leads to {sorted(written - walked)}"
    assert desk.problems == []


@pytest.mark.parametrize("word", ["relativistic", "bootstrap"])
def test_search_finds_a_word(desk: Watched, word: str) -> None:
    desk.open("book/index.html")
    desk.page.keyboard.press("Control+k")
    field = desk.page.locator("#pst-search-dialog input[type=search]")
    field.fill(word)
    field.press("Enter")
    desk.page.wait_for_selector("#search-results li", timeout=20_000)
    first = desk.page.locator("#search-results li a").first
    assert first.get_attribute("href")
    first.click()
    desk.page.wait_for_load_state("load")
    assert word in desk.page.locator("article").inner_text().lower()
    assert desk.problems == []


def test_colour_mode_can_be_switched_by_keyboard(desk: Watched) -> None:
    desk.open("book/index.html")
    button = desk.page.locator(".article-header-buttons .theme-switch-button")
    before = desk.page.evaluate("() => document.documentElement.dataset.mode")
    button.focus()
    desk.page.keyboard.press("Enter")
    assert desk.page.evaluate("() => document.documentElement.dataset.mode") != before
    assert desk.problems == []


def test_axe_finds_what_is_planted(desk: Watched) -> None:
    desk.open("book/index.html")
    desk.page.evaluate("() => { document.querySelector('article p').style.color = '#bbbbbb' }")
    desk.page.evaluate("() => document.querySelector('article').insertAdjacentHTML('beforeend', '<button></button>')")
    findings = " ".join(axe_findings(desk.page))
    assert "color-contrast" in findings and "button-name" in findings


def test_broken_intervals_and_cut_tables_are_found(desk: Watched) -> None:
    desk.open("book/index.html")
    assert desk.page.evaluate(LINES) == desk.page.evaluate(CUT_TABLES) == []
    desk.page.evaluate("""() => document.querySelector('article').insertAdjacentHTML('beforeend',
      '<div class="leuk-table"><table><tr><td><div style="width: 4rem">-0.197 [-0.685, +0.396]</div></td></tr></table></div>'
      + '<div class="leuk-table"><table><tr><td style="min-width: 90rem">wide</td></tr></table></div>')""")
    assert desk.page.evaluate(LINES) == ["-0.197 [-0.685, +0.396]"]
    assert desk.page.evaluate(CUT_TABLES) == ["wide"]


def test_first_page_is_small(html: Path, playwright: object, chromium: Options, base: str) -> None:
    sizes: dict[str, int] = {}
    for watched in browse(playwright, chromium, base, "light", "desktop"):
        watched.page.on("requestfinished", lambda sent: sizes.update({sent.url: sent.sizes()["responseBodySize"]}))
        watched.page.goto(watched.base + "book/index.html", wait_until="networkidle")
        assert len(sizes) > 5
        heavy = sorted(sizes.items(), key=lambda item: -item[1])[:5]
        assert sum(sizes.values()) < FIRST_PAGE_BYTES, heavy
        assert watched.problems == []


def test_the_pipeline_is_reached_and_opened_by_keyboard(reader: tuple[Watched, str]) -> None:
    watched, width = reader
    watched.open("book/index.html")
    watched.page.keyboard.press("Tab")
    assert "skip" in watched.page.evaluate(SKIPPED).lower()
    watched.page.keyboard.press("Enter")
    shape = "across" if width == "desktop" else "upright"
    links = watched.page.locator(f".leuk-{shape} a")
    assert links.count() == len(STAGES)
    assert all(link.is_visible() for link in links.all())
    assert watched.page.locator(f".leuk-{'upright' if width == 'desktop' else 'across'}").is_hidden()
    seen = []
    for _ in range(watched.page.evaluate(BEFORE, f".leuk-{shape} a") + len(STAGES)):
        watched.page.keyboard.press("Tab")
        seen.append(watched.page.evaluate("() => document.activeElement.getAttribute('aria-label') || ''"))
        if "WPAT" in seen[-1]:
            break
    assert "WPAT" in seen[-1], seen
    watched.page.keyboard.press("Enter")
    watched.page.wait_for_url("**/chapters/05_wpat.html")
    assert watched.problems == []


def test_terms_and_references_have_tooltips_on_focus(desk: Watched) -> None:
    desk.open("book/paper/overview.html")
    for target, text in (("glossary.html#term-CML", "Chronic myeloid"), ("bibliography.html", "Kouzehkanan")):
        link = desk.page.locator(f'article a[href*="{target}"]').first
        link.focus()
        tip = desk.page.locator(".tooltip.show")
        tip.wait_for(timeout=5000)
        assert text.lower() in tip.inner_text().lower()
        assert link.get_attribute("aria-describedby") == tip.get_attribute("id")
        desk.page.keyboard.press("Escape")
        tip.wait_for(state="detached", timeout=5000)
    assert desk.problems == []


def test_printed_pages_hold_the_text_and_nothing_else(desk: Watched, screenshots: Path) -> None:
    desk.page.emulate_media(media="print")
    for name in ("book/index.html", "book/chapters/09_results.html"):
        desk.open(name)
        for gone in (
            ".bd-sidebar-primary",
            ".bd-sidebar-secondary",
            ".bd-header-article",
            ".prev-next-footer",
            ".bd-header-announcement",
        ):
            shown = [part for part in desk.page.locator(gone).all() if part.is_visible()]
            assert shown == [], f"{name} prints {gone}"
        assert desk.page.locator(".leuk-run-facts").is_visible()
        assert desk.page.evaluate(CUT) == [], f"{name}: code is cut at the edge of the paper"
        desk.page.pdf(path=screenshots / f"{name.removesuffix('.html').replace('/', '-')}.pdf")
    assert desk.problems == []


#: Tables, formulas and code that reach beyond the text.
WIDE = """() => { const edge = document.querySelector('article').getBoundingClientRect().right + 1;
  return [...document.querySelectorAll('article table, article pre, article mjx-container svg')]
    .filter(e => e.checkVisibility({contentVisibilityAuto: true}) && e.getBoundingClientRect().right > edge)
    .map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 80)) }"""


def test_nothing_is_cut_on_paper(html: Path, desk: Watched) -> None:
    desk.page.emulate_media(media="print")
    desk.page.set_viewport_size({"width": PAPER_WIDTH, "height": 1000})
    for path in sorted((html / "book").glob("[!g]*/*.html")):  # without the API reference, which is in no PDF
        name = path.relative_to(html).as_posix()
        desk.open(name)
        assert desk.page.evaluate(WIDE) == [], name


def test_search_works_from_the_disk_without_a_server(html: Path, playwright: object, chromium: Options) -> None:
    for watched in browse(playwright, chromium, html.as_uri() + "/", "light", "desktop"):
        watched.page.context.set_offline(True)
        watched.page.goto(f"{html.as_uri()}/search.html?q=bootstrap")
        watched.page.wait_for_selector("#search-results li a", timeout=20_000)
        watched.page.locator("#search-results li a").first.click()
        watched.page.wait_for_load_state("load")
        assert "bootstrap" in watched.page.locator("article").inner_text().lower()
        # Without a server a browser refuses to read the pages that it would quote under each result; the results are there.
        assert [problem for problem in watched.problems if "fetch" not in problem and "ERR_FAILED" not in problem] == []
