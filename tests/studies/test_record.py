"""Records: tables, provenance, state under the present code, verification and acceptance."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from damage import TIMES, fuzz_json
from leuk_lib import studies
from leuk_lib.cli.main import main
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import write_json
from leuk_lib.studies import canary, record
from leuk_lib.studies.record import SEEDS, load_record
from leuk_lib.studies.study import parse_settings
from studies.toys import Toy, made_record

COMMIT = "a" * 40


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a record of the toy, whose canary gives the recorded number; the path of the record."""
    monkeypatch.setitem(studies.STUDIES, "toy", "studies.toys:Toy")
    monkeypatch.setattr(record.paths, "project_root", lambda: tmp_path)
    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(record, "git_state", lambda root: {"commit": COMMIT, "dirty": False})
    monkeypatch.setattr(canary, "canary_numbers", lambda name: {"loss of a": 1.0})
    table = pd.DataFrame({"arm": ["a", "b"], "value": [0.123456789, math.nan]})
    return made_record("toy", {"values": table}, {"seeds": [3], "name": "a b"}).save()


def test_a_record_keeps_tables_and_says_where_it_comes_from(toy: Path, tmp_path: Path):
    read = record.load_record(toy)
    assert toy == tmp_path / record.record_file("toy", "…/cells") and read.name == "toy-cells"
    assert read.table("values")["value"].iloc[0] == 0.123457 and math.isnan(read.table("values")["value"].iloc[1])
    with pytest.raises(LeukError, match="no table 'gone'; it has values"):
        read.table("gone")
    about = read.provenance().set_index("item")["value"]
    assert about["made at"] == "commit 000000000000" and about["state"] == "verified at commit 111111111111"
    command = shlex.split(about["to repeat it"])
    assert command[:5] == ["leuk", "study", "toy", "--dataset", "…/cells"]
    assert parse_settings("toy", command[6::2]) == read.params


def test_verification_is_shown_by_the_record_and_changes_it_on_request_only(toy: Path, capsys):
    before = toy.read_text()
    assert main(["study", "verify", "toy"]) == 0
    assert re.match(r"toy-cells: verified .*aaaaaaaaaaaa$", capsys.readouterr().out)
    assert toy.read_text() == before and "aaaaaaaaaaaa" in record.load_record(toy).state()
    assert main(["study", "verify", "toy", "--record"]) == 0
    assert record.load_record(toy).verified["commit"] == COMMIT


def test_a_written_record_does_not_make_the_next_one_dirty(toy: Path, monkeypatch: pytest.MonkeyPatch):
    """The project is looked at once, before the first record is written."""
    other = json.loads(toy.read_text()) | {"dataset": "other"}
    second = write_json(toy.with_name("toy-other.json"), other)
    states = iter([{"commit": COMMIT, "dirty": False}, *[{"commit": COMMIT, "dirty": True}] * 9])
    monkeypatch.setattr(record, "git_state", lambda root: next(states))
    assert main(["study", "verify", "toy", "--record"]) == 0
    for path in (toy, second):
        verified = record.load_record(path).verified
        assert (verified["commit"], verified["dirty"]) == (COMMIT, False)


def test_numbers_that_moved_are_shown_until_they_are_accepted_with_a_reason(
    toy: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(canary, "canary_numbers", lambda name: {"loss of a": 1.5})
    tables = record.load_record(toy).tables
    assert main(["study", "verify", "toy", "--record"]) == 1
    assert re.match(r"toy-cells: numbers moved .*aaaaaaaaaaaa.*loss of a.* 1\b.* 1\.5$", capsys.readouterr().out)
    assert record.load_record(toy).verified["commit"] == "1" * 40
    assert main(["study", "accept", "toy", "--reason", "another torch"]) == 0
    accepted = record.load_record(toy)
    assert accepted.canary == {"loss of a": 1.5} and accepted.tables == tables
    assert accepted.accepted[0]["reason"] == "another torch" and accepted.accepted[0]["commit"] == COMMIT
    assert accepted.accepted[0]["moved"] == ["loss of a: recorded 1, now 1.5"]
    assert main(["study", "verify", "toy"]) == 0
    assert "another torch" in accepted.provenance()["value"].tolist()


def test_a_record_of_another_version_says_so(toy: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Toy, "version", 2)
    assert record.load_record(toy).state().startswith("of another version")
    assert main(["study", "verify", "toy", "--record"]) == 1
    assert "another version" in capsys.readouterr().out and record.load_record(toy).verified["commit"] == "1" * 40


def test_a_record_says_by_which_method_its_intervals_were_made(tmp_path: Path):
    table = pd.DataFrame({"value": [0.5], "low": [0.4], "high": [0.6]})
    record = made_record("ladder", {"scores": table})  # as the records without this entry
    items = record.provenance().set_index("item")["value"]
    assert "too short where seeds differ" in items["intervals"]
    current = replace(record, intervals=SEEDS).provenance().set_index("item")["value"]["intervals"]
    assert current == "Student's, over groups and seeds"
    for wrong in ("other", ["student"]):
        path = write_json(tmp_path / "r.json", {**asdict(record), "intervals": wrong})
        with pytest.raises(LeukError, match=r"r\.json: not a study's record .*intervals: Input should be 'student'"):
            load_record(path)


def test_ends_of_intervals_of_an_earlier_method_are_not_compared():
    numbers = {"loss of a": 1.0, "scores.value": 0.5, "scores.low": 0.4, "scores.high": 0.6}
    record = made_record("ladder", {})
    assert canary.comparable(record, numbers) == {"loss of a": 1.0, "scores.value": 0.5}
    assert canary.comparable(replace(record, intervals=SEEDS), numbers) == numbers


def test_an_acceptance_needs_a_reason_and_a_record(toy: Path, capsys):
    assert main(["study", "accept", "toy", "--reason", " "]) == 1
    assert main(["study", "accept", "toy"]) == 2
    toy.unlink()
    assert main(["study", "accept", "toy", "--reason", "r"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and "needs a reason" in lines[0] and "no record in the book" in lines[2]


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"study": "toy", "what": 1})])
def test_a_damaged_or_unknown_record_is_one_line(tmp_path: Path, content: str):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(LeukError, match=r"record\.json: (damaged|not a study's record)"):
        record.load_record(path)


@pytest.mark.parametrize("change", [{"version": "newest"}, {"verified": {}}, {"study": "gone"}])
def test_a_record_with_wrong_contents_is_one_line(toy: Path, change: dict):
    write_json(toy, json.loads(toy.read_text()) | change)
    with pytest.raises(LeukError, match=r"not a study's record|unknown study 'gone'") as error:
        record.load_record(toy).state()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("times", TIMES)
def test_mutated_records_are_one_line(toy: Path, times: int):
    assert main(["study", "accept", "toy", "--reason", "to have a log"]) == 0

    def read() -> None:
        whole = record.load_record(toy)
        whole.provenance()
        whole.table("values")

    assert 0 < fuzz_json(toy, read, times) < times


@pytest.mark.parametrize("times", TIMES)
def test_mutated_outcomes_of_verify_are_one_line(toy: Path, times: int):
    assert main(["study", "verify", "toy"]) == 0
    whole = record.load_record(toy)
    assert 0 < fuzz_json(record.checks_file(), whole.state, times) < times


def test_committed_records_fit_the_model(root: Path):
    paths = sorted((root / record.FOLDER).glob("*.json"))
    assert len(paths) > 5
    for path in paths:
        record.load_record(path)


def test_verify_and_accept_have_help_with_an_example(capsys):
    for command in ("verify", "accept", "run"):
        assert main(["study", command, "--help"]) == 0
        assert "Example: leuk study" in " ".join(capsys.readouterr().out.split())
