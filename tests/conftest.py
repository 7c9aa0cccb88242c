"""What all tests share: the real development images, and a project root whose results are elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from leuk_lib.book.pdf import find_browser
from leuk_lib.runs.errors import LeukError
from leuk_lib.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
RUNS = ("browser", "notebooks")  # markers of tests that read or make runs: `make test-runs` makes the smoke run first
SLOW = (*RUNS, "slow")
CHROMIUM_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# What a property test checks is not how long it takes: two cores may be busy with other things.
settings.register_profile("leuk", deadline=None)
settings.load_profile("leuk")
# Two cores: two threads alone, one for each of two workers. More threads only wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have a slow test, so that no worker is left alone with one at the end.

    Raises:
        pytest.UsageError: If a test reads the smoke run and has no marker that says so; it would be skipped.
    """
    for item in items:
        if "smoke_run" in getattr(item, "fixturenames", ()) and not any(
            mark.name in RUNS for mark in item.iter_markers()
        ):
            raise pytest.UsageError(f"{item.nodeid}: reads the smoke run; mark it as one of {', '.join(RUNS)}")
    slow = {item.path for item in items if any(mark.name in SLOW for mark in item.iter_markers())}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """``../shared/data``: real blood-smear micrographs, which never enter the repository."""
    configured = os.environ.get("LEUK_SHARED_DATA")
    candidates = [Path(configured)] if configured else [parent / "shared" / "data" for parent in ROOT.parents]
    for folder in candidates:
        if (folder / "manifest.csv").exists():
            return folder
    pytest.skip("no ../shared/data beside the project (set LEUK_SHARED_DATA to the development images)")


@pytest.fixture(scope="session")
def smoke_run() -> Path:
    """Folder of the finished smoke run, which tests read and do not change."""
    folder = ROOT / "results" / "smear-smoke-s0"
    if not (folder / STAGES[-1].name / "notebook.ipynb").exists():
        pytest.skip("no finished smoke run in results/: `make test` makes one first (`leuk run --profile smoke`)")
    return folder


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder of the test's own."""
    folder = tmp_path / "results"
    monkeypatch.setenv("LEUK_RESULTS", str(folder))
    monkeypatch.setenv("LEUK_ROOT", str(ROOT))
    return folder


@pytest.fixture(scope="session")
def chromium() -> dict[str, Any]:
    """Path of a Chromium or Chrome and its flags, as Playwright takes them."""
    try:
        return {"executable_path": find_browser(), "args": CHROMIUM_FLAGS, "headless": True}
    except LeukError as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    """Playwright's API."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(chromium: dict[str, Any], playwright: Any) -> Iterator[Any]:
    """A running Chromium."""
    started = playwright.chromium.launch(**chromium)
    yield started
    started.close()
