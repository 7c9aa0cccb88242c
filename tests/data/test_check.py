"""``leuk data check``: every kind of finding, the summary, the CSV, the page with pictures, exit codes."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from data.toys import coded, folder, picture
from leuk_lib.book.html import page_problems, read_page
from leuk_lib.cli.main import main
from leuk_lib.data.check import FINDINGS, check_folder, exit_code
from leuk_lib.data.report import render_page, render_text


def faulty(root):
    """A folder with one file for every kind of fault: file -> expected finding."""
    folder(root, each=6)
    whole = (root / "a/a0.png").read_bytes()
    grey_rgb = np.repeat(picture(60)[..., :1], 3, axis=2)
    files = {
        "a/empty.png": (b"", "empty file"),
        "a/cut.png": (whole[:-30], "truncated"),
        "a/cut.jpg": (coded(picture(61), "JPEG")[:-300], "truncated"),
        "a/flipped.png": (whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], "damaged"),
        "a/text.png": (b"this is a text", "not an image"),
        "a/bomb.png": (coded(np.zeros((9000, 9000), np.uint8)), "oversized"),
        "a/wide_bomb.png": (coded(np.zeros((8, 9_000_000), np.uint8)), "oversized"),
        "a/tiny.png": (coded(picture(62, 16)), "tiny"),
        "a/speck.png": (coded(picture(63, 7)), "too few"),
        "a/really.jpg": (coded(picture(64)), "another extension"),
        "a/grey.png": (coded(picture(65), mode="L"), "grey"),
        "a/grey_rgb.png": (coded(grey_rgb), "grey"),
        "a/palette.png": (coded(picture(66), mode="P"), "palette"),
        "a/cmyk.jpg": (coded(picture(67), "JPEG", "CMYK"), "CMYK"),
        "a/clear.png": (coded(np.dstack([picture(68), picture(69)[..., 0]])), "transparent"),
        "a/blank.png": (coded(np.full((40, 40, 3), 240, np.uint8)), "blank"),
        "a/long.png": (coded(np.hstack([picture(70), picture(71)])), "far from square"),
        "a/copy.png": (whole, "copy"),
        "a/shrunk.jpg": (coded(picture(2)[::-1].copy(), "JPEG", quality=90), "turned near-duplicate"),
        "b/conflict.png": ((root / "a/a4.png").read_bytes(), "label conflict"),
        "b/moving.tif": (coded(picture(72), "TIFF", save_all=True, append_images=[]), None),
    }
    for name, (data, _) in files.items():
        (root / name).write_bytes(data)
    (root / "a/link.png").symlink_to(os.devnull)
    os.mkfifo(root / "a/pipe.png")
    expected = {name: kind for name, (_, kind) in files.items() if kind}
    return expected | {"a/link.png": "symbolic link out of the folder", "a/pipe.png": "not a regular file"}


@pytest.fixture(scope="module")
def faulty_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty") / "cells"
    return root, faulty(root)


@pytest.fixture(scope="module")
def findings(faulty_folder):
    return check_folder(faulty_folder[0])


def test_every_kind_of_fault_is_found(faulty_folder, findings):
    for name, kind in faulty_folder[1].items():
        reported = findings.loc[findings["path"] == name, ["finding", "kind"]].to_numpy().ravel().tolist()
        assert any(kind in words for words in reported), (name, kind, reported)
    assert exit_code(findings) == FINDINGS
    healthy = {f"{k}/{k}{i}.png" for k in "ab" for i in range(6)} - {"a/a4.png"}
    assert not healthy & set(findings["path"])


def test_text_and_page_name_all_faulty_files(faulty_folder, findings, tmp_path):
    _, expected = faulty_folder
    report = render_text(findings)
    assert all(name in report for name in expected)
    assert report.splitlines()[0].endswith("no masks") and report.splitlines()[-1] == "Verdict: findings: see above"
    page = tmp_path / "findings.html"
    page.write_text(render_page(findings), encoding="utf-8")
    assert page_problems(page, tmp_path, read_page(page)) == []
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in expected) and text.count("<img") >= 12
    assert "http" not in text and 'alt="a/copy.png"' in text and 'alt="a/a0.png"' in text


def test_the_page_escapes_file_names(tmp_path):
    root = folder(tmp_path / "cells")
    (root / 'a/<script>alert("x")<!--.png').write_bytes(b"")
    text = render_page(check_folder(root))
    assert "<script" not in text and "&lt;script&gt;" in text


def test_the_command_writes_csv_and_page(faulty_folder, tmp_path, capsys):
    root, expected = faulty_folder
    csv, page = tmp_path / "out/f.csv", tmp_path / "out/f.html"
    assert main(["data", "check", str(root), "--csv", str(csv), "--html", str(page)]) == FINDINGS
    table = pd.read_csv(csv)
    assert set(expected) <= set(table["path"]) and {"finding", "severity", "advice", "other", "kind"} <= set(table)
    assert page.read_text().startswith("<!DOCTYPE html>") and "ERROR" in capsys.readouterr().out
