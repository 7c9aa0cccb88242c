"""Folders of images: every kind of file is decoded or refused by name; copies, conflicts and manifests are handled."""

import csv
import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.toys import coded, folder, picture
from leuk_lib.data.check import CLEAN, FINDINGS, UNUSABLE, check_folder, exit_code
from leuk_lib.data.decode import Unreadable, decode, square
from leuk_lib.data.duplicates import components, near_pairs
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.data.folder import read_folder
from leuk_lib.data.listing import list_folder
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.report import render_text
from leuk_lib.runs.errors import LeukError


def exif(turn):
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


def deep_png(image):
    return cv2.imencode(".png", image.astype(np.uint16)[..., ::-1] * 257)[1].tobytes()


UNUSUAL = {
    "grey": lambda: coded(picture(1), mode="L"),
    "palette": lambda: coded(picture(1), mode="P"),
    "16-bit": lambda: deep_png(picture(1)),
    "CMYK": lambda: coded(picture(1), "JPEG", "CMYK"),
    "transparent": lambda: coded(np.dstack([picture(1), picture(2)[..., 0]])),
    "EXIF-rotated": lambda: coded(picture(1), "JPEG", exif=exif(6)),
    "tiny": lambda: coded(picture(1, 12)),
}


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_with_alpha_are_named(suffix, clear):
    rgba = np.dstack([picture(3), np.full((40, 40), 255, np.uint8)]).astype(np.uint16) * 257
    rgba[:20, :, 3] = 0 if clear else 65535
    decoded = decode(cv2.imencode(suffix, rgba[..., [2, 1, 0, 3]])[1].tobytes(), suffix)
    assert decoded.findings == (("transparent", "16-bit") if clear else ("16-bit",))
    assert np.array_equal(decoded.image[20:], picture(3)[20:])


@pytest.mark.parametrize("finding", UNUSUAL)
def test_unusual_files_are_decoded_and_named(finding):
    decoded = decode(UNUSUAL[finding](), ".jpg" if finding in ("CMYK", "EXIF-rotated") else ".png")
    assert finding in decoded.findings
    assert decoded.image.dtype == np.uint8 and decoded.image.ndim == 3 and decoded.image.shape[2] == 3


def test_pixels_are_right_whatever_the_container():
    image = picture(3)
    assert np.array_equal(decode(coded(image), ".png").image, image)
    assert np.array_equal(decode(coded(image, "BMP"), ".bmp").image, image)
    assert np.array_equal(decode(coded(image, "TIFF"), ".tif").image, image)
    assert np.array_equal(decode(deep_png(image), ".png").image, image)
    turned = decode(coded(image, "JPEG", quality=98, exif=exif(6)), ".jpg").image
    assert np.abs(turned.astype(int) - np.rot90(image, -1)).mean() < 6
    cmyk = decode(coded(image, "JPEG", "CMYK", quality=98), ".jpg").image
    assert np.abs(cmyk.astype(int) - image).mean() < 12


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello world, I am a text", "not an image"),
        (coded(picture(1))[:-20], "truncated"),
        (coded(picture(1), "JPEG")[:-200], "truncated"),
        (coded(picture(1, 6)), "too few"),
        (coded(np.zeros((9000, 9000), np.uint8)), "too many"),
        (coded(picture(1), "GIF"), "not supported"),
        (cv2.imencode(".tif", np.ones((20, 20, 3), np.float32))[1].tobytes(), "TIFF .* save it with 8 bits"),
    ],
)
def test_hopeless_files_are_refused_with_a_reason(data, reason):
    with pytest.raises(Unreadable, match=reason):
        decode(data)


def test_square_cuts_the_middle():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200
    assert (square(image, 10) == 200).all()
    mask = np.tile(np.array([0, 128, 255, 0], np.uint8), (4, 1))
    assert set(np.unique(square(mask, 9, nearest=True))) <= {0, 128, 255}


def test_a_clean_folder(tmp_path):
    findings = check_folder(folder(tmp_path))
    assert exit_code(findings) == CLEAN and findings.empty
    assert "8 usable cells, 2 classes" in render_text(findings)
    data = load_dataset(str(tmp_path), size=16)
    assert data.classes == ("a", "b") and data.images.shape == (8, 16, 16, 3) and data.kind == "micrographs"
    assert data.labels.tolist() == [0] * 4 + [1] * 4 and data.masks is None


def test_bad_files_are_listed_left_out_and_noted(tmp_path):
    folder(tmp_path)
    whole = (tmp_path / "a/a0.png").read_bytes()
    (tmp_path / "a/cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a/empty.jpg").write_bytes(b"")
    (tmp_path / "a/notes.txt").write_text("hello")
    (tmp_path / "b/wrong.jpg").write_bytes(coded(picture(50)))
    (tmp_path / "loose.png").write_bytes(coded(picture(51)))
    (tmp_path / "a/link.png").symlink_to("/etc/hostname")
    findings = check_folder(tmp_path)
    by_path = findings.set_index("path")["severity"].to_dict()
    assert by_path["a/cut.png"] == by_path["a/empty.jpg"] == by_path["a/link.png"] == by_path["loose.png"] == "error"
    assert by_path["b/wrong.jpg"] == "warning" and by_path["a/notes.txt"] == "info"
    assert exit_code(findings) == FINDINGS
    report = render_text(findings)
    assert "a/cut.png" in report and "restore the file" in report
    data = load_dataset(str(tmp_path), size=16)
    assert len(data.table) == 9 and any("4 files left out" in note for note in data.notes)


def test_copies_and_conflicts(tmp_path):
    folder(tmp_path)
    (tmp_path / "a/again.png").write_bytes((tmp_path / "a/a1.png").read_bytes())
    (tmp_path / "a/other_container.bmp").write_bytes(coded(picture(1), "BMP"))  # the pixels of a1.png
    (tmp_path / "b/mislabelled.png").write_bytes((tmp_path / "a/a2.png").read_bytes())
    reading = read_folder(tmp_path, 16)
    found = reading.findings.set_index("path")["finding"].to_dict()
    assert found["a/again.png"] == found["a/other_container.bmp"] == "copy of a/a1.png"
    assert "label conflict" in found["b/mislabelled.png"] and "label conflict" in found["a/a2.png"]
    assert set(reading.table["path"]) == {"a/a0.png", "a/a1.png", "a/a3.png", *(f"b/b{i}.png" for i in range(4))}


def test_near_duplicates_share_a_group(tmp_path):
    folder(tmp_path)
    (tmp_path / "a/recoded.jpg").write_bytes(coded(picture(2), "JPEG", quality=80))
    table = read_folder(tmp_path, 16).table.set_index("path")
    assert table.loc["a/recoded.jpg", "group"] == table.loc["a/a2.png", "group"]
    assert table["group"].nunique() == 8


def test_near_pairs_and_components():
    thumbs = np.stack([picture(i, 32) for i in range(20)])
    shifted = np.clip(thumbs[3].astype(int) + 6, 0, 255).astype(np.uint8)
    pairs = near_pairs(np.concatenate([thumbs, shifted[None]]))
    assert pairs.tolist() == [[3, 20, 0]]
    assert components(4, np.array([[0, 2], [2, 3]])).tolist() == [0, 1, 0, 0]
    assert len(near_pairs(thumbs[:0])) == 0


@pytest.mark.parametrize("above", [False, True])
def test_manifest_gives_label_group_and_mask(tmp_path, above):
    root = folder(tmp_path / "set")
    prefix = "set/" if above else ""
    (root / "masks").mkdir()
    rows = []
    for k, name in enumerate("ab"):
        for i in range(4):
            mask = np.zeros((40, 40), np.uint8)
            mask[10:30, 10:30] = 255
            cv2.imwrite(str(root / "masks" / f"m{name}{i}.png"), mask)
            rows.append(
                [f"{prefix}{name}/{name}{i}.png", "xy"[k], f"{prefix}masks/m{name}{i}.png", f"patient{i // 2}{k}"]
            )
    rows.append([f"{prefix}a/gone.png", "x", "", "p"])
    with ((tmp_path if above else root) / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["path", "label", "mask", "group"], *rows])
    data = load_dataset(str(root), size=20)
    assert data.classes == ("x", "y") and data.grouped_by == "manifest"
    assert sorted(set(data.table["group"])) == ["patient00", "patient01", "patient10", "patient11"]
    assert data.masks is not None and set(np.unique(data.masks)) == {0, 255}
    assert any("gone.png" in note for note in data.notes)


def test_masks_by_name_and_masks_that_do_not_fit(tmp_path):
    folder(tmp_path)
    (tmp_path / "masks").mkdir()
    for name in [f"{k}{i}" for k in "ab" for i in range(4)]:
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), np.full((40, 40), 128, np.uint8))
    assert read_folder(tmp_path, 16).masks.shape == (8, 16, 16)
    cv2.imwrite(str(tmp_path / "masks/a0.png"), np.full((30, 40), 128, np.uint8))
    reading = read_folder(tmp_path, 16)
    assert reading.masks is None and reading.findings["finding"].str.contains("does not fit").any()


def test_unusable_folders_are_one_line(tmp_path):
    with pytest.raises(LeukError, match="no such folder") as caught:
        load_dataset(str(tmp_path / "none"))
    assert caught.value.exit_code == 2
    with pytest.raises(LeukError, match="no image"):
        check_folder(tmp_path)
    folder(tmp_path / "one", classes=("a",))
    with pytest.raises(LeukError, match="at least 2 class"):
        load_dataset(str(tmp_path / "one"))
    assert exit_code(check_folder(tmp_path / "one")) == UNUSABLE
    with pytest.raises(LeukError, match="is a file"):
        check_folder(tmp_path / "one/a/a0.png")


def test_a_name_that_is_not_utf8(tmp_path):
    folder(tmp_path)
    try:
        (tmp_path / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(coded(picture(9)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert check_folder(tmp_path)["finding"].tolist() == ["file name is not UTF-8"]
    assert fingerprint(str(tmp_path))


def test_fingerprint_sees_content_names_and_labels_but_not_the_place(tmp_path):
    first = fingerprint(str(folder(tmp_path / "one")))
    assert fingerprint(str(folder(tmp_path / "two"))) == first and len(first) == 64
    (tmp_path / "two/a/a0.png").write_bytes(coded(picture(77)))
    assert fingerprint(str(tmp_path / "two")) != first
    (tmp_path / "one/a").rename(tmp_path / "one/c")
    assert fingerprint(str(tmp_path / "one")) != first
    assert fingerprint("smear") == fingerprint("smear") != first


def test_the_fingerprint_of_a_healthy_folder_stays_what_it_was(tmp_path):
    files = {"a/0.png": b"first", "b/1.png": b"second", "masks/0.png": b"mask", "a/notes.txt": b"words"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "metadata.csv").write_text("file,patient\n0.png,p1\nb/1.png,p2\n")
    before = "db53db0ac4127cfd211a42ac61fa1c2e6d7ece703218894453d066e9cdfc09c8"
    assert fingerprint(str(tmp_path)) == before, "all runs of all folders would be stale"


def test_what_cannot_be_read_has_a_fingerprint_too(tmp_path):
    whole = fingerprint(str(folder(tmp_path)))
    file = tmp_path / "a/a9.png"
    file.symlink_to(tmp_path / "a/nothing.png")
    dangling = fingerprint(str(tmp_path))
    file.unlink()
    os.mkfifo(file)
    pipe = fingerprint(str(tmp_path))
    file.unlink()
    assert len({whole, dangling, pipe}) == 3 and fingerprint(str(tmp_path)) == whole


def test_a_file_that_may_not_be_read_has_a_fingerprint_too(tmp_path, monkeypatch):
    folder(tmp_path)
    real = os.open

    def closed(path, flags, *rest, **more):
        if str(path).endswith("a0.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *rest, **more)

    whole = fingerprint(str(tmp_path))
    monkeypatch.setattr(os, "open", closed)
    assert fingerprint(str(tmp_path)) != whole


def test_a_folder_that_may_not_be_listed_is_a_finding(tmp_path, monkeypatch):
    folder(tmp_path)
    real = os.scandir

    def closed(path):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    listing = list_folder(tmp_path)
    assert {entry.label for entry in listing.entries} == {"a"}
    assert ("b", "folder cannot be listed (Permission denied)", "check its rights") in listing.left_out


def test_per_class_thins_and_workers_do_not_matter(tmp_path):
    folder(tmp_path, each=6)
    one = load_dataset(str(tmp_path), size=16, per_class=3, workers=1)
    two = load_dataset(str(tmp_path), size=16, per_class=3, workers=3)
    assert one.table["label"].value_counts().to_dict() == {"a": 3, "b": 3}
    assert one.table.equals(two.table) and np.array_equal(one.images, two.images)
    assert (
        load_dataset(str(tmp_path), size=16, per_class=3, seed=1).table["path"].tolist() != one.table["path"].tolist()
    )


@pytest.mark.parametrize(("name", "classes", "masks"), [("tecom_wbc", 5, True), ("cnmc2019", 2, False)])
def test_real_folders(real_data, name, classes, masks):
    data = load_dataset(str(real_data / name), size=32)
    assert len(data.classes) == classes and (data.masks is not None) == masks
    if name == "cnmc2019":
        assert data.grouped_by == "manifest" and data.table["group"].str.startswith("cnmc_subject").all()


def test_a_tiff_without_its_dimensions_is_refused():
    """Found by fuzzing: Pillow raises TypeError over it."""
    data = bytearray(coded(picture(1), "TIFF"))
    entries = bytes(data).find((256).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    entries = entries if entries >= 0 else bytes(data).find((256).to_bytes(2, "little") + (4).to_bytes(2, "little"))
    data[entries : entries + 2] = b"\xff\xff"
    with pytest.raises(Unreadable):
        decode(bytes(data))
