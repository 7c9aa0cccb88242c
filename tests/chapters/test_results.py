"""Chapter 9: tables are paired and deterministic, missing classes and groups are stated."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from evaluation.toys import made_up
from leuk_lib.chapters import claims as chapter_10
from leuk_lib.chapters import results as chapter
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import Stage
from leuk_lib.statistics.bootstrap import ClusterBootstrap


class FakeStage:
    """Collects what is recorded and noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.numbers: dict[str, dict] = {}

    def note(self, text: str) -> None:
        self.notes.append(text)

    notice = note

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


def all_metrics(test: dict[str, Predictions], validation: dict[str, Predictions] | None = None) -> dict[str, dict]:
    bootstrap = ClusterBootstrap(test["wpat"].groups, 200, np.random.default_rng(0))
    scores = chapter.score_models(test, bootstrap)
    differences = chapter.difference_table(scores, "wpat")
    facts = {"shares": {"train": 0.7, "val": 0.1, "test": 0.2}, "groups_test": bootstrap.n_groups}
    return chapter.chapter_metrics(
        scores, "wpat", chapter.strongest_baseline(scores, "wpat"), differences, chapter.recall_table(test["wpat"]),
        chapter.vote_table(test)[0], chapter.calibration_table(validation or test, test, 200, 0), facts,
    )  # fmt: skip


def test_headline_numbers_come_first_and_have_intervals():
    entries = all_metrics(models(n=400, n_groups=40))
    assert list(entries)[:4] == ["accuracy", "balanced_accuracy", "macro_f1", "macro_auc"]
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
        assert entries[key]["low"] <= entries[key]["value"] <= entries[key]["high"], key
    assert entries["margin"]["value"] == pytest.approx(
        entries["accuracy"]["value"]
        - max(entries["accuracy_of_weak"]["value"], entries["accuracy_of_majority"]["value"])
    )


@pytest.mark.parametrize("k", [2, 4, 8])
def test_any_number_of_classes_is_recorded(k):
    stage = FakeStage()
    chapter.record_metrics(stage, all_metrics(models(k, n=160)))
    assert {f"recall_class{c}" for c in range(k)} <= set(stage.numbers)


def test_a_licence_with_limits_of_a_trained_network_is_shown_once(tmp_path):
    limited = {
        "name": "a.fcmae",
        "source": "the hub",
        "licence": "CC BY-NC 4.0 (no commercial use)",
        "sha256": "ab" * 32,
    }
    free = limited | {"name": "b", "licence": "Apache-2.0"}
    for name, origin in {"model": limited, "other": limited, "free": free, "random": None}.items():
        card = json.dumps({"format": "leuk_lib.wpat.model/3", "origin": origin})
        save_file({"w": torch.zeros(1)}, tmp_path / f"{name}.safetensors", metadata={"card": card})
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    stage = FakeStage()
    chapter.note_licences(stage, [tmp_path])
    assert len(stage.notes) == 1 and "a.fcmae" in stage.notes[0] and "no commercial use" in stage.notes[0]


def test_a_class_without_a_test_cell_becomes_a_note():
    part = models(4)
    wider = {
        name: Predictions(p.labels, np.c_[p.probs * 0.98, np.full(len(p), 0.02)], p.groups, (*p.classes, "basophil"))
        for name, p in part.items()
    }
    stage = FakeStage()
    table = chapter.cautions(stage, wider["wpat"])
    assert "basophil" in table["caution"][0] and "basophil" in stage.notes[0]
    chapter.record_metrics(stage, all_metrics(wider))
    assert "recall_basophil" not in stage.numbers and any("recall_basophil" in note for note in stage.notes)
    assert np.isfinite(stage.numbers["macro_auc"]["value"])


@pytest.mark.parametrize(("groups", "warned"), [(chapter.MIN_GROUPS - 1, True), (chapter.MIN_GROUPS, False)])
def test_a_class_of_few_test_patients_is_named(groups: int, warned: bool):
    labels = np.repeat([0, 1], 20)
    names = np.array([f"{label}-{k % (groups if label else 10)}" for k, label in enumerate(labels)])
    part = Predictions(labels, np.full((40, 2), 0.5), names, ("AML", "ALL"))
    found = chapter.cautions(FakeStage(), part)["caution"].tolist()
    assert found == ([f"fewer than 8 test groups of ALL ({groups}): their intervals are wide, and differences between models "
                      "can hardly be shown"] if warned else ["none"])  # fmt: skip


def test_one_group_gives_values_without_intervals():
    single = {name: Predictions(p.labels, p.probs, np.full(len(p), "p"), p.classes) for name, p in models().items()}
    stage = FakeStage()
    assert "one group" in chapter.cautions(stage, single["wpat"])["caution"][0]
    chapter.record_metrics(stage, all_metrics(single))
    assert stage.numbers["accuracy"]["low"] is None and stage.numbers["margin"]["low"] is None
    scores = chapter.score_models(single, ClusterBootstrap(single["wpat"].groups, 100, np.random.default_rng(0)))
    assert "[" not in chapter.format_scores(chapter.score_table(scores), ["accuracy"]).iloc[0, 1]


def test_a_perfect_model_is_not_certain():
    part = made_up(skill=50.0, n_groups=8)
    scores = chapter.score_models({"wpat": part}, ClusterBootstrap(part.groups, 100, np.random.default_rng(0)))
    low, high = scores["wpat"].interval("accuracy")
    assert low < 0.8 and high == 1.0


def test_without_a_baseline_there_is_no_margin():
    entries = all_metrics({"wpat": made_up()})
    assert "margin" not in entries and entries["accuracy"]["n"] == 120


def test_differences_are_ours_minus_theirs_and_holm_never_helps():
    part = models()
    table = chapter.difference_table(
        chapter.score_models(part, ClusterBootstrap(part["wpat"].groups, 300, np.random.default_rng(0))), "wpat"
    )
    assert (table["difference"] > 0).all() and set(table["baseline"]) == {"weak", "majority"}
    assert (table["p_holm"] >= table["p"]).all()
    accuracy = table[table["metric"] == "accuracy"].set_index("baseline").loc["weak"]
    gained = accuracy["only_full"] - accuracy["only_baseline"]
    assert accuracy["difference"] == pytest.approx(gained / len(part["wpat"]))
    shown = chapter.format_differences(table[table["metric"] == "accuracy"])
    row = shown.set_index("baseline").loc["weak"]
    assert (
        row["difference"].startswith(f"{accuracy['difference']:+.3f} [")
        and row["only full right"] == accuracy["only_full"]
    )
    assert row["p (Holm)"] == f"{accuracy['p_holm']:.2g}" and row["McNemar's p"] == f"{accuracy['p_mcnemar']:.2g}"
    assert chapter.format_differences(table.iloc[:0]).empty


def test_delong_table_has_nan_for_a_class_of_one_cell():
    part = models()["wpat"]
    labels = part.labels.copy()
    labels[labels == 3] = 0
    labels[0] = 3
    one_cell = Predictions(labels, part.probs, part.groups, part.classes)
    table = chapter.delong_table(one_cell, models()["weak"])
    assert np.isnan(table["p"].iloc[3]) and np.isfinite(table["p"].iloc[:3]).all()


def test_the_vote_states_when_it_has_no_meaning():
    part = models()["wpat"]
    alone = Predictions(part.labels, part.probs, np.arange(len(part)).astype(str), part.classes)
    assert "changes nothing" in chapter.vote_table({"wpat": alone})[1]
    mixed = Predictions(part.labels, part.probs, np.full(len(part), "p"), part.classes)
    table, note = chapter.vote_table({"wpat": mixed})
    assert table.empty and "several classes" in note


def test_a_missing_model_or_split_is_an_error():
    with pytest.raises(LeukError, match="did you mean 'wpat'"):
        chapter.part_of({"wpat": {"test": made_up()}}, "test", "wpatt")
    with pytest.raises(LeukError, match="no split 'val'"):
        chapter.part_of({"wpat": {"test": made_up()}}, "val", "wpat")


def test_numbers_and_costs_are_read_from_finished_stages(results):
    params = StageParams(run="r")
    for name, key in (("alhe", "contrast"), ("fcmae", "linear_gain")):
        stage = Stage(name, params)
        stage.record(key, 0.25, 0.2, 0.3, n=9)
        stage.finish()
    folders = {name: results / "r" / name for name in ("alhe", "fcmae")}
    table = chapter.upstream_numbers(folders)
    assert table["key"].tolist() == ["contrast", "linear_gain"] and table["low"].tolist() == [0.2, 0.2]
    cost = chapter.cost_table(folders)
    assert cost["stage"].tolist() == ["alhe", "fcmae", "total"]
    assert cost["seconds"].iloc[2] == pytest.approx(cost["seconds"].iloc[:2].sum())

    stage = Stage("results", params)
    stage.save_table("upstream", table)
    stated = {
        "dataset": "smear", "profile": "smoke", "kind": "rendered", "classes": ["a", "b"], "shares": {}, "groups_test": 2,
        "cells": {"train": 7, "val": 1, "test": 2},
    }  # fmt: skip
    stage.save_json("facts", stated)
    stage.record("accuracy", 0.5)
    stage.finish()
    metrics, facts = chapter_10.read_results(results / "r" / "results")
    assert metrics["fcmae"]["linear_gain"] == {"value": 0.25, "low": 0.2, "high": 0.3, "n": 9}
    assert metrics["results"]["accuracy"]["value"] == 0.5 and facts == stated


def test_all_metrics_are_deterministic():
    first, second = (json.dumps(all_metrics(models())) for _ in range(2))
    assert first == second


def test_tables_keep_the_order_of_the_models():
    part = models()
    scores = chapter.score_models(part, ClusterBootstrap(part["wpat"].groups, 100, np.random.default_rng(0)))
    table = chapter.score_table(scores)
    assert list(dict.fromkeys(table["model"])) == list(part)
    assert chapter.format_scores(table, ["accuracy"])["model"].tolist() == list(part)


def test_stages_in_a_table_link_to_their_chapters():
    from leuk_lib.runs.display import table

    shown = chapter.link_stages(pd.DataFrame({"stage": ["fcmae", "total"], "value": [1.0, 2.0]}))
    markup = table(shown).markup
    assert '<a href="04_fcmae.ipynb">fcmae</a>' in markup and "<td>total</td>" in markup


def test_external_sets_are_scored_separately_and_recorded():
    test = models()
    predictions = {name: {"val": part, "test": part, "external:Test B": part} for name, part in test.items()}
    table = chapter.external_scores(predictions, "wpat", 200, 0)
    assert set(table["set"]) == {"Test B"} and set(table["model"]) == set(test)
    entries = chapter.external_metrics(table, "wpat")
    assert entries["external_test_b_accuracy"]["value"] == pytest.approx(test["wpat"].correct.mean())
    assert entries["external_test_b_accuracy"]["n"] == 120
    shown = chapter.format_external(table)
    assert shown["set"].tolist() == ["Test B"] * 3 and shown["model"][0] == "wpat"
    none = chapter.external_scores({name: {"test": part} for name, part in test.items()}, "wpat", 200, 0)
    assert none.empty and chapter.external_metrics(none, "wpat") == {}


def test_facts_count_cells_and_patients_of_each_class_in_the_test_part():
    classes = ("ALL", "CLL", "CML")
    probs = np.tile([0.5, 0.3, 0.2], (5, 1))
    groups = np.array(["p1", "p1", "p2", "p3", "p3"])
    test = Predictions(np.array([0, 0, 0, 2, 2]), probs, groups, classes)
    parts = np.array(["train"] * 4 + ["val"] + ["test"] * 5)
    cells = type("Cells", (), {"parts": parts, "kind": "micrographs", "classes": classes, "__len__": lambda self: 10})()
    facts = chapter.data_facts(cells, test, "/data/leukemia-attri", "laptop")
    assert facts["dataset"] == "leukemia-attri" and facts["patients_known"]
    assert facts["test_cells"] == {"ALL": 3, "CLL": 0, "CML": 2} and facts["test_groups"] == {
        "ALL": 2,
        "CLL": 0,
        "CML": 1,
    }
    near = Predictions(test.labels, probs, np.array(["p1", "p1", "near:a.png", "p3", "p3"]), classes)
    assert not chapter.data_facts(cells, near, "x", "laptop")["patients_known"]
