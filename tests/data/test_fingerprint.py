"""The content hash of a data set."""

from __future__ import annotations

import errno
import os

import pytest

from data.toys import coded, folder, picture
from leuk_lib.data.check import check_folder
from leuk_lib.data.fingerprint import fingerprint


def test_a_name_that_is_not_utf8(tmp_path):
    folder(tmp_path)
    try:
        (tmp_path / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(coded(picture(9)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert check_folder(tmp_path)["finding"].tolist() == ["file name is not UTF-8"]
    assert fingerprint(str(tmp_path))


def test_content_names_and_labels_change_the_fingerprint_and_the_place_does_not(tmp_path):
    first = fingerprint(str(folder(tmp_path / "one")))
    assert fingerprint(str(folder(tmp_path / "two"))) == first and len(first) == 64
    (tmp_path / "two/a/a0.png").write_bytes(coded(picture(77)))
    assert fingerprint(str(tmp_path / "two")) != first
    (tmp_path / "one/a").rename(tmp_path / "one/c")
    assert fingerprint(str(tmp_path / "one")) != first
    assert fingerprint("smear") == fingerprint("smear") != first


def test_the_fingerprint_of_a_folder_is_stable(tmp_path):
    files = {"a/0.png": b"first", "b/1.png": b"second", "masks/0.png": b"mask", "a/notes.txt": b"words"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "metadata.csv").write_text("file,patient\n0.png,p1\nb/1.png,p2\n")
    expected = "db53db0ac4127cfd211a42ac61fa1c2e6d7ece703218894453d066e9cdfc09c8"
    assert fingerprint(str(tmp_path)) == expected, "all runs of all folders would be stale"


def test_links_and_pipes_have_a_fingerprint(tmp_path):
    whole = fingerprint(str(folder(tmp_path)))
    file = tmp_path / "a/a9.png"
    file.symlink_to(tmp_path / "a/nothing.png")
    dangling = fingerprint(str(tmp_path))
    file.unlink()
    os.mkfifo(file)
    pipe = fingerprint(str(tmp_path))
    file.unlink()
    assert len({whole, dangling, pipe}) == 3 and fingerprint(str(tmp_path)) == whole


def test_a_file_without_permission_has_a_fingerprint(tmp_path, monkeypatch):
    folder(tmp_path)
    real = os.open

    def closed(path, flags, *rest, **more):
        if str(path).endswith("a0.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *rest, **more)

    whole = fingerprint(str(tmp_path))
    monkeypatch.setattr(os, "open", closed)
    assert fingerprint(str(tmp_path)) != whole
