"""Readers and the folder that they make: converted once, complete or not at all, and found again."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pandas as pd
import pytest

from data.test_prepare import FolderStage, small
from data.toys import coded, folder, picture
from leuk_lib.cli.main import main
from leuk_lib.data import readers
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.check import check_folder
from leuk_lib.data.decode import decode_file
from leuk_lib.data.findings import Finding
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.data.listing import list_folder
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.data.readers.reader import Box, Cell, CellReader, Note, Options
from leuk_lib.runs.errors import LeukError


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LEUK_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


class Fields(CellReader):
    """Cuts four cells out of each field of view; a file ``fields.txt`` marks the layout."""

    name = "fields"
    title = "fields of a test"
    options: ClassVar = {"shift": "pixels"}
    calls = 0

    def recognises(self, path: Path) -> bool:
        return (path / "fields.txt").is_file()

    def cells(self, path: Path, options: Options) -> Iterator[Cell | Finding | Note]:
        type(self).calls += 1
        shift = int(options.number("shift", 0, -100, 100))
        for file in sorted(path.glob("*.png")):
            for k in range(4):
                left, top = 40 * (k % 2) + shift, 40 * (k // 2)
                box = Box(left, top, left + 40, top + 40)
                yield Cell(
                    f"{file.stem}/{k}", "AB"[k % 2], source=file.name, box=box, group=file.stem, part="train",
                    label2="AC"[k % 2], um_per_px=0.1,
                )  # fmt: skip
        yield Finding("z.png", "no box in the field", "warning", "nothing to do")
        yield Note("a line of the reader")


@pytest.fixture
def registered(monkeypatch) -> type[Fields]:
    known = {**readers.readers(), "fields": Fields()}
    monkeypatch.setattr(readers, "readers", lambda: known)
    monkeypatch.setattr(Fields, "calls", 0)
    return Fields


def fields(root: Path, n: int = 5) -> Path:
    root.mkdir(parents=True)
    (root / "fields.txt").write_text("1")
    for i in range(n):
        (root / f"f{i}.png").write_bytes(coded(picture(i, 80, 24)))
    return root


def test_cells_are_cut_out_at_their_boxes_with_all_that_is_known(tmp_path, registered):
    root = fields(tmp_path / "set")
    listing = list_folder(root)
    assert len(listing.entries) == 20
    entry = next(e for e in listing.entries if e.path == "B/f2/3.png")
    assert (entry.label, entry.group, entry.part, entry.label2, entry.source) == ("B", "f2", "train", "C", "f2.png")
    whole = decode_file(root / "f2.png").image
    np.testing.assert_array_equal(decode_file(listing.root / entry.path).image, whole[40:80, 40:80])
    about = json.loads((listing.root / "source.json").read_text())
    assert about["reader"] == "fields" and about["cells"] == 20 and len(about["sha256"]) == 64
    assert "a line of the reader" in listing.understood


def test_the_second_call_takes_the_folder_and_a_change_makes_a_new_one(tmp_path, registered, data_folder):
    root = fields(tmp_path / "set")
    first = list_folder(root).root
    assert list_folder(root).root == first and registered.calls == 1
    shifted = list_folder(root, reader_options={"shift": "2"}).root
    assert shifted != first and registered.calls == 2
    (root / "f0.png").write_bytes(coded(picture(99, 80, 24)))
    assert list_folder(root).root not in (first, shifted) and registered.calls == 3
    assert {path.name for path in (data_folder / ".converted").iterdir() if path.is_dir()} >= {first.name, shifted.name}


def test_a_conversion_that_stops_leaves_nothing_and_starts_again(tmp_path, registered, data_folder, monkeypatch):
    root = fields(tmp_path / "set")
    real, calls = cv2.imencode, []

    def full(*words):
        calls.append(1)
        if len(calls) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*words)

    monkeypatch.setattr(cv2, "imencode", full)
    with pytest.raises(LeukError, match="disk is full") as error:
        list_folder(root)
    assert error.value.exit_code == 2
    assert not [path for path in (data_folder / ".converted").iterdir() if path.is_dir()]
    assert len(list_folder(root).entries) == 20


def test_a_folder_left_by_a_killed_conversion_is_replaced(tmp_path, registered):
    root = fields(tmp_path / "set")
    target = list_folder(root).root
    (target / "source.json").unlink()  # what a kill before the rename, or a hand, leaves
    (target.with_name(f"{target.name}.unfinished")).mkdir()
    listing = list_folder(root)
    assert listing.root == target and len(listing.entries) == 20 and (target / "source.json").is_file()
    assert not target.with_name(f"{target.name}.unfinished").exists()


def test_processes_that_convert_at_once_share_one_folder(tmp_path, registered):
    root = fields(tmp_path / "set")
    with ThreadPoolExecutor(4) as pool:  # the lock is of the open file, so threads stand for processes
        roots = set(pool.map(lambda _: list_folder(root).root, range(4)))
    assert len(roots) == 1 and registered.calls == 1


def test_names_that_no_table_can_hold_are_findings(tmp_path, registered, monkeypatch):
    cells = [Cell(f"c{i}", "AML", picture(i, 24)) for i in range(2)]
    odd = [
        Cell("x\ny", "AML", picture(5, 24)),
        Cell("z", "B\x1b[2J", picture(6, 24)),
        Cell("\udce9", "B", picture(7, 24)),
    ]
    found = [Finding("\udce9.png", "odd\nname", "warning", "rename it")]
    monkeypatch.setattr(Fields, "cells", lambda self, path, options: iter([*cells, *odd, *found]))
    listing = list_folder(fields(tmp_path / "set"))
    assert len(listing.entries) == 2 and len(listing.findings) == 4
    assert all(finding.path.isprintable() and finding.finding.isprintable() for finding in listing.findings)


def test_a_reader_of_tables_needs_a_folder(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("file,dx\n")
    with pytest.raises(LeukError, match="reader table needs the folder of the images"):
        list_folder(file, reader="table")
    with pytest.raises(LeukError, match="is a file that no reader recognises"):
        list_folder(file)


def test_a_folder_that_cannot_be_listed_is_not_an_error_of_a_reader(tmp_path, registered, monkeypatch):
    def closed(self, path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Fields, "recognises", closed)
    assert len(list_folder(folder(tmp_path / "plain")).entries) == 8


def test_a_box_outside_of_its_field_is_a_finding(tmp_path, registered):
    root = fields(tmp_path / "set")
    listing = list_folder(root, reader_options={"shift": "60"})
    outside = [finding for finding in listing.findings if "lies outside" in finding.finding]
    assert len(outside) == 10 and len(listing.entries) == 10
    assert {finding.severity for finding in outside} == {"error"}


def test_findings_and_second_labels_reach_the_stage(tmp_path, registered, results):
    stage = FolderStage(tmp_path / "stage")
    built = prepare_cells(small(dataset=str(fields(tmp_path / "set", 9))), stage)
    assert "no box in the field" in set(built.findings["finding"])
    table = CellSet.open(tmp_path / "stage").table
    assert set(table["label2"]) == {"A", "C"} and table["um_per_px"].tolist() == [0.1] * len(table)
    assert (tmp_path / "stage" / "cells.csv").read_text().startswith("path,label,group,split,part,width")
    assert "no box in the field" in set(check_folder(tmp_path / "set")["finding"])


def test_the_fingerprint_covers_annotation_files(tmp_path, registered):
    root = fields(tmp_path / "set")
    before = fingerprint(str(root))
    (root / "fields.txt").write_text("2")
    assert fingerprint(str(root)) != before


def test_what_only_means_something_for_folders_is_refused(tmp_path, registered, capsys):
    root = fields(tmp_path / "set")
    for words in (["--layout", "1"], ["--pattern", "cnmc"]):
        assert main(["data", "check", str(root), *words]) == 2
        assert "means nothing" in capsys.readouterr().err
    assert main(["data", "check", str(root), "--option", "shiftt=3"]) == 2
    assert "did you mean 'shift'" in capsys.readouterr().err
    assert main(["data", "check", str(root), "--option", "shift=x"]) == 2
    assert "shift=x must be a number from -100 to 100" in capsys.readouterr().err
    assert main(["data", "check", str(folder(tmp_path / "plain")), "--option", "shift=3"]) == 2
    assert "no reader recognises it" in capsys.readouterr().err
    assert main(["data", "check", str(root), "--reader", "fieldz"]) == 2
    assert "did you mean 'fields'" in capsys.readouterr().err


def test_two_readers_that_fit_are_refused_and_one_line_names_both(tmp_path, registered, monkeypatch):
    root = fields(tmp_path / "set")
    twin = type("Twin", (Fields,), {"name": "twin"})()
    known = {**readers.readers(), "twin": twin}
    monkeypatch.setattr(readers, "readers", lambda: known)
    with pytest.raises(LeukError, match=r"--reader fields: .*--reader twin: ") as error:
        list_folder(root)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    assert len(list_folder(root, reader="twin").entries) == 20


def test_class_folders_can_be_read_whatever_lies_beside_them(tmp_path, registered):
    root = folder(tmp_path / "plain")
    (root / "fields.txt").write_text("1")
    assert {entry.label for entry in list_folder(root, reader="folders").entries} == {"a", "b"}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([Cell("x", "A", np.zeros((9, 9), np.uint8)), Cell("x", "A", np.zeros((9, 9), np.uint8))], "two cells"),
        ([Cell("x", "", np.zeros((9, 9), np.uint8))], "has no class"),
        ([Cell("x", "A", np.zeros((9, 9, 3), np.float32))], "no usable cell.*must be"),
        ([Cell("x", "A", np.zeros((3, 9, 3), np.uint8))], "no usable cell.*too few"),
        ([Cell("x", "A", source="../../etc/passwd")], "no usable cell.*outside"),
        ([], "no usable cell"),
        (
            [Finding("none", "left out", "info", ""), Finding("x.png", "cut", "error", "")],
            r"no usable cell \(x.png: cut",
        ),
    ],
)
def test_a_faulty_reader_is_named(tmp_path, registered, monkeypatch, cells, message):
    monkeypatch.setattr(Fields, "cells", lambda self, path, options: iter(cells))
    with pytest.raises(LeukError, match=rf"(?s){message}"):
        list_folder(fields(tmp_path / "set"))


def test_labels_are_kept_as_they_are_whatever_a_path_may_hold(tmp_path, registered, monkeypatch):
    labels = ["../up", "masks", "a/b", "Bläst", "=1+1", ".hidden", "B|T", "AML"]
    cells = [Cell(f"c{i}", name, picture(i, 24)) for i, name in enumerate(labels)]
    monkeypatch.setattr(Fields, "cells", lambda self, path, options: iter(cells))
    listing = list_folder(fields(tmp_path / "set"))
    assert sorted(entry.label for entry in listing.entries) == sorted(labels)
    assert all((listing.root / entry.path).resolve().is_relative_to(listing.root) for entry in listing.entries)


def test_the_manifest_may_state_scale_and_second_labels(tmp_path, results):
    root = folder(tmp_path / "cells", each=9)
    rows = [(p.relative_to(root).as_posix(), p.parent.name) for p in sorted(root.rglob("*.png"))]
    table = pd.DataFrame(rows, columns=["path", "label"]).assign(label2="b", um_per_px=["0.2", ""] * 9)
    table.to_csv(root / "manifest.csv", index=False)
    cells = prepare_cells(small(dataset=str(root)), FolderStage(tmp_path / "stage")).cells
    assert set(cells.table["label2"]) == {"b"} and cells.table["um_per_px"].isna().sum() == 9
    mapped = list_folder(root, class_map={"b": "B"})
    assert {entry.label2 for entry in mapped.entries} == {"B"}
    for wrong in ("-1", "nan", "1_0", "\u0663"):
        table.assign(um_per_px=wrong).to_csv(root / "manifest.csv", index=False)
        with pytest.raises(LeukError, match=f"um_per_px '{wrong}' must be a positive number"):
            list_folder(root)


def test_plain_folders_get_no_new_columns(tmp_path, results):
    cells = prepare_cells(small(dataset=str(folder(tmp_path / "c", each=9))), FolderStage(tmp_path / "stage")).cells
    assert list(cells.table) == ["path", "label", "group", "split", "width", "height", "sha256"]


def test_readers_and_patterns_are_listed(capsys):
    assert main(["data", "readers"]) == 0
    out = capsys.readouterr().out
    assert "--reader medmnist" in out and "--option classes" in out and "--pattern cnmc" in out


def test_the_command_line_reaches_the_stage(tmp_path, results, registered, monkeypatch):
    from leuk_lib import workflow

    asked = {}
    monkeypatch.setattr(workflow, "run_stages", lambda *words: asked.update(settings=words[6]) or [])
    words = ["--reader", "fields", "--option", "shift=2", "--pattern", r"(?P<patient>\d+): .*", "--layout", "2"]
    assert main(["run", "data", "--dataset", "x", *words]) == 0
    parsed = workflow.parse_overrides(asked["settings"])["data"]
    assert parsed == {
        "reader": "fields", "reader_options": {"shift": "2"}, "pattern": r"(?P<patient>\d+): .*", "layout": "2"
    }  # fmt: skip
