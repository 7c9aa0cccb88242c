"""The built book in Chromium: every page in both colour modes, axe-core, search, links, keyboard, printing.

Needs Chromium and a built book (``LEUK_BOOK_HTML`` or ``book/_build/html``); ``make book`` or ``make test`` builds one.
Screenshots are written to ``results/screenshots/``: of each state with a finding, and in ``make test-long`` of all pages.
"""

from __future__ import annotations

import functools
import os
import shutil
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
API_PAGES = (API_PAGE, f"{API}api/leuk_lib.data.html")  # a small and a large one
CHAPTERS = "book/chapters/"
ONE_EACH = (FIRST_PAGE, "search.html", "book/glossary.html", "book/use/laptop.html", "book/reproduce/figures.html")
Rules = Literal["all", "colours", "others"]
COLOURS = ["color-contrast", "link-in-text-block"]  # most of axe-core's time
# Scripts that report problems of the open page.
IMAGES = """() => [...document.images].filter(i => getComputedStyle(i).display !== 'none' && i.naturalWidth === 0)
            .map(i => i.currentSrc.slice(0, 120))"""
OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"
MATHS = "() => document.querySelectorAll('.math').length - document.querySelectorAll('.math mjx-container svg').length"


# Waits for formulas and fonts.
SETTLED = """async () => { await document.fonts.ready;
                          if (window.MathJax && MathJax.startup) await MathJax.startup.promise; }"""
# Waits until the page has seen its new size and the theme has met it, which it does 300 ms later.
RESIZED = """() => new Promise(
  (resolve) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(resolve, 350))))"""
CUT = """() => [...document.querySelectorAll('article pre')].filter(pre =>
    pre.checkVisibility({contentVisibilityAuto: true}) && pre.scrollWidth > pre.clientWidth + 1).map(pre => pre.innerText)"""
# Tables, formulas and code that reach beyond the text.
WIDE = """() => { const edge = document.querySelector('article').getBoundingClientRect().right + 1;
  return [...document.querySelectorAll('article table, article pre, article mjx-container svg')]
    .filter(e => e.checkVisibility({contentVisibilityAuto: true}) && e.getBoundingClientRect().right > edge)
    .map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 80)) }"""
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
MEASURED = "selector => axe.configure({ rules: [{ id: 'color-contrast', selector }] })"
NEXT = "() => document.querySelector('a.right-next')?.href ?? ''"
SKIPPED = "() => document.activeElement.textContent.trim()"
# Marks the first, the middle and the last text of each kind. Texts of one kind have the same tags and classes up to the
# root of the page and the same computed styles that decide on contrast, so that what holds for one holds for all.
KINDS = """() => {
  const numbers = new Map(), places = new Map(), kinds = new Map();
  const number = text => numbers.get(text) ?? numbers.set(text, numbers.size).size - 1;
  for (const element of document.querySelectorAll('*')) {
    const style = getComputedStyle(element);
    const place = number([places.get(element.parentElement), element.localName, element.getAttribute('class'),
      style.backgroundColor, style.backgroundImage, style.opacity, style.position, style.filter].join('|'));
    places.set(element, place);
    element.removeAttribute('data-kind');
    const text = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!(text || element.matches('input, select, textarea, button')) || !element.checkVisibility()) continue;
    const kind = [place, style.color, style.fontSize, style.fontWeight, style.textShadow].join('|');
    kinds.set(kind, [...(kinds.get(kind) ?? []), element]);
  }
  for (const alike of kinds.values())
    for (const index of [0, alike.length >> 1, alike.length - 1]) alike[index].dataset.kind = '';
  return kinds.size;
}"""
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


def size(width: str) -> dict[str, int]:
    """The size of a screen, as Playwright takes it."""
    across, down = WIDTHS[width]
    return {"width": across, "height": down}


def browse(browser: Any, base: str, mode: str = "light", width: str = "desktop") -> Iterator[Watched]:
    """A page with a cache and a storage of its own, watched for errors and requests to other machines."""
    context = browser.new_context(color_scheme=mode, viewport=size(width))
    context.add_init_script(f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')")
    context.set_default_timeout(120_000)  # ms; two cores may be busy with other things
    page = context.new_page()
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
def reader(request: pytest.FixtureRequest, browser: Any, base: str) -> Iterator[tuple[Watched, str]]:
    for watched in browse(browser, base, width=request.param):
        yield watched, request.param


@pytest.fixture
def desk(browser: Any, base: str) -> Iterator[Watched]:
    yield from browse(browser, base)


def axe_findings(page: Any, rules: Rules = "all", each: bool = False) -> list[str]:
    """Return the findings of axe-core of the grades that fail.

    Contrast is measured on three texts of each kind, or on ``each`` text.
    """
    # Without preload, since axe looks for the sheet that theme.css imports in the wrong folder.
    options: dict[str, object] = {"resultTypes": ["violations"], "preload": False}
    if rules == "colours":
        options["runOnly"] = {"type": "rule", "values": COLOURS}
    elif rules == "others":
        options["rules"] = {name: {"enabled": False} for name in COLOURS}
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(Axe().axe_script)
    if rules != "others":
        assert page.evaluate(KINDS) > 0
        page.evaluate(MEASURED, "*" if each else "[data-kind]")
    violations = page.evaluate("options => axe.run(options).then(results => results.violations)", options)
    return [
        f"axe: {finding['id']} ({finding['impact']}): {finding['nodes'][0]['html'][:120]}"
        for finding in violations
        if finding["impact"] in GRADES and finding["id"] not in ALLOWED
    ]


def rules_of(name: str, mode: str, width: str) -> Rules | None:
    """Return which rules of axe-core a page must keep in a mode and at a width, without what is checked elsewhere.

    Colours do not depend on the width, and the rest does not depend on the mode. The pages of the API are large and
    uniform: a small and a large one are checked, at one width, and the colours of the small one. At the second width the
    chapters, whose cells and figures scroll, and a page of each other kind are checked. ``make test-long`` checks all.
    """
    api, desktop = name.startswith(API), width == "desktop"
    colours = name == FIRST_PAGE or (desktop and (not api or name == API_PAGE))
    chosen = desktop and name in API_PAGES if api else desktop or name.startswith(CHAPTERS) or name in ONE_EACH
    others = mode == "light" and chosen
    return "all" if colours and others else "colours" if colours else "others" if others else None


def page_names(html: Path) -> list[str]:
    """Return all pages of the book without the sources and the redirect to the first page."""
    names = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))
    return [name for name in names if not name.startswith(("_static", "_modules")) and name != "index.html"]


def look_at(watched: Watched, name: str, screenshots: Path, everything: bool) -> str:
    """Open a page and note its problems in both modes at both widths and on paper, with a screenshot of each state that has some.

    If ``everything`` is true, the page is loaded again at each width, all rules are applied in each state, the contrast of
    every text is measured, and there is a screenshot of every state.

    Returns:
        The page to which its link "next" leads; empty without one.
    """
    page, note = watched.page, watched.problems.append
    page.set_viewport_size(size("desktop"))
    watched.open(name)
    if name.startswith("book/"):
        if (titles := page.locator("article h1").count()) != 1:
            note(f"{name}: {titles} titles")
        elif not page.locator("article h1").inner_text().strip():
            note(f"{name}: its title is empty")
        if page.locator(".leuk-run-facts").count() != 1:
            note(f"{name}: does not say which run it shows")
    if "not a medical device" not in page.locator("footer.bd-footer-content").inner_text():
        note(f"{name}: its footer does not say that this is research software")
    for width in WIDTHS:
        if width != "desktop":
            page.set_viewport_size(size(width))
            page.evaluate(RESIZED)
        if everything:
            watched.open(name)
        watched.problems += [f"{name}, {width}: picture not shown: {source}" for source in page.evaluate(IMAGES)]
        if width == "desktop" and not name.startswith(API):
            watched.problems += [f"{name}: code is cut: {code[:80]}" for code in page.evaluate(CUT)]
            watched.problems += [f"{name}: an interval over several lines: {cell}" for cell in page.evaluate(LINES)]
            watched.problems += [f"{name}: a table is cut: {table}" for table in page.evaluate(CUT_TABLES)]
        if page.evaluate(MATHS) > 0:
            note(f"{name}, {width}: a formula was not rendered")
        for mode in MODES:
            before = len(watched.problems)
            page.evaluate(SWITCH, mode)
            if page.evaluate(CONTRAST) < 7:
                note(f"{name}: text is hard to read in {mode} mode")
            if rules := "all" if everything else rules_of(name, mode, width):
                findings = axe_findings(page, rules, each=everything)
                watched.problems += [f"{name}, {mode}, {width}: {finding}" for finding in findings]
            if (over := page.evaluate(OVERFLOW)) > 1:
                note(f"{name}: {over} px wider than the {width} screen")
            if everything or len(watched.problems) > before:
                file = f"{name.removesuffix('.html').replace('/', '-')}-{width}-{mode}.png"
                page.screenshot(path=screenshots / file, full_page=True)
    if name.startswith("book/") and not name.startswith(API):  # the API reference is in no PDF
        page.emulate_media(media="print")
        page.set_viewport_size({"width": PAPER_WIDTH, "height": 1000})
        watched.problems += [f"{name}: cut on paper: {wide}" for wide in page.evaluate(WIDE)]
        page.emulate_media(media="screen")
    return page.evaluate(NEXT).removeprefix(watched.base).split("#")[0]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "everything",
    [pytest.param(False, marks=pytest.mark.slow, id="each kind"), pytest.param(True, marks=pytest.mark.long, id="all")],
)
def test_every_page_in_both_modes_at_both_widths_and_on_paper(
    html: Path, screenshots: Path, desk: Watched, everything: bool
) -> None:
    names = page_names(html)
    following = {name: look_at(desk, name, screenshots, everything) for name in names}
    walked = [FIRST_PAGE]
    while name := following[walked[-1]]:
        assert name not in walked, f"the next links form a cycle at {name}"
        walked.append(name)
    desk.problems += [f"no link leads to {name}" for name in names if name.startswith("book/") and name not in walked]
    assert {*API_PAGES, *ONE_EACH} <= {*names} and any(name.startswith(CHAPTERS) for name in names)
    assert desk.problems == []


def test_the_address_of_the_book_opens_the_first_page_which_leads_to_the_next(desk: Watched) -> None:
    desk.page.goto(desk.base)
    desk.page.wait_for_url(f"**/{FIRST_PAGE}")
    following = desk.page.evaluate(NEXT)
    desk.page.locator("a.right-next").click()
    desk.page.wait_for_url(following)
    assert desk.page.locator("article h1").inner_text().strip()
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


# Faults of one text or of one kind of text in a page with many, with the rule of axe-core that finds each.
PLANTED = {
    "text.style.color = '#bbbbbb'": "color-contrast",
    "text.style.background = '#666666'": "color-contrast",
    "text.parentElement.style.backgroundColor = '#555555'": "color-contrast",
    "text.style.opacity = 0.4": "color-contrast",
    "text.className = 'pale'; sheet.textContent = '.pale { color: #bbbbbb }'": "color-contrast",
    "sheet.textContent = '.highlight .c1 { color: #bbbbbb !important }'": "color-contrast",
    "text.append(document.createElement('button'))": "button-name",
}
PLANT = """() => {
  const texts = [...document.querySelectorAll('article section > p')], text = texts[texts.length - 3];
  const sheet = document.head.appendChild(document.createElement('style'));
  const inside = text.innerHTML, styled = [text, text.parentElement];
  window.restore = () => {
    sheet.remove(); text.innerHTML = inside; text.removeAttribute('class');
    for (const element of styled) element.removeAttribute('style'); };
  %s; return texts.length }"""


def test_axe_finds_what_is_planted_among_many(desk: Watched) -> None:
    desk.open("book/use/laptop.html")
    for planted, rule in PLANTED.items():
        assert desk.page.evaluate(PLANT % planted) > 8
        found = axe_findings(desk.page, "all" if rule not in COLOURS else "colours")
        assert any(finding.startswith(f"axe: {rule} ") for finding in found), planted
        desk.page.evaluate("window.restore()")
    assert axe_findings(desk.page) == []


def test_broken_intervals_and_cut_tables_are_found(desk: Watched) -> None:
    desk.open("book/index.html")
    assert desk.page.evaluate(LINES) == desk.page.evaluate(CUT_TABLES) == []
    desk.page.evaluate("""() => document.querySelector('article').insertAdjacentHTML('beforeend',
      '<div class="leuk-table"><table><tr><td><div style="width: 4rem">-0.197 [-0.685, +0.396]</div></td></tr></table></div>'
      + '<div class="leuk-table"><table><tr><td style="min-width: 90rem">wide</td></tr></table></div>')""")
    assert desk.page.evaluate(LINES) == ["-0.197 [-0.685, +0.396]"]
    assert desk.page.evaluate(CUT_TABLES) == ["wide"]


def test_first_page_is_small(desk: Watched) -> None:
    sizes: dict[str, int] = {}
    desk.page.on("requestfinished", lambda sent: sizes.update({sent.url: sent.sizes()["responseBodySize"]}))
    desk.page.goto(desk.base + "book/index.html", wait_until="networkidle")
    assert len(sizes) > 5
    heavy = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert sum(sizes.values()) < FIRST_PAGE_BYTES, heavy
    assert desk.problems == []


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


def test_search_works_from_the_disk_without_a_server(html: Path, browser: Any) -> None:
    for watched in browse(browser, html.as_uri() + "/"):
        watched.page.context.set_offline(True)
        watched.page.goto(f"{html.as_uri()}/search.html?q=bootstrap")
        watched.page.wait_for_selector("#search-results li a", timeout=20_000)
        watched.page.locator("#search-results li a").first.click()
        watched.page.wait_for_load_state("load")
        assert "bootstrap" in watched.page.locator("article").inner_text().lower()
        # Without a server a browser refuses to read the pages that it would quote under each result; the results are there.
        assert [problem for problem in watched.problems if "fetch" not in problem and "ERR_FAILED" not in problem] == []
