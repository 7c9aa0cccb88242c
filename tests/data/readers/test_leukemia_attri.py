"""LeukemiaAttri from end to end on a rendered imitation: the four-leukemia question, cell types, subsets, traps."""

from __future__ import annotations

import json
from collections import Counter

import pandas as pd
import pytest

from data.attri import SLIDES, imitation
from data.test_prepare import FolderStage
from leuk_lib.cli.main import main
from leuk_lib.data.catalog import KNOWN_SETS, LEUKEMIAS
from leuk_lib.data.check import check_folder
from leuk_lib.data.listing import list_folder
from leuk_lib.data.params import DataParams
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.runs.errors import LeukError
from leuk_lib.workflow import understood

NAME = "leukemia-attri"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    counts = imitation(folder / NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEUK_DATA", str(folder))
        yield folder, counts


def test_the_four_diagnoses_are_read_and_what_was_understood_is_said(home):
    counts = home[1]
    listing = list_folder(NAME)
    labels = Counter(entry.label for entry in listing.entries)
    assert labels == {**{name: counts[name] for name in LEUKEMIAS}, "AML": counts["AML"] + counts["APML"]}
    groups = {entry.group for entry in listing.entries}
    assert len(groups) == sum(len(train) + len(test) for train, test in SLIDES.values())
    assert {entry.part for entry in listing.entries} == {"train", "test"}
    text = "\n".join(listing.understood)
    for words in ("subset: H_100X_C1; not read: L_40X_C2", "class APML counts as AML", "the diagnosis in the name"):
        assert words in text


def test_apml_is_left_out_or_kept_on_request(home):
    assert {entry.label for entry in list_folder(NAME, {"APML": ""}).entries} == set(LEUKEMIAS)
    assert Counter(e.label for e in list_folder(NAME, {"APML": ""}).entries)["AML"] == home[1]["AML"]
    assert {entry.label for entry in list_folder(NAME, {"APML": "APML"}).entries} == {*LEUKEMIAS, "APML"}


def test_cell_types_and_another_subset_are_options(home):
    types = list_folder(NAME, reader_options={"task": "cell-type"})
    assert {"lymphoblast", "myeloblast", "myelocyte", "abnormal promyelocyte"} <= {e.label for e in types.entries}
    assert "none" not in {entry.label for entry in types.entries}
    assert any("box under two categories" in finding.finding for finding in types.findings)
    other = list_folder(NAME, reader_options={"subset": "l_40x_c2"})
    assert {entry.label for entry in other.entries} == {"ALL", "CLL"}
    assert {entry.part for entry in other.entries if entry.group.endswith("slide 4")} == {"train"}
    with pytest.raises(LeukError, match="no subset H_40X_C1 in it; present: H_100X_C1, L_40X_C2") as caught:
        list_folder(NAME, reader_options={"subset": "H_40X_C1"})
    assert caught.value.exit_code == 2
    inside = home[0] / NAME / "LeukemiaAttri_Dataset" / "L_40X_C2"
    alone = list_folder(inside, reader=NAME)
    assert len(alone.entries) == len(other.entries) and any("all is read" in line for line in alone.understood)
    with pytest.raises(LeukError, match="must be one of diagnosis, cell-type"):
        list_folder(NAME, reader_options={"task": "celltype"})


def test_the_check_names_the_traps(home):
    findings = check_folder(NAME)
    text = "\n".join(f"{row.path} {row.finding}" for row in findings.itertuples())
    for trap in (
        "image entry repeated: listed 2 times", "box repeated", "box too small: 2 x 40 px", "category left out: 26 boxes",
        "CLL/ class of one patient or slide in the test part", "near-duplicate of",
    ):  # fmt: skip
        assert trap in text, trap
    assert "AML/ class of one" not in text and "too few groups" not in text
    assert findings.attrs["classes"].keys() == set(LEUKEMIAS)
    assert any("published split" in line for line in findings.attrs["understood"])


def test_stage_data_keeps_the_published_split_by_slides(home, tmp_path):
    stage = FolderStage(tmp_path / "stage")
    built = prepare_cells(DataParams(dataset=NAME, image_size=32, threads=1), stage)
    table = built.cells.table
    assert built.cells.classes == tuple(sorted(LEUKEMIAS)) and built.cells.kind == "micrographs"
    assert table.groupby("group")["split"].nunique().max() == 1
    in_test = table[table["split"] == "test"]
    assert set(in_test["label"]) == set(LEUKEMIAS) and set(in_test["part"]) == {"test"}
    assert in_test.groupby("label")["group"].nunique()["CLL"] == 1
    assert not any("never tested" in note for note in built.notes)
    assert any("CLL/ class of one patient or slide in the test part" in note for note in built.notes)
    assert any("subset: H_100X_C1" in line for line in built.understood)
    grouped = prepare_cells(
        DataParams(dataset=NAME, image_size=32, threads=1, split="grouped"), FolderStage(tmp_path / "grouped")
    )
    assert any("class CLL" in note and "never tested" in note for note in grouped.notes)


def test_a_run_says_before_it_starts_how_the_set_is_read(home):
    text = "\n".join(understood(NAME, {}))
    assert "ALL 24, AML 40, CLL 16, CML 24" in text and "split: published, the default of leukemia-attri" in text


def test_the_options_that_the_catalogue_names_are_those_of_the_reader():
    from leuk_lib.data.readers import readers

    for known in KNOWN_SETS.values():
        if known.reader:
            reader = readers()[known.reader]
            assert set(known.options) <= set(reader.options), known.name


def test_a_set_that_is_not_here_says_where_it_comes_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    assert main(["data", "check", NAME]) == 2
    assert "drive.google.com" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.notebooks
@pytest.mark.timeout(1800)
def test_all_stages_answer_the_papers_question(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path))
    assert main(["run", "--dataset", NAME, "--profile", "smoke"]) == 0
    folder = tmp_path / f"{NAME}-smoke-s0"
    assert json.loads((folder / "data" / "card.json").read_text(encoding="utf-8"))["notes"]
    verdicts = pd.read_csv(folder / "claims" / "verdicts.csv").set_index("id")
    accuracy = verdicts.loc["accuracy"]
    assert accuracy["data"] == f"{NAME} (micrographs)" and "smoke" in accuracy["why"].lower()
    predictions = pd.read_csv(folder / "comparison" / "predictions.csv")
    assert {f"prob_{name}" for name in LEUKEMIAS} <= set(predictions.columns)
    tested = predictions[(predictions["model"] == "wpat") & (predictions["split"] == "test")]
    assert set(tested["label"]) == set(LEUKEMIAS)
