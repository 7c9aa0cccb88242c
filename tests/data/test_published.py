"""The published split: chosen by parameter or by data set, cross-checked, and refused where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data.test_layouts import parts_by_class, write
from data.test_prepare import FolderStage, small
from leuk_lib.cli.main import main
from leuk_lib.data import catalog
from leuk_lib.data.check import check_folder
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.data.published import chosen_split, on_both_sides, one_person_classes
from leuk_lib.runs.files import read_json


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A known set whose official split is the default, in a data folder of the test's own."""
    known = replace(catalog.KNOWN_SETS["pbc"], name="shop", classes=("AML", "CML"), aliases={}, split="published")
    monkeypatch.setitem(catalog.KNOWN_SETS, "shop", known)
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    return tmp_path / "shop"


def listed(root: Path, parts: dict[str, int]) -> Path:
    """Class folders whose manifest names the published parts."""
    rows = [
        (f"{label}/{part}{i}.png", label, part)
        for part, n in parts.items()
        for label in ("AML", "CML")
        for i in range(n)
    ]
    write(root, *[path for path, _, _ in rows])
    (root / "manifest.csv").write_text("path,label,part\n" + "".join(",".join(row) + "\n" for row in rows))
    return root


def test_the_data_set_decides_unless_the_parameter_does(shop: Path):
    assert chosen_split(small(dataset="smear"))[0] == "grouped"
    assert chosen_split(small(dataset="shop"))[0] == "published"
    assert chosen_split(small(dataset="shop", split="grouped"))[0] == "grouped"
    assert chosen_split(small(dataset="/some/folder", split="published"))[0] == "published"
    assert chosen_split(small(dataset="shop", keep_split="splits.json"))[0] == "grouped"


def test_a_set_with_an_official_split_is_split_so_by_default_and_says_so(tmp_path: Path, shop: Path):
    listed(shop, {"train": 8, "validation": 3, "test": 4})
    built = prepare_cells(small(dataset="shop"), FolderStage(tmp_path / "stage"))
    assert (built.cells.table["path"].str.contains("test") == (built.cells.parts == "test")).all()
    assert any("split: published, the default of shop" in note for note in built.notes)
    assert read_json(tmp_path / "stage" / "splits.json")["split"] == "published"
    grouped = prepare_cells(small(dataset="shop", split="grouped"), FolderStage(tmp_path / "grouped"))
    assert "split" not in grouped.split and any("are not used" in note for note in grouped.notes)


def test_a_copy_across_parts_stays_in_the_test_part_and_is_counted(tmp_path: Path):
    """The first by path would be the training cell: then the test part would not be the published one."""
    root = write(tmp_path / "cells", *parts_by_class({"train": 5, "val": 3, "test": 3}))
    same = (root / "test/AML/0.png").read_bytes()
    (root / "train/AML/copy.png").write_bytes(same)
    (root / "train/AML/again.png").write_bytes(same)
    (root / "train/CML/twice.png").write_bytes((root / "train/CML/1.png").read_bytes())  # no leak across parts
    found = check_folder(root)
    assert "2 copies of cells are on both sides of the published split" in found["finding"].tolist()
    kinds = found["kind"].value_counts()
    assert kinds["copy in another published part"] == 2 and kinds["copy"] == 1
    built = prepare_cells(small(dataset=str(root), split="published"), FolderStage(tmp_path / "stage"))
    assert (built.cells.parts == "test").sum() == 6 and (built.cells.parts == "train").sum() == 10
    assert built.findings["finding"].str.startswith("2 copies of cells").any()


def test_a_validation_copy_wins_over_training(tmp_path: Path):
    root = write(tmp_path / "cells", *parts_by_class({"train": 5, "valid": 3, "test": 3}))
    (root / "train/AML/copy.png").write_bytes((root / "valid/AML/0.png").read_bytes())
    built = prepare_cells(small(dataset=str(root), split="published"), FolderStage(tmp_path / "stage"))
    assert (built.cells.parts == "val").sum() == 6


def test_the_check_of_a_set_uses_its_default_split(shop: Path):
    listed(shop, {"train": 8, "validation": 3, "test": 4})
    assert any("published split (test 8, train 16, validation 6): train 16, val 6, test 8 cells" in line
               for line in check_folder("shop").attrs["understood"])  # fmt: skip
    assert not any("published split" in line for line in check_folder("shop", split="grouped").attrs["understood"])


def test_who_is_left_out_of_which_part():
    import pandas as pd

    table = pd.DataFrame(
        {"group": list("aabbccdd"), "part": ["train", "test a", "train", "validation", "validation", "test", "train", "train"]}
    )  # fmt: skip
    assert on_both_sides(table).tolist() == [True, False, True, False, True, False, False, False]


def test_the_check_says_what_a_run_on_the_published_split_would_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write(tmp_path / "cells", *parts_by_class({"train": 12, "test": 4}))
    assert main(["data", "check", str(root), "--split", "published"]) == 0
    out = capsys.readouterr().out
    assert "published split (test 8, train 24)" in out and "test 8 cells; validation is taken from training" in out
    folds = write(
        tmp_path / "folds", *[f"fold_{k}/{name}/{i}.png" for k in (0, 1) for name in ("a", "b") for i in "12"]
    )
    assert main(["data", "check", str(folds), "--split", "published"]) == 1
    assert "no train, validation or test part" in capsys.readouterr().out
    assert main(["data", "check", str(folds)]) == 0


@pytest.mark.parametrize("where", ["smear", "folder"])
def test_a_run_on_a_split_that_does_not_exist_stops_before_any_work(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str], where: str
):
    folder = write(tmp_path / "cells", *parts_by_class({"train": 3}))
    data = where if where == "smear" else str(folder)
    assert main(["run", "--dataset", data, "--profile", "smoke", "--split", "published"]) == 2
    error = capsys.readouterr().err
    assert "has no " in error and "--split grouped" in error and not list(results.glob("*/*/card.json"))


def test_the_option_reaches_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from leuk_lib import workflow

    seen: list[list[str]] = []
    monkeypatch.setattr(workflow, "run_stages", lambda *given: seen.append(given[6]) or [])
    assert main(["run", "--split", "published", "--set", "fcmae.steps=1"]) == 0
    assert seen == [['data.split="published"', "fcmae.steps=1"]]
    assert main(["run", "--split", "official"]) == 2


def test_a_class_of_one_person_in_the_test_part_is_named():
    rows = [
        ("ALL", "p1", "train"),
        ("ALL", "p2", "test"),
        ("ALL", "p3", "test"),
        ("CLL", "p4", "train"),
        ("CLL", "p5", "test"),
    ]
    table = pd.DataFrame([row for row in rows for _ in range(3)], columns=["label", "group", "part"])
    found = one_person_classes(table)
    assert [(f.path, f.finding, f.severity) for f in found] == [
        ("CLL/", "class of one patient or slide in the test part: 3 cells", "warning")
    ]
    assert one_person_classes(table[table["label"] == "ALL"]) == []
