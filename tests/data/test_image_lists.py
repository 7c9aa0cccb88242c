"""What a person names on the command line stands for image files: each once, in order; names that give no file are reported."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest

from damage import TIMES, mutated_table, one_line
from data.toys import folder
from leuk_lib.data.decode import read_file
from leuk_lib.data.image_files import Unreadable
from leuk_lib.data.image_lists import find_images
from leuk_lib.runs.errors import LeukError


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Two class folders with two images each, a text, and a hidden image."""
    root = folder(tmp_path / "cells", each=2)
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / ".hidden.png").write_bytes((root / "a" / "a0.png").read_bytes())
    return root


def names(files: list[Path], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def test_files_folders_and_patterns(cells: Path):
    everything = ["a/a0.png", "a/a1.png", "b/b0.png", "b/b1.png"]
    assert names(find_images([cells])[0], cells) == everything
    assert names(find_images([f"{cells}/*/*1.png"])[0], cells) == ["a/a1.png", "b/b1.png"]
    assert names(find_images([f"{cells}/**/*.*"])[0], cells) == everything
    files, unusable = find_images([cells / "b" / "b1.png", cells, cells / "b" / "b1.png"])
    assert names(files, cells) == ["b/b1.png", "a/a0.png", "a/a1.png", "b/b0.png"] and not unusable


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(cells: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(cells)
    files, unusable = find_images([name])
    assert not files and [item.reason for item in unusable] == ["an empty name; name a file or a folder"]


def test_a_file_whose_name_has_brackets_is_a_file(cells: Path):
    (cells / "a" / "a0.png").rename(cells / "a" / "a[0].png")
    assert names(find_images([cells / "a" / "a[0].png"])[0], cells) == ["a/a[0].png"]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("csv", "\ufeffFilename,label\na/a0.png,x\n,\nb/gone.png,y\n"),
        ("tsv", "label\tpath\nx\ta/a0.png\ny\tb/gone.png\n"),
        ("csv", 'image,note\n"a/a0.png","one, two"\n"b/gone.png",""\n'),
    ],
)
def test_a_table_names_files_beside_it(cells: Path, suffix: str, text: str):
    table = cells / f"list.{suffix}"
    table.write_text(text, encoding="utf-8")
    assert names(find_images([table])[0], cells) == ["a/a0.png", "b/gone.png"]


def test_a_row_that_says_something_about_no_file_is_listed(cells: Path):
    (cells / "list.csv").write_text("file,label\na/a0.png,x\n,y\n,\n")
    files, unusable = find_images([cells / "list.csv"])
    assert names(files, cells) == ["a/a0.png"]
    assert [item.reason for item in unusable] == ["1 of its rows have no name in column file"]


def test_what_stands_for_no_file_is_listed_with_the_reason(cells: Path):
    (cells / "empty").mkdir()
    files, unusable = find_images([cells / "empty", cells / "gone.png", f"{cells}/*.jpg", cells / "a"])
    assert names(files, cells) == ["a/a0.png", "a/a1.png"]
    assert [Path(item.file).name for item in unusable] == ["empty", "gone.png", "*.jpg"]
    assert [item.reason.split(" (")[0] for item in unusable] == [
        "no image in this folder", "no such file or folder", "no image file fits this pattern",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"label,size\nx,3\n", "no column with files .*; it has label, size"),
        (b"", "it has none"),
        (b"file\n\xff\xfe\n", "cannot be read as a table"),
        (b'file\n"a/a0.png\nb/b0.png\n', "cannot be read as a table .unexpected end of data"),
    ],
)
def test_a_table_without_files_is_refused(cells: Path, content: bytes, message: str):
    (cells / "list.csv").write_bytes(content)
    with pytest.raises(LeukError, match=message) as caught:
        find_images([cells / "list.csv"])
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["~nosuchuser/x.png", "x" * 5000 + ".png", "a\0b.png", "a\0*", "\udcff.png", "a\nb.png"]
)
def test_names_that_no_disk_has_are_listed_and_stop_nothing(cells: Path, name: str):
    files, unusable = find_images([name, cells / "a"])
    assert names(files, cells) == ["a/a0.png", "a/a1.png"]
    assert len(unusable) == 1 and unusable[0].file.encode()


def test_such_names_in_a_table_are_files_that_cannot_be_read(cells: Path):
    (cells / "list.csv").write_text(f"path\n~nosuchuser/x.png\n{'x' * 5000}.png\na\0b.png\na/a0.png\n")
    files, unusable = find_images([cells / "list.csv"])
    assert [item.file.endswith("a\0b.png") for item in unusable] == [True] and files[-1] == cells / "a" / "a0.png"
    for file in files[:-1]:
        with pytest.raises(Unreadable):
            read_file(file)


def test_a_file_name_of_other_bytes_than_utf_8_is_listed(cells: Path):
    place = os.fsencode(cells / "a") + b"/\xff.png"
    try:
        Path(os.fsdecode(place)).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    files, unusable = find_images([cells / "a"])
    assert len(files) == 2 and unusable[0].file.endswith("\\udcff.png") and "not UTF-8" in unusable[0].reason


def test_a_folder_that_cannot_be_read_is_listed(cells: Path, monkeypatch: pytest.MonkeyPatch):
    usual = os.scandir

    def refused(path: str) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return usual(path)

    monkeypatch.setattr(os, "scandir", refused)
    files, unusable = find_images([cells])
    assert names(files, cells) == ["a/a0.png", "a/a1.png"]
    assert unusable == [(str(cells / "b"), "cannot be read (Permission denied)")]


@pytest.mark.parametrize("times", TIMES)
def test_mutated_tables_are_one_line(cells: Path, times: int):
    whole, rng = "path,label\na/a0.png,x\nb/b0.png,y\n", random.Random(1)
    for _ in range(times):
        (cells / "list.csv").write_text(mutated_table(whole, rng), encoding="utf-8")
        found = one_line(lambda: find_images([cells / "list.csv"]))
        for file in found[0] if isinstance(found, tuple) else ():
            with contextlib.suppress(Unreadable):
                read_file(file)
