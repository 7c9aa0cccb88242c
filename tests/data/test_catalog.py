"""The catalogue: complete, said in a readable table, and the same in data/README.md; and the folders of known sets."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from data.toys import coded, folder, picture
from leuk_lib.cli.main import main
from leuk_lib.data.archives import LAYOUTS
from leuk_lib.data.catalog import KNOWN_SETS, LEUKEMIAS, home
from leuk_lib.data.catalog_text import BEGIN, END, as_records, detail_text, list_text, readme_table
from leuk_lib.data.layouts import KnownFolders
from leuk_lib.data.listing import list_folder
from leuk_lib.runs.errors import LeukError

NAMES = (
    "bloodmnist", "bloodmnist-64", "bloodmnist-128", "bloodmnist-224", "pbc", "raabin-wbc", "raabin-leukemia",
    "leukemia-attri", "cnmc", "aml-lmu", "aml-mll", "mll23", "caitomorph", "bccd", "segmentation-wbc", "wbcatt",
)  # fmt: skip


def test_the_sets_of_the_field_are_known():
    assert set(KNOWN_SETS) == set(NAMES)
    assert {name: known.name for name, known in KNOWN_SETS.items()} == {name: name for name in KNOWN_SETS}


@pytest.mark.parametrize("name", NAMES)
def test_each_set_says_where_it_comes_from_and_what_it_can_answer(name):
    known = KNOWN_SETS[name]
    assert known.licence and known.source and known.access and known.cite and len(known.classes) > 1
    assert known.answers and known.limits and known.traps
    if known.licence == "not known":
        assert "licence" in known.unconfirmed
    for download in known.downloads:
        assert download.url.startswith(("https://", "http://dl.raabindata.com/")) and "master" not in download.url
        assert download.layout.partition(":")[0] in {*LAYOUTS, "file"}
    assert known.downloads or "by hand" in known.access or "ask" in known.access
    assert name in known.advice


def test_an_archive_of_a_repository_is_that_of_a_commit():
    addresses = [d.url for known in KNOWN_SETS.values() for d in known.downloads if "github.com" in d.url]
    assert len(addresses) == 3
    for address in addresses:
        commit = address.rpartition("/")[2].removesuffix(".zip")
        assert len(commit) == 40 and set(commit) <= set("0123456789abcdef"), address


def test_published_hashes_are_well_formed_and_differ():
    md5 = [d.md5 for known in KNOWN_SETS.values() for d in known.downloads if d.md5]
    assert len(md5) == 4 == len(set(md5)) and all(len(value) == 32 for value in md5)


def test_the_four_diagnoses_can_be_asked_of_two_sets():
    asked = {
        name
        for name, known in KNOWN_SETS.items()
        if set(LEUKEMIAS) == {known.class_map.get(label, label) for label in known.classes}
    }
    assert asked == {"raabin-leukemia", "leukemia-attri"}
    assert any("CLL" in limit and "one patient" in limit for limit in KNOWN_SETS["leukemia-attri"].limits)


def test_the_table_fits_80_columns_and_marks_what_is_not_confirmed(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    home(KNOWN_SETS["pbc"]).mkdir()
    lines = list_text().splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line for line in lines[1 : len(KNOWN_SETS) + 2]}
    assert set(rows) == {"smear", *KNOWN_SETS}
    assert rows["pbc"].split()[-1] == "yes" and rows["bccd"].split()[-1] == "fetch" and rows["cnmc"].endswith("by hand")
    assert "CC BY 4.0?" in rows["pbc"] and "CC BY 4.0 " in rows["bloodmnist"] and "47?" in rows["leukemia-attri"]
    assert rows["aml-mll"].split()[1:4] == ["81,214", "189", "5"]


@pytest.mark.parametrize("name", [*NAMES, "smear"])
def test_all_about_one_set_fits_80_columns(name):
    text = detail_text(name)
    wrapped = [line for line in text.splitlines() if max(map(len, line.split()), default=0) <= 68]  # no long address
    assert max(map(len, wrapped)) <= 80 and text.startswith(name)
    if name != "smear":
        flat = " ".join(text.split())
        for sentence in (*KNOWN_SETS[name].answers, *KNOWN_SETS[name].limits, *KNOWN_SETS[name].traps):
            assert sentence in flat
        for download in KNOWN_SETS[name].downloads:
            assert download.url in text


def test_the_command_prints_the_table_one_set_or_json(capsys):
    assert main(["data", "list"]) == 0
    assert capsys.readouterr().out.strip() == list_text()
    assert main(["data", "list", "cnmc"]) == 0
    assert "118" in capsys.readouterr().out
    assert main(["data", "list", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert records == as_records() and [record["name"] for record in records] == list(KNOWN_SETS)
    assert main(["data", "list", "leukemia-attri", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)[0]
    assert record["class_map"] == {"APML": "AML"} and record["patients"] == 47 and "licence" in record["unconfirmed"]
    assert main(["data", "list", "cnmx"]) == 2
    assert "did you mean 'cnmc'" in capsys.readouterr().err


def test_the_table_of_the_readme_is_that_of_the_catalogue(root):
    readme = (root / "data" / "README.md").read_text(encoding="utf-8")
    written = readme[readme.index(BEGIN) : readme.index(END) + len(END)]
    assert written == readme_table(), "python -m leuk_lib.data.catalog_text writes it"


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("cnmc", "C-NMC_training_data/fold_0/all/UID_1_1_1_all.bmp", ("ALL", "fold0", "")),
        ("cnmc", "fold_2/hem/UID_H10_1_1_hem.bmp", ("normal", "fold2", "")),
        ("aml-mll", "data/NPM1/AQK/image_1.tif", ("NPM1", "", "AQK")),
        ("aml-mll", "control/image_1.tif", ("control", "", "")),
        ("aml-lmu", "AML-Cytomorphology/MYO/MYO_0001.tiff", ("myeloblast", "", "")),
        ("raabin-leukemia", "Leukemia_Data/ALL/L1/1.jpg", ("ALL", "", "")),
        ("raabin-wbc", "Train/Basophil/1.jpg", ("basophil", "", "")),
        ("pbc", "PBC_dataset_normal_DIB/ig/MMY_1.jpg", ("immature_granulocyte", "", "")),
        ("mll23", "neutrophil_band/1.TIF", ("neutrophil_band", "", "")),
        ("pbc", "readme/1.jpg", ("", "", "")),
    ],
)
def test_folders_of_known_sets(name, path, expected):
    place = KnownFolders(KNOWN_SETS[name]).place(PurePosixPath(path))
    assert (place.label, place.part, place.group) == expected


def test_another_microscope_is_an_external_test_set_of_raabin():
    layout = KnownFolders(KNOWN_SETS["raabin-wbc"])
    assert layout.place(PurePosixPath("TestB/TestB/Neutrophil/1.jpg")).external == "TestB"
    assert "TestA, TestB" in layout.describe()[0]


def test_a_known_set_merges_classes_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    known = replace(KNOWN_SETS["raabin-leukemia"], class_map={"CML": "AML", "CLL": "ALL"})
    monkeypatch.setitem(KNOWN_SETS, "raabin-leukemia", known)
    folder(tmp_path / "raabin-leukemia", ("AML", "ALL", "CML"), 3)
    listing = list_folder("raabin-leukemia")
    assert Counter(entry.label for entry in listing.entries) == {"AML": 6, "ALL": 3}
    assert any(line.startswith("class CML counts as AML") for line in listing.understood)
    kept = list_folder("raabin-leukemia", {"CML": "CML"})
    assert {entry.label for entry in kept.entries} == {"AML", "ALL", "CML"}
    assert not any("counts as" in line for line in kept.understood)
    without = list_folder("raabin-leukemia", {"CML": ""})
    assert Counter(entry.label for entry in without.entries) == {"AML": 3, "ALL": 3}
    assert "class CML is left out by class_map: 3 cells" in without.understood


def pictures(root, paths, start=0):
    for k, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(coded(picture(start + k), "PNG"))  # read by content


def read(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    return {entry.path: entry for entry in list_folder(name).entries}


def test_cnmc_as_unpacked(tmp_path, monkeypatch):
    home = tmp_path / "cnmc" / "C-NMC_Leukemia"
    pictures(home, [f"C-NMC_training_data/fold_{k}/{c}/UID_{'H' if c == 'hem' else ''}{k}_1_1_{c}.bmp" for k in range(3) for c in ("all", "hem")])  # fmt: skip
    pictures(home, [f"C-NMC_test_prelim_phase_data/C-NMC_test_prelim_phase_data/{i}.bmp" for i in (1, 2)], 20)
    pictures(home, ["C-NMC_test_final_phase_data/C-NMC_test_final_phase_data/1.bmp"], 40)
    table = "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H49_29_1_hem.bmp,2.bmp,0\n"
    (home / "C-NMC_test_prelim_phase_data/C-NMC_test_prelim_phase_data_labels.csv").write_text(table)
    entries = read("cnmc", tmp_path, monkeypatch)
    assert Counter(entry.label for entry in entries.values()) == {"ALL": 4, "normal": 4}
    assert {entry.group for entry in entries.values()} == {"0", "1", "2", "H0", "H1", "H2", "57", "H49"}
    assert Counter(entry.part for entry in entries.values()) == {"fold0": 2, "fold1": 2, "fold2": 2, "test": 2}


def test_lmu_as_unpacked_has_one_name_per_class_and_second_labels(tmp_path, monkeypatch):
    home = tmp_path / "aml-lmu" / "AML-Cytomorphology"
    pictures(home, [f"{code}/{code}_{i:04d}.tiff" for code in ("MYO", "KSC") for i in (1, 2)])
    (home / "annotations.dat").write_text(
        "MYO/MYO_0001.tiff MYO MYO MOB\nMYO_0002.tiff MYO\nKSC_0001.tiff KSC\nKSC_0002.tiff KSC\n"
    )
    entries = read("aml-lmu", tmp_path, monkeypatch)
    assert Counter(entry.label for entry in entries.values()) == {"myeloblast": 2, "smudge_cell": 2}
    second = {(entry.label2, entry.label3) for entry in entries.values() if entry.label2}
    assert second == {("myeloblast", "monoblast")}


def test_mll_as_unpacked_has_patients(tmp_path, monkeypatch):
    pictures(tmp_path / "aml-mll" / "data", [f"{c}/{p}/image_{i}.tif" for c, p in (("NPM1", "AA"), ("control", "BB")) for i in (0, 1)])  # fmt: skip
    entries = read("aml-mll", tmp_path, monkeypatch)
    assert {(entry.label, entry.group) for entry in entries.values()} == {("NPM1", "AA"), ("control", "BB")}


def test_wbcatt_as_fetched_has_its_published_split(tmp_path, monkeypatch):
    home = tmp_path / "wbcatt"
    names = {"train": "BNE_1", "val": "SNE_2", "test": "LY_3"}
    folders = {"LY_3": "lymphocyte"}
    pictures(
        home, [f"PBC_dataset_normal_DIB/{folders.get(n, 'neutrophil')}/{n}.jpg" for n in (*names.values(), "BNE_9")]
    )
    for part, name in names.items():
        kind = folders.get(name, "neutrophil")
        path = f"PBC_dataset_normal_DIB/{kind}/{name}.jpg"
        rows = f"img_name,label,cell_size,path\n{name}.jpg,{kind.capitalize()},big,{path}\n"
        (home / f"pbc_attr_v1_{part}.csv").write_text(rows)
    entries = read("wbcatt", tmp_path, monkeypatch)
    assert {(entry.label, entry.part) for entry in entries.values()} == {
        ("neutrophil", "train"), ("neutrophil", "validation"), ("lymphocyte", "test"),
    }  # fmt: skip


def test_known_sets_keep_patients_that_folders_name_and_leave_out_processed_copies():
    place = KnownFolders(KNOWN_SETS["raabin-leukemia"]).place
    read = place(PurePosixPath("train/ALL/Patient_1/1.jpg"))
    assert (read.label, read.part, read.group) == ("ALL", "train", "Patient_1")
    assert place(PurePosixPath("Original/ALL/1.jpg")).label == "ALL"
    assert "processed copy" in place(PurePosixPath("Segmented/ALL/1.jpg")).left_out


def test_a_table_about_patients_does_not_stop_a_set_with_patient_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    root = folder(tmp_path / "aml-mll" / "NPM1", classes=("AEC", "BFD"))
    (root.parent / "metadata.csv").write_text("patient_id,age,bag_label\nAEC,60,NPM1\nBFD,50,NPM1\n")
    assert {entry.group for entry in list_folder("aml-mll").entries} == {"AEC", "BFD"}
    (root.parent / "metadata.csv").write_text("patient_id,age\nZZZ,60\n")
    with pytest.raises(LeukError, match="needs a column with the file"):
        list_folder("aml-mll")
