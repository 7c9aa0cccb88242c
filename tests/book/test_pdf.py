"""The book as a PDF: a browser is found or asked for in one line; pages are A4, and links within the book work."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from leuk_lib.book import pdf
from leuk_lib.cli.main import main
from leuk_lib.runs.errors import LeukError


def test_without_a_browser_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pdf, "MAC_BROWSER", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(pdf.OWN_BROWSER, raising=False)
    with pytest.raises(LeukError, match="apt install chromium"):
        pdf.find_browser()
    monkeypatch.setenv(pdf.OWN_BROWSER, str(tmp_path / "mine"))
    with pytest.raises(LeukError, match=r"no Chromium at .*mine"):
        pdf.find_browser()


def test_nothing_is_built_without_a_browser(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(pdf.OWN_BROWSER, "/nowhere/chromium")
    assert main(["book", "--run", "none", "--pdf"]) == 1
    assert re.fullmatch(r"leuk: no Chromium at /nowhere/chromium.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", ["echo oh >&2; exit 3", "echo oh >&2"], ids=["fails", "writes nothing"])
def test_a_browser_that_fails_leaves_no_pdf(tmp_path: Path, command: str):
    browser, out = tmp_path / "browser", tmp_path / "book.pdf"
    browser.write_text(f"#!/bin/sh\n{command}\n")
    browser.chmod(0o755)
    with pytest.raises(LeukError, match="did not print the book: oh"):
        pdf.print_page(tmp_path / "page.html", out, str(browser))
    assert not out.exists()


def facts(path: Path) -> tuple[int, set[bytes], int]:
    """Number of pages, their sizes, and number of links within the file."""
    content = path.read_bytes()
    assert content.startswith(b"%PDF")
    boxes = set(re.findall(rb"/MediaBox \[([^\]]*)\]", content))
    return len(re.findall(rb"/Type /Page\b", content)), boxes, content.count(b"/Dest ")


def assert_a4(boxes: set[bytes]) -> None:
    (box,) = boxes
    assert [round(float(number)) for number in box.split()] == [0, 0, 595, 842]


@pytest.mark.browser
def test_each_section_of_the_whole_book_starts_a_page(tmp_path: Path, root: Path, chromium: dict[str, Any]):
    shutil.copy(root / "book" / "_static" / "leuk.css", tmp_path)
    sections = "".join(f'<section id="s{k}"><h2>{k}</h2><a href="#s0">back</a></section>' for k in range(3))
    (tmp_path / "page.html").write_text(
        '<!DOCTYPE html><link rel="stylesheet" href="leuk.css"><article class="bd-article"><section><h1>Book</h1>'
        f'<div class="toctree-wrapper">{sections}</div></section></article>'
    )
    pdf.print_page(tmp_path / "page.html", tmp_path / "out" / "page.pdf", chromium["executable_path"])
    pages, boxes, links = facts(tmp_path / "out" / "page.pdf")
    assert pages == 4 and links == 3
    assert_a4(boxes)


@pytest.mark.browser
@pytest.mark.long
@pytest.mark.usefixtures("chromium")
def test_the_whole_book_is_printed(tmp_path: Path, root: Path):
    if not list((root / "book" / "chapters").glob("*.ipynb")):
        pytest.skip("no book was built here: make book PROFILE=smoke")
    pages, boxes, links = facts(pdf.build_pdf(root, tmp_path / "book.pdf"))
    assert pages > 60 and links > 100
    assert_a4(boxes)
