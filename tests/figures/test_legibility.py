"""Figures of the finished smoke run: text that is readable on a phone, and a message above the data."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from leuk_lib.figures.style import WIDTH, headline, new_figure
from leuk_lib.runs import display

PHONE = 360  # px, the width of a small phone
SMALLEST = 7.0  # px, the height of text there
POINTS = 8  # the smallest text of figures that are stored as pixels
A_LINE_OF_TEXT = 120  # points; figures below this height stand in for one that could not be drawn


def text_on_a_phone(svg: str) -> float:
    """Height in px of the smallest text of a figure that is scaled to the width of a phone."""
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    return min(100 * float(scale) for scale in re.findall(r"scale\(([\d.]+) -", svg)) * PHONE / width


def figures(smoke_run: Path, suffix: str) -> list[Path]:
    return sorted(smoke_run.glob(f"*/figures/*.{suffix}"))


@pytest.mark.notebooks
def test_text_of_line_art_is_readable_on_a_phone(smoke_run: Path):
    heights = {path.stem: text_on_a_phone(path.read_text(encoding="utf-8")) for path in figures(smoke_run, "svg")}
    assert len(heights) > 20
    assert {name: round(height, 1) for name, height in heights.items() if height < SMALLEST} == {}


@pytest.mark.notebooks
def test_figures_with_images_are_no_wider_than_their_text_allows(smoke_run: Path):
    paths = figures(smoke_run, "png")
    assert len(paths) > 10
    widths = {path.stem: struct.unpack(">I", path.read_bytes()[16:20])[0] / 144 for path in paths}  # inches
    limit = POINTS / 72 * PHONE / SMALLEST
    assert {name: round(width, 2) for name, width in widths.items() if width > limit} == {}


@pytest.mark.notebooks
def test_line_art_has_a_message_in_bold(smoke_run: Path):
    without = []
    for path in figures(smoke_run, "svg"):
        svg = path.read_text(encoding="utf-8")
        height = float(re.search(r'height="([\d.]+)pt"', svg)[1])
        if height > A_LINE_OF_TEXT and "DejaVuSans-Bold" not in svg:
            without.append(path.stem)
    assert without == []


@pytest.mark.parametrize(("width", "is_readable"), [(WIDTH, True), (9.0, False)])
def test_a_wide_figure_is_found(width: float, is_readable: bool):
    figure, ax = new_figure(width, 2.0)
    ax.set_xlabel("label", fontsize=POINTS)
    headline(figure, "What it shows")
    svg = display.render(figure).data.decode()
    assert (text_on_a_phone(svg) >= SMALLEST) == is_readable
    assert "DejaVuSans-Bold" in svg
