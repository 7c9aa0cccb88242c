"""Memory and time of reading are bounded: by the pixels of an image, by the rows of a table."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
import zlib

import pytest

from data.toys import coded, picture
from leuk_lib.data.check import check_folder
from leuk_lib.data.image_files import inflate_exactly
from leuk_lib.data.tables import EXTRA, METADATA, read_groups, read_manifest

SIDE = 3000
# Decodes a PNG whose pixels compress to almost nothing, and prints by how much the process grew.
DECODE = """
import resource, struct, sys, zlib
from leuk_lib.data.decode import decode
depth, colour, side = map(int, sys.argv[1:])
def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
def png(side):
    row = b"\\0" + b"\\xc8" * (side * depth // 8 * {0: 1, 2: 3, 6: 4}[colour])
    packer = zlib.compressobj()
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
decode(png(100))
data = png(side)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decode(data).image.shape == (side, side, 3) and len(data) < side * side / 100
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
@pytest.mark.parametrize(("depth", "colour", "most"), [(16, 0, 12), (16, 2, 13), (8, 6, 12), (16, 6, 17)])
def test_bytes_of_memory_per_pixel(depth, colour, most):
    """A 16-bit grey PNG took 25 bytes per pixel: 124 kB on the disk were 1.6 GB in memory."""
    command = [sys.executable, "-c", DECODE, str(depth), str(colour), str(SIDE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) / SIDE**2 < most


def test_a_png_that_inflates_without_end_is_left_early():
    """Rows beyond the last are not inflated: 60 MB of them would take as long as they take to write."""
    bomb = zlib.compress(bytes(60_000_000))
    tracemalloc.start()
    assert not inflate_exactly([bomb], 1000, 1000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.fixture
def large(tmp_path):
    """A folder with a manifest and a table of patients of 50,000 rows each."""
    rows = [f"AML/images/cell_{k:07d}.png,AML,patient{k % 1000},masks/cell_{k:07d}.png" for k in range(50_000)]
    (tmp_path / "manifest.csv").write_text("path,label,group,mask\n" + "\n".join(rows))
    (tmp_path / METADATA).write_text("file,patient\n" + "\n".join(f"cell_{k}.png,p{k % 1000}" for k in range(50_000)))
    return tmp_path


def test_a_manifest_of_a_million_rows_takes_seconds(large):
    """A twentieth of it: a quarter of a second of processor time on an idle machine, and 15 MB."""
    start = time.process_time()
    rows = read_manifest(large)
    groups, unused = read_groups(large, {"cell_5.png", "cell_5"})
    assert time.process_time() - start < 5  # ten times as long with coverage beside another worker
    assert len(rows) == 50_000 and groups["cell_5.png"] == {"p5"} and len(unused) == 49_999
    assert dict(rows["AML/images/cell_0001001.png"]) == {
        "label": "AML", "group": "patient1", "mask": "masks/cell_0001001.png", "part": "", "external": "",
    } | {column: "" for column in rows["AML/images/cell_0001001.png"] if column in EXTRA}  # fmt: skip
    del rows
    tracemalloc.start()
    read_manifest(large)
    assert tracemalloc.get_traced_memory()[1] < 25_000_000
    tracemalloc.stop()


def missing_files(root, rows):
    """Write a manifest of files that are missing, each with a mask, beside two small images."""
    for name in ("AML", "CML"):
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(coded(picture(ord(name[0]))))
    lines = [f"AML/cell_{k:07d}.png,AML,patient{k // 200},masks/AML/cell_{k:07d}.png" for k in range(rows)]
    (root / "manifest.csv").write_text("\n".join(["path,label,group,mask", *lines]))


def test_a_manifest_whose_files_are_missing_takes_bytes_per_row(tmp_path):
    """230 bytes at the peak; with an object of several fields for each finding it was 400."""
    missing_files(tmp_path / "few", 1)
    missing_files(tmp_path / "many", 20_000)
    check_folder(tmp_path / "few", workers=1)  # imports what is needed
    tracemalloc.start()
    findings = check_folder(tmp_path / "many", workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    findings = findings[findings["severity"] == "error"]
    assert findings["path"].tolist() == [f"AML/cell_{k:07d}.png" for k in range(20_000)]
    assert set(findings["finding"]) == {"in the manifest but not in the folder"}
    assert peak / 20_000 < 320


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_a_million_missing_files_take_ten_seconds_and_500_mb(tmp_path):
    missing_files(tmp_path / "cells", 1_000_000)
    command = [sys.executable, "-m", "leuk_lib.cli.main", "data", "check", str(tmp_path / "cells"), "--quiet"]
    with (tmp_path / "out.txt").open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    out = (tmp_path / "out.txt").read_text()
    assert os.waitstatus_to_exitcode(status) == 1 and "in the manifest but not in the folder: 1000000;" in out, out
    assert used.ru_maxrss * 1024 < 500e6
    assert used.ru_utime + used.ru_stime < 10
