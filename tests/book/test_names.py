"""Names that are code in some language: a data set with such folders, classes and files, on pages in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from book.test_browser import CHROMIUM, FLAGS
from data.toys import coded, picture
from leuk_lib.book import pages
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder
from leuk_lib.data.folder import read_folder
from leuk_lib.data.report import render_page
from leuk_lib.figures.style import new_figure
from leuk_lib.figures.widgets import atlas, switch
from leuk_lib.runs import card as cards
from leuk_lib.runs import display
from leuk_lib.stages import STAGES
from leuk_lib.wpat.model_card import Facts, text
from leuk_lib.wpat.predict import ModelCard

pytestmark = pytest.mark.browser

BAD = "<img src=x onerror=window.broken=1>"
FOLDER = "x``" + BAD.replace("/", "") + "``y {run} $a$ '\"; & |"
CLASSES = (
    BAD,
    "a|b `c` <pre> {math}`x` $x_1^2$",
    "=1+1 </script><script>window.broken=2</script>".replace("/", "∕"),
    "&lt;b&gt; *i* [l](javascript:window.broken=3)",
)
FILES = ('" onload=window.broken=4 x=".png', "@{x}'`.png", "-1 <b>.png")


# Elements and handlers that a name could have made.
MADE = (
    """() => document.querySelectorAll('img:not([src^="data:image"]), b[onclick], [onload], [onerror], math').length"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names") / FOLDER
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i, file in enumerate(FILES):
            (root / name / file).write_bytes(coded(picture(10 * k + i)))
        (root / name / "damaged <i>.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


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


def test_the_terminal_and_the_spreadsheet_show_names_as_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert (
        main(["data", "check", str(folder), "--csv", str(tmp_path / "f.csv"), "--html", str(tmp_path / "f.html")]) == 1
    )
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    frame = pd.read_csv(tmp_path / "f.csv", keep_default_na=False)
    assert len(frame) and not any(str(v).startswith(("=", "+", "-", "@")) for v in frame.to_numpy().ravel())
