"""The view that switches between methods: whole, light, and worked by mouse and keyboard without a script."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from alhe.toys import cell
from book.test_browser import CHROMIUM, FLAGS
from leuk_lib.figures.switch import EDGE, switch


def example(n: int = 3, side: int = 24):
    images = np.stack([cell(side, side, seed)[0] for seed in range(n)])
    pictures = {"input": images, "dark <b>": images // 2, "grey": np.full_like(images, 128)}
    said = {"input": "as it came", "dark <b>": "half the light", "grey": "nothing"}
    return pictures, switch(pictures, [f"cell {k}" for k in range(n)], said, title="A & B", quality=95)


def test_one_fragment_that_asks_for_nothing():
    _, view = example()
    page = BeautifulSoup(view.markup, "html.parser")
    assert not page.find_all(["script", "link", "img"]) and "http" not in view.markup
    assert len(view.markup) < 40_000
    radios = page.find_all("input", type="radio")
    assert [radio.parent.get_text() for radio in radios] == ["input", "dark <b>", "grey"]
    assert len({radio["name"] for radio in radios}) == 1 and radios[0].has_attr("checked")
    assert page.find("legend") and len(page.find_all("figure")) == 3
    assert {figure["aria-label"] for figure in page.select(".cell")} == {f"cell {k}, cell {k + 1}" for k in range(3)}
    assert view.page().startswith("<!DOCTYPE html>") and "A & B" in repr(view)


def test_the_pictures_are_those_given():
    pictures, view = example()
    sheets = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", view.markup)
    assert len(sheets) == 3
    for images, sheet in zip(pictures.values(), sheets, strict=True):
        whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))).convert("RGB")).astype(int)
        cells = np.stack(np.split(whole, 3, axis=1))[:, EDGE:-EDGE, EDGE:-EDGE]
        assert np.abs(cells - images).mean() < 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p, c, s: (dict(list(p.items())[:1]), c, s), "two or more"),
        (lambda p, c, s: (p, c[:1], s), "one for every cell"),
        (lambda p, c, s: (p, c, {}), "nothing is said about"),
        (lambda p, c, s: ({k: v.astype(float) for k, v in p.items()}, c, s), "uint8"),
        (lambda p, c, s: ({k: v[:, :-1] for k, v in p.items()}, c, s), "must be"),
    ],
)
def test_refused(change, said):
    pictures, _ = example()
    captions, words = ["a", "b", "c"], dict.fromkeys(pictures, "x")
    with pytest.raises(ValueError, match=said):
        switch(*change(pictures, captions, words))


def test_too_heavy_is_refused():
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="over 450"):
        switch({"a": noise, "b": noise}, ["x"] * 40, {"a": "", "b": ""}, quality=100)


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_arrow_keys_change_pictures_and_words(tmp_path, mode):
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM} (install Debian's package chromium, or set LEUK_CHROMIUM)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    (tmp_path / "view.html").write_text(example()[1].page(), encoding="utf-8")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(color_scheme=mode)
        page.goto((tmp_path / "view.html").as_uri())
        shown = "() => getComputedStyle(document.querySelector('.cell')).backgroundImage"
        seen = [page.evaluate(shown)]
        page.keyboard.press("Tab")
        for words in ("half the light", "nothing"):
            page.keyboard.press("ArrowRight")
            seen.append(page.evaluate(shown))
            assert words in page.locator(".said").inner_text()
        page.get_by_label("input").click()
        assert page.evaluate(shown) == seen[0] and len(set(seen)) == 3
        assert page.locator(".said").inner_text() == "input: as it came"
        browser.close()
