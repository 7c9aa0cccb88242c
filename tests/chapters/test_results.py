"""The tables of the results chapter: paired, honest about what is missing, the same bytes again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from evaluation.toys import made_up
from leuk_lib.chapters import headline, upstream
from leuk_lib.chapters import results as report
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import Stage
from leuk_lib.statistics.bootstrap import ClusterBootstrap


class Card:
    """A stage as these functions see it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.numbers: dict[str, dict] = {}

    def note(self, text: str) -> None:
        self.notes.append(text)

    def record(self, key, value, low=None, high=None, n=None, unit="") -> None:
        assert np.isfinite(value)
        assert (low is None) == (high is None) and (low is None or low <= high)
        self.numbers[key] = {"value": value, "low": low, "high": high, "n": n}


def models(k: int = 4, **kwargs) -> dict[str, Predictions]:
    full = made_up(0, k=k, **kwargs)
    rng = np.random.default_rng(1)
    weak = np.exp(0.2 * np.log(full.probs) + rng.normal(size=full.probs.shape))
    constant = np.tile(np.eye(k)[0] * 0.5 + 0.5 / k, (len(full), 1))
    return {
        "wpat": full,
        "weak": full.with_probs(weak / weak.sum(axis=1, keepdims=True)),
        "majority": full.with_probs(constant / constant.sum(axis=1, keepdims=True)),
    }


def everything(test: dict[str, Predictions], validation: dict[str, Predictions] | None = None) -> dict[str, dict]:
    bootstrap = ClusterBootstrap(test["wpat"].groups, 200, np.random.default_rng(0))
    scores = report.score_models(test, bootstrap)
    differences = report.difference_table(scores, "wpat")
    facts = {"shares": {"train": 0.7, "val": 0.1, "test": 0.2}, "groups_test": bootstrap.n_groups}
    return headline.entries(
        scores, "wpat", report.strongest_baseline(scores, "wpat"), differences, report.recall_table(test["wpat"]),
        report.vote_table(test)[0], report.calibration_table(validation or test, test, 200, 0), facts,
    )  # fmt: skip


def test_headline_numbers_come_first_and_hold_their_intervals():
    found = everything(models())
    assert list(found)[:4] == ["accuracy", "balanced_accuracy", "macro_f1", "macro_auc"]
    for key in (
        "accuracy",
        "macro_f1",
        "macro_auc",
        "margin",
        "patient_accuracy",
        "recall_class0",
        "temperature",
        "nll_calibrated",
    ):
        assert found[key]["low"] <= found[key]["value"] <= found[key]["high"], key
    assert found["margin"]["value"] == pytest.approx(
        found["accuracy"]["value"] - max(found["accuracy_of_weak"]["value"], found["accuracy_of_majority"]["value"])
    )


@pytest.mark.parametrize("k", [2, 4, 8])
def test_any_number_of_classes_is_recorded_whole(k):
    card = Card()
    headline.record(card, everything(models(k, n=160)))
    assert {f"recall_class{c}" for c in range(k)} <= set(card.numbers)


def test_a_class_of_train_only_is_named_and_becomes_a_note():
    part = models(4)
    wider = {
        name: Predictions(p.labels, np.c_[p.probs * 0.98, np.full(len(p), 0.02)], p.groups, (*p.classes, "basophil"))
        for name, p in part.items()
    }
    card = Card()
    table = report.cautions(card, wider["wpat"])
    assert "basophil" in table["caution"][0] and "basophil" in card.notes[0]
    headline.record(card, everything(wider))
    assert "recall_basophil" not in card.numbers and any("recall_basophil" in note for note in card.notes)
    assert np.isfinite(card.numbers["macro_auc"]["value"])


def test_one_group_gives_values_without_intervals():
    single = {name: Predictions(p.labels, p.probs, np.full(len(p), "p"), p.classes) for name, p in models().items()}
    card = Card()
    assert "one group" in report.cautions(card, single["wpat"])["caution"][0]
    headline.record(card, everything(single))
    assert card.numbers["accuracy"]["low"] is None and card.numbers["margin"]["low"] is None
    scores = report.score_models(single, ClusterBootstrap(single["wpat"].groups, 100, np.random.default_rng(0)))
    assert "[" not in report.wide(report.score_table(scores), ["accuracy"]).iloc[0, 1]


def test_a_perfect_model_is_not_certain():
    part = made_up(skill=50.0, n_groups=8)
    scores = report.score_models({"wpat": part}, ClusterBootstrap(part.groups, 100, np.random.default_rng(0)))
    low, high = scores["wpat"].interval("accuracy")
    assert low < 0.8 and high == 1.0


def test_without_a_baseline_there_is_no_margin():
    found = everything({"wpat": made_up()})
    assert "margin" not in found and found["accuracy"]["n"] == 120


def test_differences_are_ours_minus_theirs_and_holm_never_helps():
    part = models()
    table = report.difference_table(
        report.score_models(part, ClusterBootstrap(part["wpat"].groups, 300, np.random.default_rng(0))), "wpat"
    )
    assert (table["difference"] > 0).all() and set(table["baseline"]) == {"weak", "majority"}
    assert (table["p_holm"] >= table["p"]).all()
    accuracy = table[table["metric"] == "accuracy"].set_index("baseline").loc["weak"]
    gained = accuracy["only_full"] - accuracy["only_baseline"]
    assert accuracy["difference"] == pytest.approx(gained / len(part["wpat"]))


def test_delong_table_skips_what_cannot_be_tested():
    part = models()["wpat"]
    labels = part.labels.copy()
    labels[labels == 3] = 0
    labels[0] = 3
    lone = Predictions(labels, part.probs, part.groups, part.classes)
    table = report.delong_table(lone, models()["weak"])
    assert np.isnan(table["p"].iloc[3]) and np.isfinite(table["p"].iloc[:3]).all()


def test_vote_says_when_it_means_nothing():
    part = models()["wpat"]
    alone = Predictions(part.labels, part.probs, np.arange(len(part)).astype(str), part.classes)
    assert "changes nothing" in report.vote_table({"wpat": alone})[1]
    mixed = Predictions(part.labels, part.probs, np.full(len(part), "p"), part.classes)
    table, word = report.vote_table({"wpat": mixed})
    assert table.empty and "several classes" in word


def test_the_full_model_must_be_there():
    with pytest.raises(LeukError, match="did you mean 'wpat'"):
        report.part_of({"wpat": {"test": made_up()}}, "test", "wpatt")
    with pytest.raises(LeukError, match="no split 'val'"):
        report.part_of({"wpat": {"test": made_up()}}, "val", "wpat")


def test_slugs_are_keys_and_differ():
    assert headline.slugs(["b b", "B-b", "ALL"]) == ["b_b_0", "b_b_1", "all"]


def test_numbers_and_costs_are_read_from_finished_stages(results):
    params = StageParams(run="r")
    for name, key in (("alhe", "contrast"), ("fcmae", "linear_gain")):
        stage = Stage(name, params)
        stage.record(key, 0.25, 0.2, 0.3, n=9)
        stage.finish()
    folders = {name: results / "r" / name for name in ("alhe", "fcmae")}
    table = upstream.numbers(folders)
    assert table["key"].tolist() == ["contrast", "linear_gain"] and table["low"].tolist() == [0.2, 0.2]
    cost = upstream.costs(folders)
    assert cost["stage"].tolist() == ["alhe", "fcmae", "together"]
    assert cost["seconds"].iloc[2] == pytest.approx(cost["seconds"].iloc[:2].sum())

    stage = Stage("results", params)
    stage.save_table("upstream", table)
    stage.save_json("facts", {"kind": "rendered"})
    stage.record("accuracy", 0.5)
    stage.finish()
    metrics, facts = headline.read_numbers(results / "r" / "results")
    assert metrics["fcmae"]["linear_gain"] == {"value": 0.25, "low": 0.2, "high": 0.3, "n": 9}
    assert metrics["results"]["accuracy"]["value"] == 0.5 and facts == {"kind": "rendered"}


def test_everything_is_the_same_bytes_again():
    first, second = (json.dumps(everything(models())) for _ in range(2))
    assert first == second


def test_tables_hold_the_order_of_the_models():
    part = models()
    scores = report.score_models(part, ClusterBootstrap(part["wpat"].groups, 100, np.random.default_rng(0)))
    table = report.score_table(scores)
    assert list(dict.fromkeys(table["model"])) == list(part)
    assert isinstance(report.wide(table, ["accuracy"]), pd.DataFrame)


def test_stages_in_a_table_lead_to_their_chapters():
    from leuk_lib.runs.display import table

    shown = upstream.linked(pd.DataFrame({"stage": ["fcmae", "together"], "value": [1.0, 2.0]}))
    markup = table(shown).markup
    assert '<a href="04_fcmae.ipynb">fcmae</a>' in markup and "<td>together</td>" in markup
