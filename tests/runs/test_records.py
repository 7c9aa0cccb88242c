"""Cards and numbers of any wrong shape are one line at every door, and never believed."""

from __future__ import annotations

import errno
import functools
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from damage import mutated, one_line
from leuk_lib.audit.reference import load_run
from leuk_lib.book.gate import chapter_problem
from leuk_lib.cli.main import main
from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.runs import card, files
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json
from leuk_lib.runs.notebooks import read_notebook
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.records import Entry, Metrics, PublicCard, Reference, RunCard, check_record, read_metrics
from leuk_lib.runs.stage import Stage
from leuk_lib.runs.tables import read_table
from leuk_lib.stages import STAGES


@pytest.fixture
def run(results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose first stage is finished. The code is hashed once."""
    monkeypatch.setattr(card, "present_hashes", functools.cache(card.present_hashes))
    with Stage.begin("data", StageParams, {"run": "r"}) as stage:
        stage.use_dataset("abc")
        stage.measure("seconds", 1.5)
        stage.note("a note")
        stage.record("accuracy", 0.9, 0.8, 0.95, 20, "share")
    return results / "r"


def write_raw(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def doors(run: Path) -> None:
    """What reads cards and numbers: status, the gate, compare, reference, the next run."""
    assert card.stage_state("r", "data", lambda name: "abc")[0] in {
        "missing", "damaged", "running", "interrupted", "failed", "stale", "fresh"
    }  # fmt: skip
    one_line(lambda: chapter_problem("r", STAGES[0]))
    one_line(lambda: load_run(run))
    one_line(lambda: card.refuse_other_dataset("r", "smear"))
    one_line(lambda: read_metrics(run / "data"))


def fuzz(run: Path, name: str, times: int, seed: int) -> None:
    path = run / "data" / name
    original = json.loads(path.read_text())
    original.pop("checksum", None)  # as in cards of earlier versions; with it every change is the same error
    rng = random.Random(seed)
    for _ in range(times):
        write_raw(path, mutated(original, rng))
        doors(run)


@pytest.mark.parametrize("name", ["card.json", "metrics.json"])
def test_mutated_files_are_one_line(run: Path, name: str):
    fuzz(run, name, 40, 1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["card.json", "metrics.json", "notebook.ipynb", "predictions.csv"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to itself"])
def test_what_cannot_be_read_to_its_end_is_one_line(run: Path, name: str, kind: str):
    """Every door waited for ever for what a pipe in place of a card would say; a device filled the memory."""
    path = run / "data" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero" if kind == "device" else path)
    doors(run)
    for read in (read_json, read_notebook, functools.partial(read_table, columns=(), advice="")):
        assert isinstance(one_line(functools.partial(read, path)), LeukError)


@pytest.mark.long
@pytest.mark.parametrize("name", ["card.json", "metrics.json"])
def test_two_thousand_mutated_files_are_one_line(run: Path, name: str):
    fuzz(run, name, 2000, 2)


@pytest.mark.long
def test_two_thousand_mutated_references_are_one_line(root: Path, tmp_path: Path):
    original = json.loads((root / "book" / "reference" / "smear-smoke.json").read_text())
    rng = random.Random(3)
    for _ in range(2000):
        write_raw(tmp_path / "r.json", mutated(original, rng))
        one_line(lambda: load_run(tmp_path / "r.json"))


@pytest.mark.parametrize(
    "wrong", [[], {}, 5, None, "x", {"hashes": None}, {"process": {"host": "h", "pid": "x"}}], ids=repr
)
def test_a_wrong_card_is_named_by_status_gate_and_compare_and_replaced_by_the_next_run(
    run: Path, wrong: Any, capsys: pytest.CaptureFixture[str]
):
    path = run / "data" / "card.json"
    whole = json.loads(path.read_text())
    partial = isinstance(wrong, dict) and wrong
    write_raw(path, {**whole, **wrong, "checksum": None} if partial else wrong)
    assert main(["status", "--run", "r"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert "is damaged" in str(chapter_problem("r", STAGES[0]))
    if wrong != {"process": {"host": "h", "pid": "x"}}:  # comparing needs no process
        assert main(["compare", "r", "r"]) == 2
        assert "not a run card" in capsys.readouterr().err
    with Stage.begin("data", StageParams, {"run": "r"}) as stage:
        stage.record("x", 1)
    assert "Starting from the beginning" in capsys.readouterr().out
    assert card.stage_state("r", "data")[0] == "fresh"


@pytest.mark.parametrize(
    "edit",
    [
        {"profile": "smoke"},
        {"seconds": 1.0},
        {"device": "another"},
        {"notes": []},
        {"git": {"commit": None, "dirty": False}},
        {"params": {"run": "r", "profile": "laptop", "dataset": "smear", "seed": 1}},
        {"measured": {"seconds": 0.1}},
    ],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edited_card_is_refused_by_every_door(run: Path, edit: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """Entries that no hash covers were believed: the book, `leuk reference` and `leuk compare` showed them."""
    path = run / "data" / "card.json"
    write_raw(path, {**json.loads(path.read_text()), **edit})
    state, reasons = card.stage_state("r", "data", lambda name: "abc")
    assert state == "damaged" and "its checksum is wrong" in reasons[0]
    assert "is damaged" in str(chapter_problem("r", STAGES[0]))
    assert main(["compare", "r", "r"]) == 2 and "its checksum is wrong" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "\ufeff{}", "[" * 100_000, "1" * 5000, "\xff\xfe"], ids=range(6))
def test_files_that_are_no_json_are_one_line(run: Path, text: str):
    for name in ("card.json", "metrics.json"):
        before = (run / "data" / name).read_bytes()
        (run / "data" / name).write_bytes(text.encode("latin-1", "replace"))
        doors(run)
        assert isinstance(one_line(lambda: load_run(run)), LeukError)
        (run / "data" / name).write_bytes(before)


def test_a_folder_in_place_of_a_file_is_one_line(run: Path):
    for name in ("card.json", "metrics.json"):
        (run / "data" / name).unlink()
        (run / "data" / name).mkdir()
        doors(run)
        (run / "data" / name).rmdir()


@pytest.mark.parametrize("name", ["a" * 300, "figures/" + "\u00e4" * 200, "../x", "/etc/passwd", ""])
def test_an_output_that_no_folder_can_hold_is_no_output(run: Path, name: str):
    whole = json.loads((run / "data" / "card.json").read_text())
    (run / "data" / "card.json").write_text(json.dumps({**whole, "outputs": {name: "0"}}))
    assert card.stage_state(run.name, "data")[0] == "damaged"


def test_a_data_set_whose_path_no_disk_has_is_a_reason(run: Path):
    whole = json.loads((run / "data" / "card.json").read_text())
    (run / "link").symlink_to("link")
    for place in ("a\0b", "x" * 5000, str(run / "link")):
        changed = {**whole, "params": {**whole["params"], "dataset": place}, "inputs": {"dataset": {"content": "0"}}}
        card.write_card("r", "data", changed)
        state, reasons = card.stage_state(run.name, "data", fingerprint)
        assert state == "stale" and any("the data set cannot be read" in reason for reason in reasons)


def test_a_file_that_cannot_be_read_is_a_reason(run: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files, "sha256_file", refused)
    reasons = card.stage_state("r", "data")[1]
    assert "its output metrics.json cannot be read (Permission denied)" in reasons


def test_the_models_know_every_entry_of_a_new_card():
    new = card.new_card("data", {"run": "r", "profile": "laptop", "dataset": "smear", "seed": 0})
    assert set(new) == set(RunCard.model_fields), "an entry without a model is not checked"
    check_record(new, RunCard, "x", "a run card", "")


@pytest.mark.parametrize(
    "entry",
    [
        {"value": 1, "low": 2, "high": 0},
        {"value": float("nan")},
        {"value": True},
        {"value": "1"},
        {"value": 1, "low": 0},
        {"value": 1, "n": -1},
        {},
    ],
)
def test_a_number_is_finite_and_its_interval_whole(entry: dict[str, Any]):
    with pytest.raises(LeukError, match=r"metrics\.k"):
        check_record({"metrics": {"k": entry}}, Metrics, "x", "numbers", "")
    check_record({"value": 1, "low": 0.5, "high": 2, "n": 3}, Entry, "x", "a number", "")


def test_committed_references_fit_the_models(root: Path):
    for path in (root / "book" / "reference").glob("*.json"):
        content = check_record(json.loads(path.read_text()), Reference, path, "a reference", "")
        for entry in content["cards"].values():
            check_record(entry, PublicCard, path, "a card", "")
