"""Runs whose processes are killed in any order, while the next run has begun: no two write into a stage's folder."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from leuk_lib.runs import card, lock
from leuk_lib.runs.stage import LOCK
from leuk_lib.workflow import results_lock
from project import copy_stage_files

pytestmark = pytest.mark.notebooks

ROUNDS = 30
WAIT = 600  # s; on a busy machine a round of half a minute takes several
# While this cell runs, its process alone may change the folder: papermill saves before and after a cell, Snakemake removes
# what a stage made earlier, a second notebook would write a card. Steps are written as a training writes its checkpoints;
# the end of papermill is a request to stop, which is met a second later.
CELL = """
import os, signal, time
from leuk_lib.runs import paths
from leuk_lib.runs.parent import end_is_sigterm

asked = []
# Bound to its names: a kernel that ends slowly is asked again when they are gone.
signal.signal(signal.SIGTERM, lambda *_, asked=asked, now=time.monotonic: asked.append(now()))

def of_others():
    own = ("steps.txt", "state.json", f".state.{os.getpid()}.tmp.json")
    return {
        path.name: (seen.st_ino, seen.st_mtime_ns, seen.st_size)
        for path in sorted(stage.folder.iterdir()) if path.name not in own for seen in [path.stat()]
    }

before = of_others()
with end_is_sigterm():
    for step in range(30):
        stage.save_json("state", {"step": step, "text": "x" * 50_000})
        with (stage.folder / "steps.txt").open("a") as file:
            file.write(f"{os.getpid()} {step}\\n")
        time.sleep(0.04)
        if (now := of_others()) != before:
            with (paths.results_root() / "violations.txt").open("a") as file:
                file.write(f"{stage.folder}: {sorted(set(before.items()) ^ set(now.items()))}\\n")
        if asked and time.monotonic() - asked[0] > 1:
            raise SystemExit(143)
"""


@pytest.fixture
def project(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stage ``data`` runs ``CELL``."""
    copy_stage_files(root, tmp_path)
    shutil.copytree(root / "notebooks", tmp_path / "notebooks")
    for name in ("_config.yml", "requirements.lock"):
        shutil.copy(root / name, tmp_path)
    path = tmp_path / "notebooks" / "01_data.ipynb"
    notebook = nbformat.read(path, 4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    begin = (
        "from leuk_lib.data.params import DataParams\nfrom leuk_lib.runs.stage import Stage\n"
        "stage = Stage.begin('data', DataParams, globals())"
    )
    cells = [nbformat.v4.new_code_cell(text) for text in (begin, CELL, "stage.record('x', 1)\nstage.finish()")]
    notebook.cells = [parameters, *cells]
    nbformat.write(notebook, path)
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / "results"))
    return tmp_path


class Run:
    """``leuk run data``, with all its output in a file."""

    def __init__(self, project: Path, run: str, name: str) -> None:
        self.log = project / f"{run}-{name}.log"
        command = [sys.executable, "-m", "leuk_lib.cli.main", "run", "data", "--profile", "smoke", "--run", run]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def end(self) -> int:
        return self.process.wait(WAIT)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def family(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def processes_of(results: Path) -> list[psutil.Process]:
    """All processes, of whatever parent, that work in a results folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LEUK_RESULTS") == str(results) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


def assert_in_order(steps: Path) -> None:
    """Each process that wrote has ended before the next one began."""
    lines = [line.split() for line in steps.read_text().splitlines()]
    writers = list(dict.fromkeys(pid for pid, _ in lines))
    expected = [(pid, str(step)) for pid in writers for step in range(sum(line[0] == pid for line in lines))]
    assert [tuple(line) for line in lines] == expected


REFUSED = (
    "another run is writing into", "is still being written by", "is being written by", "not started; the run that asked",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_whatever_is_killed_no_second_process_writes_while_the_first_lives(project: Path):
    results = project / "results"
    begun = time.monotonic()
    whole = Run(project, "whole", "a")
    assert whole.end() == 0, whole.said
    seconds = time.monotonic() - begun
    chance = random.Random(25)
    outcomes = []
    for number in range(ROUNDS):
        run = f"r{number}"
        first = Run(project, run, "a")
        time.sleep(chance.uniform(0, 1.05 * seconds))
        victims = first.family()
        victims = chance.sample(victims, chance.randint(1, len(victims))) if victims else []
        for victim in victims:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            time.sleep(chance.choice([0, 0, 0.03, 0.3]))
        second = Run(project, run, "b")
        code = second.end()
        here = f"round {number}: {first.said}\n---\n{second.said}"
        assert code in (0, 1) and "Traceback" not in second.said, here
        if code:
            assert sum(line.startswith("leuk: ") for line in second.said.splitlines()) == 1, here
            assert any(text in second.said for text in REFUSED), here
        first.end()
        _, alive = psutil.wait_procs(processes_of(results), timeout=WAIT)
        for process in alive:
            process.kill()
        assert alive == [], here
        last = Run(project, run, "c")
        assert last.end() == 0, f"{here}\n---\n{last.said}"
        folder = results / run / "data"
        assert card.stage_state(run, "data")[0] == "fresh", here
        assert not (results / "violations.txt").exists(), here + (results / "violations.txt").read_text()
        assert_in_order(folder / "steps.txt")
        assert [path for path in results.rglob("*.tmp*") if ".snakemake" not in path.parts] == [], here
        assert lock.writer(folder, LOCK) == lock.writer(folder, lock.NOTEBOOK_LOCK) == ""
        with results_lock(results):
            pass
        outcomes.append(code)
    assert set(outcomes) == {0, 1}, "some runs begin beside living processes, others after all have ended"
