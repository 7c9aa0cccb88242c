"""A disk of 16 KB, names of 255 bytes and folders that vanish: one line each, and nothing half written."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from book import toys as fake
from data.toys import coded, picture
from leuk_lib import workflow
from leuk_lib.audit.reference import Rule, Rules, write_reference
from leuk_lib.book.build import build_book
from leuk_lib.cli.main import main
from leuk_lib.data import folder as reader
from leuk_lib.data.loading import load_dataset
from leuk_lib.figures.style import new_figure
from leuk_lib.runs import card, files, paths
from leuk_lib.runs.checkpoint import Checkpoint
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.execute import execute
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import Stage
from project import toy_project

KILOBYTES = 16


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={KILOBYTES}k", "none", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no file system of 16 KB can be mounted here ({error})")
    if mounted.returncode:
        pytest.skip(f"no file system of 16 KB can be mounted here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Two classes of three images."""
    for k, label in enumerate(("a", "b")):
        (tmp_path / "cells" / label).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "cells" / label / f"{i}.png").write_bytes(coded(picture(10 * k + i)))
    return tmp_path / "cells"


def stage_with(write: Callable[[Stage[StageParams]], Any]) -> Callable[[Path], Any]:
    """Begin a stage whose results are on the disk, and write."""

    def call(folder: Path) -> None:
        with Stage.begin("data", StageParams, {"run": "r"}) as stage:
            stage.record("x", 1)
            write(stage)

    return call


def drawn() -> Any:
    figure, axes = new_figure(4, 3)
    axes.plot(np.random.default_rng(0).normal(size=3000))
    return figure


def reference(folder: Path) -> None:
    rules = Rules(rules=(Rule(numbers=("*",), kind="exact", why="a rule of the tests"),))
    write_reference(paths.run_folder("other"), folder / "reference.json", rules)


LARGE = torch.zeros(20_000)
DOORS = {
    "a table": stage_with(lambda stage: stage.save_table("t", pd.DataFrame({"x": range(9000)}))),
    "tensors": stage_with(lambda stage: stage.save_tensors("t", {"x": LARGE})),
    "JSON": stage_with(lambda stage: stage.save_json("t", list(range(9000)))),
    "a figure": stage_with(lambda stage: stage.show("f", drawn())),
    "the card": stage_with(lambda stage: [stage.note("n" * 200) for _ in range(200)]),
    "a checkpoint": lambda folder: Checkpoint(folder, "id").save({"x": LARGE}),
    "a run": lambda folder: workflow.run_stages("smear", "smoke", [0], run="r"),
}


@pytest.mark.parametrize("door", DOORS)
def test_sixteen_kilobytes_are_one_line_and_leave_nothing_half_written(
    disk: Path, results: Path, monkeypatch: pytest.MonkeyPatch, door: str
):
    monkeypatch.setenv("LEUK_RESULTS", str(disk))
    with pytest.raises(LeukError, match=r"the disk is full|the disk has 0\.0 MB left") as error:
        DOORS[door](disk)
    assert str(disk) in str(error.value) and "\n" not in str(error.value)
    assert not [path for path in disk.rglob("*") if ".tmp" in path.name]


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(disk: Path):
    checkpoint = Checkpoint(disk, "id")
    checkpoint.save({"step": 1})
    with pytest.raises(LeukError, match="disk is full"):
        checkpoint.save({"step": 2, "x": LARGE})
    assert checkpoint.load() == {"step": 1}


@pytest.mark.notebooks
def test_a_notebook_that_does_not_fit_is_one_line(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LEUK_ROOT", str(toy_project(tmp_path, "print('x' * 100_000)")))
    with pytest.raises(LeukError, match=r"partial\.ipynb: the disk is full"):
        execute("toy", {}, disk / "toy" / "notebook.ipynb")


@pytest.mark.parametrize("option", ["--csv", "--html"])
def test_a_report_that_does_not_fit_is_one_line(
    disk: Path, cells: Path, capsys: pytest.CaptureFixture[str], option: str
):
    (disk / "filled").write_bytes(bytes(KILOBYTES * 1024 - 4096))
    (cells / "a" / ("n" * 200 + ".png")).write_bytes(b"no image")
    (disk / "rest").write_bytes(bytes(4096))
    assert main(["data", "check", str(cells), option, str(disk / "findings.x")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "findings.x: the disk is full" in lines[0]
    assert sorted(path.name for path in disk.iterdir()) == ["filled", "rest"]


def test_a_book_that_does_not_fit_is_refused_before_it_is_built(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stages = (fake.spec("data"),)
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path / "project"))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    fake.make_project(tmp_path / "project", stages)
    fake.finish_stage(stages[0])
    with pytest.raises(LeukError, match=r"the disk has 0\.0 MB left, and at least"):
        build_book(tmp_path / "project", fake.RUN, disk, stages)


def test_files_that_are_larger_than_allowed_are_one_line(tmp_path: Path):
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (KILOBYTES * 1024, before[1]))
    try:
        with pytest.raises(LeukError, match=r"a\.json: cannot be written \(File too large\)"):
            files.write_json(tmp_path / "a.json", list(range(9000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", ["a", "ä", "細"])
def test_names_of_255_bytes_can_be_written_and_longer_ones_are_one_line(tmp_path: Path, letter: str):
    size = len(letter.encode())
    name = letter * ((255 - 5) // size) + ".json"
    files.write_json(tmp_path / name, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(LeukError, match="choose a shorter name"):
        files.write_json(tmp_path / (letter * (260 // size) + ".json"), 1)


def test_a_data_set_whose_names_have_255_bytes_is_read_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / ("d" * 255)
    for k, letter in enumerate("äb"):
        label = letter * (255 // len(letter.encode()))
        (root / label).mkdir(parents=True)
        for i in range(3):
            (root / label / f"{i}{'f' * 250}.png").write_bytes(coded(picture(10 * k + i)))
    (root / label / f"{'g' * 251}.png").write_bytes(b"no image")
    assert main(["data", "check", str(root), "--csv", str(tmp_path / ("c" * 255))]) == 1
    assert len(pd.read_csv(tmp_path / ("c" * 255))) >= 1
    assert capsys.readouterr().err == ""
    data = load_dataset(str(root), size=16)
    assert len(data.images) == 6 and len(data.classes) == 2
    name = paths.run_name(str(root), "smoke", 0)
    assert len(name) < paths.MAX_RUN and paths.run_folder(name)


def test_a_working_folder_that_was_removed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("LEUK_ROOT", raising=False)
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["status"]) == 1
    assert "the working folder was removed" in capsys.readouterr().err
    os.chdir(tmp_path)


def after_listing(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Act while a folder is read: its files are listed first and decoded afterwards."""
    listed = reader.list_folder

    def listed_and_acted(*values: Any, **named: Any) -> Any:
        listing = listed(*values, **named)
        act()
        return listing

    monkeypatch.setattr(reader, "list_folder", listed_and_acted)


def test_cells_that_vanish_while_they_are_read_are_findings(cells: Path, monkeypatch: pytest.MonkeyPatch):
    after_listing(monkeypatch, (cells / "a" / "1.png").unlink)
    data = reader.read_folder(cells, size=16)
    assert len(data.images) == 5
    assert data.findings["path"].tolist() == ["a/1.png"]


def test_a_folder_that_vanishes_while_it_is_read_is_one_line(cells: Path, monkeypatch: pytest.MonkeyPatch):
    after_listing(monkeypatch, lambda: shutil.rmtree(cells))
    assert len(reader.read_folder(cells, size=16).findings) == 6
    with pytest.raises(LeukError, match="cells"):
        load_dataset(str(cells), size=16)


def test_results_that_vanish_while_a_stage_writes_are_not_taken_for_finished(results: Path):
    with Stage.begin("data", StageParams, {"run": "r"}) as stage:
        stage.save_json("first", 1)
        shutil.rmtree(results)
        stage.record("x", 1)
    state, reasons = card.stage_state("r", "data")
    assert state == "stale" and "its output first.json is missing" in reasons


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path, kind: str):
    place = tmp_path / "pipe" if kind == "pipe" else Path("/dev/null")
    if kind == "pipe":
        os.mkfifo(place)
    before = place.stat()
    with pytest.raises(LeukError, match="a pipe or a device"):
        files.write_text(place, "lost")
    assert place.stat().st_ino == before.st_ino and place.stat().st_mode == before.st_mode
    with pytest.raises(LeukError, match="a pipe or a device"):  # a link to whatever the terminal writes into
        files.write_text(Path("/dev/stdout"), "lost")


def test_what_a_command_reads_is_not_written_over(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    known = sorted(cells.rglob("*.*"))
    image = known[0]
    content = image.read_bytes()
    (tmp_path / "link.csv").symlink_to(image)
    for out in (image, tmp_path / "link.csv"):
        for command in (
            ["check", str(cells), "--csv"],
            ["check", str(cells), "--html"],
            ["split", str(cells), "--out"],
        ):
            assert main(["data", *command, str(out), "--quiet"]) == 2
            assert "is one of the files that are read" in capsys.readouterr().err
    assert image.read_bytes() == content and sorted(cells.rglob("*.*")) == known
    assert main(["data", "check", str(cells), "--csv", str(tmp_path / "f"), "--html", str(tmp_path / "f")]) == 2
    assert "named for two files" in capsys.readouterr().err
    assert main(["data", "split", str(cells), "--out", str(cells / "new.json"), "--folds", "2", "--quiet"]) == 0


@pytest.mark.parametrize("out", ["", ".", "folder", "pipe", "/dev/full"])
def test_an_output_that_no_file_can_be_is_refused_before_anything_is_read(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """``--csv "$UNSET"`` ended in a traceback, and a folder was refused after all images had been predicted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for command in (
        ["data", "check", "gone", "--csv", out],
        ["data", "check", "gone", "--html", out],
        ["data", "split", "gone", "--out", out],
        ["predict", "gone.png", "--model", "gone", "--csv", out],
        ["predict", "gone.png", "--model", "gone", "--sheet", out],
        ["export", "gone", "--onnx", out],
        ["reference", "gone", "--out", out],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and any(
            words in error for words in ("is no name of a file", "a folder stands where", "a pipe or a device")
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_reference_is_not_written_over_the_run_that_it_is_of(results: Path, capsys: pytest.CaptureFixture[str]):
    with Stage.begin("data", StageParams, {"run": "r"}) as stage:
        stage.record("cells", 3)
    for name in ("card.json", "metrics.json"):
        assert main(["reference", "r", "--out", str(results / "r" / "data" / name)]) == 2
        assert "is one of the files that are read" in capsys.readouterr().err
