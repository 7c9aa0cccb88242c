"""Checks of built HTML: local files, alternative texts, nothing from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from leuk_lib.book import html


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a b.png").write_bytes(b"x")
    (tmp_path / "_static" / "empty.png").write_bytes(b"")
    return tmp_path


def problems_of(site: Path, body: str) -> list[str]:
    (site / "page.html").write_text(f"<html><head></head><body>{body}</body></html>", encoding="utf-8")
    return list(html.problems(site))


@pytest.mark.parametrize(
    "body",
    [
        '<img src="_static/a%20b.png" alt="a cell">',
        '<img src="_static/a%20b.png?v=1#x" alt="a cell"/>',
        '<a href="https://example.org">a link that a reader may follow</a>',
        '<img src="data:image/png;base64,AAAA" alt="inline">',
        '<link rel="next" href="gone.html">',
        '<h2 id="a b">x</h2><a href="#a%20b">here</a><a href="#">top</a><a href="page.html#a%20b">here too</a>',
        '<a href="mailto:x@example.org">mail</a><a href="_static/a%20b.png">a file</a>',
        "<style>p { background: url(data:image/png;base64,AA) }</style>",
        "<script>let text = 'see https://example.org';</script>",
    ],
)
def test_good_pages_pass(site: Path, body: str) -> None:
    assert problems_of(site, body) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<img src="gone.png" alt="x">', "missing file: gone.png"),
        ('<img src="_static/empty.png" alt="x">', "empty file"),
        ('<img src="_static/a%20b.png">', "no alt text"),
        ('<img src="_static/a%20b.png" alt=" ">', "no alt text"),
        ('<img src="_static/a%20b.png" alt="../_static/a%20b.png">', "no alt text"),
        ('<img src="https://example.org/x.png" alt="x">', "loads from outside"),
        ('<script src="//example.org/x.js"></script>', "loads from outside"),
        ('<link rel="stylesheet" href="https://example.org/x.css">', "loads from outside"),
        ('<link rel="preload" href="gone.woff2">', "missing file"),
        ("<style>@import 'https://example.org/x.css';</style>", "style loads from outside"),
        ('<p style="background:url(http://example.org/x.png)">x</p>', "style loads from outside"),
        ('<a href="gone.html">x</a>', "a link names a missing file: gone.html"),
        ('<a href="_static/">x</a>', "a link names a missing file: _static/"),
        ('<a href="page.html#gone">x</a>', "missing anchor: page.html#gone"),
        ('<a href="#gone">x</a>', "missing anchor: #gone"),
        ('<img srcset="_static/a%20b.png 1x, gone.png 2x" alt="x">', "missing file: gone.png"),
    ],
)
def test_problems_are_named(site: Path, body: str, message: str) -> None:
    problems = problems_of(site, body)
    assert len(problems) == 1
    assert message in problems[0] and problems[0].startswith("page.html: ")


def test_style_sheets_and_scripts_are_read(site: Path) -> None:
    (site / "a.css").write_text("@font-face { src: url('https://example.org/f.woff2') }")
    (site / "a.js").write_text("fetch('https://example.org/x.json')")
    assert len(problems_of(site, "")) == 2


def test_a_folder_without_pages_is_a_problem(tmp_path: Path) -> None:
    assert list(html.problems(tmp_path))
