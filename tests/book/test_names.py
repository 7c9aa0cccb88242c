"""Names that are code in some language: a data set with such folders, classes and files, on pages in Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from book import toys as fake
from book.test_browser import IMAGES, served
from data.toys import coded, picture
from leuk_lib.book import pages
from leuk_lib.book.build import build_book
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder
from leuk_lib.data.folder import read_folder
from leuk_lib.data.report import render_page
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures.style import new_figure
from leuk_lib.figures.widgets import atlas, switch
from leuk_lib.runs import card as cards
from leuk_lib.runs import display, files, paths
from leuk_lib.runs.execute import execute
from leuk_lib.stages import STAGES
from leuk_lib.wpat.model_card import Facts, text
from leuk_lib.wpat.predict import ModelCard

pytestmark = pytest.mark.browser

BAD = "<img src=x onerror=window.broken=1>"
FOLDER = "x``" + BAD.replace("/", "") + "``y {run} $a$ '\"; & |"
CLASSES = (
    BAD,
    "a|b `c` <pre> {math}`zqz` $z_7^8$",
    "=1+1 </script><script>window.broken=2</script>".replace("/", "∕"),
    "&lt;b&gt; *i* [l](javascript:window.broken=3)",
)
FILES = ('" onload=window.broken=4 x=".png', "@{x}'`.png", "-1 <b>.png")


# Elements and handlers that a name could have made.
MADE = (
    """() => document.querySelectorAll('img:not([src^="data:image"]), b[onclick], [onload], [onerror], math').length"""
)


# The same in a built book, which has formulas and buttons of its own: the two of a class name would read "z78" and "zqz".
FROM_NAMES = """() => [...document.querySelectorAll('article *')].filter(e => e.matches('[src="x"], pre pre') ||
  (e.matches('math') && ['zqz', 'z78'].includes(e.textContent.trim())) ||
  [...e.attributes].some(a => a.name.startsWith('on') || (a.name === 'href' && a.value.startsWith('javascript:'))))
  .map(e => e.outerHTML.slice(0, 200))"""
TOC = """format: jb-book
root: book/index
chapters:
  - file: book/chapters/01_data
  - file: book/chapters/02_results
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names") / FOLDER
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i, file in enumerate(FILES):
            (root / name / file).write_bytes(coded(picture(10 * k + i)))
        (root / name / "damaged <i>.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def document(body: str) -> str:
    return f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>names</title></head><body>{body}</body></html>'


def markdown(source: str) -> str:
    """As in MyST, HTML in the source would pass through."""
    return document(MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").render(source))


def model_card(classes: tuple[str, ...]) -> str:
    from leuk_lib.fcmae.encoder import EncoderSpec

    scores = pd.DataFrame(
        [{"split": "test", "metric": "accuracy", "value": 0.9, "low": 0.8, "high": 0.95, "n": 9, "groups": 3}]
    )
    recalls = pd.DataFrame(
        [{"class": name, "n": 9, "groups": 3, "recall": 0.5, "low": 0.4, "high": 0.6} for name in classes]
    )
    counts = {
        "class": list(classes),
        "train": [1] * len(classes),
        "synthetic": [0] * len(classes),
        "val": [1] * len(classes),
    }
    facts = Facts(FOLDER, "micrographs", "laptop", "r", 0, counts, scores, recalls, 5, notes=tuple(classes))
    return text(ModelCard(classes, "wpat", EncoderSpec("atto", 2), {}, 64, False, {}), facts)


def card_page(folder: Path) -> str:
    params = {"run": "r", "profile": "laptop", "dataset": str(folder), "seed": 0, "class_map": {BAD: "x"}}
    card = {**cards.new_card("data", params), "notes": list(CLASSES), "outputs": {FILES[0]: "0" * 64}, "device": BAD}
    return pages.run_cards([STAGES[0]], {"data": card}) + pages.cost_table(
        [STAGES[0]], {"data": {**card, "seconds": 1.0}}
    )


def tables() -> str:
    frame = pd.DataFrame({"class": CLASSES, BAD: range(len(CLASSES))})
    shown = [display.table(frame, caption=CLASSES[1]), display.banner(list(CLASSES))]
    return document("".join(item.markup for item in shown))


def views(folder: Path) -> str:
    data = read_folder(folder, size=16)
    n = len(data.images)
    points = np.random.default_rng(0).uniform(size=(n, 2))
    one = atlas(points, data.images, data.table[["label", "path"]], title=FOLDER)
    two = switch(
        dict.fromkeys(CLASSES, data.images[:3]), list(CLASSES[:3]), {name: name for name in CLASSES}, title=BAD
    )
    return document(f"<main>{one.markup}{two.markup}</main>")


def figure() -> str:
    drawn, axes = new_figure(5, 3)
    axes.bar(range(len(CLASSES)), 1, label=CLASSES[1])
    axes.set_xticks(range(len(CLASSES)), labels=CLASSES)
    axes.set_title(FOLDER)
    axes.legend()
    return document(display.render(drawn).data.decode().split("?>", 1)[1].split(">", 1)[1])


def test_every_name_is_text_and_no_page_runs_anything(folder: Path, browser, tmp_path: Path):
    findings = check_folder(folder)
    made = {
        "check": (render_page(findings), [FOLDER, *CLASSES]),
        "card": (markdown(card_page(folder)), [*CLASSES, BAD]),
        "model": (markdown(model_card(CLASSES)), [FOLDER, *CLASSES]),
        "tables": (tables(), [*CLASSES]),
        "views": (views(folder), [*CLASSES]),
        "figure": (figure(), []),
    }
    for name, (page_text, shown) in made.items():
        file = tmp_path / f"{name}.html"
        file.write_text(page_text, encoding="utf-8")
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
        page.on("console", lambda m, problems=problems: problems.append(m.text) if m.type == "error" else None)
        page.on("dialog", lambda dialog, problems=problems: (problems.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri())
        assert page.evaluate("window.broken") is None and problems == [], name
        assert page.evaluate(MADE) == 0, name
        assert page.evaluate("document.querySelectorAll('pre').length") == (2 if name == "model" else 0)  # its commands
        assert page.evaluate("[...document.links].filter(a => a.href.startsWith('javascript:')).length") == 0
        seen = " ".join(page.evaluate("document.documentElement.textContent").split())
        for text_of in shown:
            assert " ".join(text_of.split()) in seen, f"{name}: {text_of}"
        page.close()


def write_cells(root: Path, count: int) -> Path:
    """A data set of rendered cells whose folder, classes and files carry each language's characters."""
    rendered = smear_cells(cells=count, patients=6, size=32, seed=0)
    for i, (image, label) in enumerate(zip(rendered.images, rendered.labels.tolist(), strict=True)):
        folder = root / FOLDER / CLASSES[label % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i} {FILES[i % len(FILES)]}").write_bytes(coded(image.permute(1, 2, 0).numpy()))
    (folder / "damaged <i>.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root / FOLDER


def look_at_every_page(browser, html: Path) -> str:
    """Open all written pages, check that no name made an element, a handler or an error; return their text."""
    seen = ""
    with served(html) as address:
        for path in sorted((html / "book").rglob("*.html")):
            page = browser.new_page()
            page.add_init_script("localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light')")
            problems: list[str] = []
            page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            page.on("console", lambda m, problems=problems: problems.append(m.text) if m.type == "error" else None)
            page.on("dialog", lambda dialog, problems=problems: (problems.append(dialog.message), dialog.dismiss()))
            name = path.relative_to(html).as_posix()
            page.goto(f"{address}{name}")
            page.wait_for_load_state("load")
            assert page.evaluate("window.broken") is None and problems == [], name
            assert page.evaluate(FROM_NAMES) == [], name
            assert page.evaluate(IMAGES) == [], f"{name}: a figure is not drawn"
            seen += " " + page.evaluate("document.documentElement.textContent")
            page.close()
    return " ".join(seen.split())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_book_whose_first_chapter_read_such_a_data_set(browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The chapter with the most names is executed for real and built by Jupyter Book, with a made-up one beside it."""
    root, chapters = tmp_path / "project", (STAGES[0], fake.spec("results", ("data",)))
    data = write_cells(tmp_path, 96)
    monkeypatch.setenv("LEUK_ROOT", str(root))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    monkeypatch.setattr("leuk_lib.book.generate.pages.parameters", lambda stages: "")
    fake.make_project(root, chapters, book=True)
    notebook = json.loads((fake.REPOSITORY / "notebooks" / "01_data.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:  # prose that refers to other pages
        if cell["cell_type"] == "markdown":
            cell["source"] = "# The data" if cell is notebook["cells"][0] else "Words."
    files.write_json(root / "notebooks" / "01_data.ipynb", notebook)
    for path in (root / "book").rglob("*.md"):
        path.unlink()
    files.write_text(root / "_toc.yml", TOC)
    files.write_text(root / "book" / "index.md", "# A small book\n")
    params = {"dataset": str(data), "profile": "smoke", "run": "names", "stages": {"data": {"image_size": 32}}}
    execute("data", params, paths.stage_folder("names", "data") / "notebook.ipynb")
    fake.finish_stage(chapters[1], run="names", metrics={"accuracy": 0.75})
    index = build_book(root, "names", stages=chapters)
    seen = look_at_every_page(browser, index.parent)
    for name in (FOLDER, *CLASSES):
        assert " ".join(name.split()) in seen, name


@pytest.mark.long
@pytest.mark.notebooks
@pytest.mark.timeout(3600)
def test_a_whole_book_of_such_a_data_set(browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All chapters of the smallest profile, built as users build them."""
    data = write_cells(tmp_path, 200)
    monkeypatch.setenv("LEUK_ROOT", str(fake.REPOSITORY))
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / "results"))
    assert main(["run", "--dataset", str(data), "--profile", "smoke", "--run", "names"]) == 0
    assert main(["book", "--dataset", str(data), "--profile", "smoke", "--run", "names", "--out", str(tmp_path)]) == 0
    seen = look_at_every_page(browser, tmp_path / "_build" / "html")
    for name in (FOLDER, *CLASSES):
        assert " ".join(name.split()) in seen, name


def test_the_terminal_and_the_spreadsheet_show_names_as_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert (
        main(["data", "check", str(folder), "--csv", str(tmp_path / "f.csv"), "--html", str(tmp_path / "f.html")]) == 1
    )
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    frame = pd.read_csv(tmp_path / "f.csv", keep_default_na=False)
    assert len(frame) and not any(str(v).startswith(("=", "+", "-", "@")) for v in frame.to_numpy().ravel())
