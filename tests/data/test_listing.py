"""Known sets: class folders by any spelling and depth, metadata, external test sets, renamed and merged classes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest

from data.test_prepare import FolderStage, small
from data.toys import coded, folder, picture
from leuk_lib.chapters.data import class_table
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder
from leuk_lib.data.listing import AMBIGUOUS_GROUP, AMBIGUOUS_MASK, list_folder
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.runs.errors import LeukError
from leuk_lib.workflow import resolve_dataset


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def place(root, path, seed):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(coded(picture(seed)))


def leukemia(root):
    folders = {"CML": "images/CML/slide 1", "CLL": "images/cll", "AML": "Acute Myeloid Leukemia/x/y", "ALL": "ALL"}
    for k, where in enumerate(folders.values()):
        for i in range(6):
            place(root, f"{where}/{'abcd'[k]}{i}.png", 10 * k + i)
    return root


def test_class_folders_at_any_depth_and_spelling(data_folder):
    root = leukemia(data_folder / "raabin-leukemia")
    place(root, "other/z.png", 99)
    listing = list_folder("raabin-leukemia")
    labels = [entry.label for entry in listing.entries]
    assert {name: labels.count(name) for name in set(labels)} == {"CML": 6, "CLL": 6, "AML": 6, "ALL": 6}
    assert [row[:2] for row in listing.left_out] == [
        ("other/z.png", "no class of raabin-leukemia (CML, CLL, AML, ALL)")
    ]
    assert load_dataset("raabin-leukemia", size=16).name == "raabin-leukemia"
    assert resolve_dataset("raabin-leukemia") == "raabin-leukemia"


@pytest.mark.parametrize("how", ["path", "name", "stem"])
def test_metadata_gives_the_patient(data_folder, how):
    root = leukemia(data_folder / "raabin-leukemia")
    rows = ["File Name,Patient ID"] if how != "stem" else ["image,slide"]
    for file in root.rglob("*.png"):
        key = {"path": file.relative_to(root).as_posix(), "name": file.name, "stem": file.stem}[how]
        rows.append(f"{key},P{file.stem[0]}{int(file.stem[1]) // 2}")
    (root / "metadata.csv").write_text("\n".join(rows))
    if how == "path":
        (root / "metadata.csv").write_text("\n".join(rows).replace("File Name", "path").replace("/", "\\"))
    data = load_dataset("raabin-leukemia", size=16)
    assert data.grouped_by == "manifest" and data.table["group"].nunique() == 12
    assert data.table.set_index("path").loc["ALL/d5.png", "group"] == "Pd2"


def same_names(root):
    """Two classes whose images have the same names."""
    for k, name in enumerate(("CLL", "CML")):
        for i in range(3):
            place(root, f"{name}/{i:04d}.png", 10 * k + i)
    return root


def ambiguities(root):
    """Findings about ambiguous masks and groups: image -> finding."""
    findings = check_folder(root)
    some = findings[findings["finding"].isin([AMBIGUOUS_MASK, AMBIGUOUS_GROUP])]
    assert set(some["severity"]) <= {"warning"}
    return dict(zip(some["path"], some["finding"], strict=True))


def test_a_mask_whose_bare_name_fits_two_images_is_not_used(tmp_path):
    root = same_names(tmp_path / "mine")
    place(root, "masks/0001.png", 50)
    assert not any(entry.mask for entry in list_folder(root).entries)
    assert ambiguities(root) == dict.fromkeys(("CLL/0001.png", "CML/0001.png"), AMBIGUOUS_MASK)
    place(root, "masks/CML/0001.png", 51)
    masks = {entry.path: entry.mask for entry in list_folder(root).entries}
    assert masks.pop("CML/0001.png") == "masks/CML/0001.png" and not any(masks.values())
    assert ambiguities(root) == {"CLL/0001.png": AMBIGUOUS_MASK}, "the bare name may still mean either"


def test_the_mask_of_a_jpeg_is_found_by_path(tmp_path):
    root = same_names(tmp_path / "mine")
    (root / "CML/0007.jpg").write_bytes(coded(picture(7), "JPEG"))
    place(root, "masks/CML/0007.png", 50)
    assert {e.path: e.mask for e in list_folder(root).entries if e.mask} == {"CML/0007.jpg": "masks/CML/0007.png"}
    assert ambiguities(root) == {}


@pytest.mark.parametrize("rows", ["0000.png,p1", "0000,p1", "0000.png,p1\n0000.png,p2", "elsewhere/0000.png,p1"])
def test_a_group_whose_bare_name_fits_two_images_is_not_used(tmp_path, rows):
    root = same_names(tmp_path / "mine")
    (root / "metadata.csv").write_text(f"file,patient\n{rows}\n")
    assert not any(entry.group for entry in list_folder(root).entries)
    assert ambiguities(root) == dict.fromkeys(("CLL/0000.png", "CML/0000.png"), AMBIGUOUS_GROUP)


def test_one_image_with_two_groups_has_none(tmp_path):
    root = same_names(tmp_path / "mine")
    (root / "metadata.csv").write_text("file,patient\nCLL/0000.png,p1\nCLL/0000.png,p2\n")
    assert not any(entry.group for entry in list_folder(root).entries)
    assert ambiguities(root) == {"CLL/0000.png": AMBIGUOUS_GROUP}


@pytest.mark.parametrize("suffix", [".png", ""])
def test_a_path_in_the_metadata_is_about_one_image(tmp_path, suffix):
    root = same_names(tmp_path / "mine")
    (root / "metadata.csv").write_text(f"file,patient\nCLL/0000{suffix},p1\nCML\\0001{suffix},p2\n")
    owners = {entry.path: entry.group for entry in list_folder(root).entries if entry.group}
    assert owners == {"CLL/0000.png": "p1", "CML/0001.png": "p2"} and ambiguities(root) == {}


def test_a_metadata_table_without_columns_is_refused(data_folder):
    root = leukemia(data_folder / "raabin-leukemia")
    (root / "metadata.csv").write_text("what,ever\n1,2\n")
    with pytest.raises(LeukError, match="needs a column with the file"):
        list_folder("raabin-leukemia")


def test_errors_say_how_to_get_a_missing_set():
    with pytest.raises(LeukError, match="no command downloads it"):
        list_folder("raabin-leukemia")
    with pytest.raises(LeukError, match="leuk data fetch pbc"):
        list_folder("pbc")
    with pytest.raises(LeukError, match="not a known name"):
        list_folder("rabin")


def wbc(root):
    seed = 0
    for part in ("Train", "TestA", "Test-B"):
        for name in ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil"):
            if part == "Test-B" and name not in ("Lymphocyte", "Neutrophil"):
                continue
            for _ in range(6):
                seed += 1
                place(root, f"{part}/{name}/{seed:03d}.png", seed)
    return root


def test_external_test_sets_are_separate_and_closed(data_folder, tmp_path):
    root = wbc(data_folder / "raabin-wbc")
    (root / "TestA/Monocyte/leak.png").write_bytes((root / "Train/Monocyte/020.png").read_bytes())
    stage = FolderStage(tmp_path / "stage")
    cells = prepare_cells(small(dataset="raabin-wbc"), stage).cells
    assert cells.classes == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
    assert cells.external == ("TestA", "TestB")
    parts = cells.table["split"].value_counts().to_dict()
    assert parts["external:TestA"] == 31 and parts["external:TestB"] == 12
    assert sum(parts[p] for p in ("train", "val", "test")) == 29, "a training cell that TestA holds is left out"
    assert any("TestA: 31 cells, never trained on" in note for note in stage.notes)
    with pytest.raises(LeukError, match="closed"):
        cells.indices("external:TestA")
    opened = cells.open_test(stage, "TestB")
    assert len(opened) == 12 and "external test set TestB opened" in stage.notes[-1]
    with pytest.raises(LeukError, match="allowed"):
        cells.open_test(stage, "TestC")
    assert class_table(cells)["external cells"].sum() == 43
    assert not set(cells.groups[cells.open_test(stage, "TestA")]) & set(cells.groups[cells.indices("train")])


def test_near_duplicates_of_external_cells_leave_training(data_folder):
    root = wbc(data_folder / "raabin-wbc")
    (root / "TestB/Neutrophil").mkdir(parents=True)
    (root / "TestB/Neutrophil/leak.jpg").write_bytes(coded(picture(30), "JPEG", quality=85))
    data = load_dataset("raabin-wbc", size=16)
    assert "Train/Neutrophil/030.png" not in set(data.table["path"])
    rows = data.findings[data.findings["path"] == "Train/Neutrophil/030.png"]
    assert rows["finding"].str.contains("also in the test set TestB").any()


@pytest.mark.parametrize("column", ["external", "foreign"])
def test_a_manifest_names_an_external_test_set(tmp_path, column):
    root = folder(tmp_path / "mine", each=6)
    rows = [
        f"path,label,group,{column}",
        *(f"{k}/{k}{i}.png,{k},p{i},{'other lab' if i > 3 else ''}" for k in "ab" for i in range(6)),
    ]
    (root / "manifest.csv").write_text("\n".join(rows))
    table = load_dataset(str(root), size=16).table
    assert (table["external"] == "other lab").sum() == 4
    assert set(table.loc[table["external"] != "", "group"]) == {"other lab/p4", "other lab/p5"}


def test_classes_are_renamed_merged_and_dropped(tmp_path):
    root = folder(tmp_path / "mine", classes=("band", "segmented", "platelet", "lymphocyte"))
    mapping = {"band": "neutrophil", "segmented": "neutrophil", "platelet": ""}
    data = load_dataset(str(root), size=16, class_map=mapping)
    assert data.classes == ("lymphocyte", "neutrophil") and len(data.table) == 12
    with pytest.raises(LeukError, match=r"no class 'bnad'.*did you mean 'band'"):
        load_dataset(str(root), size=16, class_map={"bnad": "neutrophil"})
    with pytest.raises(LeukError, match=r"class_map: class 'a\\x1b\[2J' holds a line break or a control character"):
        load_dataset(str(root), size=16, class_map={"band": "a\x1b[2J"})
    with pytest.raises(LeukError, match="class_map is for folders"):
        load_dataset("smear", class_map={"CML": "x"})
    assert main(["data", "check", str(root), "--map", "band=neutrophil"]) == 0
    assert main(["data", "check", str(root), "--map", "band"]) == 1


def test_rare_mixed_groups_are_warnings_and_common_ones_are_not(tmp_path):
    root = folder(tmp_path / "mine", each=6)
    for rare in (True, False):
        owner = {(k, i): f"{k}{i}" if rare and i else f"p{i}" for k in "ab" for i in range(6)}
        rows = ["path,label,group", *(f"{k}/{k}{i}.png,{k},{owner[k, i]}" for k, i in owner)]
        (root / "manifest.csv").write_text("\n".join(rows))
        findings = check_folder(root)
        conflicts = findings[findings["finding"].str.contains("several classes")]
        assert conflicts["severity"].tolist() == ["warning" if rare else "info"]


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    root = folder(tmp_path / "mine")
    outside = folder(tmp_path / "outside")
    (root / "a/link.png").symlink_to(outside / "a/a1.png")
    (root / "c").symlink_to(outside / "a")
    (root / "a/loop.png").symlink_to(root / "a/loop.png")
    (root / "manifest.csv").write_text("path,label,mask\na/a0.png,a,../outside/a/a0.png\n")
    listing = list_folder(root)
    assert len(listing.entries) == 7
    findings = {path: what for path, what, _ in listing.left_out}
    assert findings["a/link.png"] == findings["a/loop.png"] == "symbolic link out of the folder"
    assert findings["c"] == "symbolic link to a folder" and findings["a/a0.png"] == "its mask lies outside the folder"


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


def test_tables_that_spell_a_class_or_patient_in_two_ways_mean_one(tmp_path):
    root = folder(tmp_path / "cells", classes=("im",), each=6)
    rows = [("AML", "p1"), ("aml ", "P1"), ("AML", "p1"), ("1.0", "2.0"), ("1", "2"), ("1", "2")]
    table = pd.DataFrame(rows, columns=["label", "patient"]).assign(
        path=[f"im/im{i}.png" for i in range(6)], part=["Train", "TEST", "val", "testing", "train", "train"]
    )
    table.to_csv(root / "manifest.csv", index=False)
    listing = list_folder(root)
    assert {(entry.label, entry.group) for entry in listing.entries} == {("AML", "p1"), ("1", "2")}
    assert [entry.part for entry in listing.entries] == ["train", "test", "validation", "test", "train", "train"]
    assert [finding.finding for finding in listing.findings] == [
        "class also spelled '1.0'", "class also spelled 'aml'",
        "patient or slide also spelled '2.0'", "patient or slide also spelled 'P1'",
    ]  # fmt: skip


def test_a_table_with_patients_that_is_not_read_is_a_finding(tmp_path):
    root = folder(tmp_path / "cells")
    (root / "labels.csv").write_text("file;Patient ID\na/a0.png;p1\n")
    (root / "notes.csv").write_text("a,b\n1,2\n")
    assert [(finding.path, finding.severity) for finding in list_folder(root).findings] == [("labels.csv", "warning")]


def test_folders_without_a_class_level_are_refused_with_what_they_mean(tmp_path):
    root = folder(tmp_path / "cells", classes=("Patient_1", "Patient_2"))
    with pytest.raises(LeukError, match=r"no folder level is the class \(folder level 1: patient .*--layout 1"):
        list_folder(root)
    assert {entry.label for entry in list_folder(root, layout="1").entries} == {"Patient_1", "Patient_2"}


def test_a_copy_with_processed_images_only_is_refused_with_the_layout_that_uses_them(tmp_path):
    root = folder(tmp_path / "Segmented", classes=("AML", "CML")).parent
    with pytest.raises(LeukError, match=r"processed copies .*as in \*/class"):
        list_folder(root)
    assert {entry.label for entry in list_folder(root, layout="*/class").entries} == {"AML", "CML"}
