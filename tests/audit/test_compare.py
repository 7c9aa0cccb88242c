"""Comparison of runs: a verdict per number, causes from the cards."""

from __future__ import annotations

import copy
import re

import pytest

from leuk_lib.audit import compare
from leuk_lib.audit.reference import Rule, Rules, reference_of
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import write_json

CARD = {
    "stage": "wpat", "run": "a", "profile": "laptop", "dataset": "smear", "device": "CPU",
    "params": {"run": "a", "seed": 0, "dataset": "/home/x/smear", "threads": 2}, "versions": {"torch": "2.15", "numpy": "2.4"},
    "hashes": {"code": {"leuk_lib.wpat.model": "1"}, "notebook": "n", "lock": "l"}, "inputs": {"data": {}}, "git": {"commit": "c"},
    "process": {"host": "secret", "pid": 1},
}  # fmt: skip


RULES = Rules(
    rules=(
        Rule(numbers=("*",), kind="half_interval", why="a test's rule"),
        Rule(numbers=("*",), kind="relative", size=0.02, why="a test's rule"),
    )
)


def write_run(folder, accuracy=0.9, card=None, data_card=None, extra=None):
    metrics = {
        "accuracy": {"value": accuracy, "low": 0.85, "high": 0.95, "n": 100},
        "loss": {"value": 2.0},
        **(extra or {}),
    }
    write_json(folder / "wpat" / "metrics.json", {"metrics": metrics})
    write_json(folder / "wpat" / "card.json", card or CARD)
    first = copy.deepcopy(CARD) | {"stage": "data", "inputs": {"dataset": {"content": "d"}}}
    write_json(folder / "data" / "metrics.json", {"metrics": {"cells": {"value": 10}}})
    write_json(folder / "data" / "card.json", data_card or first)
    return folder


def changed(card=CARD, **parts):
    return copy.deepcopy(card) | parts


def row(table, metric="accuracy"):
    return table[table["metric"] == metric].iloc[0]


def test_a_run_equals_itself_to_the_bit(tmp_path):
    table = compare.compare_runs(write_run(tmp_path / "a"), tmp_path / "a")
    assert set(table["verdict"]) == {"equal"} and set(table["cause"]) == {""}
    assert list(table.columns) == compare.COLUMNS


@pytest.mark.parametrize(("value", "verdict"), [(0.9 + 1e-12, "within"), (0.94, "within"), (0.951, "outside")])
def test_within_half_the_interval_of_the_reference(tmp_path, value, verdict):
    table = compare.compare_runs(write_run(tmp_path / "a", value), write_run(tmp_path / "b"))
    result = row(table)
    assert result["verdict"] == verdict
    assert result["tolerance"] == pytest.approx(0.05, abs=2e-6) and result["difference"] == pytest.approx(value - 0.9)


def test_a_reference_file_contains_its_tolerances(tmp_path):
    reference = reference_of(write_run(tmp_path / "b"), RULES)
    reference["tolerances"]["wpat.accuracy"] = {"value": 0.001, "rule": "relative"}
    write_json(tmp_path / "r.json", reference)
    result = row(compare.compare_runs(write_run(tmp_path / "a", 0.91), tmp_path / "r.json"))
    assert (result["verdict"], result["rule"], result["tolerance"]) == ("outside", "relative", 0.001)


def test_equal_means_the_whole_entry(tmp_path):
    """The same value with another interval or another n is not the same number."""
    ours = write_run(tmp_path / "a")
    for part, detail in (({"n": 99}, "n 99 not 100"), ({"low": 0.8}, "the interval alone differs")):
        entry = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 100, **part}
        write_json(ours / "wpat" / "metrics.json", {"metrics": {"accuracy": entry}})
        result = row(compare.compare_runs(ours, write_run(tmp_path / "b")))
        assert (result["verdict"], result["detail"]) == ("within", detail)


def test_numbers_of_one_run_alone_are_missing(tmp_path):
    table = compare.compare_runs(
        write_run(tmp_path / "a", extra={"new": {"value": 1}}), write_run(tmp_path / "b", extra={"old": {"value": 1}})
    )
    assert row(table, "new")["verdict"] == row(table, "old")["verdict"] == "missing"
    assert row(table, "new")["detail"] == "not in the reference" and row(table, "old")["detail"] == "not in the run"


@pytest.mark.parametrize(
    ("card", "cause"),
    [
        (changed(params={"run": "a", "seed": 7}), "seed 7 not 0"),
        (changed(device="GPU"), "device: GPU not CPU"),
        (changed(versions={"torch": "2.11", "numpy": "2.4"}), "torch 2.11 not 2.15"),
        (changed(hashes={"code": {"leuk_lib.wpat.model": "2"}, "notebook": "n", "lock": "l"}), "code: wpat.model"),
        (changed(hashes={"code": CARD["hashes"]["code"], "notebook": "m", "lock": "l"}), "notebook: changed"),
        (changed(hashes={"code": CARD["hashes"]["code"], "notebook": "n", "lock": "k"}), "requirements.lock differs"),
        (changed(hashes={**CARD["hashes"], "code": {"leuk_lib.wpat.model": "1", "leuk_lib.figures.wpat": "2"}}), "none in the"),
        (changed(params={**CARD["params"], "threads": 4}), "threads: 4 not 2"),
        (changed(run="b", params={**CARD["params"], "run": "b", "dataset": "/other/smear"}), "none in the cards"),
    ],
)  # fmt: skip
def test_the_likely_cause_is_read_from_the_cards(tmp_path, card, cause):
    table = compare.compare_runs(write_run(tmp_path / "a", 0.91, card=card), write_run(tmp_path / "b"))
    assert cause in row(table)["cause"]
    assert row(table, "loss")["cause"] == ""


def test_an_upstream_cause_is_named_with_its_stage(tmp_path):
    first = changed(stage="data", inputs={"dataset": {"content": "other"}})
    table = compare.compare_runs(write_run(tmp_path / "a", 0.91, data_card=first), write_run(tmp_path / "b"))
    assert row(table)["cause"] == "data: other files (stage data)"


def test_the_summary_counts_all_numbers_and_names_one_cause_per_stage(tmp_path):
    table = compare.compare_runs(write_run(tmp_path / "a", 0.91, card=changed(device="GPU")), write_run(tmp_path / "b"))
    stages = compare.by_stage(table).set_index("stage")
    assert stages.loc["wpat", "likely cause"] == "device: GPU not CPU" and stages.loc["data", "likely cause"] == ""
    assert stages[list(compare.VERDICTS)].to_numpy().sum() == len(table) == 3
    assert re.findall(r"\d+", compare.sentence(table)) == ["3", "2", "1", "0"]  # all, equal, within, outside
    equal = compare.sentence(table[table["verdict"] == "equal"])
    assert re.findall(r"\d+", equal) == ["2"] and "equal to the bit" in equal


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(LeukError, match="no finished stage"):
        compare.compare_runs(tmp_path, tmp_path)
    with pytest.raises(LeukError, match="neither"):
        compare.compare_runs(write_run(tmp_path / "a"), tmp_path / "none.json")
    for wrong, message in (({"a": 1}, "not a reference"), ([1], "not a reference"), ({"metrics": {"wpat": {"k": {}}}}, r"not a reference \(metrics\.wpat\.k\.value"),
                        ({"metrics": {"wpat": {"k": {"value": None}}}}, r"not a reference \(metrics\.wpat\.k\.value")):  # fmt: skip
        write_json(tmp_path / "x.json", wrong)
        with pytest.raises(LeukError, match=message):
            compare.compare_runs(tmp_path / "a", tmp_path / "x.json")
