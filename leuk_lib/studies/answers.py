"""Answers of the committed studies in one table: a row per answer, with its record and chapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from leuk_lib.runs import paths
from leuk_lib.runs.display import Link
from leuk_lib.runs.recorder import Recorder
from leuk_lib.statistics.intervals import format_interval
from leuk_lib.studies.paired import MODELS, verdict
from leuk_lib.studies.record import StudyRecord, record_file

PBC, RENDERED = "pbc_barcelona_128", "smear"
VERDICTS = {"helps": "better", "harms": "worse", "inconclusive": "inconclusive"}
TEST_CELLS = "test cells"
#: Conditions and arms of the records, as a reader knows them.
CONDITIONS = {
    "test": TEST_CELLS, "same": "unchanged test cells", "tail recall": "recall of rare classes",
    "0.1": "a tenth of the labels", "1": "all labels", "k-NN": "k-NN probe", "linear": "linear probe",
    **{f"slides differ, {model}": name for model, name in MODELS.items()},
}  # fmt: skip
ARMS = {"none": "no enhancement", "nothing": "no remedy"}


@dataclass(frozen=True)
class Question:
    """A question, and the rows of a study's table of differences that answer it.

    Attributes:
        text: the question.
        study: name of the study.
        table: its table of differences.
        stage: stage whose chapter describes the study.
        rows: column -> allowed values; all rows where empty.
        dataset: data set of the record.
        strongest: only the difference from the baseline with the lowest validation loss.
        read_as: a positive, a negative and an undecided difference in words.
    """

    text: str
    study: str
    table: str
    stage: str
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dataset: str = PBC
    strongest: bool = False
    read_as: Mapping[str, str] = field(default_factory=lambda: VERDICTS)

    @property
    def file(self) -> str:
        """The record's path within the project."""
        return record_file(self.study, self.dataset)

    def chosen(self, record: StudyRecord) -> pd.DataFrame:
        """Return the rows that answer: condition, arm, against, value, low, high."""
        table = record.table(self.table)
        for column, allowed in self.rows.items():
            table = table[table[column].isin(allowed)]
        if self.strongest:
            table = table[table["against"] == record.table("best_baseline")["arm"].iloc[0]]
        return table.reset_index(drop=True)


QUESTIONS = (
    Question(
        "Does each step of the sequence help?", "ladder", "steps", "comparison", {"arm": ("+ FCMAE", "+ WPAT", "+ ALHE")},
    ),
    Question("Is the full model better than the strongest baseline?", "ladder", "baselines", "comparison", strongest=True),
    Question("Do published weights help more than FCMAE on the cells?", "ladder", "columns", "comparison"),
    Question(
        "Do WPAT and ALHE help a network from published weights?", "ladder", "steps", "comparison",
        {"arm": ("published + WPAT", "published + ALHE")},
    ),
    Question(
        "Is the full model on published weights better than the strongest baseline?", "ladder", "published_baselines",
        "comparison", strongest=True,
    ),
    Question(
        "Is it better than plain fine-tuning of the same network, after few steps and after many?", "budget", "gains",
        "comparison",
    ),
    Question(
        "Does ALHE help where test cells resemble training cells?", "enhancement", "differences", "alhe",
        {"arm": ("ALHE",), "condition": ("same",)},
    ),
    Question(
        "Does the gated GAN, under a class-balanced loss, help rare classes?", "balancing", "differences", "acdb_gan",
        {"arm": ("gated GAN",)},
    ),
    Question(
        "Does it help more than that loss alone?", "balancing", "baselines", "acdb_gan",
        {"arm": ("gated GAN",), "against": ("class-balanced loss",)},
    ),
    Question(
        "Does it help more than oversampling?", "balancing", "baselines", "acdb_gan",
        {"arm": ("gated GAN",), "against": ("oversampling",)},
    ),
    Question(
        "Does it help in addition to oversampling?", "balancing", "baselines", "acdb_gan",
        {"arm": ("oversampling + gated GAN",), "against": ("oversampling",)},
    ),
    Question(
        "Does FCMAE help with a tenth of the labels?", "pretraining", "label_gains", "fcmae",
        {"arm": ("FCMAE + contrast",), "condition": ("0.1",)},
    ),
    Question(
        "Does FCMAE help with all labels?", "pretraining", "label_gains", "fcmae",
        {"arm": ("FCMAE + contrast",), "condition": ("1",)},
    ),
    Question(
        "Do published weights help with a tenth of the labels?", "pretraining", "label_gains", "fcmae",
        {"arm": ("published weights",), "condition": ("0.1",)},
    ),
    Question(
        "Do published weights help with all labels?", "pretraining", "label_gains", "fcmae",
        {"arm": ("published weights",), "condition": ("1",)},
    ),
    Question(
        "Are frozen features better after pretraining than before?", "pretraining", "gains", "fcmae",
        {"condition": ("k-NN", "linear"), "against": ("random initialisation",)},
    ),
    Question(
        "Does a split that ignores patients inflate the accuracy, where slides differ?", "leakage", "inflation", "leakage",
        {"arm": ("random split",), "condition": ("slides differ, colour", "slides differ, test_resnet")}, RENDERED,
        read_as={"helps": "inflated", "harms": "deflated", "inconclusive": "inconclusive"},
    ),
)  # fmt: skip


def files(questions: Iterable[Question] = QUESTIONS) -> tuple[str, ...]:
    """List the records that the questions read, each once."""
    return tuple(dict.fromkeys(question.file for question in questions))


def differences(records: Mapping[str, StudyRecord], questions: Iterable[Question] = QUESTIONS) -> pd.DataFrame:
    """List the differences that answer the questions.

    Args:
        records: path of a record (see :func:`files`) -> the record.
        questions: what is asked.

    Returns:
        A row per answer: question, cells ("real" or "rendered"), compared, on (the cells, labels or measure), value, low, high
        (percentage points), verdict ("helps", "harms" or "inconclusive"), read as (in words), study, target (notebook of its
        chapter).
    """
    notebooks = {name: path.name for name, path in paths.stage_notebooks().items()}
    rows = []
    for question in questions:
        for row in question.chosen(records[question.file]).to_dict("records"):
            value, low, high = (100 * float(row[name]) for name in ("value", "low", "high"))
            kind = verdict(low, high)
            rows.append(
                {
                    "question": question.text, "cells": "rendered" if question.dataset == RENDERED else "real",
                    "compared": f"{row['arm']} over {ARMS.get(row['against'], row['against'])}",
                    "on": CONDITIONS.get(row["condition"], row["condition"]),
                    "value": value, "low": low, "high": high, "verdict": kind, "read as": question.read_as[kind],
                    "study": question.study, "target": notebooks[question.stage],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def forest_rows(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`differences` for a forest plot: what was compared names the cells or measure where they differ."""
    beside = found["on"].map(lambda on: "" if on == TEST_CELLS else f", {on}")
    return found.assign(compared=found["compared"] + beside)


def answers(found: pd.DataFrame) -> pd.DataFrame:
    """Format the rows of :func:`differences` as a table: question (once per question), compared, on, points, read as, study."""
    rows = [
        {
            "question": row["question"], "compared": row["compared"], "on": row["on"],
            "points": format_interval(row["value"], row["low"], row["high"], "+.1f"),
            "read as": row["read as"], "study": Link(row["study"], row["target"]),
        }
        for row in found.to_dict("records")
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(question=table["question"].mask(table["question"].duplicated(), ""))


def short_answers(found: pd.DataFrame) -> pd.DataFrame:
    """Sum up the rows of :func:`differences`, those on real cells first.

    Returns:
        A row per question: question, cells, points (all differences, such as "+1.9, -2.0"), answer (the word that all
        share, or how often each is true), agree (whether all share it), target (notebook of its chapter).
    """
    rows = []
    for (question, cells), part in found.groupby(["question", "cells"], sort=False):
        counts = part["read as"].replace("inconclusive", "no difference shown").value_counts(sort=False)
        words = [f"{count} of {len(part)} {word}" for word, count in counts.items()]
        points = ", ".join(f"{value:+.1f}" for value in part["value"])
        answer = str(counts.index[0]) if len(counts) == 1 else ", ".join(words)
        rows.append(
            {
                "question": question,
                "cells": cells,
                "points": points,
                "answer": answer,
                "agree": len(counts) == 1,
                "target": part["target"].iloc[0],
            }
        )
    return pd.DataFrame(rows).sort_values(
        "cells", key=lambda column: column != "real", kind="stable", ignore_index=True
    )


def record_counts(stage: Recorder, found: pd.DataFrame) -> None:
    """Record how many differences on real cells were studied, and how many of them are better or worse."""
    verdicts = found.loc[found["cells"] == "real", "verdict"]
    stage.record("studied_differences", len(verdicts))
    for key, word in {"studied_better": "helps", "studied_worse": "harms"}.items():
        stage.record(key, int((verdicts == word).sum()), n=len(verdicts))
