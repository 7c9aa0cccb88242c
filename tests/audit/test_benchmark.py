"""Published figures: a reading only for the same cells in the same way, and the reasons otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from leuk_lib.audit import benchmark
from leuk_lib.audit.benchmark import (
    ABOVE,
    BELOW,
    NONE,
    WITHIN,
    Figure,
    PublishedSet,
    RunFacts,
    compare,
    differences_of_set,
    sentence,
)
from leuk_lib.data.catalog import KNOWN_SETS
from leuk_lib.runs.errors import LeukError

RUN = RunFacts("r", "bloodmnist-64", "laptop", False, tuple("abcdefgh"), "published", 64, 3421, 11959)
METRICS = {"accuracy": {"value": 0.95, "low": 0.94, "high": 0.96, "n": 3421}}


@pytest.fixture(scope="module")
def book() -> benchmark.PublishedBook:
    return benchmark.read_published()


def made(*values: float, **changes) -> PublishedSet:
    figures = tuple(Figure(model=f"m{value}", metric="accuracy", value=value, source="s") for value in values)
    given = {"id": "made", "title": "Made", "task": "t", "datasets": ("bloodmnist-64",), "classes": 8, "split": "published",
             "unit": "cells", "test_n": 3421, "figures": figures}  # fmt: skip
    return PublishedSet(**{**given, **changes})


def test_the_reading_follows_from_our_interval():
    rows, blocked = compare(made(0.93, 0.955, 0.97), RUN, METRICS)
    assert blocked == () and [row.reading for row in rows] == [ABOVE, WITHIN, BELOW]
    words = sentence(made(0.93, 0.955, 0.97), rows, blocked)
    assert (
        "0.950 [0.940, 0.960]" in words
        and "Of 3 published figures, 1 is below this interval, 1 inside and 1 above" in words
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "grouped"}, "did not keep the official split"),
        ({"profile": "smoke"}, "smoke run"),
        ({"classes": tuple("abcd")}, "4 classes, the figures are of 8"),
    ],
)
def test_another_protocol_gives_no_verdict(changes: dict, reason: str):
    rows, blocked = compare(made(0.2, 0.999), replace(RUN, **changes), METRICS)
    assert [row.reading for row in rows] == [NONE, NONE] and any(reason in why for why in blocked)
    assert reason in sentence(made(0.2, 0.999), rows, blocked) and rows[0].ours == METRICS["accuracy"]


@pytest.mark.parametrize(("n", "judged"), [(3421, True), (3400, True), (3000, False), (300, False), (4000, False)])
def test_the_published_cells_must_have_been_tested(n: int, judged: bool):
    rows, blocked = compare(made(0.5), RUN, {"accuracy": {**METRICS["accuracy"], "n": n}})
    assert (rows[0].reading == ABOVE) is judged and bool(blocked) is not judged
    different = differences_of_set(made(0.5), RUN, {"accuracy": {**METRICS["accuracy"], "n": n}})
    assert different == (() if n == 3421 else (f"3,421 test cells, here {n:,}",))


def test_what_forbids_a_verdict_by_itself():
    assert compare(made(0.5, forbids="the split is not known"), RUN, METRICS)[1] == ("the split is not known",)
    assert "no accuracy over patients" in compare(made(0.5, unit="patients"), RUN, METRICS)[1][0]
    assert "no external test set TestA" in compare(made(0.5, split="external", test="TestA"), RUN, METRICS)[1][0]
    assert "split by patients" in compare(made(0.5, split="patients"), RUN, METRICS)[1][0]


def test_an_external_set_has_its_own_number():
    entry = made(0.9, split="external", test="Test-A", test_n=100)
    number = {"external_test_a_accuracy": {"value": 0.8, "low": 0.7, "high": 0.85, "n": 100}}
    rows, blocked = compare(entry, replace(RUN, split="grouped"), number)
    assert blocked == () and rows[0].reading == BELOW


def test_a_figure_that_is_not_confirmed_or_a_number_without_interval_is_not_judged():
    figure = Figure(model="m", metric="accuracy", value=0.5, source="s", confirmed=False)
    row = compare(made(figures=(figure,)), RUN, METRICS)[0][0]
    assert row.reading == NONE and row.why_none == ("the figure is not confirmed",)
    row = compare(made(0.5), RUN, {"accuracy": {"value": 0.95}})[0][0]
    assert row.reading == NONE and "no interval" in row.why_none[0]
    other = Figure(model="m", metric="macro_auc", value=0.5, source="s")
    rows, blocked = compare(made(0.5, figures=(other, *made(0.5).figures)), RUN, METRICS)
    assert [row.reading for row in rows] == [NONE, ABOVE] and rows[0].why_none == ("this run has no macro AUC",)
    assert "1 has no verdict" in sentence(made(0.5), rows, blocked)
    assert "None of these figures" in sentence(made(0.5), rows[:1], blocked)
    assert "No figure is listed" in sentence(made(), [], blocked)


def test_differences_are_said():
    figure = Figure(model="m", metric="accuracy", value=0.5, source="s", size=224, pretraining="DINO", runs=10)
    row = compare(made(figures=(figure,)), RUN, METRICS)[0][0]
    assert row.differences == (
        "images of 224 px, here 64 px", "pretraining DINO, here none", "mean of 10 runs, here 1",
    )  # fmt: skip
    entry = made(figures=(figure,), train_n=11959)
    assert differences_of_set(entry, replace(RUN, n_train=9000), METRICS) == ("11,959 training cells, here 9,000",)
    assert differences_of_set(entry, RUN, METRICS) == ()
    plain = Figure(model="m", metric="accuracy", value=0.5, source="s", size=64, runs=1)
    assert compare(made(figures=(plain,), train_n=11959), RUN, METRICS)[0][0].differences == ()
    ours = compare(made(figures=(plain,)), replace(RUN, pretraining="DinoBloom"), METRICS)[0][0].differences
    assert ours == ("pretraining not stated, here DinoBloom",)


def test_every_figure_of_the_book_has_a_source_and_a_set_with_a_way_to_test_it(book):
    assert (
        book.of("BloodMNIST-64")[0].id == book.of("bloodmnist_224.npz")[0].id == "bloodmnist" and book.of("smear") == []
    )
    assert [entry.id for entry in book.of("raabin-wbc")] == ["raabin-testa", "raabin-testb", "raabin-lisc"]
    blood = book.of("bloodmnist-64")[0]
    assert blood.test_n == 3421 and max(figure.value for figure in blood.figures) == 0.99
    assert any(not figure.confirmed for figure in blood.figures)
    known = {name for entry in book.sets for name in entry.datasets} - {"bloodmnist-28"}
    assert known <= set(KNOWN_SETS)
    official = [KNOWN_SETS[name] for name in blood.datasets if name in KNOWN_SETS]
    assert len(official) == 4 and all(known.split == "published" for known in official)
    assert all(0.2 < figure.value < 1 for entry in book.sets for figure in entry.figures)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw["sets"][0].update(bogus=1), "bogus"),
        (lambda raw: raw["sets"][0]["figures"][0].update(value=96.6), "less than or equal to 1"),
        (lambda raw: raw["sets"][0]["figures"][0].update(source="nobody"), "not defined under 'sources'"),
        (lambda raw: raw["sets"].append(raw["sets"][0]), "two sets with the id"),
        (lambda raw: raw["sets"][0].update(test="TestA"), "'test' is for split external"),
        (lambda raw: raw.clear(), "sources"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, root: Path, change, words: str):
    raw = yaml.safe_load((root / "book" / "published.yml").read_text())
    change(raw)
    path = tmp_path / "published.yml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(LeukError, match=words) as error:
        benchmark.read_published(path)
    assert "\n" not in str(error.value)
    with pytest.raises(LeukError, match="cannot be read"):
        benchmark.read_published(tmp_path / "missing.yml")
