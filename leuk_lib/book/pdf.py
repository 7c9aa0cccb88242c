"""The whole book as one PDF: Sphinx builds it as a single page, which Chromium prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

from leuk_lib.book.sphinx import run_sphinx
from leuk_lib.runs.errors import LeukError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
MAC_BROWSER = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
OWN_BROWSER = "LEUK_CHROMIUM"  # environment variable with the path of a Chromium
LEFT_OUT = {"book/use/api"}  # pages of the library's reference, which are hundreds on paper
PATIENCE_MS = 120_000  # of the page's own time, for formulas and figures
TIMEOUT_S = 900


def find_browser() -> str:
    """Path of a Chromium or Chrome: ``LEUK_CHROMIUM``, or the first of the usual names in ``PATH``.

    Raises:
        LeukError: If there is none.
    """
    own = os.environ.get(OWN_BROWSER)
    for name in (own,) if own else (*BROWSERS, MAC_BROWSER):
        if found := shutil.which(name):
            return found
    raise LeukError(
        f"no Chromium {f'at {own}' if own else 'or Chrome found'}; install one (Debian: apt install chromium) or set "
        f"{OWN_BROWSER} to its path"
    )


def print_page(page: Path, pdf: Path, browser: str) -> None:
    """Print a local HTML page into a PDF.

    Raises:
        LeukError: If the browser fails or takes longer than a quarter of an hour.
    """
    pdf.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        written = Path(profile) / "page.pdf"
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer",
            f"--user-data-dir={profile}", f"--virtual-time-budget={PATIENCE_MS}", f"--print-to-pdf={written}",
            page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise LeukError(f"{browser} did not print the book in {TIMEOUT_S // 60} minutes") from None
        if process.returncode or not written.exists() or not written.stat().st_size:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise LeukError(f"{browser} did not print the book: {last}")
        shutil.move(written, pdf)


def build_single_page(root: Path, folder: Path) -> Path:
    """Build the book, whose chapters and pages are already written, as one HTML page in ``folder``; return the page.

    Raises:
        LeukError: If Sphinx fails.
    """
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    for part in contents["parts"]:
        part["chapters"] = [chapter for chapter in part["chapters"] if chapter["file"] not in LEFT_OUT]
    toc = folder / "_toc.yml"
    toc.write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    run_sphinx(root, folder, "--toc", str(toc), "--builder", "singlehtml")
    site = folder / "_build" / "singlehtml"
    # The page of the first document is in its folder, but its addresses start at the top.
    return (site / f"{contents['root']}.html").rename(site / "whole.html")


def build_pdf(root: Path, pdf: Path) -> Path:
    """Print the book, whose chapters and pages are already written, into ``pdf``.

    Raises:
        LeukError: If there is no browser, or if Sphinx or the browser fails.
    """
    browser = find_browser()
    with tempfile.TemporaryDirectory() as folder:
        print_page(build_single_page(root, Path(folder)), pdf, browser)
    return pdf
