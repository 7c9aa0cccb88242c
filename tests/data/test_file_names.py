"""What file names state: named patterns of published sets, patterns of one's own, and what does not fit."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from data.test_prepare import FolderStage, small
from data.toys import coded, picture
from leuk_lib.cli.main import main
from leuk_lib.data.file_names import PATTERNS, parse_pattern, recognise
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.data.listing import Listing, list_folder
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.runs.errors import LeukError
from leuk_lib.workflow import understood


def write(root: Path, *paths: str) -> Path:
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(coded(picture(seed)))
    return root


def read(listing: Listing) -> dict[str, tuple[str, str, str]]:
    return {entry.path: (entry.label, entry.group, entry.part) for entry in listing.entries}


@pytest.mark.parametrize(
    ("pattern", "name", "stated"),
    [
        ("cnmc", "UID_11_10_1_all.bmp", {"raw": "all", "label": "ALL", "group": "11"}),
        ("cnmc", "UID_H12_4_22_hem.bmp", {"raw": "hem", "label": "normal", "group": "H12"}),
        ("cnmc", "UID_H12_4_22_hem.png", {"raw": "hem", "label": "normal", "group": "H12"}),
        ("leukemia-attri", "s12_3_100X_aml.png", {"raw": "aml", "label": "AML", "group": "s12"}),
        ("leukemia-attri", "12_3_40x_APML.png", {"raw": "APML", "label": "APML", "group": "12"}),
        ("pbc", "BNE_495078.jpg", {"raw": "BNE", "label": "band neutrophil"}),
        ("pbc", "PMY_1.jpg", {"raw": "PMY", "label": "promyelocyte"}),
        ("pbc", "PLATELET_10052.jpg", {"raw": "PLATELET", "label": "platelet"}),
        ("mp-idb", "1305121398-0001-R.jpg", {"group": "1305121398"}),
        ("all-idb2", "Im001_1.tif", {"raw": "1", "label": "blast"}),
        ("all-idb2", "Im260_0.tif", {"raw": "0", "label": "normal"}),
        ("cnmc", "UID_11_10_all.bmp", None),
        ("cnmc", "1.bmp", None),
        ("pbc", "XYZ_1.jpg", None),
        ("mp-idb", "cell-1.jpg", None),
        ("all-idb2", "Im001_2.tif", None),
        ("leukemia-attri", "12_3_100X_MDS.png", None),
    ],
)
def test_named_patterns_read_the_names_of_their_sets(pattern, name, stated):
    assert PATTERNS[pattern].read(PurePosixPath("x") / name) == stated


def test_examples_fit_their_own_pattern_and_only_unmistakable_ones_are_taken():
    for pattern in PATTERNS.values():
        assert pattern.read(PurePosixPath(pattern.example)), pattern.name
        taken, offered = recognise([PurePosixPath(pattern.example)])
        assert (taken or offered[0][0]).name == pattern.name
        assert bool(taken) == pattern.unmistakable


def test_subjects_of_cnmc_are_read_without_being_asked(tmp_path, results):
    names = [
        f"fold_{i % 2}/{c}/UID_{h}{i}_1_{k}_{c}.bmp"
        for i in range(4)
        for c, h in (("all", ""), ("hem", "H"))
        for k in (1, 2)
    ]
    root = write(tmp_path / "c", *names)
    listing = list_folder(root)
    assert read(listing)["fold_1/hem/UID_H3_1_2_hem.bmp"] == ("normal", "H3", "fold1")
    assert {entry.label for entry in listing.entries} == {"ALL", "normal"} and listing.grouped_by == "file names"
    lines = "\n".join(understood(str(root), {}))
    assert "file names (cnmc: C-NMC 2019: subject and class): 16 files; ALL 8, normal 8; 8 patients or slides" in lines
    built = prepare_cells(small(dataset=str(root)), FolderStage(tmp_path / "s"))
    assert built.grouped_by == "file names" and built.cells.table["group"].nunique() == 8
    without = list_folder(root, pattern="none")
    assert {entry.label for entry in without.entries} == {"all", "hem"} and not any(e.group for e in without.entries)


def test_a_pattern_that_nearly_all_names_fit_is_offered(tmp_path):
    """One stray file must not cost the subjects of all others without a word."""
    names = [f"all/UID_{i}_1_1_all.bmp" for i in range(9)] + [f"hem/UID_H{i}_1_1_hem.bmp" for i in range(9)]
    listing = list_folder(write(tmp_path, *names, "hem/other.bmp"))
    assert any(
        line.startswith("18 of 19 file names fit cnmc") and "--pattern cnmc" in line for line in listing.understood
    )
    assert not any(entry.group for entry in listing.entries)


def test_the_known_set_reads_subjects_and_says_what_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_DATA", str(tmp_path))
    write(tmp_path / "cnmc", "fold_0/all/UID_1_1_1_all.bmp", "fold_1/hem/UID_H2_1_1_hem.bmp", "fold_1/hem/x.bmp")
    listing = list_folder("cnmc")
    assert read(listing)["fold_0/all/UID_1_1_1_all.bmp"][:2] == ("ALL", "1")
    assert [f.path for f in listing.findings if "does not fit" in f.finding] == ["fold_1/hem/x.bmp"]


def test_one_other_name_and_an_unmistakable_pattern_is_not_taken_but_can_be_asked_for(tmp_path):
    root = write(tmp_path, "a/UID_1_1_1_all.bmp", "b/UID_H1_1_1_hem.bmp", "b/other.bmp")
    assert {entry.label for entry in list_folder(root).entries} == {"a", "b"}
    asked = list_folder(root, pattern="cnmc")
    assert read(asked) == {
        "a/UID_1_1_1_all.bmp": ("ALL", "1", ""), "b/UID_H1_1_1_hem.bmp": ("normal", "H1", ""), "b/other.bmp": ("b", "", ""),
    }  # fmt: skip
    found = [finding for finding in asked.findings if "does not fit" in finding.finding]
    assert [finding.path for finding in found] == ["b/other.bmp"]


def test_a_flat_folder_has_its_classes_in_the_names(tmp_path, results):
    root = write(tmp_path / "flat", *[f"Im{i:03d}_{i % 2}.png" for i in range(8)])
    listing = list_folder(root)
    assert read(listing)["Im003_1.png"] == ("blast", "", "") and len(listing.entries) == 8
    before = fingerprint(str(root))
    (root / "Im003_1.png").write_bytes(coded(picture(50)))
    assert fingerprint(str(root)) != before
    (root / "Im003_1.png").rename(root / "Im003_0.png")
    assert fingerprint(str(root)) != before


def test_a_folder_that_contradicts_the_name_is_a_finding_and_stays_unless_asked(tmp_path):
    root = write(tmp_path, "blast/Im001_1.png", "blast/Im002_0.png", "normal/Im003_0.png")
    listing = list_folder(root)
    assert read(listing)["blast/Im002_0.png"][0] == "blast"
    assert [f.finding for f in listing.findings] == ["class normal in file names, folder blast (1 files)"]
    asked = list_folder(root, pattern="all-idb2")
    assert read(asked)["blast/Im002_0.png"][0] == "normal" and len(asked.findings) == 1


def test_finer_types_are_offered_and_read_when_asked_for(tmp_path, capsys):
    names = [f"{code}_{i}.png" for code in ("BNE", "SNE") for i in range(3)] + [f"MO_{i}.png" for i in range(3)]
    root = write(tmp_path, *[f"{'monocyte' if name.startswith('MO') else 'neutrophil'}/{name}" for name in names])
    listing = list_folder(root)
    assert {entry.label for entry in listing.entries} == {"monocyte", "neutrophil"}
    assert any("--pattern pbc reads them" in line for line in listing.understood)
    assert main(["data", "check", str(root), "--pattern", "pbc"]) == 0
    assert "band neutrophil 3, monocyte 3, segmented neutrophil 3" in capsys.readouterr().out


def test_a_pattern_of_ones_own_gives_patient_slide_and_part(tmp_path):
    root = write(tmp_path, "AML_p07_s1_train_1.png", "AML_p07_s2_train_2.png", "CML_p09_s1_test_1.png")
    pattern = r"(?P<label>[A-Z]+)_(?P<patient>p\d+)_(?P<slide>s\d+)_(?P<part>train|test)_\d+"
    assert read(list_folder(root, pattern=pattern)) == {
        "AML_p07_s1_train_1.png": ("AML", "p07", "train"), "AML_p07_s2_train_2.png": ("AML", "p07", "train"),
        "CML_p09_s1_test_1.png": ("CML", "p09", "test"),
    }  # fmt: skip
    slides = list_folder(root, pattern=r"(?P<label>[A-Z]+)_p\d+_(?P<slide>s\d+)_.*")
    assert read(slides)["AML_p07_s2_train_2.png"][1] == "s2"


def test_a_pattern_with_a_slash_is_for_the_path(tmp_path):
    root = write(tmp_path, "AML/p1-a/0.png", "CML/p2-b/0.png")
    listing = list_folder(root, pattern=r"\w+/(?P<patient>p\d)-\w/\d\.png", layout="1")
    assert read(listing) == {"AML/p1-a/0.png": ("AML", "p1", ""), "CML/p2-b/0.png": ("CML", "p2", "")}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<label>", "no regular expression"),
        ("cnmcc", "neither a named pattern"),
        (r"(?P<patint>\d+)", "no group 'patint'; did you mean 'patient'"),
        ("leukemia-attri", r"fits none of 2 image names; it fits names such as 12_3_100X_AML\.png"),
        (r"z(?P<label>\d+)", "fits none of 2 image names"),
    ],
)
def test_a_pattern_that_reads_nothing_is_refused_in_one_line(tmp_path, pattern, message):
    root = write(tmp_path, "a/0.png", "b/1.png")
    with pytest.raises(LeukError, match=message) as error:
        list_folder(root, pattern=pattern)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    assert not [line for line in list_folder(root).understood if "file names" in line]


def test_a_manifest_wins_over_names(tmp_path):
    root = write(tmp_path, "x/UID_1_1_1_all.bmp", "x/UID_H1_1_1_hem.bmp")
    (root / "manifest.csv").write_text("path,label,group\nx/UID_1_1_1_all.bmp,B,q\nx/UID_H1_1_1_hem.bmp,A,\n")
    assert read(list_folder(root)) == {"x/UID_1_1_1_all.bmp": ("B", "q", ""), "x/UID_H1_1_1_hem.bmp": ("A", "H1", "")}


def test_parse_pattern_returns_named_patterns_as_they_are():
    assert parse_pattern("cnmc") is PATTERNS["cnmc"]


def test_slides_of_one_patient_are_one_group(tmp_path):
    root = write(tmp_path, "AML/p1/slide 1/0.png", "AML/p1/slide 2/0.png", "CML/p2/slide 1/0.png")
    assert {entry.group for entry in list_folder(root).entries} == {"p1", "p2"}


def test_names_that_are_not_read_are_a_finding(tmp_path):
    root = write(tmp_path, "all/UID_1_1_1_all.bmp", "hem/UID_H1_1_1_hem.bmp", "hem/Copy of UID_H2_1_1_hem.bmp")
    what = [finding.finding for finding in list_folder(root).findings]
    assert what == ["2 of 3 file names fit the pattern cnmc"]
    assert not list_folder(root, pattern="none").findings


def test_folders_in_the_words_of_the_names_are_the_same_classes(tmp_path):
    names = ("all/UID_1_1_1_all.bmp", "all/UID_2_1_1_all.bmp", "hem/UID_H1_1_1_hem.bmp", "hem/UID_3_1_1_all.bmp")
    listing = list_folder(write(tmp_path, *names))
    assert {entry.label for entry in listing.entries} == {"ALL", "normal"}
    assert [finding.path for finding in listing.findings] == ["hem/UID_3_1_1_all.bmp"]  # folder against name


def test_names_in_a_single_folder_state_the_classes(tmp_path):
    root = write(tmp_path, "ALL_IDB2/img/Im001_1.tif", "ALL_IDB2/img/Im002_0.tif")
    assert [entry.label for entry in list_folder(root).entries] == ["blast", "normal"]
