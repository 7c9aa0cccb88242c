"""Further labels: spelling is no disagreement, another class is, and a table without them is left alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from data.test_layouts import write
from data.test_prepare import FolderStage, small
from leuk_lib.chapters.agreement import label_agreement
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.data.second_labels import label_columns, spelled_as_classes


def test_spelling_is_no_disagreement_and_other_classes_are_counted():
    table = pd.DataFrame({"label": ["AML", "CML", "CML", "AML"], "label2": ["aml ", "C.M.L.", "MDS", ""]})
    spelled, findings, notes = spelled_as_classes(table, ["AML", "CML"])
    assert spelled["label2"].tolist() == ["AML", "CML", "MDS", ""]
    assert "1 cells have a label that is no class of this data set (MDS 1)" in findings[0].finding
    assert notes == ["label2: a further label of 3 of 4 cells"]
    assert table["label2"][0] == "aml "  # the input is not changed


@given(st.lists(st.text(max_size=6), min_size=1, max_size=8))
def test_any_labels_keep_their_number_and_what_is_a_class_stays(labels: list[str]):
    table = pd.DataFrame({"label": ["AML"] * len(labels), "label2": labels})
    spelled, _, _ = spelled_as_classes(table, ["AML", "CML"])
    assert len(spelled) == len(labels)
    assert [new for new, old in zip(spelled["label2"], labels, strict=True) if old in ("AML", "CML")] == [
        old for old in labels if old in ("AML", "CML")
    ]


def test_without_further_labels_nothing_is_done():
    for table in (pd.DataFrame({"label": ["AML"]}), pd.DataFrame({"label": ["AML"], "label2": [""]})):
        same, findings, notes = spelled_as_classes(table, ["AML"])
        assert same is table and findings == [] and notes == [] and label_columns(table) == []


def test_from_the_manifest_to_kappa(tmp_path: Path):
    paths = [f"{label}/{i}.png" for label in ("AML", "CML") for i in range(10)]
    root = write(tmp_path / "cells", *paths)
    second = ["aml"] * 9 + ["CML"] + ["CML"] * 8 + ["AML", ""]
    rows = [f"{path},{path[:3]},{other}" for path, other in zip(paths, second, strict=True)]
    (root / "manifest.csv").write_text("\n".join(["path,label,label2", *rows]) + "\n")
    built = prepare_cells(small(dataset=str(root), fractions=(0.8, 0.1, 0.1)), FolderStage(tmp_path / "stage"))
    assert any("label2: a further label of 19 of 20 cells" in note for note in built.notes)
    pairs = label_agreement(built.cells)
    used = built.cells.table[built.cells.table["split"] != "test"]
    used = used[used["label2"] != ""]
    assert pairs["cells"].tolist() == [len(used)]
    assert pairs["agreement"][0] == (used["label"] == used["label2"]).mean() > 0.8
