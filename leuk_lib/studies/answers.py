"""What the committed studies answer, on one page: a row a question, each with the record and the chapter it is from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from leuk_lib.runs import paths
from leuk_lib.runs.display import Link
from leuk_lib.studies.record import StudyRecord, record_file

PBC = "pbc_barcelona_128"
VERDICTS = {1: "better", -1: "worse", 0: "not told apart"}


@dataclass(frozen=True)
class Question:
    """A question, and the rows of a study's table of differences that answer it.

    ``rows``: column -> the values it may have (all rows where empty); ``strongest``: only the row against the rival that
    the study itself found strongest on its validation parts.
    """

    text: str
    study: str
    table: str
    stage: str
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dataset: str = PBC
    strongest: bool = False

    @property
    def file(self) -> str:
        """The record's path within the project."""
        return record_file(self.study, self.dataset)

    def chosen(self, record: StudyRecord) -> pd.DataFrame:
        """The rows that answer: columns condition, arm, against, value, low, high."""
        table = record.table(self.table)
        for column, allowed in self.rows.items():
            table = table[table[column].isin(allowed)]
        if self.strongest:
            table = table[table["against"] == record.table("best_rival")["arm"].iloc[0]]
        return table.reset_index(drop=True)


QUESTIONS = (
    Question("Does each step of the sequence help?", "ladder", "steps", "wpat"),
    Question("Is the whole ahead of the strongest plain model?", "ladder", "rivals", "wpat", strongest=True),
    Question(
        "Does ALHE help where test cells are like those learnt from?", "enhancement", "differences", "alhe",
        {"arm": ("ALHE",), "condition": ("same",)},
    ),
    Question(
        "Does the gated GAN, under a class-balanced loss, help rare classes?", "balancing", "differences", "acdb_gan",
        {"arm": ("gated GAN",)},
    ),
    Question(
        "More than that loss alone does?", "balancing", "rivals", "acdb_gan",
        {"arm": ("gated GAN",), "against": ("class-balanced loss",)},
    ),
    Question(
        "More than repeating their cells does?", "balancing", "rivals", "acdb_gan",
        {"arm": ("gated GAN",), "against": ("oversampling",)},
    ),
    Question(
        "And added to repeating them?", "balancing", "rivals", "acdb_gan",
        {"arm": ("oversampling + gated GAN",), "against": ("oversampling",)},
    ),
    Question(
        "Does pretraining help where a tenth of the labels is known?", "pretraining", "label_gains", "fcmae",
        {"condition": ("0.1",)},
    ),
    Question("And where all are?", "pretraining", "label_gains", "fcmae", {"condition": ("1",)}),
    Question(
        "Are frozen features better after pretraining than before it?", "pretraining", "gains", "fcmae",
        {"condition": ("k-NN", "linear"), "against": ("random initialisation",)},
    ),
    Question(
        "What does a split that ignores patients buy, where slides differ?", "leakage", "bought", "wpat",
        {"arm": ("random split",), "condition": ("slides differ, colour", "slides differ, test_resnet")}, "smear",
    ),
)  # fmt: skip


def files(questions: Iterable[Question] = QUESTIONS) -> tuple[str, ...]:
    """The records that are read, each once."""
    return tuple(dict.fromkeys(question.file for question in questions))


def answers(records: Mapping[str, StudyRecord], questions: Iterable[Question] = QUESTIONS) -> pd.DataFrame:
    """A row an answer: question, compared, on, points, read as, study.

    ``records``: a record's path (`files`) -> the record. ``points``: difference [95 % interval] in percentage points of
    the study's measure (balanced accuracy, unless ``on`` names another); ``study`` leads to the chapter.
    """
    notebooks = {name: path.name for name, path in paths.stage_notebooks().items()}
    out = []
    for question in questions:
        for row in question.chosen(records[question.file]).to_dict("records"):
            value, low, high = (100 * float(row[name]) for name in ("value", "low", "high"))
            out.append(
                {
                    "question": question.text, "compared": f"{row['arm']} over {row['against']}",
                    "on": {"test": "test cells"}.get(row["condition"], row["condition"]),
                    "points": f"{value:+.1f} [{low:+.1f}, {high:+.1f}]",
                    "read as": VERDICTS[int(np.sign(low) if low * high > 0 else 0)],
                    "study": Link(question.study, notebooks[question.stage]),
                }
            )  # fmt: skip
    table = pd.DataFrame(out, columns=["question", "compared", "on", "points", "read as", "study"])
    # A question is asked once, over the rows that answer it.
    return table.assign(question=table["question"].mask(table["question"].duplicated(), ""))
