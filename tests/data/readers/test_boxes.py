"""Annotated fields of view become a data set: checked, split by fields or slides, and run like any other."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.boxes.annotated import coco, field_image, voc, write_field
from data.boxes.test_read import leukemia_attri
from data.toys import coded, folder
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder, exit_code
from leuk_lib.data.decode import decode_file
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.data.folder import read_folder
from leuk_lib.data.listing import list_folder
from leuk_lib.data.smear.cohort import render_smear
from leuk_lib.runs.errors import LeukError


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEUK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def annotated(root: Path, fields: int = 6) -> Path:
    """Fields with two cells each, of two categories."""
    boxes: list[tuple[int, int, list[object]]] = []
    for k in range(fields):
        write_field(root / f"images/{k}.png", k)
        boxes += [(k, 1, [10 + k, 20, 40, 40]), (k, 2, [120, 80 + k, 40, 40])]
    coco(root / "annotations.json", [(k, f"{k}.png") for k in range(fields)], boxes, cell_size=3)
    return root


def test_a_folder_with_boxes_is_recognised_and_cut(tmp_path: Path) -> None:
    root = annotated(tmp_path / "set")
    listing = list_folder(root)
    assert len(listing.entries) == 12
    assert {entry.label for entry in listing.entries} == {"monocyte", "neutrophil"}
    first = listing.entries[0]
    assert first.source == "images/0.png 10,20,50,60" and first.group == "field:images/0.png"
    assert np.array_equal(decode_file(listing.root / first.path).image, field_image(0)[10:70, 0:60])
    assert any("boxes (coco): 12 in 6 fields of view" in line for line in listing.understood)
    with (listing.root / "manifest.csv").open(newline="") as handle:
        assert next(csv.DictReader(handle))["cell_size"] == "3"
    before = fingerprint(str(root))
    coco(root / "annotations.json", [(0, "0.png")], [(0, 1, [10, 20, 40, 40])])
    assert fingerprint(str(root)) != before


def test_cells_of_one_field_are_one_group(tmp_path: Path) -> None:
    table = read_folder(annotated(tmp_path / "set"), size=32).table
    assert len(table) == 12 and table["group"].nunique() == 6
    fields = table["path"].str.replace(r"_\d+\.png$", "", regex=True).str.replace(r"^\w+/", "", regex=True)
    assert (table.groupby(fields)["group"].nunique() == 1).all()


def test_leukemia_attri_keeps_slides_and_parts_and_widens_the_cells(tmp_path: Path) -> None:
    root = leukemia_attri(tmp_path / "attri")
    with pytest.raises(LeukError, match="task=cell-type or task=diagnosis"):
        list_folder(root)
    listing = list_folder(root, reader="leukemia-attri")
    assert {entry.label for entry in listing.entries} == {"ALL", "AML", "CLL", "CML"}
    assert {entry.group for entry in listing.entries} == {"ALL slide 1", "AML slide 2", "CLL slide 3", "CML slide 4"}
    assert {entry.part for entry in listing.entries if entry.label == "CML"} == {"test"}
    image = decode_file(listing.root / listing.entries[0].path).image
    assert image.shape == (64, 64, 3)  # 24 px at .5625 are 42.7 px, wider than 40 px; with the margins 64
    types = list_folder(root, reader="leukemia-attri", reader_options={"task": "cell-type"})
    assert {entry.label for entry in types.entries} == {"myeloblast", "lymphoblast"}


def test_options_are_checked(tmp_path: Path) -> None:
    root = annotated(tmp_path / "set")
    for options, words in (
        ({"padding": "-1"}, "padding=-1 must be a number from 0 to 4"),
        ({"aspect": "nan"}, "must be a number"),
        ({"map": "monocyte"}, "map=monocyte must be OLD:NEW"),
        ({"categories": "blast"}, "no category 'blast'"),
        ({"format": "kitti"}, "must be one of"),
        ({"paddings": "1"}, "did you mean 'padding'"),
    ):
        with pytest.raises(LeukError, match=words):
            list_folder(root, reader="boxes", reader_options=options)
    merged = list_folder(root, reader_options={"map": "monocyte:wbc,neutrophil:wbc", "padding": "0"})
    assert {entry.label for entry in merged.entries} == {"wbc"}
    assert decode_file(merged.root / merged.entries[0].path).image.shape == (40, 40, 3)


def test_the_check_counts_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "bccd"
    for k in range(4):
        write_field(root / f"JPEGImages/{k}.png", k)
        voc(
            root / f"Annotations/{k}.xml",
            [("WBC", 20, 30, 60, 80), ("RBC", 100 + k, 60, 140, 100), ("RBC", 5, 5, 5, 5)],
        )
    assert main(["data", "check", str(root)]) == 1
    text = capsys.readouterr().out
    assert "boxes (voc): 12 in 4 fields of view; categories: RBC 8, WBC 4" in text
    assert "box too small: 4" in text and "RBC 4, WBC 4" in text
    assert "fields of view, near-duplicates and overlaps" in text


def overlapping_fields(root: Path) -> Path:
    """Two fields of one smear that share half of their width, and two of another: 12 cells are in two fields."""
    for k, seed in enumerate((1, 2)):
        cells = render_smear(36, 1, 64, seed=seed)[0]
        smear = np.concatenate([np.concatenate(list(cells[6 * row : 6 * row + 6]), axis=1) for row in range(3)])
        for name, left in (("l", 0), ("r", 2)):
            file = root / f"{k}{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(left).normal(0, 2, (192, 256, 3))
            pixels = np.clip(smear[:, 64 * left : 64 * left + 256] + noise, 0, 255).astype(np.uint8)
            file.write_bytes(coded(pixels))
            boxes = [
                ("blast" if (column + left + row) % 2 else "lymphocyte", 64 * column + 12, 64 * row + 12, 64 * column + 52, 64 * row + 52)
                for row in range(3)
                for column in range(4)
            ]  # fmt: skip
            voc(file.with_suffix(".xml"), boxes, (256, 192))
    return root


def test_the_same_cell_in_overlapping_fields_joins_their_groups(tmp_path: Path) -> None:
    found = read_folder(overlapping_fields(tmp_path / "set"), size=32)
    table = found.table
    assert len(table) == 48
    smear = table["path"].str.extract(r"/(\d)[lr]_")[0]
    assert table.groupby(smear)["group"].nunique().tolist() == [1, 1]  # left and right field of a smear: one group
    assert table["group"].nunique() == 2
    twice = found.findings["finding"].str.startswith(("near-duplicate of", "overlaps")) & (
        found.findings["path"].str.extract(r"/(\d[lr])_")[0] != found.findings["other"].str.extract(r"/(\d[lr])_")[0]
    )
    assert twice.sum() >= 11  # of 12: the two columns that both fields of a smear show
    assert "fields of view" in found.grouped_by


def test_class_folders_with_other_text_files_stay_class_folders(tmp_path: Path) -> None:
    root = folder(tmp_path / "cells")
    (root / "readme.txt").write_text("about")
    (root / "a" / "classes.txt").write_text("a\nb\n")
    (root / "info.json").write_text('{"images": 8}')
    assert len(list_folder(root).entries) == 8


def test_fields_in_class_folders_are_a_finding(tmp_path: Path) -> None:
    cells = render_smear(48, 2, 48, seed=3)[0]
    rng = np.random.default_rng(0)
    for label in ("AML", "ALL"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for k in range(6):
            chosen = cells[rng.choice(len(cells), 24, replace=False)]
            image = np.concatenate([np.concatenate(list(chosen[6 * r : 6 * r + 6]), axis=1) for r in range(4)])
            if k == 0:
                cv2.rectangle(image, (200, 170), (260, 173), (0, 0, 0), -1)
            (tmp_path / "set" / label / f"{k}.png").write_bytes(coded(image))
    findings = check_folder(tmp_path / "set")
    fields = findings[findings["kind"] == "looks like a field of view"]
    assert len(fields) >= 11 and (fields["severity"] == "warning").all()
    assert fields["finding"].str.endswith("a scale bar").sum() == 2
    assert fields["advice"].iloc[0].startswith(("92 %", "100 %"))
    assert exit_code(findings) == 1


def test_single_cells_are_no_finding(tmp_path: Path) -> None:
    images, _, table = render_smear(48, 2, 64, seed=7)
    for k, (image, label) in enumerate(zip(images, table["label"], strict=True)):
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / label / f"{k}.png").write_bytes(coded(image))
    findings = check_folder(tmp_path / "set")
    assert (findings["kind"] == "looks like a field of view").sum() <= 1
    assert not (findings["kind"] == "looks like a field of view").any() or exit_code(findings) == 0
