"""The facts about a run's data, and the numbers beside them, are checked where chapter 10 and the book read them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from damage import TIMES, fuzz_json, fuzz_table
from leuk_lib.audit.claims import read_claims, verdict_table
from leuk_lib.audit.facts import read_facts
from leuk_lib.chapters.claims import read_results
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import write_json

FACTS = {
    "dataset": "cells", "profile": "smoke", "kind": "micrographs", "classes": ["AML", "CML"], "groups_test": 4,
    "cells": {"train": 70, "val": 10, "test": 20}, "shares": {"train": 0.7, "val": 0.1, "test": 0.2},
    "test_cells": {"AML": 12, "CML": 8}, "test_groups": {"AML": 2, "CML": 2}, "patients_known": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of stage ``results`` that chapter 10 reads."""
    write_json(tmp_path / "facts.json", FACTS)
    write_json(tmp_path / "metrics.json", {"metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 20}}})
    rows = [("alhe", "gain", 1.5, None, None, None, ""), ("wpat", "val", 0.5, 0.4, 0.6, 9, "share")]
    table = pd.DataFrame(rows, columns=["stage", "key", "value", "low", "high", "n", "unit"])
    table.to_csv(tmp_path / "upstream.csv", index=False)
    return tmp_path


def test_whole_files_are_read(folder: Path):
    metrics, facts = read_results(folder)
    assert facts == FACTS
    assert metrics["alhe"] == {"gain": {"value": 1.5}}
    assert metrics["wpat"] == {"val": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}


@pytest.mark.parametrize("times", TIMES)
def test_mutated_facts_are_one_line_and_can_be_judged(folder: Path, times: int):
    book = read_claims()

    def read() -> None:
        metrics, facts = read_results(folder)
        results = {f"results.{key}": entry for key, entry in metrics["results"].items()}
        verdict_table(book, results, facts, "r")

    assert 0 < fuzz_json(folder / "facts.json", read, times) < times


@pytest.mark.parametrize("times", TIMES)
def test_mutated_numbers_are_one_line(folder: Path, times: int):
    assert 0 < fuzz_table(folder / "upstream.csv", lambda: read_results(folder), times) < times


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "drawn"}, "kind"),
        ({"cells": {"train": 1}}, "cells of val are not stated"),
        ({"test_cells": {"ALL": 3}}, "ALL is no class"),
        ({"groups_test": -1}, "groups_test"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: dict, why: str):
    write_json(tmp_path / "facts.json", FACTS | change)
    with pytest.raises(
        LeukError, match=f"facts.json: not the facts about a run's data .*{why}.*run stage results again"
    ):
        read_facts(tmp_path / "facts.json")
