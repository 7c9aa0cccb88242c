"""Folders of images: findings, copies, label conflicts, groups, manifests and masks."""

import csv

import cv2
import numpy as np
import pytest

from data.toys import coded, folder, picture
from leuk_lib.data.check import CLEAN, FINDINGS, UNUSABLE, check_folder, exit_code
from leuk_lib.data.folder import read_folder
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.report import render_text
from leuk_lib.runs.errors import LeukError


def test_a_clean_folder(tmp_path):
    findings = check_folder(folder(tmp_path))
    assert exit_code(findings) == CLEAN and findings.empty
    assert "8 usable cells, 2 classes" in render_text(findings)
    data = load_dataset(str(tmp_path), size=16)
    assert data.classes == ("a", "b") and data.images.shape == (8, 16, 16, 3) and data.kind == "micrographs"
    assert data.labels.tolist() == [0] * 4 + [1] * 4 and data.masks is None


def test_unusable_files_are_left_out_with_a_finding(tmp_path):
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
    finding_of = reading.findings.set_index("path")["finding"].to_dict()
    assert finding_of["a/again.png"] == finding_of["a/other_container.bmp"] == "copy of a/a1.png"
    assert "label conflict" in finding_of["b/mislabelled.png"] and "label conflict" in finding_of["a/a2.png"]
    assert set(reading.table["path"]) == {"a/a0.png", "a/a1.png", "a/a3.png", *(f"b/b{i}.png" for i in range(4))}


def test_near_duplicates_share_a_group(tmp_path):
    folder(tmp_path)
    (tmp_path / "a/recoded.jpg").write_bytes(coded(picture(2), "JPEG", quality=80))
    table = read_folder(tmp_path, 16).table.set_index("path")
    assert table.loc["a/recoded.jpg", "group"] == table.loc["a/a2.png", "group"]
    assert table["group"].nunique() == 8


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


def test_per_class_limits_and_workers_do_not_matter(tmp_path):
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
