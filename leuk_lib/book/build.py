"""Build the book of one run: check the run, write chapters and pages, call Sphinx, check the built pages."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import leuk_lib
from leuk_lib.book import html
from leuk_lib.book.gate import check_run, executed_notebook
from leuk_lib.book.generate import copy_chapters, generate_pages
from leuk_lib.book.pdf import build_pdf, find_browser
from leuk_lib.book.slim import slim_pages
from leuk_lib.book.sphinx import run_sphinx
from leuk_lib.runs import paths, progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import need_space, sha256_file, write_text
from leuk_lib.stages import STAGES, StageSpec

REDIRECT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="0; url=book/index.html">
<link rel="icon" href="_static/favicon.svg">
<title>Leukemia classification, step by step</title>
</head>
<body><main><h1>Leukemia classification, step by step</h1><p><a href="book/index.html">Open the book</a></p></main></body>
</html>
"""
BOOK_SPACE = 150_000_000  # bytes; the default book has 85 MB
STEPS = 5  # of a build, for its progress
GENERATED = {"_build", "__pycache__", "generated", "chapters"}


def book_inputs(root: Path, run: str, stages: Sequence[StageSpec]) -> list[Path]:
    """Return every file that the built book depends on."""
    prose = [path for path in sorted((root / "book").rglob("*"))
             if path.is_file() and not GENERATED & set(path.relative_to(root / "book").parts)]  # fmt: skip
    library = sorted(Path(leuk_lib.__file__).parent.rglob("*.py"))
    cards = [paths.stage_folder(run, stage.name) / name for stage in stages for name in ("card.json", "metrics.json")]
    stem = f"{run.rsplit('-s', 1)[0]}-s*" if "-s" in run else run
    siblings = [
        path
        for name in ("card", "metrics")
        for path in sorted(paths.results_root().glob(f"{stem}/results/{name}.json"))
    ]
    settings = [root / name for name in ("_config.yml", "_toc.yml", "requirements.lock", "CITATION.cff")]
    notebooks = [executed_notebook(run, stage) for stage in stages]
    return [path for path in (*settings, *prose, *library, *cards, *siblings, *notebooks) if path.exists()]


def inputs_hash(root: Path, run: str, stages: Sequence[StageSpec]) -> str:
    """Return the SHA-256 over the names and contents of all :func:`book_inputs`."""
    digest = hashlib.sha256(run.encode())
    for path in book_inputs(root, run, stages):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def check_html(folder: Path) -> None:
    """Raise ``LeukError`` if the built pages have problems. All of them are printed first."""
    problems = list(html.problems(folder))
    if problems:
        print("\n".join(problems[:60]), file=sys.stderr)
        raise LeukError(f"the built book has {len(problems)} problems (above), first: {problems[0]}")


def build_book(
    root: Path,
    run: str,
    out: Path | None = None,
    stages: Sequence[StageSpec] = STAGES,
    fingerprint: Callable[[str], str] | None = None,
    pdf: bool = False,
) -> Path:
    """Build the book of ``run``. Does nothing if nothing changed since the last build.

    Args:
        root: The project's folder.
        run: Name of a finished run.
        out: Folder that gets ``_build/html``; ``book/`` by default.
        stages: The chapters.
        fingerprint: Maps a data set to its content hash, so that changed data count as stale.
        pdf: Also print the book into ``_build/book.pdf``, which needs Chromium or Chrome.

    Returns:
        Path of ``index.html``, or of the PDF.

    Raises:
        LeukError: If a chapter is missing, failed or stale, or if the built pages have problems.
    """
    root = root.resolve()
    out = paths.real_path(out or root / "book")
    index, printed = out / "_build" / "html" / "index.html", out / "_build" / "book.pdf"
    if pdf:
        find_browser()
    progress.report("checking the run", 0, STEPS, at_once=True)
    check_run(run, stages, fingerprint)
    stamp = out / "_build" / "inputs.json"
    present = json.dumps({"run": run, "inputs": inputs_hash(root, run, stages)})
    if not (index.exists() and stamp.exists() and stamp.read_bytes() == present.encode()):
        need_space(out, BOOK_SPACE)
        stamp.unlink(missing_ok=True)
        copy_chapters(root, run, stages)
        progress.report("writing pages", 1, STEPS, at_once=True)
        generate_pages(root, run, stages, fingerprint)
        shutil.rmtree(index.parent, ignore_errors=True)
        printed.unlink(missing_ok=True)
        progress.report("Sphinx", 2, STEPS, at_once=True)
        run_sphinx(root, out)
        progress.report("checking pages", 3, STEPS, at_once=True)
        slim_pages(index.parent)
        write_text(index, REDIRECT)
        check_html(index.parent)
        write_text(stamp, present)
    if not pdf:
        return index
    if not printed.exists():
        progress.report("printing the PDF", 4, STEPS, at_once=True)
        build_pdf(root, printed)
    return printed
