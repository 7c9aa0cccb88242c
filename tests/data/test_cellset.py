"""CellSet: round trip, the closed test part, other images of the same cells."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from damage import TIMES, fuzz_table
from leuk_lib.data.cellset import CellSet, from_arrays
from leuk_lib.runs.errors import LeukError


class Notes(list):
    def note(self, text):
        self.append(text)


def tiny(masks=True, kind="rendered"):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = [0, 1, 0, 1, 0, 1]
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(6)],
            "label": [("NA", "b")[k] for k in labels],
            "group": ["001", "002", "003", "004", "003", "004"],
            "split": ["train", "train", "val", "test", "val", "test"],
        }
    )
    return from_arrays(images, labels, ("NA", "b"), table, kind, images[..., 0].copy() if masks else None, "tiny")


@pytest.mark.parametrize("masks", [True, False])
def test_round_trip(tmp_path, masks):
    cells = tiny(masks)
    cells.save(tmp_path)
    again = CellSet.open(tmp_path)
    assert torch.equal(again.images, cells.images) and torch.equal(again.labels, cells.labels)
    assert (again.masks is None) != masks
    assert again.classes == ("NA", "b") and again.groups.tolist() == cells.groups.tolist()
    assert again.kind == "rendered" and again.size == 8 and len(again) == 6
    assert again.counts("train").to_dict() == {"NA": 1, "b": 1}


def test_opening_the_test_part_is_noted():
    cells, notes = tiny(), Notes()
    assert cells.indices("train").tolist() == [0, 1] and cells.indices("val").tolist() == [2, 4]
    with pytest.raises(LeukError, match="open_test"):
        cells.indices("test")
    with pytest.raises(LeukError, match="allowed"):
        cells.indices("tset")
    assert cells.open_test(notes).tolist() == [3, 5]
    assert "test part opened" in notes[0]


def test_with_images(tmp_path):
    cells = tiny()
    save_file({"images": 255 - cells.images}, tmp_path / "images.safetensors")
    other = cells.with_images(tmp_path / "images.safetensors")
    assert torch.equal(other.images, 255 - cells.images) and other.table is cells.table
    save_file({"images": cells.images[:3].contiguous()}, tmp_path / "short.safetensors")
    with pytest.raises(LeukError, match="02_alhe"):
        cells.with_images(tmp_path / "short.safetensors")
    with pytest.raises(LeukError, match="02_alhe"):
        cells.with_images(tmp_path / "none.safetensors")


def test_missing_and_damaged_files_are_one_line(tmp_path):
    with pytest.raises(LeukError, match="01_data"):
        CellSet.open(tmp_path)
    tiny().save(tmp_path)
    whole = (tmp_path / "cells.safetensors").read_bytes()
    (tmp_path / "cells.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LeukError, match="damaged"):
        CellSet.open(tmp_path)


def test_a_leaking_table_is_refused(tmp_path):
    cells = tiny()
    cells.table.loc[2, "split"] = "train"
    cells.save(tmp_path)
    with pytest.raises(LeukError, match="leaks"):
        CellSet.open(tmp_path)


@pytest.mark.parametrize("times", TIMES)
def test_mutated_tables_are_one_line(tmp_path, times):
    cells = tiny()
    cells.table["um_per_px"] = [0.1, None, 0.2, 0.1, 0.1, 0.1]
    cells.save(tmp_path)
    assert CellSet.open(tmp_path).table["um_per_px"].isna().sum() == 1
    assert 0 < fuzz_table(tmp_path / "cells.csv", lambda: CellSet.open(tmp_path), times) < times


@pytest.mark.parametrize(
    ("tensors", "about", "why"),
    [
        ({"images": None}, {}, "not images and labels"),
        ({"labels": torch.full((6,), 7)}, {}, "labels of none of its 2 classes"),
        ({"labels": torch.full((6,), -1)}, {}, "labels of none of its 2 classes"),
        ({}, {"classes": "NA"}, "classes"),
        ({}, {"kind": "drawn"}, "kind"),
        ({}, None, "not the cells of stage data"),
        ({}, "{", "damaged"),
    ],
)
def test_cells_of_another_form_are_one_line(tmp_path, tensors, about, why):
    cells = tiny()
    cells.save(tmp_path)
    whole = {"images": cells.images, "labels": cells.labels, "masks": cells.masks} | tensors
    metadata = {"classes": ["NA", "b"], "kind": "rendered", "name": "tiny"}
    text = about if isinstance(about, str) else json.dumps(metadata | about) if about is not None else "[]"
    save_file(
        {k: v.contiguous() for k, v in whole.items() if v is not None}, tmp_path / "cells.safetensors", {"cells": text}
    )
    with pytest.raises(LeukError, match=why):
        CellSet.open(tmp_path)
