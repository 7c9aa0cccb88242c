"""The page of published figures: beside a run of the same set, as context for others, safe as Markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audit.test_benchmark import METRICS, RUN
from leuk_lib.audit.benchmark import PublishedBook, read_published
from leuk_lib.book import benchmark
from leuk_lib.chapters.results import data_facts
from leuk_lib.data.params import DataParams
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.data.smear.cohort import render_smear
from leuk_lib.data.splits import split_record
from leuk_lib.evaluation.predictions import Predictions
from leuk_lib.runs import files
from leuk_lib.runs.stage import Stage


@pytest.fixture(scope="module")
def book() -> PublishedBook:
    return read_published()


def test_a_run_on_the_official_split_stands_beside_the_figures(book):
    text = benchmark.page(book, RUN, METRICS)
    own, context = text.split("## Other data sets")
    assert "the official split, 3,421 test cells, images of 64 px" in own and "## BloodMNIST" in own
    assert "The accuracy of this run is 0.950" in own and "0.966" in own and "| above it |" in own
    assert "0.958 (not confirmed)" in own and "no verdict (the figure is not confirmed)" in own
    assert "Raabin" not in own and "Raabin-WBC, TestB" in context and "0.346" in context and "this run" not in context
    assert text.count("## Sources") == 1 and "<https://arxiv.org/abs/2303.01777>" in text


def test_a_run_by_groups_gets_no_verdict_but_both_numbers(book):
    text = benchmark.page(book, replace(RUN, split="grouped"), METRICS)
    assert "Nothing follows from a difference" in text and "`--split published`" in text and "| above it |" not in text
    assert "0.966" in text and "0.95 \\[0.94, 0.96\\]" in text and "differ from this run in their cells" not in text
    fewer = benchmark.page(book, replace(RUN, n_train=9000), METRICS)
    assert "All figures differ from this run in their cells: 11,959 training cells, here 9,000." in fewer


def test_other_cells_get_context_only(book):
    for facts in (replace(RUN, dataset="smear", rendered=True), replace(RUN, dataset="my_cells")):
        text = benchmark.page(book, facts, METRICS)
        assert text.startswith("No published figure is listed for") and "0.966" in text and "0.95 " not in text
    assert "rendered cells" in benchmark.page(book, replace(RUN, dataset="smear", rendered=True), METRICS)
    assert benchmark.page(book, None, {}).startswith("This run has no results yet")


def test_every_table_row_has_its_columns(book):
    for facts in (
        RUN,
        replace(RUN, dataset="raabin-wbc", classes=tuple("abcde"), split="grouped"),
        replace(RUN, dataset="a|b"),
    ):
        lines = benchmark.page(book, facts, METRICS).splitlines()
        for k, line in enumerate(lines):
            if line.startswith("| :--"):
                width = line.count("|")
                rows = [lines[k - 1]]
                for row in lines[k + 1 :]:
                    if not row.startswith("|"):
                        break
                    rows.append(row)
                assert {row.replace("\\|", "").count("|") for row in rows} == {width}


def test_facts_come_from_cards_and_files(results: Path):
    folder = results / "r"
    facts = {"dataset": "bloodmnist-64", "profile": "laptop", "kind": "micrographs", "classes": list("abcdefgh"),
             "cells": {"train": 90, "val": 10, "test": 20}, "shares": {}, "groups_test": 20}  # fmt: skip
    cards = {
        "data": {"params": {"image_size": 64}},
        "results": {"params": {}},
        "fcmae": {"params": {"weights": "w.pth"}},
    }
    assert benchmark.run_facts("r", cards, 2) is None  # nothing was written yet
    files.write_json(folder / "results" / "facts.json", facts)
    parts = ["train", "val", "test"]
    record = split_record(parts, parts, (0.7, 0.1, 0.2), 0) | {"split": "published"}
    files.write_json(folder / "data" / "splits.json", record)
    assert benchmark.run_facts("r", {"data": cards["data"]}, 2) is None
    read = benchmark.run_facts("r", cards, 2)
    assert read is not None and (read.split, read.size, read.n_test, read.n_train, read.seeds) == (
        "published",
        64,
        20,
        90,
        2,
    )
    assert read.pretraining == "w.pth" and not read.rendered
    del record["split"]
    files.write_json(folder / "data" / "splits.json", record)
    grouped = benchmark.run_facts("r", cards, 0)
    assert grouped is not None and (grouped.split, grouped.seeds) == ("grouped", 1)


def rendered_npz(path: Path, each: dict[str, int]) -> None:
    """A file of BloodMNIST's form: rendered cells of eight kinds at 64 px, with the keys and shapes of the original."""
    needed = max(sum(each.values()), 1)
    images, _, table = render_smear(40 * needed, patients=3, size=64, seed=0, workers=1)
    counts = table["kind"].value_counts()
    kinds = sorted(counts.index[counts >= needed][:8])
    assert len(kinds) == 8
    arrays: dict[str, list] = {f"{part}_{what}": [] for part in each for what in ("images", "labels")}
    for k, kind in enumerate(kinds):
        chosen = np.flatnonzero(table["kind"] == kind)
        start = 0
        for part, n in each.items():
            arrays[f"{part}_images"] += list(images[chosen[start : start + n]])
            arrays[f"{part}_labels"] += [[k]] * n
            start += n
    path.parent.mkdir(parents=True)
    np.savez(path, **{name: np.array(values, dtype=np.uint8) for name, values in arrays.items()})


def test_from_the_file_to_the_page(book, tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch):
    """Rendered cells in BloodMNIST's form: the known set keeps its official split, and the page knows how much was tested."""
    monkeypatch.setenv("LEUK_DATA", str(tmp_path / "data"))
    rendered_npz(tmp_path / "data" / "bloodmnist-64" / "bloodmnist_64.npz", {"train": 5, "val": 2, "test": 3})
    params = DataParams(dataset="bloodmnist-64", image_size=64, threads=1, run="r")
    with Stage("data", params) as stage:
        built = prepare_cells(params, stage)
    test = built.cells.parts == "test"
    assert test.sum() == 24 and built.cells.table.loc[test, "part"].eq("test").all() and len(built.cells.classes) == 8
    assert any("split: published, the default of bloodmnist-64" in note for note in built.notes)
    labels = built.cells.labels[test].numpy()
    probs = np.full((24, 8), 0.02)
    probs[np.arange(24), labels] = 0.86
    part = Predictions(labels, probs, built.cells.groups[test], built.cells.classes)
    facts = data_facts(built.cells, part, "bloodmnist-64", "laptop")
    files.write_json(results / "r" / "results" / "facts.json", facts)
    cards = {"data": {"params": params.model_dump(mode="json")}, "results": {}}
    read = benchmark.run_facts("r", cards, 1)
    assert read is not None and (read.split, read.n_test, read.size) == ("published", 24, 64) and not read.rendered
    metrics = {"accuracy": {"value": 1.0, "low": 0.86, "high": 1.0, "n": 24}}
    text = benchmark.page(book, read, metrics)
    assert "this run tested 24 cells, the figures are of 3,421" in text and "| above it |" not in text
    assert "0.966" in text and "1 \\[0.86, 1\\], n = 24" in text
    whole = benchmark.page(book, replace(read, n_test=3421), {"accuracy": {**metrics["accuracy"], "n": 3421}})
    assert "| no difference shown |" in whole and "| above it |" in whole
