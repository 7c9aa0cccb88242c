"""Folders as public data sets are unpacked: which level is the class, or which two readings there are."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.test_prepare import FolderStage, small
from data.toys import coded, picture
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.data.layouts import FolderLevels, infer_layout, parse_layout, part_of, role_of
from leuk_lib.data.listing import list_folder
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.runs.errors import LeukError

CLASSES = ("ALL", "AML", "CLL", "CML")


def infer(*paths: str, **settings) -> FolderLevels:
    return infer_layout([PurePosixPath(path) for path in paths], "cells", **settings)


@pytest.mark.parametrize(
    ("paths", "roles"),
    [
        (["AML/1.png", "CML/1.png"], ("class",)),
        (["train/AML/1.png", "test/CML/1.png", "train/CML/2.png"], ("part", "class")),
        (["TRAIN/AML/1.png", "TEST/AML/1.png", "TEST/CML/1.png"], ("part", "class")),
        (["AML/train/1.png", "CML/test/1.png"], ("class", "part")),
        (["C-NMC_training_data/fold_0/all/a.bmp", "C-NMC_training_data/fold_1/hem/b.bmp"], ("part", "fold", "class")),
        (["PBC_dataset_normal_DIB/ig/a.jpg", "PBC_dataset_normal_DIB/monocyte/a.jpg"], ("ignored", "class")),
        (["AML/Patient_01/1.jpg", "CML/Patient_02/1.jpg"], ("class", "patient")),
        (["Patient_01/AML/1.jpg", "Patient_02/CML/1.jpg"], ("patient", "class")),
        (["AML/p1/slide 2/1.jpg", "CML/p7/slide 1/1.jpg"], ("class", "patient", "slide")),
        (["Original/Benign/1.jpg", "Original/Early/2.jpg", "Segmented/Benign/1.jpg"], ("version", "class")),
        (["100x/AML/1.jpg", "40x/AML/1.jpg", "40x/CML/2.jpg"], ("magnification", "class")),
        (["ALL/L1/1.jpg", "ALL/L2/1.jpg", "CML/chronic/1.jpg"], ("class", "ignored")),  # subtypes of one disease
        (["Munich/AML/1.jpg", "Tehran/AML/1.jpg", "Tehran/CML/1.jpg"], ("source", "class")),
        (["Munich/lymphocyte/1.jpg", "Tehran/lymphocyte/1.jpg", "Tehran/monocyte/1.jpg"], ("source", "class")),
    ],
)
def test_published_layouts_are_understood(paths: list[str], roles: tuple[str, ...]):
    layout = infer(*paths)
    assert layout.roles == roles
    assert len(layout.describe()) == len(roles)


def test_each_image_has_its_class_part_and_patient():
    place = infer("train/AML/Patient_3/a.png", "test/CML/Patient_4/b.png").place
    first = place(PurePosixPath("train/AML/Patient_3/a.png"))
    assert (first.label, first.part, first.group) == ("AML", "train", "Patient_3")
    assert place(PurePosixPath("test/CML/Patient_4/b.png")).part == "test"


def test_two_readings_are_refused_by_name_and_the_option_decides():
    paths = ("ward/blue/1.png", "ward/red/2.png", "clinic/blue/1.png")
    with pytest.raises(LeukError, match=r"(?s)level 1 .*level 2 .*--layout 1 or --layout 2") as error:
        infer(*paths)
    assert error.value.exit_code == 2
    assert infer(*paths, layout="1").roles == ("class", "ignored")
    assert infer(*paths, layout="2").roles == ("source", "class")
    assert infer(*paths, layout="slide/class").place(PurePosixPath(paths[0])).group == "ward"


def test_known_classes_in_inner_folders_of_unknown_outer_ones_are_two_readings():
    """``A/AML``, ``B/chronic``: is A a class with a subtype AML, or a source of AML cells?"""
    with pytest.raises(LeukError, match="--layout 1 or --layout 2"):
        infer("A/AML/1.png", "A/CML/1.png", "B/x/1.png", "B/y/1.png")


def test_a_processed_copy_is_left_out():
    layout = infer("Original/Benign/1.jpg", "Original/Pro/1.jpg", "Segmented/Benign/1.jpg")
    assert layout.place(PurePosixPath("Segmented/Benign/1.jpg")).left_out
    assert not layout.place(PurePosixPath("Original/Benign/1.jpg")).left_out


def test_spellings_of_one_class_are_one_class():
    layout = infer("AML/1.png", "AML/2.png", "aml/1.png", "CML /1.png", "CML/1.png", "Bläst/1.png", "Bla\u0308st/2.png")
    labels = {layout.place(PurePosixPath(path)).label for path in ("AML/1.png", "aml/1.png")}
    assert labels == {"AML"}
    assert layout.place(PurePosixPath("CML /1.png")).label == "CML"
    assert layout.place(PurePosixPath("Bla\u0308st/2.png")).label == layout.place(PurePosixPath("Bläst/1.png")).label
    assert set(layout.variants) == {"AML", "CML", "Bläst"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("train_data", "train"), ("trainset", "train"),
        ("val", "validation"), ("valid", "validation"), ("Validation set", "validation"), ("test", "test"),
        ("TestA", "test a"), ("Test-B", "test b"), ("testing", "test"),
        ("AML", ""), ("contest", ""), ("trainer", ""), ("ALL", ""), ("strain", ""),
    ],
)  # fmt: skip
def test_names_of_parts(name: str, part: str):
    assert part_of(name) == part


@pytest.mark.parametrize("name", [*CLASSES, "hem", "all", "Basophil", "L1", "pre-B", "P53 mutated", "blast"])
def test_classes_are_no_parts_or_patients(name: str):
    assert role_of(name) is None


@pytest.mark.parametrize("text", ["part/klass", "part/patient", "class/class", ""])
def test_a_layout_that_cannot_be_is_refused(text: str):
    with pytest.raises(LeukError, match="layout"):
        parse_layout(text)


@given(
    st.permutations(["train", "val", "test"]), st.permutations(CLASSES), st.booleans(), st.booleans(), st.integers(1, 3)
)
def test_order_of_levels_and_files_does_not_matter(
    parts: list[str], classes: list[str], part_first: bool, patients: bool, per_class: int
):
    """The class is found wherever it stands, with every image's own class and part."""
    paths, truth = [], []
    for p, part in enumerate(parts):
        for c, label in enumerate(classes):
            for k in range(per_class):
                inner = f"Patient_{100 * p + 10 * c + k}/" if patients else ""
                folder = f"{part}/{label}" if part_first else f"{label}/{part}"
                paths.append(PurePosixPath(f"{folder}/{inner}{k}.png"))
                truth.append((label, part_of(part)))
    layout = infer_layout(paths, "cells")
    assert [(layout.place(path).label, layout.place(path).part) for path in paths] == truth
    assert all(layout.place(path).group for path in paths) == patients


def write(root: Path, *paths: str) -> Path:
    """A data folder with a different picture at each path."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(coded(picture(seed)))
    return root


def parts_by_class(each: dict[str, int], classes: tuple[str, ...] = ("AML", "CML")) -> list[str]:
    return [f"{part}/{label}/{i}.png" for part, n in each.items() for label in classes for i in range(n)]


def test_the_check_says_how_the_folder_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path, *parts_by_class({"train": 3, "test": 3}))
    assert main(["data", "check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "AML 6, CML 6" in out
    assert "level 1: published part (test 6, train 6)" in out
    assert "level 2: class" in out


def test_an_ambiguous_folder_stops_check_and_run_before_any_work(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
):
    cells = write(tmp_path / "cells", "ward/blue/1.png", "ward/red/1.png", "clinic/blue/1.png", "clinic/red/1.png")
    for words in (["data", "check", str(cells)], ["run", "--dataset", str(cells), "--profile", "smoke"]):
        assert main(words) == 2
        assert "--layout 1 or --layout 2" in capsys.readouterr().err
    assert not list(results.glob("*/*"))
    assert main(["data", "check", str(cells), "--layout", "2"]) == 1
    assert "blue 2, red 2" in capsys.readouterr().out


def test_the_class_level_does_not_move_the_fingerprint(tmp_path: Path):
    """Content is what counts: plain class folders keep the fingerprint that they always had."""
    write(tmp_path, "AML/a.png", "CML/b.png")
    before = fingerprint(str(tmp_path))
    (tmp_path / "AML").rename(tmp_path / "ALL")
    assert fingerprint(str(tmp_path)) != before


def test_the_published_split_is_kept(tmp_path: Path):
    root = write(tmp_path / "cells", *parts_by_class({"train": 6, "val": 3, "test": 4}))
    stage = FolderStage(tmp_path / "stage")
    built = prepare_cells(small(dataset=str(root), split="published"), stage)
    for path, part in zip(built.cells.table["path"], built.cells.parts, strict=True):
        assert {"train": "train", "val": "val", "test": "test"}[path.split("/")[0]] == part
    grouped = prepare_cells(small(dataset=str(root)), FolderStage(tmp_path / "grouped"))
    assert any("published parts" in note and "not used" in note for note in grouped.notes)


def test_validation_comes_from_training_where_none_was_published(tmp_path: Path):
    root = write(tmp_path / "cells", *parts_by_class({"train": 12, "test": 4}))
    cells = prepare_cells(small(dataset=str(root), split="published"), FolderStage(tmp_path / "stage")).cells
    folders = cells.table["path"].str.split("/").str[0].to_numpy()
    assert set(folders[cells.parts == "val"]) == {"train"}
    assert (folders[cells.parts == "test"] == "test").all() and (cells.parts == "test").sum() == 8


def test_a_class_that_a_published_part_lacks_is_a_finding(tmp_path: Path):
    root = write(tmp_path, *[f"train/AML/{i}.png" for i in range(3)], *[f"test/CML/{i}.png" for i in range(3)])
    found = check_folder(root)
    assert found["finding"].str.contains("published parts differ in their classes").any()
    assert (found["severity"] == "warning").any()


def test_a_patient_on_both_sides_leaves_training_with_a_count(tmp_path: Path):
    paths = [
        f"{part}/{label}/Patient_{patient}/{i}.png"
        for part, patients in (("train", (1, 2, 3, 4)), ("val", (6,)), ("test", (4, 5)))
        for patient in patients
        for label in ("AML", "CML")
        for i in range(2)
    ]
    root = write(tmp_path / "cells", *paths)
    built = prepare_cells(small(dataset=str(root), split="published"), FolderStage(tmp_path / "stage"))
    assert built.grouped_by == "folder names"
    assert any("1 groups are on both sides" in note and "4 cells left out (train 4)" in note for note in built.notes)
    test = built.cells.table.loc[built.cells.parts == "test", "path"]
    assert len(test) == 8 and set(test.str.split("/").str[0]) == {"test"}  # the test part stays as published
    assert any("both sides" in finding for finding in check_folder(root)["finding"])


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (
            ["fold_0/AML/1.png", "fold_1/CML/1.png", "fold_0/CML/1.png", "fold_1/AML/1.png"],
            "no train, validation or test",
        ),
        (["AML/1.png", "AML/2.png", "CML/1.png", "CML/2.png"], "without a part"),
        (parts_by_class({"train": 3}), "no test part"),
    ],
)
def test_a_split_that_was_not_published_is_refused(tmp_path: Path, paths: list[str], named: str):
    root = write(tmp_path / "cells", *paths)
    with pytest.raises(LeukError, match=named):
        prepare_cells(small(dataset=str(root), split="published"), FolderStage(tmp_path / "stage"))


def test_labels_of_a_manifest_need_no_layout(tmp_path: Path):
    """A folder tree that can be read in two ways is no obstacle where the manifest gives every label."""
    paths = ["ward/blue/1.png", "ward/red/1.png", "clinic/blue/1.png", "clinic/red/1.png"]
    root = write(tmp_path, *paths)
    rows = "".join(f"{path},{label},test\n" for path, label in zip(paths, ("AML", "CML", "CML", "AML"), strict=True))
    (root / "manifest.csv").write_text("path,label,part\n" + rows)
    entries = {entry.path: entry for entry in list_folder(root).entries}
    assert entries["ward/red/1.png"].label == "CML" and entries["ward/red/1.png"].part == "test"


@pytest.mark.parametrize(
    ("paths", "stated"),
    [
        (
            ["train/AML/1.png", "test/AML/1.png", "CML/1.png"],
            r"classes \(CML\) and names that mean parts \(test, train\)",
        ),
        (["train/fold_0/AML/1.png", "train/fold_1/CML/1.png", "test/AML/1.png", "test/CML/1.png"], "folds"),
        (["AML/1.png", "Patient_3/1.png"], "patients"),
    ],
)
def test_parts_folds_and_patients_beside_classes_are_refused(paths: list[str], stated: str):
    with pytest.raises(LeukError, match=stated) as refusal:
        infer(*paths)
    assert refusal.value.exit_code == 2
    assert re.search(r"--layout \d", str(refusal.value))
    assert infer("band/1.png", "segmented/1.png").roles == ("class",)  # segmented neutrophils


def test_one_other_name_does_not_hide_parts_and_patients():
    assert infer("train/AML/1.png", "test/CML/1.png", "external/AML/1.png").roles == ("part", "class")
    assert infer("AML/Patient_1/1.png", "AML/rest/1.png", "CML/Patient_2/1.png").roles == ("class", "patient")


def test_a_patient_spelled_in_two_ways_is_one_group(tmp_path):
    for k, name in enumerate(("train/AML/Patient_1", "test/AML/patient 1", "train/CML/Patient_2")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(coded(picture(k)))
    listing = list_folder(tmp_path)
    assert len({entry.group for entry in listing.entries if entry.label == "AML"}) == 1
    assert len({entry.group for entry in listing.entries}) == 2
    assert any("also spelled" in what for _, what, _ in listing.notices)


def test_folders_that_may_be_patients_are_a_finding_until_the_layout_is_said(tmp_path):
    for k, name in enumerate(("AML/001", "AML/002", "CML/003")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(coded(picture(k)))
    found = check_folder(tmp_path)
    assert found["advice"].str.contains("--layout class/patient", regex=False).any()
    for layout, groups in (("class/patient", {"001", "002", "003"}), ("class/*", {""})):
        listing = list_folder(tmp_path, layout=layout)
        assert {entry.group for entry in listing.entries} == groups
        assert not listing.notices
