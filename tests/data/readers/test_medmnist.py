"""MedMNIST npz files: read right with their published parts, or refused by name."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.test_prepare import FolderStage, small
from data.toys import picture
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder
from leuk_lib.data.decode import decode_file
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.data.listing import list_folder
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.data.readers import medmnist
from leuk_lib.runs.errors import LeukError
from leuk_lib.workflow import resolve_dataset, understood

SIZES = {"train": 32, "val": 8, "test": 16}


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LEUK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def arrays(classes: int = 8, size: int = 28) -> dict[str, np.ndarray]:
    """Images that all differ, labels (N,1) in turn."""
    out, seed = {}, 0
    for part, n in SIZES.items():
        out[f"{part}_images"] = np.stack([picture(seed + i, size) for i in range(n)])
        out[f"{part}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
        seed += n
    return out


def write(path: Path, compressed: bool = True, **change: object) -> Path:
    """An npz file of the published form; ``change`` replaces arrays, None removes them."""
    values = {name: value for name, value in {**arrays(), **change}.items() if value is not None}
    (np.savez_compressed if compressed else np.savez)(path, **values)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_images_labels_and_parts_are_those_of_the_file(tmp_path, compressed):
    file = write(tmp_path / "bloodmnist.npz", compressed)
    truth = np.load(file)
    listing = list_folder(file)
    assert len(listing.entries) == sum(SIZES.values()) and listing.name == "bloodmnist"
    names = medmnist.CLASSES["bloodmnist"]
    for entry in listing.entries:
        _, part, position = entry.source.split(" ")
        assert entry.part == medmnist.PARTS[part]
        assert entry.label == names[int(truth[f"{part}_labels"][int(position), 0])]
        image = decode_file(listing.root / entry.path).image
        np.testing.assert_array_equal(image, truth[f"{part}_images"][int(position)])


def test_labels_without_a_second_axis_and_grey_images_are_read(tmp_path):
    grey = {name: value[..., 0] for name, value in arrays().items() if "images" in name}
    flat = {name: value[:, 0].astype(np.int64) for name, value in arrays().items() if "labels" in name}
    listing = list_folder(write(tmp_path / "bloodmnist.npz", **grey, **flat))
    entry = next(entry for entry in listing.entries if entry.source.endswith("test 3"))
    image = decode_file(listing.root / entry.path).image
    np.testing.assert_array_equal(image[..., 0], grey["test_images"][3])
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    assert entry.label == "immature_granulocyte"


def test_what_was_read_is_said_and_the_split_is_kept(tmp_path, results):
    file = write(tmp_path / "bloodmnist.npz")
    lines = "\n".join(understood(resolve_dataset(str(file)), {}))
    assert "reader medmnist" in lines and "56 cells of bloodmnist.npz (test 16, train 32, validation 8)" in lines
    stage = FolderStage(tmp_path / "stage")
    built = prepare_cells(small(dataset=str(file), split="published"), stage)
    given = built.cells.table["source"].str.split(" ").str[1].to_numpy()
    assert (given == built.cells.parts).all() and len(built.cells) == 56
    assert built.cells.name == "bloodmnist" and len(built.cells.classes) == 8
    assert any("unknown copy" in finding for finding in built.findings["finding"])


def test_the_check_reports_what_the_reader_found(tmp_path, capsys):
    change = arrays()["train_images"]
    change[5:8] = 0
    file = write(tmp_path / "bloodmnist.npz", train_images=change)
    assert main(["data", "check", str(file)]) == 1
    out = capsys.readouterr().out
    assert "blank image: all pixels are 0: 3" in out and "train/00005" in out
    assert "train: 3 of 32 images are blank" in out
    assert "53 usable cells, 8 classes" in out


def test_the_published_md5_is_compared(tmp_path, monkeypatch):
    file = write(tmp_path / "bloodmnist_28.npz")
    right = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(medmnist.MD5, "bloodmnist", {28: right})
    assert any(f"published file of 28 px (MD5 {right})" in line for line in list_folder(file).understood)
    other = write(tmp_path / "bloodmnist.npz", train_labels=arrays()["train_labels"][::-1])
    assert any("unknown copy" in finding.finding for finding in list_folder(other).findings)


def test_classes_of_other_files_are_given_or_numbered(tmp_path):
    file = write(tmp_path / "cells.npz", **{name: v % 2 for name, v in arrays().items() if "labels" in name})
    listing = list_folder(file)
    assert {entry.label for entry in listing.entries} == {"0", "1"}
    assert any("names of the classes unknown" in finding.finding for finding in listing.findings)
    named = list_folder(file, reader_options={"classes": "blast, lymphocyte"})
    assert {entry.label for entry in named.entries} == {"blast", "lymphocyte"}
    by_source = {entry.source: entry.label for entry in listing.entries}
    assert all({"0": "blast", "1": "lymphocyte"}[by_source[e.source]] == e.label for e in named.entries)
    table = load_dataset(str(file), size=16, reader_options={"classes": "blast,lymphocyte"}).table
    assert set(table["label"]) == {"blast", "lymphocyte"}


def test_a_folder_with_one_file_is_that_file_and_with_two_it_is_refused(tmp_path):
    folder = tmp_path / "sets"
    folder.mkdir()
    write(folder / "bloodmnist.npz")
    assert len(list_folder(folder).entries) == 56
    write(folder / "bloodmnist_64.npz")
    with pytest.raises(LeukError, match=r"bloodmnist\.npz, bloodmnist_64\.npz.*name the file"):
        list_folder(folder)


BAD = {
    "float images": ({"val_images": np.zeros((8, 28, 28, 3), np.float32)}, r"val_images is .* float32"),
    "four channels": ({"val_images": np.zeros((8, 28, 28, 4), np.uint8)}, r"val_images is \(8, 28, 28, 4\)"),
    "vectors": ({"val_images": np.zeros((8, 784), np.uint8)}, r"val_images is \(8, 784\)"),
    "lengths": ({"val_labels": np.zeros((7, 1), np.uint8)}, "8 val_images but 7 val_labels"),
    "several labels": ({"val_labels": np.zeros((8, 14), np.uint8)}, "several labels per image"),
    "float labels": ({"val_labels": np.zeros((8, 1))}, "val_labels is .* float64"),
    "labels missing": ({"val_labels": None}, "val_images without val_labels"),
    "images missing": ({"test_images": None}, "test_labels without test_images"),
    "label out of range": ({"test_labels": np.full((16, 1), 9)}, r"16 of the test_labels .*from 0 to 7.*9 at 0"),
    "negative label": ({"test_labels": np.full((16, 1), -1)}, "from 0 to 7"),
    "objects": ({"test_labels": np.array([{}] * 16)}, "Python objects"),
    "columns": ({"test_images": np.asfortranarray(arrays()["test_images"])}, "column by column"),
    "sizes differ": ({"test_images": np.stack([picture(i, 64) for i in range(16)])}, "parts differ in the shape"),
    "nothing": (dict.fromkeys(arrays()), "no train_images, val_images or test_images"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_is_refused_by_name(tmp_path, data_folder, kind, capsys):
    change, message = BAD[kind]
    file = write(tmp_path / "bloodmnist.npz", **change)
    with pytest.raises(LeukError, match=message) as error:
        list_folder(file)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    assert main(["data", "check", str(file)]) == 2 and "Traceback" not in capsys.readouterr().err
    assert not [path for path in data_folder.glob(".converted/*") if path.suffix != ".lock"]


@pytest.mark.parametrize("how", ["cut", "flipped", "text", "empty", "header"])
def test_a_damaged_file_is_refused(tmp_path, how):
    file = write(tmp_path / "bloodmnist.npz", compressed=False)
    data = bytearray(file.read_bytes())
    if how == "header":  # the array claims more images than it holds
        with zipfile.ZipFile(file, "w") as archive:
            for name, value in arrays().items():
                stream = io.BytesIO()
                np.save(stream, value)
                body = stream.getvalue()
                archive.writestr(f"{name}.npy", body[:-100] if name == "test_images" else body)
    else:
        data[len(data) // 2] ^= 0xFF
        file.write_bytes({"cut": data[:-200], "flipped": data, "text": b"not an npz", "empty": b""}[how])
    with pytest.raises(LeukError, match=r"bloodmnist\.npz") as error:
        list_folder(file)
    assert error.value.exit_code == 2


def test_an_incomplete_split_is_a_finding(tmp_path):
    file = write(tmp_path / "bloodmnist.npz", val_images=None, val_labels=None)
    assert any("no part val" in finding for finding in check_folder(file)["finding"])


def test_the_fingerprint_follows_the_bytes(tmp_path):
    file = write(tmp_path / "bloodmnist.npz")
    before = fingerprint(str(file))
    assert fingerprint(str(write(tmp_path / "bloodmnist.npz"))) == before
    assert fingerprint(str(write(tmp_path / "bloodmnist.npz", test_labels=arrays()["test_labels"][::-1]))) != before
