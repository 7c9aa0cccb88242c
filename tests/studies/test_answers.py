"""The table of answers: right rows, right words, and no question whose record has nothing to say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from leuk_lib.stages import stage
from leuk_lib.studies import STUDIES, answers
from leuk_lib.studies.answers import QUESTIONS, Question
from leuk_lib.studies.record import StudyRecord, load_record

ROOT = Path(__file__).resolve().parents[2]


class Record:
    """As much of a record as answers are read from."""

    def __init__(self, **tables: list[dict]) -> None:
        self.tables = {name: pd.DataFrame(rows) for name, rows in tables.items()}

    def table(self, name: str) -> pd.DataFrame:
        return self.tables[name]


def difference(arm: str, against: str, value: float, half: float, condition: str = "test") -> dict:
    return {"condition": condition, "arm": arm, "against": against, "value": value, "low": value - half, "high": value + half}  # fmt: skip


def test_answers_by_hand() -> None:
    question = Question("Does it help?", "toy", "gains", "wpat", {"arm": ("ours",)}, "cells")
    rows = [difference("ours", "a", 0.1, 0.05), difference("theirs", "a", 0.5, 0.1), difference("ours", "b", -0.1, 0.05), difference("ours", "c", 0.01, 0.05)]  # fmt: skip
    found = answers.differences({question.file: Record(gains=rows)}, [question])  # type: ignore[dict-item]
    assert found["value"].tolist() == pytest.approx([10, -10, 1]) and found["verdict"].tolist() == [
        "helps",
        "harms",
        "inconclusive",
    ]
    table = answers.answers(found)
    assert table["question"].tolist() == ["Does it help?", "", ""]
    assert table["points"].tolist() == ["+10.0 [+5.0, +15.0]", "-10.0 [-15.0, -5.0]", "+1.0 [-4.0, +6.0]"]
    assert table["read as"].tolist() == ["better", "worse", "inconclusive"]
    assert table["study"].iloc[0].target == "05_wpat.ipynb"


def test_short_answers_have_one_row_per_question_and_real_cells_first() -> None:
    drawn = Question("Of drawings?", "toy", "gains", "data", {"arm": ("d",)}, answers.RENDERED)
    photographed = Question("Of cells?", "toy", "gains", "wpat", {"arm": ("a", "b")}, "cells")
    rows = [difference("d", "x", 0.1, 0.05), difference("a", "x", 0.02, 0.01), difference("b", "x", -0.01, 0.05)]
    record = Record(gains=rows)
    found = answers.differences({drawn.file: record, photographed.file: record}, [drawn, photographed])  # type: ignore[dict-item]
    short = answers.short_answers(found)
    assert short[["question", "cells", "points", "answer", "target"]].values.tolist() == [
        ["Of cells?", "real", "+2.0, -1.0", "1 of 2 better, 1 of 2 no difference shown", "05_wpat.ipynb"],
        ["Of drawings?", "rendered", "+10.0", "better", "01_data.ipynb"],
    ]
    recorded: dict[str, float] = {}

    class Stage:
        def record(self, key: str, value: float, n: int | None = None) -> None:
            recorded[key] = value

    answers.record_counts(Stage(), found)  # type: ignore[arg-type]
    assert recorded == {"studied_differences": 2, "studied_better": 1, "studied_worse": 0}


def test_an_interval_that_ends_at_zero_is_inconclusive() -> None:
    question = Question("?", "toy", "gains", "wpat")
    found = answers.differences({question.file: Record(gains=[difference("a", "b", 0.0, 0.0), difference("a", "c", 0.05, 0.05)])}, [question])  # type: ignore[dict-item]  # fmt: skip
    assert found["read as"].tolist() == ["inconclusive"] * 2


def test_a_row_of_the_forest_plot_names_its_cells_where_they_are_not_the_test_part() -> None:
    question = Question("?", "toy", "gains", "wpat")
    rows = [difference("a", "b", 0.1, 0.05), difference("a", "b", 0.1, 0.05, "macro F1")]
    found = answers.differences({question.file: Record(gains=rows)}, [question])  # type: ignore[dict-item]
    assert answers.forest_rows(found)["compared"].tolist() == ["a over b", "a over b, macro F1"]
    assert found["compared"].tolist() == ["a over b"] * 2


def test_a_reader_needs_no_name_of_the_code() -> None:
    found = answers.differences({name: load_record(ROOT / name) for name in answers.files()})
    words = {*found["on"], *found["compared"]}
    assert not [word for word in words if "_" in word.replace("efficientnet_lite0@pretrained", "") or word[0].isdigit()]
    assert "a tenth of the labels" in words and "ALHE over no enhancement" in words


def test_the_strongest_baseline_is_the_studys_own_choice() -> None:
    question = Question("?", "toy", "baselines", "wpat", strongest=True)
    rows = [difference("ours", name, 0.1, 0.05) for name in ("weak", "strong")]
    chosen = question.chosen(Record(baselines=rows, best_baseline=[{"arm": "strong"}]))  # type: ignore[arg-type]
    assert chosen["against"].tolist() == ["strong"]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_every_question_has_its_answer_in_a_committed_record(question: Question) -> None:
    assert question.study in STUDIES
    assert question.file in stage("results").files
    record: StudyRecord = load_record(ROOT / question.file)
    assert len(question.chosen(record)) >= 1
