"""`leuk init` lays out a project folder, from a checkout and from an installed wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from leuk_lib.cli.main import main
from leuk_lib.runs import content


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in content.files(folder)}


def test_a_checkout_is_copied_without_what_runs_made(root: Path, tmp_path: Path):
    assert main(["init", str(tmp_path / "mine")]) == 0
    assert contents(tmp_path / "mine") == contents(root)
    made = {part for path in (tmp_path / "mine").rglob("*") for part in path.relative_to(tmp_path).parts}
    assert not made & (content.MADE | {"results", "leuk_lib", "tests"})


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str):
    place = tmp_path / "mine"
    kept = place / "notes.txt" if kind == "folder" else place
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    assert main(["init", str(place)]) == 2
    assert capsys.readouterr().err == f"leuk: {place}: is not an empty folder; name a new one\n"
    assert kept.read_text() == "mine" and [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


@pytest.mark.notebooks
def test_a_wheel_lays_out_a_folder_in_which_stages_run(root: Path, tmp_path: Path):
    """The library is the wheel's: nothing is read from the checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 5e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "library")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("LEUK_")}

    def leuk(*arguments: str, cwd: Path) -> str:
        command = [sys.executable, "-m", "leuk_lib.cli.main", *arguments]
        environment = bare | {"PYTHONPATH": str(tmp_path / "library")}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    leuk("init", "mine", cwd=tmp_path)
    assert contents(tmp_path / "mine") == contents(root)
    leuk("run", "data", "--profile", "smoke", cwd=tmp_path / "mine")
    assert "data       fresh" in leuk("status", cwd=tmp_path / "mine")
