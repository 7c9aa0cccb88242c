"""Boxes of all formats become the same cells, and what is wrong with them is refused or said."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.boxes.annotated import HEIGHT, WIDTH, coco, field_image, raabin, voc, write_field, write_text
from data.toys import coded
from leuk_lib.data.boxes.box import Annotation, BoxOptions
from leuk_lib.data.boxes.files import FolderFiles
from leuk_lib.data.boxes.read import CutCell, cut_cells, read_boxes, recognise
from leuk_lib.data.findings import Finding
from leuk_lib.runs.errors import LeukError


def read(root: Path, **options: object) -> tuple[Annotation, list[CutCell], list[Finding]]:
    """Read and cut a folder: the annotation, the cells, and all findings."""
    chosen = BoxOptions(**options)  # type: ignore[arg-type]
    annotation = read_boxes(root, chosen)
    items = list(cut_cells(annotation, chosen))
    findings = [*annotation.findings, *(item for item in items if isinstance(item, Finding))]
    return annotation, [item for item in items if isinstance(item, CutCell)], findings


def said(findings: list[Finding], start: str) -> list[str]:
    """The texts of the findings that begin with ``start``."""
    return [finding.finding for finding in findings if finding.finding.startswith(start)]


def labels(cells: list[CutCell]) -> dict[str, int]:
    return dict(Counter(cell.box.label for cell in cells))


def test_every_format_gives_the_same_cells(tmp_path: Path) -> None:
    for name in ("coco", "voc", "yolo", "raabin"):
        write_field(tmp_path / name / "images" / "a.png", 1)
    coco(tmp_path / "coco/a.json", [(1, "a.png")], [(1, 1, [20, 30, 40, 50]), (1, 2, [100, 60, 50, 40])])
    voc(tmp_path / "voc/a.xml", [("monocyte", 21, 31, 60, 80), ("neutrophil", 101, 61, 150, 100)])
    rows = [(0, 40, 55, 40, 50), (1, 125, 80, 50, 40)]
    text = "\n".join(f"{k} {x / WIDTH} {y / HEIGHT} {w / WIDTH} {h / HEIGHT}" for k, x, y, w, h in rows)
    write_text(tmp_path / "yolo/labels/a.txt", text)
    write_text(tmp_path / "yolo/data.yaml", "nc: 2\nnames: {0: monocyte, 1: neutrophil}\n")
    raabin(
        tmp_path / "raabin/jsons/a.json",
        [(20, 30, 60, 80, "monocyte", "monocyte"), (100, 60, 150, 100, "neutrophil", "neutrophil")],
    )
    image = field_image(1)
    expected = [image[18:93, 3:78], image[43:118, 88:163]]  # 75 = 50 px and a quarter of it on both sides
    for name in ("coco", "voc", "yolo", "raabin"):
        annotation, cells, findings = read(tmp_path / name)
        assert annotation.format == name
        assert labels(cells) == {"monocyte": 1, "neutrophil": 1}
        assert {cell.field.group for cell in cells} == {"field:images/a.png"}
        assert [cell.image.shape for cell in cells] == [(75, 75, 3), (75, 75, 3)]
        for cell, pixels in zip(cells, expected, strict=True):
            assert np.array_equal(cell.image, pixels), name
        assert not [finding for finding in findings if finding.severity != "info"]


def test_recognises_annotations_and_nothing_else(tmp_path: Path) -> None:
    write_field(tmp_path / "a" / "0.png")
    write_text(tmp_path / "a" / "README.txt", "1 2 3 4 5")
    write_text(tmp_path / "about.json", json.dumps({"annotations": "by two experts", "license": "CC"}))
    write_text(tmp_path / "shapes.xml", "<svg></svg>")
    write_text(tmp_path / "notes.txt", "0 .5 .5 .1 .1")
    assert Counter(recognise(FolderFiles(tmp_path))) == {}
    with pytest.raises(LeukError, match="no annotation of boxes"):
        read_boxes(tmp_path)
    write_text(tmp_path / "a" / "0.txt", "0 .5 .5 .1 .1")
    assert Counter(recognise(FolderFiles(tmp_path))) == {"yolo": 1}


def test_boxes_that_are_repeated_without_end_are_refused(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    coco(tmp_path / "train.json", [(1, "a.png")], [(1, 1, [20, 30, 40, 40])] * 1000)
    with pytest.raises(LeukError, match=r"a\.png: more than 100000 pairs of its boxes are the same"):
        read(tmp_path)


def test_traps_of_a_coco_file_are_counted(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b", "empty", "unlisted")):
        write_field(tmp_path / f"images/{name}.png", k)
    boxes: list[tuple[int, int, list[object]]] = [
        (1, 1, [20, 30, 40, 40]),
        (1, 1, [20, 30, 40, 40.5]),  # repeated
        (3, 1, [120, 30, 40, 40]),  # the same image under a second id
        (2, 1, [20, 20, 40, 40]),
        (2, 2, [20, 20, 40, 40]),  # under two categories
        (2, 1, [100, 100, 1, 1]),  # a pixel
        (2, 1, [100, 100, 0, 20]),  # empty
        (2, 1, [190, 20, 60, 40]),  # outside
        (2, 1, [170, 20, 40, 40]),  # over the border
        (2, 1, [120, 120, -30, -30]),  # reversed
        (2, 3, [60, 60, 30, 30]),  # none
        (2, 9, [60, 60, 30, 30]),  # no such category
        (7, 1, [60, 60, 30, 30]),  # no such image
        (4, 1, [60, 60, 30, 30]),  # the image is missing
        (2, 1, [float("nan"), 60, 30, 30]),
        (2, 1, [60, float("inf"), 30, 30]),
    ]
    images = [(1, "a.png"), (2, "b.png"), (3, "a.png"), (4, "gone.png"), (5, "empty.png")]
    coco(tmp_path / "annotations.json", images, boxes, ("Monocyte", "monocyte", "none"))
    annotation, cells, findings = read(tmp_path)
    assert labels(cells) == {"Monocyte": 5}  # a: 2; b: both of one box (one class after merging), border, reversed
    assert len(said(findings, "category also spelled 'monocyte'")) == 1
    assert len(said(findings, "box repeated")) == 2
    assert said(findings, "image entry repeated: listed 2 times")
    assert sorted(said(findings, "box too small"))[1].startswith("box too small: 1 x 1 px (Monocyte;")
    assert len(said(findings, "box outside the field: 17 % inside")) == 1
    assert len(said(findings, "box over the field's border: 75 % inside")) == 1
    assert len(said(findings, "box with reversed corners")) == 1
    assert said(findings, "category left out: 1 boxes; none means none")
    assert said(findings, "boxes of unknown categories: 1 boxes, category_id 9")
    assert said(findings, "boxes without an image entry: 1 boxes, image_id 7")
    assert said(findings, "boxes without their image: 1 boxes, gone.png")
    assert len(said(findings, "box without finite numbers")) == 2
    assert said(findings, "images without boxes: 1 (images/empty.png)")
    assert said(findings, "images without an annotation: 1 (images/unlisted.png)")
    used = len(cells)
    lost = sum(finding.severity == "error" for finding in findings) + 1  # "none" is info; each of these is one box
    assert used + lost == len(boxes)
    assert annotation.understood[0].startswith("boxes (coco): 13 in 3 fields of view; categories: Monocyte 12, none 1")


def test_two_categories_are_refused_unless_they_agree(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    boxes = [(1, 1, [20, 30, 40, 40]), (1, 2, [20, 30, 40, 40]), (1, 1, [100, 30, 40, 40])]
    coco(tmp_path / "a.json", [(1, "a.png")], boxes, ("band", "segmented"))
    _, cells, findings = read(tmp_path)
    assert labels(cells) == {"band": 1}
    assert len(said(findings, "box under two categories: band and segmented")) == 1
    _, cells, findings = read(tmp_path, class_map={"band": "neutrophil", "Segmented": "neutrophil"})
    assert labels(cells) == {"neutrophil": 2}
    assert len(said(findings, "box repeated")) == 1
    with pytest.raises(LeukError, match="did you mean 'band'"):
        read(tmp_path, class_map={"bands": "x"})


def test_chosen_categories(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    coco(tmp_path / "a.json", [(1, "a.png")], [(1, 1, [20, 30, 40, 40]), (1, 3, [100, 30, 40, 40])])
    _, cells, findings = read(tmp_path, categories=("NONE",))
    assert labels(cells) == {"none": 1}
    assert said(findings, "category left out: 1 boxes; monocyte is not among the chosen ones")
    with pytest.raises(LeukError, match="categories: no category 'blast'"):
        read(tmp_path, categories=("blast",))


def test_a_field_of_both_parts_is_test(tmp_path: Path) -> None:
    write_field(tmp_path / "images/a.png")
    write_field(tmp_path / "images/b.png", 1)
    coco(tmp_path / "train.json", [(1, "a.png"), (2, "b.png")], [(1, 1, [20, 30, 40, 40]), (2, 1, [20, 30, 40, 40])])
    coco(tmp_path / "test.json", [(5, "a.png")], [(5, 2, [100, 30, 40, 40])])
    _, cells, findings = read(tmp_path)
    assert {(cell.field.path, cell.field.part) for cell in cells} == {
        ("images/a.png", "test"),
        ("images/b.png", "train"),
    }
    assert len(said(findings, "field in several published parts ('test', 'train')")) == 1
    assert len(cells) == 3


def test_images_of_the_same_name_are_distinguished_by_part(tmp_path: Path) -> None:
    for k, part in enumerate(("train", "test")):
        write_field(tmp_path / f"Images/{part}/0.png", k)
        coco(tmp_path / f"json_labels/{part}.json", [(1, "0.png")], [(1, 1, [20 + 10 * k, 30, 40, 40])])
    _, cells, findings = read(tmp_path)
    assert {(c.field.path, c.field.part, c.box.x0) for c in cells} == {
        ("Images/train/0.png", "train", 20),
        ("Images/test/0.png", "test", 30),
    }
    assert not [f for f in findings if f.severity == "error"]


def leukemia_attri(root: Path, subset: str = "H_100X_C1", folder: str = "Images") -> Path:
    """The layout of LeukemiaAttri: two parts, squeezed fields, the diagnosis in the names, attributes."""
    k = 0
    for part, slides in (("train", ((1, "ALL"), (2, "AML"), (3, "CLL"))), ("test", ((4, "CML"),))):
        names = []
        for slide, diagnosis in slides:
            for image in (7, 8):
                names.append(f"{slide}_{image}_1000_{diagnosis}.png")
                write_field(root / subset / folder / part / names[-1], k := k + 1)
        boxes = [(i, 1 + i % 3, [20.0 + 5 * j, 30.0 + 60 * j, 24, 40]) for i in range(len(names)) for j in range(2)]
        coco(
            root / subset / "json_labels" / f"{part}.json", list(enumerate(names)), boxes,
            ("none", "myeloblast", "lymphoblast"), cell_size=2, nucleolus=4,
        )  # fmt: skip
    return root


def test_leukemia_attri_by_diagnosis_and_by_cell_type(tmp_path: Path) -> None:
    leukemia_attri(tmp_path, folder="images")
    with pytest.raises(LeukError, match="task=cell-type or task=diagnosis"):
        read_boxes(tmp_path)
    annotation, cells, findings = read(tmp_path, task="diagnosis", aspect=0.6)
    assert set(labels(cells)) == {"ALL", "AML", "CLL", "CML"}
    assert {cell.field.group for cell in cells} == {"ALL slide 1", "AML slide 2", "CLL slide 3", "CML slide 4"}
    assert {cell.field.part for cell in cells if cell.box.label == "CML"} == {"test"}
    assert said(findings, "category left out: 6 boxes; none means none")
    assert ("cell_size", "2") in cells[0].box.attributes and ("cell_type", "myeloblast") in cells[0].box.attributes
    assert all(cell.image.shape == (60, 60, 3) for cell in cells)  # 24 x 40 px is a square cell at 0.6
    assert any("diagnosis" in line for line in annotation.understood)
    _, cells, _ = read(tmp_path, task="cell-type", categories=("lymphoblast",))
    assert set(labels(cells)) == {"lymphoblast"}


def test_several_subsets_are_refused(tmp_path: Path) -> None:
    leukemia_attri(tmp_path)
    leukemia_attri(tmp_path, "L_40X_C2")
    with pytest.raises(LeukError, match=r"H_100X_C1 \(8 fields\), L_40X_C2 \(8 fields\).*subset=H_100X_C1"):
        read_boxes(tmp_path, BoxOptions(task="cell-type"))
    annotation = read_boxes(tmp_path, BoxOptions(task="cell-type", subset="l_40x_c2"))
    assert {field.path.split("/")[0] for field in annotation.fields} == {"L_40X_C2"}
    with pytest.raises(LeukError, match="no folder 'X'"):
        read_boxes(tmp_path, BoxOptions(subset="X"))


def test_a_packed_archive_is_said(tmp_path: Path) -> None:
    write_field(tmp_path / "Images/train/a.png")
    (tmp_path / "labels.zip").write_bytes(b"PK")
    with pytest.raises(LeukError, match=r"unpack labels\.zip first"):
        read_boxes(tmp_path)
    coco(tmp_path / "train.json", [(1, "a.png")], [(1, 1, [20, 30, 40, 40])])
    assert said(read(tmp_path)[2], "archive is not read")


def test_squeezed_fields_are_noticed(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    boxes = [(1, 1 + k % 2, [5 + 15 * (k % 12), 5 + 35 * (k // 12), 12, 20]) for k in range(36)]
    coco(tmp_path / "a.json", [(1, "a.png")], boxes)
    assert said(read(tmp_path)[2], "boxes are typically 0.60 times as wide as high")
    assert not said(read(tmp_path, aspect=0.6)[2], "boxes are typically")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [], "annotations": [{"bbox": 1}', "cannot be read as JSON"),
        ('[{"images": [], "file_name": 1}]', "COCO needs the lists"),
        ('{"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}', "COCO needs the lists"),
        ('{"images": [{"file_name": "a.png"}], "annotations": [], "categories": []}', "an image needs id"),
        ('{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}], "annotations": [], "categories": []}', "two images have the id 1"),
        ('{"images": [], "images": [], "annotations": [], "categories": [], "x": "file_name bbox"}', "stands twice"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "is 'a' and 'b'"),
        ('{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": "x"}], "categories": [{"id": 1, "name": "b"}]}', "must be four numbers"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_broken_coco_is_refused_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    write_field(tmp_path / "a.png")
    write_text(tmp_path / "a.json", content)
    with pytest.raises(LeukError, match=words) as error:
        read_boxes(tmp_path, BoxOptions(format="coco"))
    assert error.value.exit_code == 2
    assert len(str(error.value)) < 400


def test_huge_numbers_are_no_coordinates(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    path = coco(tmp_path / "a.json", [(1, "a.png")], [(1, 1, [20, 30, 40, 40]), (1, 1, [77777, 30, 40, 40])])
    path.write_text(path.read_text().replace("77777", "1" + "0" * 400))
    assert len(said(read(tmp_path)[2], "box without finite numbers")) == 1


def test_a_resized_field_is_refused_or_rescaled(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    coco(tmp_path / "a.json", [(1, "a.png")], [(1, 1, [40, 60, 80, 80])], size=(2 * WIDTH, 2 * HEIGHT))
    _, cells, findings = read(tmp_path)
    assert not cells and said(findings, "annotated for 400 x 320 pixels, the image has 200 x 160")
    _, cells, _ = read(tmp_path, rescale=True)
    assert (cells[0].box.x0, cells[0].box.y1) == (20, 70)
    coco(tmp_path / "a.json", [(1, "a.png")], [(1, 1, [40, 60, 80, 80])], size=(float("inf"), HEIGHT))  # type: ignore[arg-type]
    assert read(tmp_path)[0].fields[0].size is None


def test_damaged_fields_are_findings(tmp_path: Path) -> None:
    write_field(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(coded(field_image(1))[:-200])
    (tmp_path / "c.png").write_bytes(coded(field_image(2), mode="L"))
    boxes = [(k, 1, [20, 30, 40, 40]) for k in (1, 2, 3)]
    coco(tmp_path / "x.json", [(1, "a.png"), (2, "b.png"), (3, "c.png")], boxes)
    _, cells, findings = read(tmp_path)
    assert [cell.field.path for cell in cells] == ["a.png", "c.png"]
    assert said(findings, "field cannot be read: truncated PNG; 1 boxes")
    assert said(findings, "grey")


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    write_field(tmp_path / "secret.png")
    write_field(tmp_path / "set/a.png")
    (tmp_path / "set/link.png").symlink_to(tmp_path / "secret.png")
    names = [(1, "a.png"), (2, "../secret.png"), (3, str(tmp_path / "secret.png")), (4, "link.png")]
    coco(tmp_path / "set/a.json", names, [(k, 1, [20, 30, 40, 40]) for k in (1, 2, 3, 4)])
    _, cells, findings = read(tmp_path / "set")
    assert [cell.field.path for cell in cells] == ["a.png"]
    assert said(findings, "boxes without their image: 3 boxes")


def test_windows_paths_and_unicode_forms_of_names(tmp_path: Path) -> None:
    write_field(tmp_path / "Bilder" / "a\u0308.PNG")
    coco(tmp_path / "a.json", [(1, "C:\\data\\bilder\\\u00e4.png")], [(1, 1, [20, 30, 40, 40])])
    assert len(read(tmp_path)[1]) == 1


def test_fields_of_like_or_long_names_are_distinguished(tmp_path: Path) -> None:
    names = ["a.png", "A.png", "x/a.png", "long" * 40 + "1.png", "long" * 40 + "2.png"]
    for k, name in enumerate(names):
        write_field(tmp_path / name, k)
    coco(tmp_path / "c.json", list(enumerate(names)), [(k, 1, [20, 30, 40, 40]) for k in range(len(names))])
    found = {cell.field.path: cell.name for cell in read(tmp_path)[1]}
    assert set(found) == set(names)
    assert len({name.casefold() for name in found.values()}) == len(names)
    assert max(len(part) for name in found.values() for part in name.split("/")) < 80


def test_turned_fields_are_used_only_where_the_annotation_states_their_size(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image = Image.fromarray(field_image(0))
    image.save(tmp_path / "a.jpg", exif=turned)
    for size, cells in (((HEIGHT, WIDTH), 1), ((WIDTH, HEIGHT), 0), (None, 0)):
        coco(tmp_path / "a.json", [(1, "a.jpg")], [(1, 1, [20, 30, 40, 40])], size=size)
        _, found, findings = read(tmp_path)
        assert len(found) == cells
        assert bool(said(findings, "annotated field is turned")) == (cells == 0)


def test_many_boxes_take_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fields = 100
    for k in range(fields):
        (tmp_path / f"{k}.png").write_bytes(b"")
    boxes = [(i % fields, 1, [*rng.uniform(0, 600, 2).tolist(), 20.0, 20.0]) for i in range(30_000)]
    coco(tmp_path / "a.json", [(k, f"{k}.png") for k in range(fields)], boxes, cell_size=2)
    start = time.process_time()  # not the wall clock: the machine may be busy
    annotation = read_boxes(tmp_path)
    assert sum(len(field.boxes) for field in annotation.fields) == 30_000
    assert time.process_time() - start < 8  # about 1 s; 1e5 boxes take 3 s
