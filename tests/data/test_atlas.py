"""The atlas: everything inside one fragment, refused when it does not fit; used by mouse and keyboard in Chromium."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leuk_lib.book.html import page_problems, read_page
from leuk_lib.figures.atlas import Atlas, atlas

CHROMIUM = Path(os.environ.get("LEUK_CHROMIUM", "/usr/bin/chromium"))


def grid(side: int = 16, **options: object) -> Atlas:
    """Nine cells on a 3 x 3 grid, number 3 * row + column, rows upwards; the first three of class a."""
    points = [(column, row) for row in range(3) for column in range(3)]
    pictures = np.stack([np.full((side, side, 3), 25 * i, np.uint8) for i in range(9)])
    records = pd.DataFrame({"label": list("aaabbbbbb"), "cell": range(9), "size, µm": np.linspace(7, 8, 9)})
    return atlas(points, pictures, records, axes=("across (1)", "up (1)"), title="Toy <atlas>", **options)


def data_of(markup: str) -> dict:
    return json.loads(re.search(r"getElementById\(\"[^\"]+\"\),(\{.*\})\)</script>", markup, re.S)[1])


def test_the_fragment_holds_every_cell_and_asks_for_nothing(tmp_path: Path):
    made = grid()
    data = data_of(made.markup)
    assert (
        data["classes"] == ["a", "b"] and data["kind"] == [0] * 3 + [1] * 6 and data["fields"] == ["cell", "size, µm"]
    )
    assert data["x"][:3] == [0, 500, 1000] and data["records"][8] == ["8", "8"] and data["ticks"][0] == ["0", "1", "2"]
    (tmp_path / "atlas.html").write_text(made.page(), encoding="utf-8")
    assert page_problems(tmp_path / "atlas.html", tmp_path, read_page(tmp_path / "atlas.html")) == []
    assert "http" not in made.markup and "<atlas>" not in made.markup
    assert grid().markup == made.markup, "the same cells, the same bytes"
    assert "9 cells of 2 classes" in repr(made)


def test_what_records_say_cannot_leave_the_script():
    records = pd.DataFrame({"label": ["a"], "note": ["</script><b>&\u2028"]})
    made = atlas([(0, 0)], np.zeros((1, 8, 8, 3), np.uint8), records)
    assert made.markup.count("</script>") == 1 and data_of(made.markup)["records"] == [["</script><b>&\u2028"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": np.zeros((3, 2))}, "one of each"),
        ({"points": np.full((2, 2), np.nan)}, "finite"),
        ({"thumbnails": np.zeros((2, 8, 8, 3), np.float32)}, "uint8"),
        ({"thumbnails": np.zeros((2, 200, 200, 3), np.uint8)}, "8 to 96"),
        ({"classes": ["a"]}, "labels b"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, words: str):
    records = pd.DataFrame({"label": ["a", "b"]})
    whole = {"points": np.zeros((2, 2)), "thumbnails": np.zeros((2, 8, 8, 3), np.uint8), "records": records, **change}
    with pytest.raises(ValueError, match=words):
        atlas(**whole)


def test_too_much_for_a_page_is_refused():
    rng = np.random.default_rng(0)
    many = rng.integers(0, 256, (600, 48, 48, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="fewer or smaller"):
        atlas(rng.random((600, 2)), many, pd.DataFrame({"label": ["a"] * 600}), quality=95)


@pytest.mark.browser
def test_mouse_keyboard_and_both_modes(tmp_path: Path):
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM} (install Debian's package chromium, or set LEUK_CHROMIUM)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    page_file = tmp_path / "atlas.html"
    page_file.write_text(grid().page(), encoding="utf-8")
    troubles: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for mode in ("light", "dark"):
            page = browser.new_context(color_scheme=mode, viewport={"width": 900, "height": 800}).new_page()
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("request", lambda asked: troubles.append(asked.url) if asked.url.startswith("http") else None)
            page.goto(page_file.as_uri())
            field, shown = page.locator(".leuk-field"), page.locator("dl")
            assert page.locator("[role=option]").count() == 9 and page.locator(".leuk-sheet").count() == 0
            page.locator("[role=option]").nth(4).hover()
            assert "4" in shown.inner_text() and page.locator("[aria-selected=true]").count() == 1
            field.focus()
            page.keyboard.press("Home")
            for key, cell in (("ArrowRight", 1), ("ArrowUp", 4), ("ArrowLeft", 3), ("PageDown", 4), ("End", 8)):
                page.keyboard.press(key)
                assert field.get_attribute("aria-activedescendant").endswith(f"-{cell}"), key
            page.get_by_label("b", exact=True).uncheck()
            assert page.locator("[role=option]:visible").count() == 3
            assert field.get_attribute("aria-activedescendant") is None, "a hidden cell is not the chosen one"
            page.get_by_label("b", exact=True).check()
            page.locator("[role=option]").nth(2).click()
            page.locator("[role=option]").nth(6).hover()
            assert field.get_attribute("aria-activedescendant").endswith("-2"), "a clicked cell is held"
            page.keyboard.press("Escape")
            assert field.get_attribute("aria-activedescendant") is None
        browser.close()
    assert troubles == []
