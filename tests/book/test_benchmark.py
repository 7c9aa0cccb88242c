"""The page of published figures: beside a run of the same set, as context for others, safe as Markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from audit.test_benchmark import METRICS, RUN
from leuk_lib.audit.benchmark import PublishedBook, read_published
from leuk_lib.book import benchmark
from leuk_lib.runs import files


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
    assert "0.966" in text and "0.95 \\[0.94, 0.96\\]" in text


def test_other_cells_get_context_only(book):
    for facts in (replace(RUN, dataset="smear", rendered=True), replace(RUN, dataset="my_cells")):
        text = benchmark.page(book, facts, METRICS)
        assert text.startswith("No figure is published for") and "0.966" in text and "0.95 " not in text
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
             "cells": {"train": 90, "val": 10, "test": 20}}  # fmt: skip
    cards = {
        "data": {"params": {"image_size": 64}},
        "results": {"params": {}},
        "fcmae": {"params": {"weights": "w.pth"}},
    }
    assert benchmark.run_facts("r", cards, 2) is None  # nothing was written yet
    files.write_json(folder / "results" / "facts.json", facts)
    files.write_json(folder / "data" / "splits.json", {"split": "published"})
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
    files.write_json(folder / "data" / "splits.json", {})
    grouped = benchmark.run_facts("r", cards, 0)
    assert grouped is not None and (grouped.split, grouped.seeds) == ("grouped", 1)
