"""Building the book: not twice, not from unexecuted chapters, not with faulty pages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from book import toys as fake
from leuk_lib.book import build, html
from leuk_lib.runs import card as cards
from leuk_lib.runs import files, paths
from leuk_lib.runs.errors import LeukError

STAGES = (fake.spec("data"), fake.spec("results", ("data",)))
TOC = """format: jb-book
root: book/index
chapters:
  - file: book/chapters/01_data
  - file: book/chapters/02_results
"""
INDEX = "# A small book\n\nAccuracy {glue:text}`chapters/02_results.ipynb::results.accuracy:.2f`, formula $x^2$.\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small book in a folder with a space, its two stages finished."""
    root = tmp_path / "my project"
    monkeypatch.setenv("LEUK_ROOT", str(root))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    fake.make_project(root, STAGES, book=True)
    for path in (root / "book").rglob("*.md"):
        path.unlink()
    files.write_text(root / "_toc.yml", TOC)
    files.write_text(root / "book" / "index.md", INDEX)
    for stage in STAGES:
        fake.finish_stage(stage, metrics={"accuracy": 0.75})
    return root


@pytest.fixture
def sphinx_calls(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Sphinx replaced by something that writes one good page; the list grows with each call."""
    calls: list[Path] = []

    def fake_sphinx(root: Path, out: Path) -> None:
        calls.append(out)
        files.write_text(out / "_build" / "html" / "book" / "index.html", "<html><body>a page</body></html>")
        files.write_text(out / "_build" / "html" / "_static" / "favicon.svg", "<svg/>")

    monkeypatch.setattr(build, "run_sphinx", fake_sphinx)
    return calls


def make(project: Path) -> Path:
    return build.build_book(project, fake.RUN, stages=STAGES)


def test_second_build_does_nothing(project: Path, sphinx_calls: list[Path]) -> None:
    first = make(project)
    assert make(project) == first and first.exists()
    assert len(sphinx_calls) == 1


def test_changed_prose_builds_again(project: Path, sphinx_calls: list[Path]) -> None:
    make(project)
    files.write_text(project / "book" / "index.md", "# Another book\n")
    make(project)
    assert len(sphinx_calls) == 2


def test_changed_run_builds_again(project: Path, sphinx_calls: list[Path]) -> None:
    make(project)
    fake.finish_stage(STAGES[1], metrics={"accuracy": 0.5})
    make(project)
    assert len(sphinx_calls) == 2


def test_deleted_book_is_built_again(project: Path, sphinx_calls: list[Path]) -> None:
    make(project).unlink()
    make(project)
    assert len(sphinx_calls) == 2


def test_gate_comes_first(project: Path, sphinx_calls: list[Path]) -> None:
    (paths.stage_folder(fake.RUN, "data") / "notebook.ipynb").unlink()
    with pytest.raises(LeukError, match="chapter 01_data"):
        make(project)
    assert sphinx_calls == []
    assert not (project / "book" / "chapters").exists()


def test_faulty_pages_do_not_count_as_built(
    project: Path, sphinx_calls: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def page_without_its_image(root: Path, out: Path) -> None:
        sphinx_calls.append(out)
        files.write_text(out / "_build" / "html" / "book" / "index.html", '<img src="gone.png" alt="a cell">')
        files.write_text(out / "_build" / "html" / "_static" / "favicon.svg", "<svg/>")

    monkeypatch.setattr(build, "run_sphinx", page_without_its_image)
    for _ in range(2):  # the second call must not take the first build as finished
        with pytest.raises(LeukError, match=r"names a missing file: gone\.png"):
            make(project)
    assert len(sphinx_calls) == 2


def test_old_chapters_disappear(project: Path, sphinx_calls: list[Path]) -> None:
    files.write_text(project / "book" / "chapters" / "09_old.ipynb", "{}")
    make(project)
    names = sorted(path.name for path in (project / "book" / "chapters").iterdir())
    assert names == ["01_data.ipynb", "02_results.ipynb"]


def test_only_warnings_of_sphinx_are_shown(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = f"building\n{project}/book/index.md:3: WARNING: a label is missing\nmore\n"
    done = subprocess.CompletedProcess([], 1, stdout=output, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: done)
    with pytest.raises(LeukError, match="could not be built"):
        build.run_sphinx(project, project / "book")
    assert capsys.readouterr().err.splitlines() == ["book/index.md:3: WARNING: a label is missing"]


@pytest.mark.slow
def test_a_small_book_for_real(
    project: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jupyter Book itself: banners, glue, figure texts; a number that is missing stops the build."""
    monkeypatch.setattr("leuk_lib.book.generate.pages.parameters", lambda stages: "")
    good = (paths.stage_folder(fake.RUN, "data") / "notebook.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(good)
    del notebook["cells"][2]["metadata"]["mystnb"]["image"]
    cards.seal(fake.RUN, "data", files.write_json(paths.stage_folder(fake.RUN, "data") / "notebook.ipynb", notebook))
    files.write_text(project / "book" / "index.md", INDEX.replace("results.accuracy", "results.missing"))
    with pytest.raises(LeukError, match="could not be built"):
        make(project)
    assert "results.missing" in capsys.readouterr().err
    problems = list(html.problems(project / "book" / "_build" / "html"))
    assert any("01_data.html: an image has no alt text" in problem for problem in problems)

    files.write_text(project / "book" / "index.md", INDEX)
    cards.seal(fake.RUN, "data", files.write_text(paths.stage_folder(fake.RUN, "data") / "notebook.ipynb", good))
    index = make(project)
    first = (index.parent / "book" / "index.html").read_text(encoding="utf-8")
    chapter = (index.parent / "book" / "chapters" / "01_data.html").read_text(encoding="utf-8")
    for page in (first, chapter):
        assert (
            "Smoke run: not a result" in page and "Rendered cells: " in page and "not a medical device" in page.lower()
        )
    assert "0.75" in first
    assert 'alt="A grey ramp for data"' in chapter and "chatter" not in chapter
    assert "THEBE_JS_URL" not in chapter
