"""What a folder holds is used, or a finding: copies, tables that fit nothing, ignored folders, names in two Unicode forms."""

from __future__ import annotations

import os
import unicodedata

import pytest

from data.toys import coded, folder, picture
from leuk_lib.cli.main import main
from leuk_lib.data.check import check_folder
from leuk_lib.data.folder import read_folder
from leuk_lib.data.listing import list_folder
from leuk_lib.data.loading import load_dataset
from leuk_lib.runs.errors import LeukError


def mask(size=40):
    import numpy as np

    return coded(np.where(picture(1, size) > 99, 255, 0).astype("uint8")[..., :1].repeat(3, axis=2))


def found(findings, path):
    return "; ".join(findings.loc[findings["path"] == path, "finding"])


def with_copy(root):
    """Two classes of four cells; "a/0 (1).png" is a copy of "a/a0.png" and sorts before it."""
    folder(root)
    (root / "a/0 (1).png").write_bytes((root / "a/a0.png").read_bytes())
    return root


def test_the_copy_that_the_manifest_lists_stays(tmp_path):
    root = with_copy(tmp_path / "mine")
    rows = ["path,label,group", *(f"{k}/{k}{i}.png,{k},p{k}{i}" for k in "ab" for i in range(4))]
    (root / "manifest.csv").write_text("\n".join(rows))
    data = read_folder(root, size=16)
    assert "a/a0.png" in set(data.table["path"]) and "a/0 (1).png" not in set(data.table["path"])
    assert set(data.table["group"]) == {f"p{k}{i}" for k in "ab" for i in range(4)} and data.grouped_by == "manifest"
    assert found(data.findings, "a/0 (1).png") == "copy of a/a0.png"


def test_the_copy_that_the_owner_table_knows_stays(tmp_path):
    root = with_copy(tmp_path / "mine")
    rows = ["file,patient", *(f"{k}{i}.png,p{k}{i}" for k in "ab" for i in range(4))]
    (root / "metadata.csv").write_text("\n".join(rows))
    assert read_folder(root, size=16).table["group"].nunique() == 8


def test_a_copy_without_a_mask_does_not_switch_off_the_masks(tmp_path):
    root = with_copy(tmp_path / "mine")
    for k in "ab":
        for i in range(4):
            (root / "masks" / k).mkdir(parents=True, exist_ok=True)
            (root / f"masks/{k}/{k}{i}.png").write_bytes(mask())
    data = read_folder(root, size=16)
    assert data.masks is not None and len(data.table) == 8


def test_the_listed_copy_takes_the_mask_of_another_copy(tmp_path):
    root = with_copy(tmp_path / "mine")
    rows = ["path,label,group", *(f"{k}/{k}{i}.png,{k},p{k}{i}" for k in "ab" for i in range(4))]
    (root / "manifest.csv").write_text("\n".join(rows))
    for name in ("a/0 (1)", "a/a1", "a/a2", "a/a3", "b/b0", "b/b1", "b/b2", "b/b3"):
        (root / f"masks/{name}.png").parent.mkdir(parents=True, exist_ok=True)
        (root / f"masks/{name}.png").write_bytes(mask())
    data = read_folder(root, size=16)
    assert data.masks is not None and "a/a0.png" in set(data.table["path"])


def test_copies_of_several_patients_are_a_finding(tmp_path):
    root = with_copy(tmp_path / "mine")
    (root / "metadata.csv").write_text("file,patient\na/a0.png,p1\na/0 (1).png,p2\n")
    assert "copies in several groups (p1, p2)" in set(check_folder(root)["finding"])


def test_an_owner_table_that_fits_nothing_is_a_finding(tmp_path, capsys):
    root = folder(tmp_path / "mine")
    (root / "metadata.csv").write_text("file,patient\nIMG_1.png,p1\nIMG_2.png,p2\n")
    assert found(check_folder(root), "metadata.csv") == "2 of its rows fit no image, such as 'IMG_1.png'"
    assert main(["data", "check", str(root)]) == 1
    assert "2 of its rows fit no image" in capsys.readouterr().out


@pytest.mark.parametrize(
    "second",
    ["a/a0.png,b,p0", "a/a0.png,a,p1", "./a/a0.png,a,p1", "a\\a0.png,a,p1"],
    ids=["label", "group", "dot", "back"],
)
def test_rows_that_contradict_each_other_are_refused(tmp_path, second):
    root = folder(tmp_path / "mine")
    (root / "manifest.csv").write_text(f"path,label,group\na/a0.png,a,p0\n{second}\n")
    with pytest.raises(LeukError, match=r"two rows for 'a/a0.png' contradict each other \((label|group)"):
        list_folder(root)
    (root / "manifest.csv").write_text("path,label,group\na/a0.png,a,p0\na/a0.png,a,p0\n")
    assert {e.group for e in list_folder(root).entries} == {"p0", ""}, "saying a thing twice is no contradiction"


def test_a_manifest_without_rows_is_refused_as_such(tmp_path):
    root = folder(tmp_path / "mine")
    (root / "manifest.csv").write_text("path,label\n")
    with pytest.raises(LeukError, match="has no row; fill it"):
        list_folder(root)


@pytest.mark.parametrize("table", ["NFC", "NFD"])
def test_unicode_forms_of_names_are_one_name(tmp_path, table):
    disk = "NFD" if table == "NFC" else "NFC"
    names = [unicodedata.normalize(disk, name) for name in ("Bläst", "Lymphozyt")]
    root = folder(tmp_path / "mine", classes=tuple(names))
    rows = ["path,label,group,mask"]
    for name in names:
        for i in range(4):
            path = root / "masks" / name / f"{name}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mask())
            rows.append(f"{name}/{name}{i}.png,{name},{name}{i},masks/{name}/{name}{i}.png")
    (root / "manifest.csv").write_text(unicodedata.normalize(table, "\n".join(rows)))
    listing = list_folder(root)
    assert len({entry.group for entry in listing.entries}) == 8 and not listing.left_out
    assert all("also spelled" in what for _, what, _ in listing.notices)
    assert all((root / entry.mask).is_file() for entry in listing.entries if entry.mask) and listing.entries[0].mask
    (root / "manifest.csv").unlink()
    (root / "metadata.csv").write_text(
        unicodedata.normalize(
            table, "file,patient\n" + "\n".join(f"{n}{i}.png,{n}{i}" for n in names for i in range(4))
        )
    )
    listing = list_folder(root)
    assert len({entry.group for entry in listing.entries}) == 8 and not listing.left_out
    assert all("also spelled" in what for _, what, _ in listing.notices)


def test_folders_that_are_not_read_are_findings(tmp_path):
    root = folder(tmp_path / "mine")
    for name in ("masks/x.png", "a/masks/y.png", "..x/z.png", "LICENSES/w.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(coded(picture(len(name))))
    (root / "__MACOSX/a").mkdir(parents=True)
    (root / "__MACOSX/a/._a0.png").write_bytes(b"x")
    (root / "a/.hidden.png").write_bytes(coded(picture(77)))
    (root / "AML").mkdir()
    (root / "CML").mkdir()
    (root / "CML/x.gif").write_bytes(b"GIF89a")
    findings = check_folder(root)
    assert found(findings, "masks/") == "1 images that are no cell's mask"
    for name in ("a/masks/", "..x/", "LICENSES/"):
        assert "folder of 1 images is not read because of its name" in found(findings, name)
    assert found(findings, "AML/") == found(findings, "CML/") == "folder without images"
    assert found(findings, "a") == "1 hidden images (names that begin with a dot)"
    assert not findings["path"].str.contains("MACOSX").any()


@pytest.mark.parametrize("character", ["\r", "\n", "\x1b", "\x85", "\u2028"], ids=ascii)
def test_a_name_with_a_control_character_is_left_out_by_check_and_run(tmp_path, character):
    root = folder(tmp_path / "mine")
    (root / f"a/x{character}y.png").write_bytes(coded(picture(50)))
    findings = check_folder(root)
    assert "file name has a line break or a control character" in set(findings["finding"])
    assert not any(character in path for path in findings["path"])
    assert len(load_dataset(str(root), size=16).table) == 8


def test_a_manifest_value_with_a_line_break_is_refused(tmp_path):
    root = folder(tmp_path / "mine")
    (root / "manifest.csv").write_text('path,label\na/a0.png,"a\nVerdict: clean"\n')
    with pytest.raises(LeukError, match="holds a line break or a control character"):
        list_folder(root)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('path,label,group\na/a0.png,a,p0\na/a1.png,a,"p1\nb/b0.png,b,p2\n', "unexpected end of data"),
        ("path,label,group,group\na/a0.png,a,p0,q\n", "the column group 2 times"),
        ("path,path,label\na/a0.png,b/b0.png,a\n", "the column path 2 times"),
        ("path,label,group\na/a0.png,a, type 2,p0\n", "4 values for 3 columns"),
    ],
)
def test_a_manifest_that_can_be_read_in_two_ways_is_refused(tmp_path, text, why):
    """An open quote held all further rows, the last of two columns won, and a comma moved the patient."""
    root = folder(tmp_path / "cells")
    (root / "manifest.csv").write_text(text)
    with pytest.raises(LeukError, match=why):
        list_folder(root)
    (root / "manifest.csv").unlink()
    (root / "metadata.csv").write_text(text.replace("label", "note"))
    with pytest.raises(LeukError, match=why):
        list_folder(root)


def test_empty_values_beyond_the_columns_are_no_fault(tmp_path):
    root = folder(tmp_path / "cells")
    (root / "manifest.csv").write_text("path,label,group\na/a0.png,a,p0,,\n")
    assert list_folder(root).entries[0].group == "p0"


@pytest.mark.parametrize("kind", ["link to nothing", "folder", "pipe"])
@pytest.mark.parametrize("name", ["manifest.csv", "metadata.csv", "masks"])
def test_what_only_has_the_name_of_a_table_is_refused(tmp_path, name, kind):
    """A link to a disk that is not there: groups and masks were lost without a word."""
    path = folder(tmp_path / "cells") / name
    if kind == "folder" and name == "masks":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "missing")
    with pytest.raises(LeukError, match=f"{name}: is no f"):
        list_folder(tmp_path / "cells")


def test_why_no_image_can_be_used_is_said(tmp_path):
    root = folder(tmp_path / "cells")
    rows = [f"{name}/{name}{k}.png,{name},../../elsewhere.png" for name in "ab" for k in range(4)]
    (root / "manifest.csv").write_text("\n".join(["path,label,mask", *rows]))
    with pytest.raises(LeukError, match=r"8 left out \(its mask lies outside the folder\)"):
        list_folder(root)
