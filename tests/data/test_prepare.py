"""Stage data: files, split, notes; reproducible to the byte."""

import hashlib
import json
from pathlib import Path

import pytest

from leuk_lib.data.cellset import CellSet
from leuk_lib.data.params import DataParams
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.data.splits import assert_disjoint
from leuk_lib.runs import card
from leuk_lib.runs.params import check
from leuk_lib.runs.stage import Stage


class FolderStage:
    """The part of a stage that ``prepare_cells`` uses."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.notes, self.files = folder, [], []

    def note(self, text):
        self.notes.append(text)

    def use_dataset(self, content):
        self.content = content

    def use_file(self, name):
        return Path(name)

    def save_file(self, path):
        self.files.append(path.name)
        return path

    def save_json(self, name, value):
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(value))
        return self.save_file(path)

    def save_table(self, name, frame):
        path = self.folder / f"{name}.csv"
        frame.to_csv(path, index=False)
        return self.save_file(path)


def small(**values):
    return DataParams(**{"cells": 120, "patients": 3, "image_size": 16, "threads": 1, **values})


def test_rendered_cells_are_written_split_and_reproducible(tmp_path):
    stage = FolderStage(tmp_path / "one")
    built = prepare_cells(small(), stage)
    assert set(stage.files) == {"cells.safetensors", "cells.csv", "splits.json", "findings.csv"}
    cells = CellSet.open(stage.folder)
    assert len(cells) == 120 and cells.kind == "rendered" and cells.masks is not None and cells.size == 16
    assert_disjoint(cells.parts, cells.groups)
    assert all((cells.counts(part) > 0).all() for part in ("train", "val"))
    record = json.loads((stage.folder / "splits.json").read_text())
    assert record["sha256"] == built.split["sha256"] and sum(record["cells"].values()) == 120
    assert len(stage.content) == 64 and stage.notes == list(built.notes)
    again = FolderStage(tmp_path / "two")
    prepare_cells(small(threads=2), again)
    for name in ("cells.safetensors", "cells.csv", "splits.json"):
        a, b = ((tmp_path / part / name).read_bytes() for part in ("one", "two"))
        assert hashlib.sha256(a).hexdigest() == hashlib.sha256(b).hexdigest(), name


def test_an_earlier_split_is_kept(tmp_path):
    first = FolderStage(tmp_path / "one")
    before = prepare_cells(small(), first).cells.table.set_index("group")["split"]
    again = prepare_cells(
        small(seed=1, keep_split=str(tmp_path / "one" / "splits.json")), FolderStage(tmp_path / "two")
    )
    after = again.cells.table.set_index("group")["split"]
    assert any("12 of 12 groups keep the parts" in note for note in again.notes)
    assert before[~before.index.duplicated()].sort_index().equals(after[~after.index.duplicated()].sort_index())


def test_a_kept_split_that_changes_makes_the_stage_stale(tmp_path, results):
    kept = tmp_path / "one" / "splits.json"
    prepare_cells(small(), FolderStage(kept.parent))
    params = small(run="r", keep_split=str(kept))
    with Stage("data", params) as stage:
        prepare_cells(params, stage)
    assert card.stage_state("r", "data") == ("fresh", [])
    prepare_cells(small(seed=1), FolderStage(kept.parent))
    assert card.stage_state("r", "data") == ("stale", [f"{kept} changed"])


def test_a_stage_that_keeps_its_own_split_is_fresh(results):
    """It replaces the file that it read: its own output is hashed as such."""
    for keep in ("", str(results / "r" / "data" / "splits.json")):
        params = small(run="r", keep_split=keep, patients=4 if keep else 3)
        with Stage("data", params) as stage:
            assert bool(keep) == any("12 of 16" in note for note in prepare_cells(params, stage).notes)
    assert card.stage_state("r", "data") == ("fresh", [])


def test_a_class_of_one_image_stays_in_training(tmp_path, real_data):
    stage = FolderStage(tmp_path)
    built = prepare_cells(small(dataset=str(real_data / "tecom_wbc"), image_size=32), stage)
    basophil = built.cells.table[built.cells.table["label"] == "basophil"]
    assert basophil["split"].tolist() == ["train"]
    assert any("basophil" in note and "never tested" in note for note in stage.notes)
    assert built.cells.masks is not None and set(built.cells.masks.unique().tolist()) == {0, 128, 255}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_sise": 64}, "image_size"),
        ({"image_size": 4}, "image_size"),
        ({"fractions": [0.5, 0.1, 0.1]}, "sum to 1"),
    ],
)
def test_wrong_parameters_are_one_line(values, words):
    with pytest.raises(ValueError, match=words):
        check("data", DataParams, values)
