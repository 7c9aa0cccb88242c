"""What is particular to YOLO, Pascal VOC and Raabin's JSON."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from data.boxes.annotated import HEIGHT, WIDTH, coco, raabin, voc, write_field, write_text
from data.boxes.test_read import labels, read, said
from leuk_lib.data.boxes.box import BoxOptions
from leuk_lib.data.boxes.files import part_of_folders
from leuk_lib.data.boxes.read import read_boxes
from leuk_lib.runs.errors import LeukError

ROW = "0 .5 .5 .2 .25"


def yolo(root: Path, rows: str, names: str = "names: [monocyte, neutrophil]\n") -> Path:
    write_field(root / "images/train/a.png")
    write_text(root / "labels/train/a.txt", rows)
    if names:
        write_text(root / "data.yaml", names)
    return root


def test_yolo_attributes_are_kept_and_said(tmp_path: Path) -> None:
    _, cells, findings = read(yolo(tmp_path, f"{ROW} 1 2 3 4 4 1 0\n1 .2 .3 .2 .25 0 0 0 0 4 4 4\n"))
    assert labels(cells) == {"monocyte": 1, "neutrophil": 1}
    assert dict(cells[0].box.attributes) == {f"attribute_{k}": v for k, v in enumerate("1234410", start=1)}
    assert (cells[0].box.x0, cells[0].box.x1) == pytest.approx((0.4 * WIDTH, 0.6 * WIDTH))
    assert (cells[0].box.y0, cells[0].box.y1) == pytest.approx((0.375 * HEIGHT, 0.625 * HEIGHT))
    assert said(findings, "12 columns: 7 more than a box has (2 rows)")
    assert cells[0].field.part == "train"


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        (ROW, "", r"no data\.yaml, classes\.txt, obj\.names is there"),
        ("2 .5 .5 .2 .2", "names: [a, b]", r"class 2, but data\.yaml names 2 \(0 to 1\)"),
        (ROW, "nc: 3\nnames: [a, b]", "nc is 3, but 2 names"),
        (ROW, "names: {0: a, 2: b}", "must be 0 to 1"),
        (ROW, "names: 5", "must be a list"),
        (ROW, "names: [a, b", "cannot be read as YAML"),
        ("0 .1 .1 .2 .2 .3 .3 .4 .4", "names: [a, b]", "outlines"),
        (f"{ROW}\n{ROW} 1 2", "names: [a, b]", "1 rows of 5, 1 rows of 7"),
        (f"{ROW}\n0 .5 .5", "names: [a, b]", "3 numbers; a row is class"),
        (f"{ROW}\nmonocyte .5 .5 .2 .2", "names: [a, b]", "line 2: must be numbers"),
        (f"{ROW}\nnan .5 .5 .2 .2", "names: [a, b]", "line 2: the class must be"),
    ],
)
def test_yolo_is_refused_where_its_rows_mean_something_else(tmp_path: Path, rows: str, names: str, words: str) -> None:
    with pytest.raises(LeukError, match=words) as error:
        read_boxes(yolo(tmp_path, rows, names))
    assert error.value.exit_code == 2


def test_yolo_class_lists(tmp_path: Path) -> None:
    yolo(tmp_path, ROW, "")
    assert labels(read(tmp_path, classes=("blast",))[1]) == {"blast": 1}
    write_text(tmp_path / "classes.txt", "monocyte\nneutrophil\n\n")
    assert labels(read(tmp_path)[1]) == {"monocyte": 1}
    write_text(tmp_path / "data.yaml", "names: [neutrophil, monocyte]")
    with pytest.raises(LeukError, match=r"classes\.txt and data\.yaml name different classes"):
        read_boxes(tmp_path)


def test_yolo_confidence_is_a_warning_and_orphans_are_counted(tmp_path: Path) -> None:
    yolo(tmp_path, f"{ROW} .93\n")
    write_text(tmp_path / "labels/train/gone.txt", f"{ROW} .8\n{ROW} .8")
    findings = read(tmp_path)[2]
    assert said(findings, "6 columns (3 rows): the last looks like a detector's confidence")
    assert said(findings, "boxes without their image: 2 boxes, gone (missing)")


def test_yolo_coordinates_that_are_no_fractions_lie_outside(tmp_path: Path) -> None:
    _, cells, findings = read(yolo(tmp_path, "0 100 80 40 40\n0 .5 .5 .2 .2\n0 nan .5 .2 .2\n"))
    assert len(cells) == 1
    assert said(findings, "box outside the field: 0 % inside") and said(findings, "box without finite numbers")


def test_voc_tiny_boxes_as_in_bccd(tmp_path: Path) -> None:
    write_field(tmp_path / "JPEGImages/BloodImage_00338.png")
    boxes = [
        ("WBC", 20.0, 30.0, 60.0, 80.0),
        ("RBC", 5, 5, 5, 5),
        ("RBC", 100, 60, 130, 61),
        ("wbc ", 150, 100, 110, 60),
    ]
    voc(tmp_path / "Annotations/BloodImage_00338.xml", boxes)
    write_text(tmp_path / "ImageSets/Main/val.txt", "BloodImage_00338\n")
    _, cells, findings = read(tmp_path)
    assert labels(cells) == {"WBC": 2}
    assert len(said(findings, "box too small")) == 2
    assert len(said(findings, "box with reversed corners")) == 1
    assert len(said(findings, "category also spelled 'wbc'")) == 1
    assert {cell.field.part for cell in cells} == {"validation"}
    assert ("difficult", "0") in cells[0].box.attributes


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation><object>&c;</object></annotation>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "declares a document type"),
        ("<annotation><object><name>a</name></annotation>", "cannot be read as XML"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>x</xmin></bndbox></object></annotation>",
            "xmin must be a number",
        ),
        (
            "<annotation><object><name>a</name><bndbox><xmin>1_0</xmin></bndbox></object></annotation>",
            "xmin must be a number, got '1_0'",
        ),
        ('<?xml version="1.0" encoding="utf-16"?><annotation/>', "encoding utf-16"),
    ],
)
def test_voc_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    write_field(tmp_path / "a.png")
    write_text(tmp_path / "a.xml", text)
    with pytest.raises(LeukError, match=words):
        read_boxes(tmp_path, BoxOptions(format="voc"))


def test_voc_a_bomb_in_utf16_is_refused(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    (tmp_path / "a.xml").write_bytes(BOMB.encode("utf-16"))
    with pytest.raises(LeukError, match="cannot be read as XML"):
        read_boxes(tmp_path, BoxOptions(format="voc"))


def test_raabin_experts_order_and_counts(tmp_path: Path) -> None:
    for batch in ("First_microscope/b1", "Second_microscope/b1"):
        write_field(tmp_path / batch / "images/0001.png", len(batch))
        cells = [
            (60.0, 80.0, 20.0, 30.0, "Neutrophil", "Neutrophil"),
            (100.0, 30.0, 140.0, 80.0, "Lymphocyte", "Monocyte"),
        ]
        raabin(tmp_path / batch / "jsons/0001.json", cells, 3 if batch[0] == "F" else 2)
    _, found, findings = read(tmp_path)
    assert labels(found) == {"Neutrophil": 2, "Lymphocyte": 2}
    assert [cell.box.label2 for cell in found[:2]] == ["Neutrophil", "Monocyte"]
    assert (found[0].box.x0, found[0].box.y0, found[0].box.x1, found[0].box.y1) == (20, 30, 60, 80)
    assert dict(found[-1].field.attributes) == {"microscope": "Second_microscope", "batch": "b1"}
    assert len({cell.field.group for cell in found}) == 2
    assert len(said(findings, "box with reversed corners")) == 2
    assert said(findings, "states 3 cells and holds 2")
    assert said(findings, "two experts differ about 2 of 4 cells")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"Cell Numbers": 1, "Cell_0": 5}, "Cell_0 is not an object"),
        ({"Cell Numbers": 1, "Cell_0": {"x1": 1, "x2": 2, "y1": None, "y2": 5}}, "y1 must be a number"),
        ({"Cell Numbers": 1, "Cell_0": {"x1": 1, "x2": 2, "y1": 3}}, "y2 must be a number"),
    ],
)
def test_raabin_is_refused_in_one_line(tmp_path: Path, content: dict[str, object], words: str) -> None:
    write_field(tmp_path / "images/a.png")
    write_text(tmp_path / "jsons/a.json", json.dumps(content))
    with pytest.raises(LeukError, match=words):
        read_boxes(tmp_path)


def test_two_formats_at_once_are_refused(tmp_path: Path) -> None:
    yolo(tmp_path, ROW)
    coco(tmp_path / "train.json", [(1, "a.png")], [(1, 1, [20, 30, 40, 40])])
    with pytest.raises(LeukError, match=r"coco \(1 files\), yolo \(1 files\); say which: --option format=NAME"):
        read_boxes(tmp_path)
    assert len(read(tmp_path, format="coco")[1]) == 1


def test_the_part_of_an_image_is_that_of_its_folder_before_its_name() -> None:
    stated = {"train/images/AML_test_3.png": "train", "images/test7.png": "test", "images/12_AML.png": ""}
    assert {name: part_of_folders(PurePosixPath(name)) for name in stated} == stated
