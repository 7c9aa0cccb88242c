"""Archives that nobody should trust, or that hold what they should not: nothing leaves the folder, nothing is lost."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from data.toys import coded, picture
from leuk_lib.data import archives
from leuk_lib.data.archives import arrange
from leuk_lib.data.catalog import KNOWN_SETS
from leuk_lib.runs.errors import LeukError

PBC = KNOWN_SETS["pbc"]


def cells(start: int = 0, classes: tuple[str, ...] = ("basophil", "monocyte"), each: int = 2) -> dict[str, bytes]:
    return {
        f"PBC/{name}/{name}_{i}.jpg": coded(picture(start + 10 * k + i), "JPEG")
        for k, name in enumerate(classes)
        for i in range(each)
    }


def zipped(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


EXPECTED = ["basophil/basophil_0.jpg", "basophil/basophil_1.jpg", "monocyte/monocyte_0.jpg", "monocyte/monocyte_1.jpg"]


@pytest.mark.parametrize("make", [zipped, tarred])
def test_zip_and_tar_give_the_same_class_folders(tmp_path, make):
    archive = make(tmp_path / "a", {**cells(), "PBC/.hidden/basophil/x.jpg": b"x", "PBC/readme.txt": b"x"})
    assert arrange([(archive, "folders")], tmp_path / "out", PBC) == (4, [])
    assert files_below(tmp_path / "out") == EXPECTED


def test_several_archives_become_one_folder_or_nothing(tmp_path):
    first, second = zipped(tmp_path / "1.zip", cells(0, ("basophil",))), zipped(tmp_path / "2.zip", {"x.txt": b"x"})
    good = zipped(tmp_path / "3.zip", {"all/x_0.jpg": coded(picture(50), "JPEG")})
    with pytest.raises(LeukError, match=r"2\.zip: no image of pbc in it"):
        arrange([(first, "folders"), (second, "folders")], tmp_path / "out", PBC)
    assert not (tmp_path / "out").exists()
    assert arrange([(first, "into:Train"), (good, "class:platelet")], tmp_path / "out", PBC)[0] == 3
    assert files_below(tmp_path / "out") == ["Train/basophil/basophil_0.jpg", "Train/basophil/basophil_1.jpg", "platelet/x_0.jpg"]  # fmt: skip


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    "name",
    ["../monocyte/x.jpg", "/monocyte/x.jpg", "PBC/../../monocyte/x.jpg", "..\\monocyte\\x.jpg", "C:\\monocyte\\x.jpg",
     "monocyte/x\n.jpg"],
)  # fmt: skip
def test_a_path_out_of_the_folder_is_refused_by_name(tmp_path, make, name):
    archive = make(tmp_path / "a", {**cells(), name: coded(picture(1), "JPEG")})
    with pytest.raises(LeukError, match="not trusted"):
        arrange([(archive, "folders")], tmp_path / "data" / "out", PBC)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a"]


def test_backslashes_in_names_are_folders(tmp_path):
    archive = zipped(tmp_path / "a.zip", {name.replace("/", "\\"): data for name, data in cells().items()})
    assert arrange([(archive, "folders")], tmp_path / "out", PBC)[0] == 4 and files_below(tmp_path / "out") == EXPECTED


def test_links_and_devices_are_left_out_and_said(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in cells().items():
            archive.writestr(name, data)
        link = zipfile.ZipInfo("PBC/basophil/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in cells().items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for kind, name in ((tarfile.SYMTYPE, "s"), (tarfile.LNKTYPE, "h"), (tarfile.CHRTYPE, "c")):
            info = tarfile.TarInfo(f"PBC/basophil/{name}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    for file, links in (("a.zip", 1), ("a.tar", 3)):
        count, notes = arrange([(tmp_path / file, "folders")], tmp_path / f"out-{file}", PBC)
        assert count == 4 and files_below(tmp_path / f"out-{file}") == EXPECTED
        assert len(notes) == links and all("a link or a device" in note for note in notes)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_decompression_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MAX_SMALL", 1 << 16)
    bomb = {"PBC/basophil/x.bmp": bytes(1 << 24)}
    archive = (
        zipped(tmp_path / "a", bomb, zipfile.ZIP_DEFLATED) if kind == "zip" else tarred(tmp_path / "a", bomb, "w:gz")
    )
    with pytest.raises(LeukError, match="over 200 times as many"):
        arrange([(archive, "folders")], tmp_path / "out", PBC)
    assert not (tmp_path / "out").exists()


def test_an_archive_in_itself_ends(tmp_path):
    inner = cells()
    for depth in range(5):
        inner = {f"level{depth}.zip": zipped(tmp_path / f"{depth}.zip", inner).read_bytes()}
    with pytest.raises(LeukError, match="archives inside each other"):
        arrange([(zipped(tmp_path / "a.zip", inner), "folders")], tmp_path / "out", PBC)


def test_images_of_one_name_in_two_folders_are_both_kept(tmp_path):
    one, two = coded(picture(1), "JPEG"), coded(picture(2), "JPEG")
    archive = zipped(tmp_path / "a.zip", {"x/basophil/1.jpg": one, "y/basophil/1.jpg": two, "z/basophil/1.jpg": one})
    count, notes = arrange([(archive, "folders")], tmp_path / "out", PBC)
    assert count == 2 and files_below(tmp_path / "out") == ["basophil/1.jpg", "basophil/1~2.jpg"]
    assert (tmp_path / "out/basophil/1~2.jpg").read_bytes() == two
    assert "written as 1~2.jpg" in notes[0] and "twice" in notes[1]


def test_two_files_of_one_path_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("basophil/1.jpg", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("basophil/1.jpg", b"2")
    with pytest.raises(LeukError, match=r"two files in it have the path basophil/1\.jpg"):
        arrange([(tmp_path / "a.zip", "folders")], tmp_path / "out", PBC)


def test_rar_encrypted_and_damaged_archives_are_named(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(100))
    with pytest.raises(LeukError, match="a RAR archive; unpack it by hand, for example with bsdtar"):
        arrange([(tmp_path / "a.rar", "folders")], tmp_path / "out", PBC)
    whole = bytearray(zipped(tmp_path / "a.zip", cells()).read_bytes())
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LeukError, match="delete it and download it again"):
        arrange([(tmp_path / "half.zip", "folders")], tmp_path / "out", PBC)
    entry = whole.rindex(b"PK\x01\x02")
    whole[entry + 8] |= 1  # the flag of encryption
    (tmp_path / "secret.zip").write_bytes(whole)
    with pytest.raises(LeukError, match="encrypted"):
        arrange([(tmp_path / "secret.zip", "folders")], tmp_path / "out", PBC)
    whole[entry + 8] &= 0xFE
    whole[entry + 10] = 97  # a method of packing that Python lacks
    (tmp_path / "odd.zip").write_bytes(whole)
    with pytest.raises(LeukError, match="unpack it by hand"):
        arrange([(tmp_path / "odd.zip", "folders")], tmp_path / "out", PBC)


def test_any_flipped_byte_is_an_error_in_one_line_or_no_matter(tmp_path):
    whole = zipped(tmp_path / "a.zip", {"basophil/a.jpg": b"1" * 40, "monocyte/b.jpg": b"2" * 40}).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 120, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.zip").write_bytes(damaged)
        try:
            arrange([(tmp_path / "b.zip", "folders")], tmp_path / "out" / str(place), PBC)
        except LeukError as error:
            assert "\n" not in str(error)
        assert not [path for path in tmp_path.iterdir() if path.name not in ("a.zip", "b.zip", "out")]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", cells())
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(LeukError, match="the disk is full"):
        arrange([(archive, "folders")], tmp_path / "out", PBC)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
