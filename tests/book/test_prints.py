"""The page of figures, and the PDFs that it offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from book import toys as fake
from leuk_lib.book import prints
from leuk_lib.runs import paths

STAGES = (fake.spec("data"), fake.spec("wpat", ("data",)))
CARDS = {
    "data": {"run": "r", "git": {"commit": "a" * 40}, "outputs": {"figures/rates.svg": "1", "figures/rates.pdf": "2", "table.csv": "3"}},
    "wpat": {"run": "r", "git": {"commit": "a" * 40}, "outputs": {"figures/cells.png": "4"}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    return fake.make_project(tmp_path, STAGES)


def test_only_figures_are_listed_with_their_forms() -> None:
    assert prints.figures_of(CARDS["data"]) == {"rates": ["pdf", "svg"]}
    assert prints.figures_of({}) == {}


def test_page_names_chapter_run_and_commit_and_offers_the_pdf() -> None:
    page = prints.figures_page(STAGES, CARDS, "../generated/prints")
    assert "`aaaaaaaaaa`" in page and "`r`" in page
    rows = [line for line in page.splitlines() if line.startswith(("| rates", "| cells"))]
    assert "{download}`PDF <../generated/prints/data-rates.pdf>`" in rows[0] and "Title of data" in rows[0]
    assert "PNG in the run's folder" in rows[1] and "download" not in rows[1]
    smoke = {"data": {**CARDS["data"], "outputs": {"figures/rates.svg": "1"}}}
    assert "SVG in the run's folder" in prints.figures_page(STAGES, smoke, "x")
    assert "no figures yet" in prints.figures_page(STAGES, {}, "x")


def test_copies_are_those_of_the_run_and_nothing_older(tmp_path: Path) -> None:
    source = paths.stage_folder("r", "data") / "figures" / "rates.pdf"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"%PDF")
    folder = tmp_path / "prints"
    folder.mkdir()
    (folder / "data-old.pdf").write_bytes(b"old")
    prints.copy_prints(folder, "r", STAGES, CARDS)
    assert [path.name for path in folder.iterdir()] == ["data-rates.pdf"]
    assert (folder / "data-rates.pdf").read_bytes() == b"%PDF"
