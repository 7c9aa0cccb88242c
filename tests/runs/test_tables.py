"""Tables that a run wrote: what is wrong is named, and nothing is converted silently."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from damage import OTHER_FILES, one_line
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import Stage
from leuk_lib.runs.tables import numbers, read_table


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_texts_stay_texts_and_numbers_are_exact(tmp_path: Path):
    path = table(tmp_path / "t.csv", "label,x\nNA,0.1\n007,1e-320\n")
    frame = read_table(path, ("label", "x"), "again")
    assert frame["label"].tolist() == ["NA", "007"]
    assert numbers(frame, "x", path, "again").tolist() == [0.1, 1e-320]


def test_what_a_stage_writes_is_read_back_and_a_spreadsheet_computes_nothing(results: Path):
    frame = pd.DataFrame({"label": ["=1+1", "'=x", "-"], "@y": ["", "a", "\tb"], "x": [-1.5, 0.1, -3.0]})
    with Stage.begin("data", StageParams, {"run": "r"}) as stage:
        path = stage.save_table("t", frame)
        stage.record("x", 1)
    cells = [cell for line in csv.reader(path.read_text().splitlines()) for cell in line[:2]]
    assert len(cells) == 8 and not any(cell.startswith(("=", "-", "@", "\t")) for cell in cells)
    read = read_table(path, ("label", "@y", "x"), "again")
    assert read[["label", "@y"]].to_numpy().tolist() == frame[["label", "@y"]].to_numpy().tolist()
    assert numbers(read, "x", path, "again").tolist() == frame["x"].tolist()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "", "x", "1e999", "1,5"])
def test_what_is_no_finite_number_is_named_with_its_row(tmp_path: Path, value: str):
    path = table(tmp_path / "t.csv", f'label,x\na,1\nb,"{value}"\n')
    with pytest.raises(LeukError, match=r"t\.csv: row 3: x = .* is no finite number; again"):
        numbers(read_table(path, ("x",), "again"), "x", path, "again")


def test_blanks_are_allowed_where_they_are_expected(tmp_path: Path):
    path = table(tmp_path / "t.csv", "label,x\na,1\nb,\n")
    assert numbers(read_table(path, ("x",), ""), "x", path, "", blank=True).isna().tolist() == [False, True]


@pytest.mark.parametrize("value", ["1.5", "1e300", "9007199254740993"])
def test_whole_numbers_are_whole(tmp_path: Path, value: str):
    path = table(tmp_path / "t.csv", f"x\n{value}\n")
    with pytest.raises(LeukError, match="is no whole number"):
        numbers(read_table(path, ("x",), ""), "x", path, "", whole=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,x,x\na,1,2\n", "has the column x twice"),
        ("label,x\nz,a,1\nz,b,2\n", "more values than there are columns"),
    ],
)
def test_columns_are_neither_renamed_nor_moved(tmp_path: Path, text: str, message: str):
    with pytest.raises(LeukError, match=message):
        read_table(table(tmp_path / "t.csv", text), ("label", "x"), "again")


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files_are_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "t.csv").write_bytes(content)
    refusal = one_line(lambda: read_table(tmp_path / "t.csv", ("label",), "run it again"))
    assert isinstance(refusal, LeukError) and "t.csv" in str(refusal) and "run it again" in str(refusal)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(LeukError, match=r"no such file|not a readable table"):
            read_table(path, (), "again")
