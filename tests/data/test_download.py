"""Downloads from a local server: complete, resumed, without ranges, wrong bytes, changed file."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.toys import coded, picture
from leuk_lib.cli.main import main
from leuk_lib.data import download as downloading
from leuk_lib.data.catalog import KNOWN_SETS, Download
from leuk_lib.data.download import ResumingDownloader, download, fetch_dataset
from leuk_lib.data.loading import load_dataset
from leuk_lib.runs.errors import LeukError


@dataclass
class Server:
    """What is served, and its faults."""

    content: bytes = b""
    break_after: int = 0  # bytes of each answer, then the connection is cut; 0: never
    ranges: bool = True
    status: list[int] = field(default_factory=list)  # answers to give first
    requested: list[str] = field(default_factory=list)  # Range header of every request
    url: str = ""

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:8]}"'


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.requested.append(wanted)
            if state.status:
                self.send_error(state.status.pop(0))
                return
            start = 0
            if state.ranges and wanted and self.headers.get("If-Range", state.tag) == state.tag:
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                if start >= len(state.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(state.content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", state.tag)
            self.end_headers()
            self.wfile.write(body[: state.break_after] if state.break_after else body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{http.server_port}/set.zip"
    yield state
    http.shutdown()
    http.server_close()


def quick(folder, file="set.zip", tries=3) -> ResumingDownloader:
    return ResumingDownloader(folder / f"{file}.part", tries=tries, wait=0.0, timeout=5)


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()


def test_a_download_that_breaks_off_is_resumed_by_ranges(tmp_path, server, content):
    server.content, server.break_after = content, 12_000
    digest = hashlib.sha256(content).hexdigest()
    file = download(Download(server.url, "set.zip", digest), tmp_path, quick(tmp_path))
    assert file.read_bytes() == content
    assert server.requested == ["", "bytes=12000-", "bytes=24000-", "bytes=36000-", "bytes=48000-"]
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.etag"))


def test_a_later_call_resumes_an_earlier_one(tmp_path, server, content):
    server.content, server.break_after = content, 20_000
    source = Download(server.url, "set.zip")
    assert quick(tmp_path)._attempt(server.url) is False
    assert (tmp_path / "set.zip.part").stat().st_size == 20_000
    server.break_after = 0
    assert download(source, tmp_path, quick(tmp_path)).read_bytes() == content
    assert server.requested == ["", "bytes=20000-"]


def test_a_server_without_ranges_is_read_from_the_start(tmp_path, server, content):
    server.content, server.ranges = content, False
    (tmp_path / "set.zip.part").write_bytes(b"old bytes")
    assert download(Download(server.url, "set.zip"), tmp_path, quick(tmp_path)).read_bytes() == content


def test_a_file_that_changed_between_two_calls_is_read_from_the_start(tmp_path, server, content):
    server.content, server.break_after = content, 20_000
    quick(tmp_path)._attempt(server.url)
    server.content, server.break_after = content[::-1], 0
    assert download(Download(server.url, "set.zip"), tmp_path, quick(tmp_path)).read_bytes() == content[::-1]


def test_a_complete_part_is_not_requested_again(tmp_path, server, content):
    server.content = content
    (tmp_path / "set.zip.part").write_bytes(content)
    assert download(Download(server.url, "set.zip"), tmp_path, quick(tmp_path)).read_bytes() == content
    assert server.requested == ["bytes=50000-"]


def test_wrong_contents_are_refused_and_removed(tmp_path, server, content):
    server.content = content
    with pytest.raises(LeukError, match="SHA-256 of the download is not"):
        download(Download(server.url, "set.zip", "0" * 64), tmp_path, quick(tmp_path))
    assert not (tmp_path / "set.zip").exists() and not (tmp_path / "set.zip.part").exists()


def test_the_first_hash_is_saved_and_expected_later(tmp_path, server, content):
    server.content = content
    source = Download(server.url, "set.zip")
    download(source, tmp_path, quick(tmp_path)).unlink()
    assert json.loads((tmp_path / "hashes.json").read_text()) == {"set.zip": hashlib.sha256(content).hexdigest()}
    download(source, tmp_path, quick(tmp_path)).unlink()
    server.content = b"something else"
    with pytest.raises(LeukError, match=r"delete its line in .*hashes\.json"):
        download(source, tmp_path, quick(tmp_path))


def test_busy_servers_are_retried_and_wrong_addresses_are_not(tmp_path, server, content):
    server.content, server.status = content, [503, 429]
    assert download(Download(server.url, "set.zip"), tmp_path, quick(tmp_path)).read_bytes() == content
    server.status = [404]
    with pytest.raises(LeukError, match="check the address"):
        download(Download(server.url, "other.zip"), tmp_path, quick(tmp_path, "other.zip"))
    server.status = [500] * 9
    with pytest.raises(LeukError, match="no more data after 3 tries"):
        download(Download(server.url, "other.zip"), tmp_path, quick(tmp_path, "other.zip"))
    with pytest.raises(LeukError, match="no more data"):
        download(Download("http://127.0.0.1:9/x", "third.zip"), tmp_path, quick(tmp_path, "third.zip", tries=1))


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def pbc_archive() -> dict[str, bytes]:
    files = {"__MACOSX/x/._a.jpg": b"junk", "PBC/.DS_Store": b"junk", "PBC/readme.txt": b"hello"}
    for k, name in enumerate(KNOWN_SETS["pbc"].classes):
        folder = "ig" if name == "immature_granulocyte" else name
        for i in range(3):
            files[f"PBC/PBC_dataset_normal_DIB/{folder}/{name}_{i}.jpg"] = coded(picture(10 * k + i), "JPEG")
    return files


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(downloading, "TRIES", 2)
    return tmp_path / "data"


@pytest.mark.parametrize("nested", [False, True])
def test_fetching_class_folders(home, server, nested):
    server.content = packed(pbc_archive())
    if nested:
        server.content = packed({"PBC_dataset_normal_DIB.zip": server.content})
    folder, lines = fetch_dataset("pbc", url=server.url)
    digest = hashlib.sha256(server.content).hexdigest()
    assert any(f"SHA-256 of pbc.zip: {digest} (saved in" in line for line in lines)
    assert folder == home / "pbc" and any("CC BY 4.0" in line for line in lines)
    assert any("WARNING: 24 images, but the published set has 17092" in line for line in lines)
    data = load_dataset("pbc", size=16)
    assert data.classes == tuple(sorted(KNOWN_SETS["pbc"].classes)) and len(data.table) == 24
    assert "exists already" in fetch_dataset("pbc", url=server.url)[1][0] and len(server.requested) == 1


def test_fetching_cells_with_masks(home, server):
    rows = ["image ID,class label", *(f"{i},{1 + i % 5}" for i in range(1, 11))]
    files = {"segmentation_WBC-master/Class Labels of Dataset 1.csv": "\n".join(rows).encode()}
    for i in range(1, 11):
        mask = np.zeros((40, 40, 3), np.uint8)
        mask[10:30, 10:30] = 255
        files[f"segmentation_WBC-master/Dataset 1/{i:03d}.bmp"] = coded(picture(i), "BMP")
        files[f"segmentation_WBC-master/Dataset 1/{i:03d}.png"] = coded(mask)
        files[f"segmentation_WBC-master/Dataset 2/{i:03d}.bmp"] = coded(picture(50 + i), "BMP")
    server.content = packed(files)
    fetch_dataset("segmentation-wbc", url=server.url)
    data = load_dataset("segmentation-wbc", size=16)
    assert len(data.table) == 10 and data.masks is not None and set(np.unique(data.masks)) == {0, 255}
    assert data.table.set_index("path").loc["monocyte/tecom_002.bmp", "label"] == "monocyte"


def test_fetching_boxes_cuts_cells_and_groups_them_by_field(home, server):
    files = {}
    for i in range(4):
        field_ = picture(i, 200, 24)
        files[f"B-1/BCCD/JPEGImages/F{i}.jpg"] = cv2.imencode(".jpg", field_)[1].tobytes()
        boxes = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 50}</xmax><ymax>{y + 40}</ymax>"
            "</bndbox></object>"
            for name, x, y in (("WBC", 10, 10), ("RBC", 120, 30), ("Platelets", 60, 140), ("Dust", 5, 5))
        )
        files[f"B-1/BCCD/Annotations/F{i}.xml"] = f"<annotation>{boxes}</annotation>".encode()
    server.content = packed(files)
    assert main(["data", "fetch", "bccd", "--url", server.url]) == 0
    data = load_dataset("bccd", size=16)
    assert data.classes == ("Platelets", "RBC", "WBC") and len(data.table) == 12
    assert data.grouped_by == "manifest" and sorted(set(data.table["group"])) == ["F0", "F1", "F2", "F3"]
    assert data.table[["width", "height"]].to_numpy().tolist() == [[75, 75]] * 12


ENTITY = '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("not a zip", "not a complete ZIP or tar archive"),
        ("empty", "no image of pbc in it"),
        ("no labels", "no table of class labels in it"),
        ("entity", r"A/F\.xml: declares a document type"),
        ("entity in UTF-16", r"A/F\.xml: cannot be read as XML"),
        ("infinite box", r"A/F\.xml: cannot convert float infinity"),
    ],
)
def test_wrong_archives_are_refused(home, server, trouble, message):
    name = {"no labels": "segmentation-wbc", "not a zip": "pbc", "empty": "pbc"}.get(trouble, "bccd")
    image = {"J/F.jpg": coded(picture(1), "JPEG")}
    infinite = b"<annotation><object><bndbox><xmin>1e999</xmin></bndbox></object></annotation>"
    files = {
        "entity": {**image, "A/F.xml": ENTITY.encode()},
        "infinite box": {**image, "A/F.xml": infinite},
        "entity in UTF-16": {**image, "A/F.xml": ENTITY.encode("utf-16")},
        "no labels": {"Dataset 1/001.bmp": coded(picture(1), "BMP")},
    }.get(trouble, {"readme.txt": b"x"})
    server.content = b"<html>sign in first</html>" if trouble == "not a zip" else packed(files)
    with pytest.raises(LeukError, match=message):
        fetch_dataset(name, url=server.url)
    assert not (home / name).exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ENOSPC", "the disk is full; free some space"),
        ("EDQUOT", "the disk is full; free some space"),
        ("EACCES", "check the folder's rights"),
        ("EROFS", "check the folder's rights"),
    ],
)
def test_a_full_or_read_only_disk_is_not_blamed_on_the_archive(home, server, monkeypatch, code, message):
    server.content = packed(pbc_archive())
    real = Path.write_bytes

    def refuse(path, data):
        if path.suffix == ".jpg" and path.stem.endswith("_2"):
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(LeukError, match=message) as caught:
            fetch_dataset("pbc", url=server.url)
    assert "ZIP" not in str(caught.value) and str(home / "pbc") in str(caught.value)
    assert [path.name for path in home.iterdir()] == ["downloads"], "what was written gives its room back"
    assert fetch_dataset("pbc", url=server.url)[0] == home / "pbc" and len(server.requested) == 1


def test_a_published_md5_is_checked(home, server, monkeypatch):
    server.content = b"the cells"
    md5 = hashlib.md5(server.content).hexdigest()
    known = KNOWN_SETS["bloodmnist"]
    source = Download(server.url, "bloodmnist.npz", md5=md5, layout="file")
    monkeypatch.setitem(KNOWN_SETS, "bloodmnist", replace(known, downloads=(source,)))
    folder, lines = fetch_dataset("bloodmnist")
    assert (folder / "bloodmnist.npz").read_bytes() == b"the cells"
    digest = hashlib.sha256(server.content).hexdigest()
    assert (
        any(f"{digest} (MD5 as expected)" in line for line in lines) and not (home / "downloads/hashes.json").exists()
    )
    monkeypatch.setitem(
        KNOWN_SETS, "bloodmnist", replace(known, downloads=(replace(source, md5="0" * 32, file="b.npz"),))
    )
    (folder / "bloodmnist.npz").unlink()
    folder.rmdir()
    with pytest.raises(LeukError, match="the MD5 of the download is not 000"):
        fetch_dataset("bloodmnist")
    assert not folder.exists() and not (home / "downloads/b.npz").exists()


def test_several_archives_of_a_set_are_fetched_from_files_of_this_computer(home, tmp_path):
    pbc, tables = tmp_path / "p b c.zip", tmp_path / "tables.zip"
    pbc.write_bytes(packed(pbc_archive()))
    names = ("pbc_attr_v1_train.csv", "pbc_attr_v1_test.csv", "other.csv")
    tables.write_bytes(packed({f"wbcatt-1/submission/{name}": b"img_name,label\n" for name in names}))
    with pytest.raises(LeukError, match=r"wbcatt has 2 archive\(s\), in this order: pbc\.zip, wbcatt-ad255b8\.zip"):
        fetch_dataset("wbcatt", url=str(pbc))
    assert main(["data", "fetch", "wbcatt", "--url", str(pbc), "--url", tables.as_uri()]) == 0
    folder = home / "wbcatt"
    assert sorted(path.name for path in folder.iterdir()) == [
        "PBC_dataset_normal_DIB", "pbc_attr_v1_test.csv", "pbc_attr_v1_train.csv",
    ]  # fmt: skip
    assert len(list((folder / "PBC_dataset_normal_DIB").rglob("*.jpg"))) == 15, "five of the eight classes"
    assert set(json.loads((home / "downloads/hashes.json").read_text())) == {"pbc.zip", "wbcatt-ad255b8.zip"}
    with pytest.raises(LeukError, match="no such file"):
        fetch_dataset("pbc", url=str(tmp_path / "absent.zip"), sha256="1" * 64)


def test_rar_archives_are_downloaded_and_the_rest_is_said(home, tmp_path):
    rar = tmp_path / "any.rar"
    rar.write_bytes(b"Rar!\x1a\x07\x01\x00cells")
    folder, lines = fetch_dataset("raabin-wbc", url=[str(rar)] * 3)
    text = "\n".join(lines)
    assert not folder.exists() and "not unpacked: Python cannot read RAR" in text
    for part in ("Train", "TestA", "TestB"):
        assert f"-C {home}/raabin-wbc/{part}" in text and (home / "downloads").is_dir()
    assert "leuk data check raabin-wbc" in text


def test_errors_say_what_to_do(home):
    with pytest.raises(LeukError, match="no command downloads it"):
        fetch_dataset("raabin-leukemia")
    with pytest.raises(LeukError, match="did you mean 'pbc'"):
        fetch_dataset("pbd")
