"""Second labels: kappa by hand, the model against two experts on the same cells, and nothing without a second label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from chapters.test_results import FakeStage
from leuk_lib.chapters import agreement as chapter
from leuk_lib.data.cellset import CellSet, from_arrays
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.figures import results as draw
from leuk_lib.runs.errors import LeukError

CLASSES = ("AML", "CML")


def cells(label2: list[str] | None, split: str = "train", copies: int = 1) -> CellSet:
    """50 cells by two readers, 20 + 15 alike and 5 + 10 not, each ``copies`` times: kappa 0.4."""
    label = (["AML"] * 25 + ["CML"] * 25) * copies
    n = len(label)
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(n)],
            "label": label,
            "group": [f"p{i % 25}" for i in range(n)],
            "split": split,
        }
    )
    if label2 is not None:
        table["label2"] = label2 * copies
    labels = [CLASSES.index(name) for name in label]
    return from_arrays(np.zeros((n, 16, 16, 3), np.uint8), labels, CLASSES, table, "micrographs")


SECOND = ["AML"] * 20 + ["CML"] * 5 + ["AML"] * 10 + ["CML"] * 15


def predictions(of: CellSet, predicted: list[str]) -> Predictions:
    probs = np.full((len(of), 2), 0.1)
    probs[np.arange(len(of)), [CLASSES.index(name) for name in predicted]] = 0.9
    return Predictions(of.labels.numpy(), probs, of.groups, CLASSES)


def test_kappa_of_two_labels_by_hand():
    pairs = chapter.label_agreement(cells(SECOND))
    row = pairs.iloc[0]
    assert (row["first"], row["second"], row["cells"], row["groups"]) == ("label", "label2", 50, 25)
    assert row["agreement"] == 0.7 and row["kappa"] == pytest.approx(0.4)
    assert row["low"] < 0.4 < row["high"] and row["agreement low"] < 0.7 < row["agreement high"]
    sentence = chapter.agreement_sentence(pairs)
    assert "50 training and validation cells" in sentence and "70.0 %" in sentence and "kappa is 0.40 [" in sentence
    assert chapter.disagreements(cells(SECOND)).to_dict("records")[0] == {
        "second label": "label2", "label": "CML", "other label": "AML", "cells": 10, "share of the label": 0.4
    }  # fmt: skip
    assert chapter.format_pairs(pairs)["Cohen's kappa"][0].startswith("0.400 [")


def test_cells_without_a_second_label_are_left_out_and_the_test_part_stays_closed():
    some = [*SECOND[:45], *[""] * 5]
    assert chapter.label_agreement(cells(some))["cells"].tolist() == [45]
    assert chapter.label_agreement(cells(SECOND, split="test")).empty


@pytest.mark.parametrize("label2", [None, [""] * 50])
def test_nothing_is_shown_or_recorded_without_a_second_label(label2: list[str] | None):
    data, stage = cells(label2), FakeStage()
    pairs = chapter.label_agreement(data)
    chapter.record_agreement(stage, pairs)
    assert pairs.empty and chapter.agreement_sentence(pairs) == "" and chapter.disagreements(data).empty
    test = cells(label2, split="test")
    part = predictions(test, ["AML"] * 50)
    further = chapter.read_labels(test, part)
    pairs, differences = chapter.compare_readers(part, further, "wpat")
    chapter.record_agreement(stage, pairs, differences.to_dict("records"))
    assert pairs.empty and differences.empty and chapter.reader_sentences(differences) == []
    assert chapter.agreed_accuracy(part, further).empty and stage.numbers == {} and stage.notes == []


def test_the_model_and_two_experts_on_the_same_cells():
    test = cells(SECOND, split="test")
    part = predictions(test, test.table["label"].tolist())  # the model agrees with the first expert on every cell
    pairs, differences = chapter.compare_readers(part, chapter.read_labels(test, part), "wpat")
    kappa = {(row.first, row.second): row.kappa for row in pairs.itertuples()}
    assert kappa == pytest.approx({("label", "label2"): 0.4, ("label", "wpat"): 1.0, ("label2", "wpat"): 0.4})
    assert differences["difference"].tolist() == pytest.approx([0.6, 0.0])
    first, second = chapter.reader_sentences(differences)
    assert "0.60 higher" in first and "agrees with label more than label2 does" in first and "trained on label" in first
    assert "Against label2" in second and "no interval can be given" in second and "trained" not in second
    agreed = chapter.agreed_accuracy(part, chapter.read_labels(test, part))
    assert agreed["n"].tolist() == [35, 15] and agreed["accuracy by label"].tolist() == [1, 1]
    stage = FakeStage()
    chapter.record_agreement(stage, pairs, differences.to_dict("records"))
    assert stage.numbers["kappa_label_label2"]["value"] == pytest.approx(0.4)
    assert {"kappa_label_wpat", "agreement_label2_wpat", "kappa_difference_label_label2"} <= set(stage.numbers)


def test_a_model_that_guesses_is_worse_than_the_second_reader():
    test = cells(SECOND, split="test", copies=4)
    test.table["group"] = [f"p{i}" for i in range(len(test))]
    part = predictions(test, (["AML", "CML"] * 25) * 4)
    _, differences = chapter.compare_readers(part, chapter.read_labels(test, part), "wpat")
    assert "agrees with label less than label2 does" in chapter.reader_sentences(differences)[0]


def test_no_difference_is_not_equality():
    row = {"against": "label", "reader": "wpat", "other reader": "label2", "difference": -0.02, "p": 0.4}
    text = chapter.reader_sentences(pd.DataFrame([row | {"low": -0.07, "high": 0.03}]))[0]
    assert "0.02 lower" in text and "may be up to 0.07 worse" in text
    text = chapter.reader_sentences(pd.DataFrame([row | {"low": np.nan, "high": np.nan}]))[0]
    assert "no interval" in text
    text = chapter.reader_sentences(pd.DataFrame([row | {"difference": np.nan, "low": np.nan, "high": np.nan}]))[0]
    assert "cannot be compared" in text


def test_an_undefined_kappa_becomes_a_note():
    one = cells(["AML"] * 50)
    one = from_arrays(
        np.zeros((50, 16, 16, 3), np.uint8), [0] * 50, CLASSES, one.table.assign(label="AML"), "micrographs"
    )
    stage = FakeStage()
    pairs = chapter.label_agreement(one)
    chapter.record_agreement(stage, pairs)
    assert "kappa_label_label2" not in stage.numbers and "no value" in stage.notes[0]
    assert "undefined" in chapter.agreement_sentence(pairs)


def test_predictions_of_other_cells_are_refused():
    test = cells(SECOND, split="test")
    other = Predictions(1 - test.labels.numpy(), np.full((50, 2), 0.5), test.groups, CLASSES)
    with pytest.raises(LeukError, match="other cells"):
        chapter.read_labels(test, other)


def test_second_labels_survive_the_file_as_text(tmp_path):
    data = cells(SECOND)
    data.table["label2"] = ["07", "1"] * 25
    data.save(tmp_path)
    assert CellSet.open(tmp_path).table["label2"].tolist()[:2] == ["07", "1"]


def test_the_figure_shows_each_defined_pair():
    test = cells(SECOND, split="test")
    part = predictions(test, test.table["label"].tolist())
    pairs, _ = chapter.compare_readers(part, chapter.read_labels(test, part), "wpat")
    ax = draw.agreement(pairs, "wpat").axes[0]
    assert [label.get_text().split("\n")[0] for label in ax.get_yticklabels()] == [
        "label and label2", "label and wpat", "label2 and wpat"
    ]  # fmt: skip
    pairs.loc[0, ["kappa", "low", "high"]] = np.nan
    pairs.loc[1, ["low", "high"]] = np.nan
    assert len(draw.agreement(pairs, "wpat").axes[0].get_yticks()) == 2
