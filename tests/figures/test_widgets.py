"""The interactive views: complete, self-contained, limited in size; used by pointer, by keyboard and without a script."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from alhe.toys import cell
from book.test_browser import OVERFLOW, axe_findings
from leuk_lib.book.html import page_problems, read_page
from leuk_lib.figures.widgets import EDGE, Widget, atlas, switch

NOISE = np.random.default_rng(0).integers(0, 256, (600, 48, 48, 3), dtype=np.uint8)
IMAGES = np.stack([cell(24, 24, seed)[0] for seed in range(3)])
METHODS = {"input": IMAGES, "dark <b>": IMAGES // 2, "grey": np.full_like(IMAGES, 128)}
DESCRIPTIONS = {"input": "as it came", "dark <b>": "half the light", "grey": "nothing"}


def toy_map() -> Widget:
    """Nine cells on a 3 x 3 grid, number 3 * row + column, rows upwards; the first three of class a."""
    points = [(column, row) for row in range(3) for column in range(3)]
    images = np.stack([np.full((16, 16, 3), 25 * i, np.uint8) for i in range(9)])
    records = pd.DataFrame({"label": list("aaabbbbbb"), "cell": range(9), "size, µm": np.linspace(7, 8, 9)})
    return atlas(points, images, records, axes=("across (1)", "up (1)"), title="Toy <atlas>", quality=100)


def toy_switch() -> Widget:
    return switch(METHODS, [f"cell {k}" for k in range(3)], DESCRIPTIONS, title="A & B", quality=95)


def records_of(widget: Widget) -> list:
    return json.loads(re.search(r",\.\.\.(\[.*\])\)</script>", widget.markup, re.S)[1])


def images_of(widget: Widget, n: int) -> list[np.ndarray]:
    """Cut the cells out of each sprite sheet."""
    out = []
    columns = int(np.ceil(np.sqrt(n)))
    for sheet in re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", widget.markup):
        whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))).convert("RGB")).astype(int)
        side = whole.shape[1] // columns
        tiles = whole.reshape(-1, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        out.append(tiles[:n, EDGE:-EDGE, EDGE:-EDGE])
    return out


@pytest.mark.parametrize("make", [toy_map, toy_switch])
def test_a_widget_is_one_file_that_loads_nothing(make, tmp_path: Path):
    widget = make()
    page = tmp_path / "page.html"
    page.write_text(widget.page(), encoding="utf-8")
    assert page_problems(page, tmp_path, read_page(page)) == []
    assert "http" not in widget.markup and "<atlas>" not in widget.markup and "dark <b>" not in widget.markup
    assert make().markup == widget.markup, "the same cells, the same bytes"


def test_the_map_holds_every_cell_with_its_place_class_and_record():
    widget = toy_map()
    page = BeautifulSoup(widget.markup, "html.parser")
    cells = page.select(".leuk-field > .leuk-cell")
    assert [cell["class"][1] for cell in cells] == ["k0"] * 3 + ["k1"] * 6
    assert [re.search(r"--x:([\d.]+);--y:([\d.]+)", cell["style"]).groups() for cell in cells[1:4:2]] == [
        ("0.500", "0.000"),
        ("0.000", "0.500"),
    ]
    assert [box.parent.get_text() for box in page.find_all("input", type="checkbox")] == ["a", "b"]
    assert [span.get_text() for span in page.select(".leuk-ticks")[1].find_all("span")] == ["0", "2"]
    fields, rows = records_of(widget)
    assert fields == ["label", "cell", "size, µm"] and rows[8] == ["b", "8", "8"]
    assert "9 cells of 2 classes" in repr(widget)
    (shown,) = images_of(widget, 9)
    assert np.abs(shown - 25 * np.arange(9)[:, None, None, None]).max() < 6


def test_the_switch_holds_every_method():
    widget = toy_switch()
    page = BeautifulSoup(widget.markup, "html.parser")
    radios = page.find_all("input", type="radio")
    assert [radio.parent.get_text() for radio in radios] == list(METHODS)
    assert len({radio["name"] for radio in radios}) == 1 and [r.has_attr("checked") for r in radios] == [
        True,
        False,
        False,
    ]
    assert [cell.get_text() for cell in page.select(".leuk-field > .leuk-cell")] == ["cell 0", "cell 1", "cell 2"]
    shown = images_of(widget, 3)
    assert len(shown) == 3
    for images, given in zip(shown, METHODS.values(), strict=True):
        assert np.abs(images - given).mean() < 6


def test_text_of_a_record_cannot_leave_the_script():
    records = pd.DataFrame({"label": ["a"], "note": ['</script><b>&\u2028"<!--']})
    widget = atlas([(0, 0)], np.zeros((1, 8, 8, 3), np.uint8), records)
    assert widget.markup.count("</script>") == 1 and "<!--" not in widget.markup
    assert records_of(widget)[1] == [["a", '</script><b>&\u2028"<!--']]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((3, 2))}, "one of each"),
        ({"points": np.full((2, 2), np.nan)}, "finite"),
        ({"thumbnails": np.zeros((2, 8, 8, 3), np.float32)}, "uint8"),
        ({"thumbnails": np.zeros((2, 200, 200, 3), np.uint8)}, "8 to 96"),
        ({"classes": ["a"]}, "labels b"),
    ],
)
def test_the_map_refuses_arrays_that_do_not_fit(change: dict, message: str):
    records = pd.DataFrame({"label": ["a", "b"]})
    whole = {"points": np.zeros((2, 2)), "thumbnails": np.zeros((2, 8, 8, 3), np.uint8), "records": records, **change}
    with pytest.raises(ValueError, match=message):
        atlas(**whole)


@pytest.mark.parametrize(
    ("images", "captions", "descriptions", "message"),
    [
        ({"input": IMAGES}, "abc", DESCRIPTIONS, "two or more"),
        (METHODS, "a", DESCRIPTIONS, "one per cell"),
        (METHODS, "abc", {}, "no description"),
        ({name: images.astype(float) for name, images in METHODS.items()}, "abc", DESCRIPTIONS, "uint8"),
        ({name: images[:, :-1] for name, images in METHODS.items()}, "abc", DESCRIPTIONS, "must be"),
    ],
)
def test_the_switch_refuses_arrays_that_do_not_fit(images, captions, descriptions, message):
    with pytest.raises(ValueError, match=message):
        switch(images, list(captions), descriptions)


def test_too_many_bytes_for_a_page_are_refused():
    with pytest.raises(ValueError, match="fewer or smaller"):
        atlas(NOISE[:, 0, :2, 0].astype(float), NOISE, pd.DataFrame({"label": ["a"] * 600}), quality=95)
    with pytest.raises(ValueError, match="fewer or smaller"):
        switch({"a": NOISE[:80], "b": NOISE[:80]}, ["x"] * 80, {"a": "", "b": ""}, quality=100)


@pytest.fixture
def show(browser, tmp_path: Path):
    """Open a widget's page; errors and requests to other machines fail the test."""
    problems: list[str] = []

    def open_page(widget: Widget, **options: object):
        file = tmp_path / "page.html"
        file.write_text(widget.page(), encoding="utf-8")
        page = browser.new_context(**{"viewport": {"width": 900, "height": 800}, **options}).new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda sent: problems.append(sent.url) if sent.url.startswith("http") else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    assert problems == []


SHEET = "() => getComputedStyle(document.querySelector('.leuk-cell .leuk-image')).backgroundImage"


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("make", [toy_map, toy_switch])
def test_axe_finds_nothing(make, mode, show):
    for width in (390, 900):
        page = show(make(), color_scheme=mode, viewport={"width": width, "height": 800})
        page.locator("[role=option]").nth(1).hover()
        assert axe_findings(page) == []
        assert page.evaluate(OVERFLOW) <= 1


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_pointer_and_keyboard_on_the_map(show, mode):
    page = show(toy_map(), color_scheme=mode)
    field, record = page.locator(".leuk-field"), page.locator("dl")
    assert page.locator("[role=option]").count() == 9
    page.locator("[role=option]").nth(4).hover()
    assert "4" in record.inner_text() and page.locator("[aria-selected=true]").count() == 1
    field.focus()
    page.keyboard.press("Home")
    for key, number in (("ArrowRight", 1), ("ArrowUp", 4), ("ArrowLeft", 3), ("PageDown", 4), ("End", 8)):
        page.keyboard.press(key)
        assert field.get_attribute("aria-activedescendant").endswith(f"-{number}"), key
    page.get_by_label("b", exact=True).uncheck()
    assert page.locator("[role=option]:visible").count() == 3
    assert field.get_attribute("aria-activedescendant") is None, "a hidden cell is not selected"
    page.get_by_label("b", exact=True).check()
    page.locator("[role=option]").nth(2).click()
    page.locator("[role=option]").nth(6).hover()
    assert field.get_attribute("aria-activedescendant").endswith("-2"), "a clicked cell stays selected"
    page.keyboard.press("Escape")
    assert field.get_attribute("aria-activedescendant") is None
    before = page.locator("[role=option]").first.bounding_box()["width"]
    page.get_by_label("size of the images").fill("60")
    assert page.locator("[role=option]").first.bounding_box()["width"] == pytest.approx(60) != before


@pytest.mark.browser
@pytest.mark.parametrize("script", [True, False])
def test_radio_buttons_change_images_and_text(show, script):
    page = show(toy_switch(), java_script_enabled=script)
    page.keyboard.press("Tab")
    for text in ("half the light", "nothing"):
        page.keyboard.press("ArrowRight")
        assert text in page.locator(".leuk-description").inner_text()
    page.get_by_label("input").click()
    assert page.locator(".leuk-description").inner_text() == "input: as it came"


@pytest.mark.browser
def test_the_selected_cell_follows_the_method(show):
    page = show(toy_switch())
    seen = [page.evaluate(SHEET)]
    page.locator("[role=option]").nth(1).click()
    large = "() => getComputedStyle(document.querySelector('.leuk-card .leuk-image')).backgroundImage"
    for name in list(METHODS)[1:]:
        page.get_by_label(name).click()
        seen.append(page.evaluate(SHEET))
        assert page.evaluate(large) == seen[-1]
    assert len(set(seen)) == 3 and "cell 1" in page.locator("dl").inner_text()


@pytest.mark.browser
def test_the_map_without_script(show):
    page = show(toy_map(), java_script_enabled=False)
    cells = page.locator(".leuk-cell")
    assert cells.count() == 9 and cells.first.is_visible() and page.locator(".leuk-script:visible").count() == 0
    page.get_by_label("b", exact=True).uncheck()
    assert page.locator(".leuk-cell:visible").count() == 3
