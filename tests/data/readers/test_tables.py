"""Tables of published sets, and any table by declared columns: classes, patients and parts of the right images."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.test_prepare import FolderStage, small
from data.toys import coded, picture
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.data.listing import Entry, Listing, list_folder
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.runs.errors import LeukError
from leuk_lib.workflow import understood


def write(root: Path, *paths: str) -> Path:
    """A different picture at each path."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(coded(picture(seed)))
    return root


def by_path(listing: Listing) -> dict[str, Entry]:
    return {entry.path: entry for entry in listing.entries}


def said(listing: Listing) -> str:
    return "\n".join([*listing.understood, *(f"{finding.path}: {finding.finding}" for finding in listing.findings)])


def wbcatt(root: Path) -> Path:
    names = {"basophil": "BA", "eosinophil": "EO", "platelet": "PLATELET"}
    write(root, *[f"PBC_dataset_normal_DIB/{c}/{code}_{i}.jpg" for c, code in names.items() for i in range(6)])
    for part, numbers in {"train": (0, 1, 2), "val": (3,), "test": (4,)}.items():
        rows = [
            f"{code}_{i}.jpg,{label},small,PBC/{label}/{code}_{i}.jpg"
            for label, code in (("Basophil", "BA"), ("Eosinophil", "EO"))
            for i in numbers
        ]
        (root / f"pbc_attr_v1_{part}.csv").write_text("\n".join(["img_name,label,cell_size,path", *rows]))
    return root


def test_wbcatt_says_which_images_belong_to_the_set_and_their_parts(tmp_path, results):
    listing = list_folder(wbcatt(tmp_path / "w"))
    entries = by_path(listing)
    assert len(entries) == 10
    assert entries["PBC_dataset_normal_DIB/basophil/BA_4.jpg"].part == "test"
    assert entries["PBC_dataset_normal_DIB/eosinophil/EO_3.jpg"].part == "validation"
    assert {entry.label for entry in listing.entries} == {"Basophil", "Eosinophil"}
    left = [row for row in listing.left_out if "which says what belongs to the set" in row[1]]
    assert len(left) == 8
    assert "reader wbcatt" in said(listing) and "Basophil 5, Eosinophil 5" in said(listing)
    cells = prepare_cells(small(dataset=str(tmp_path / "w"), split="published"), FolderStage(tmp_path / "s")).cells
    assert {part: int((cells.parts == part).sum()) for part in set(cells.parts)} == {"train": 6, "val": 2, "test": 2}


def lmu(root: Path, header: str = "", separator: str = " ") -> Path:
    write(root, *[f"{code}/{code}_{i:04d}.png" for code in ("BAS", "MOB") for i in range(4)])
    rows = [
        separator.join([f"{code}/{code}_{i:04d}.tiff", code, *(again if i < 2 else ("nan", "nan"))])
        for code, again in (("BAS", ("BAS", "EOS")), ("MOB", ("MON", "MOB")))
        for i in range(4)
    ]
    (root / "annotations.dat").write_text(header + " \n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", "])
def test_lmu_re_annotations_are_second_labels(tmp_path, separator, results):
    listing = list_folder(lmu(tmp_path, separator=separator))
    entries = by_path(listing)
    assert [entries["MOB/MOB_0001.png"].__dict__[k] for k in ("label", "label2", "label3")] == ["MOB", "MON", "MOB"]
    assert entries["BAS/BAS_0003.png"].label2 == "" == entries["BAS/BAS_0003.png"].label3
    assert "4 images have re-annotations" in said(listing)
    assert not listing.findings


def test_lmu_in_the_known_set_uses_its_words(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    lmu(tmp_path / "aml-lmu")
    entries = by_path(list_folder("aml-lmu"))
    assert entries["MOB/MOB_0001.png"].label == "monoblast" and entries["MOB/MOB_0001.png"].label2 == "monocyte"


def test_a_class_that_table_and_folder_contradict_is_a_finding(tmp_path):
    root = lmu(tmp_path)
    table = root / "annotations.dat"
    table.write_text(table.read_text().replace("BAS/BAS_0003.tiff BAS", "BAS/BAS_0003.tiff MOB"))
    listing = list_folder(root)
    assert by_path(listing)["BAS/BAS_0003.png"].label == "MOB"
    assert "class MOB in table (lmu), folder BAS (1 files)" in said(listing)


def cnmc(root: Path, labels: tuple[str, ...] = ("1", "0", "1", "0")) -> Path:
    folder = "validation_data/C-NMC_test_prelim_phase_data"
    training = [
        f"training_data/fold_{i % 2}/{c}/UID_{h}{i}_1_1_{c}.bmp"
        for i in range(3)
        for c, h in (("all", ""), ("hem", "H"))
    ]
    final = [f"testing_data/C-NMC_test_final_phase_data/{i + 1}.bmp" for i in range(2)]
    write(root, *training, *final, *[f"{folder}/{i + 1}.bmp" for i in range(len(labels))])
    words = {"1": ("57", "all"), "0": ("H22", "hem")}
    rows = [f"UID_{words[n][0]}_{i}_1_{words[n][1]}.bmp,{i + 1}.bmp,{n}" for i, n in enumerate(labels)]
    (root / f"{folder}_labels.csv").write_text("\n".join(["Patient_ID,new_names,labels", *rows]))
    return root


def test_cnmc_phase_two_gets_class_and_subject_and_the_other_phases_stay_apart(tmp_path):
    listing = list_folder(cnmc(tmp_path))
    entries = by_path(listing)
    second = entries["validation_data/C-NMC_test_prelim_phase_data/2.bmp"]
    assert (second.label, second.group, second.part) == ("normal", "H22", "test")
    first = entries["training_data/fold_1/all/UID_1_1_1_all.bmp"]
    assert (first.label, first.group, first.part) == ("ALL", "1", "train")
    assert {entry.label for entry in listing.entries} == {"ALL", "normal"} and len(entries) == 10
    assert sorted(row[0] for row in listing.left_out if "final test phase" in row[1]) == [
        f"testing_data/C-NMC_test_final_phase_data/{i}.bmp" for i in (1, 2)
    ]


def test_cnmc_labels_that_contradict_the_name_or_mean_nothing_are_refused(tmp_path):
    root = cnmc(tmp_path)
    table = next(root.rglob("*labels.csv"))
    good = table.read_text()
    table.write_text(good.replace("2.bmp,0", "2.bmp,1"))
    with pytest.raises(LeukError, match=r"1 rows contradict the original file name \(.*row 3: UID_H22_1_1_hem"):
        list_folder(root)
    table.write_text(good.replace("2.bmp,0", "2.bmp,2"))
    with pytest.raises(LeukError, match="labels '2' must be 1"):
        list_folder(root)


@pytest.mark.parametrize("content", ["", "Patient_ID,new_names,labels\n", "\n"])
def test_an_empty_table_is_said(tmp_path, content, capsys):
    root = cnmc(tmp_path)
    next(root.rglob("*labels.csv")).write_text(content)
    assert main(["data", "check", str(root)]) == 2
    err = capsys.readouterr().err
    assert "C-NMC_test_prelim_phase_data_labels.csv" in err and ("empty" in err or "no rows" in err)


def deepapl(root: Path) -> Path:
    for i in range(4):
        write(root, *[
            f"Patient_{i:02d}/{extra}Signed slides/{cell}/{i}_{k}.jpg"
            for extra in ("A123/" if i % 2 else "",) for cell in ("Blast", "Promyelocyte") for k in range(2)
        ])  # fmt: skip
    rows = [
        f"Patient_{i:02d},{'APL' if i % 2 else 'AML'},{'Validation' if i > 1 else 'Discovery'},50" for i in range(5)
    ]
    (root / "master.csv").write_text("\n".join(["Patient_ID,Diagnosis,Cohort,age", *rows]))
    return root


def test_deepapl_patients_have_diagnosis_and_cohort(tmp_path):
    listing = list_folder(deepapl(tmp_path))
    entries = by_path(listing)
    one = entries["Patient_03/A123/Signed slides/Blast/3_0.jpg"]
    assert (one.label, one.group, one.part) == ("APL", "Patient_03", "test")
    assert entries["Patient_00/Signed slides/Blast/0_1.jpg"].part == "train"
    assert len(entries) == 16 and listing.grouped_by == "table (deepapl)"
    assert "rows that fit no image: 1 of 5, such as patient 4 (master.csv row 6)" in said(listing)
    cells = list_folder(tmp_path, reader_options={"label": "cell-type"})
    assert {entry.label for entry in cells.entries} == {"Blast", "Promyelocyte"}
    with pytest.raises(LeukError, match="label=x must be one of diagnosis, cell-type"):
        list_folder(tmp_path, reader_options={"label": "x"})


def plain(root: Path, rows: str, name: str = "cells.csv") -> Path:
    write(root, *[f"{folder}/{i}.png" for folder in ("a", "b") for i in range(3)])
    (root / name).write_text(rows)
    return root


MAPPED = ("--reader", "table", "--option", "table=cells.csv", "--option", "name=file", "--option", "label=dx")
OPTIONS = {"table": "cells.csv", "name": "file", "label": "dx"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_table_is_read_by_the_columns_that_are_declared(tmp_path, separator, results):
    rows = "file,dx,who,set,second\na/0.png,AML,p1,Training,CML\na/1.png,CML,p2,test,nan\nb\\2.png,AML,p1,Training,\n"
    root = plain(tmp_path, rows.replace(",", separator))
    options = {**OPTIONS, "group": "who", "part": "set", "label2": "second"}
    listing = list_folder(root, reader="table", reader_options=options)
    assert {e.path: (e.label, e.group, e.part, e.label2) for e in listing.entries} == {
        "a/0.png": ("AML", "p1", "train", "CML"), "a/1.png": ("CML", "p2", "test", ""), "b/2.png": ("AML", "p1", "train", ""),
    }  # fmt: skip
    assert len([row for row in listing.left_out if "cells.csv" in row[1]]) == 3
    lines = "\n".join(understood(str(root), {"reader": "table", "reader_options": options}))
    assert "reader table" in lines and "AML 2, CML 1" in lines and "label from column dx" in lines


def test_a_table_without_classes_adds_groups_to_class_folders(tmp_path):
    root = plain(tmp_path, "file,who\n0.png,p0\na/1.png,p1\nb/1.png,p2\nz.png,p9\n")
    listing = list_folder(root, reader="table", reader_options={"table": "cells.csv", "name": "file", "group": "who"})
    groups = {entry.path: entry.group for entry in listing.entries}
    assert groups == {"a/0.png": "", "a/1.png": "p1", "a/2.png": "", "b/0.png": "", "b/1.png": "p2", "b/2.png": ""}
    assert {entry.label for entry in listing.entries} == {"a", "b"}
    text = said(listing)
    assert "rows that fit several images: 1 of 4, such as 0.png: a/0.png, b/0.png" in text
    assert "rows that fit no image: 1 of 4, such as z.png" in text and "images without a row: 4 of 6" in text
    assert (check_folder(root, reader="table", reader_options={"table": "cells.csv", "name": "file", "group": "who"})
            ["finding"].str.startswith("rows that fit several").sum()) == 1  # fmt: skip


def test_a_row_about_another_folder_is_not_about_this_image(tmp_path):
    root = plain(tmp_path, "file,dx\nelsewhere/0.png,AML\nx/y/a/1.png,CML\nb/2.tiff,AML\n")
    listing = list_folder(root, reader="table", reader_options=OPTIONS)
    assert {entry.path: entry.label for entry in listing.entries} == {"a/1.png": "CML", "b/2.png": "AML"}
    assert "rows that fit no image: 1 of 3, such as elsewhere/0.png" in said(listing)


def test_several_tables_are_parts_by_their_names(tmp_path):
    root = plain(tmp_path, "file,dx\na/0.png,AML\na/1.png,CML\n", "my_train.csv")
    (root / "my_test.csv").write_text("file,dx\nb/0.png,AML\n")
    listing = list_folder(root, reader="table", reader_options={**OPTIONS, "table": "my_*.csv"})
    assert {e.path: e.part for e in listing.entries} == {"a/0.png": "train", "a/1.png": "train", "b/0.png": "test"}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("file,dx\na/0.png,AML\na/0.png,CML\n", {}, r"row 2 and .*row 3 contradict each other about a/0\.png"),
        ("file,dx\na/0.png,AML\n0.png,AML\nb/0.png,CML\na/0.tif,CML\n", {}, "contradict each other about a/0"),
        ("file,diagnosis\na/0.png,AML\n", {}, "no column 'dx'; allowed: diagnosis, file"),
        ("file,dx\nq.png,AML\n", {}, "none of its 1 rows fits one of the 6 images"),
        ("file,dx\n", {}, "header but no rows"),
        ("", {}, r"^[^(]*the table is empty"),
        ("file,dx\na/0.png,AML,extra,more\n", {}, "cells.csv"),
        ("file,dx\na/0.png,AML\n", {"table": "no.csv"}, "no file 'no.csv'"),
        ("file,dx\na/0.png,AML\n", {"table": ""}, "--option table=FILE"),
        ("file,dx\na/0.png,AML\n", {"name": ""}, "--option name=COLUMN"),
        ("file,dx\na/0.png,AML\n", {"labels": "dx"}, "did you mean 'label'"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_line(tmp_path, rows, options, message):
    root = plain(tmp_path, rows)
    with pytest.raises(LeukError, match=message) as error:
        list_folder(root, reader="table", reader_options={**OPTIONS, **options})
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    root = plain(tmp_path, "")
    (root / "cells.csv").write_bytes(b"\xff\xfe\x00file,dx\n" * 9)
    with pytest.raises(LeukError, match=r"cells\.csv: cannot be read as a table"):
        list_folder(root, reader="table", reader_options=OPTIONS)


def test_a_repeated_row_counts_and_the_manifest_wins(tmp_path):
    root = plain(tmp_path, "file,dx\na/0.png,AML\na/0.png,AML\nb/1.png,CML\n")
    (root / "manifest.csv").write_text("path,label\nb/1.png,ALL\n")
    listing = list_folder(root, reader="table", reader_options=OPTIONS)
    assert {e.path: e.label for e in listing.entries} == {"a/0.png": "AML", "b/1.png": "ALL"}
    assert "rows that are repeated: 1 of 3" in said(listing)


def test_a_changed_table_makes_the_data_stale(tmp_path, results):
    root = wbcatt(tmp_path / "w")
    before = fingerprint(str(root))
    table = root / "pbc_attr_v1_test.csv"
    table.write_text(table.read_text().replace("Basophil", "Eosinophil", 1))
    assert fingerprint(str(root)) != before
    rows = "file,dx\n" + "".join(f"{c}/{i}.png,{d}\n" for c, d in (("a", "AML"), ("b", "CML")) for i in range(3))
    own = plain(tmp_path / "own", rows)
    stage = FolderStage(tmp_path / "stage")
    seen = []
    stage.use_file = lambda name: seen.append(Path(name).name)
    prepare_cells(small(dataset=str(own), reader="table", reader_options=OPTIONS), stage)
    assert seen == ["cells.csv"]


def test_the_command_line_reads_a_table(tmp_path, capsys):
    root = plain(
        tmp_path, "file,dx\n" + "".join(f"{c}/{i}.png,{d}\n" for c, d in (("a", "AML"), ("b", "CML")) for i in range(3))
    )
    assert main(["data", "check", str(root), *MAPPED]) == 0
    assert "AML 3, CML 3" in capsys.readouterr().out
