"""The page "Did it reproduce?" with and without a reference, and the landing page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from book import toys as fake
from leuk_lib.audit import reference
from leuk_lib.book import pages, reading, reproduction
from leuk_lib.runs import card as cards
from leuk_lib.runs import files, paths

STAGES = (fake.spec("data"), fake.spec("results", ("data",)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A finished run of two stages in a project of its own, with the stated tolerances."""
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    fake.make_project(tmp_path, STAGES)
    rules = (root / paths.REFERENCES / "tolerances.yml").read_text(encoding="utf-8")
    files.write_text(tmp_path / paths.REFERENCES / "tolerances.yml", rules)
    for stage in STAGES:
        fake.finish_stage(stage, metrics={"accuracy": 0.75, "loss": 2.0})
    return paths.run_folder(fake.RUN)


def agreement(run: Path) -> tuple[str, str]:
    run_cards = {stage.name: cards.read_card(fake.RUN, stage.name) for stage in STAGES}
    return reproduction.agreement(run, run_cards, reference.all_references())


def change(path: Path, stage: str, key: str, shift: float) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    record["metrics"][stage][key]["value"] += shift
    record["cards"][stage]["device"] = "Another processor"
    files.write_json(path, record)


def test_without_a_reference_the_page_says_so(run: Path) -> None:
    page, line = agreement(run)
    assert "no reference for data set `smear` and profile `smoke`" in page
    assert "no reference" in line and "equal" not in page


def test_run_equals_itself(run: Path) -> None:
    assert reference.write_reference(run).name == "smear-smoke.json"
    page, line = agreement(run)
    assert "**All 4 numbers are equal to the bit.**" in page
    assert "all 4 numbers are equal to the bit" in line and "[Did it reproduce?]" in line
    assert "outside their tolerance" not in page
    assert page.count(":::{dropdown}") == len(STAGES)


def test_differences_are_shown_with_their_likely_cause(run: Path) -> None:
    path = reference.write_reference(run)
    change(path, "results", "accuracy", 0.15)
    change(path, "data", "accuracy", 0.05)
    page, line = agreement(run)
    assert "2 equal to the bit, 1 within tolerance, 1 outside" in line
    assert "## Numbers outside their tolerance" in page and "`results.accuracy`" in page
    assert "device: A processor (2 cores) not Another processor" in page


def test_another_profile_has_another_reference(run: Path) -> None:
    reference.write_reference(run, paths.reference_file("smear", "laptop"))
    page, _ = agreement(run)
    assert "There are references for `smear-laptop`" in page


def test_expected_cost_comes_from_the_cards(run: Path) -> None:
    run_cards = {stage.name: cards.read_card(fake.RUN, stage.name) for stage in STAGES}
    row = reproduction.expected({"this book": run_cards}).splitlines()[-1]
    assert "25.0 s" in row and "812.4 MB" in row and "A processor (2 cores)" in row


def test_every_rule_is_explained(root: Path) -> None:
    rules = reference.read_rules(root / paths.REFERENCES / "tolerances.yml")
    text = reproduction.tolerance_rules(rules)
    assert all(rule.why.split()[0] in text for rule in rules.rules) and "2% of the reference's value" in text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.1, 0.3, "the full sequence is better"), (-0.3, -0.1, "the baseline is better"), (-0.1, 0.3, "neither is shown to be better"),
     (0.0, 0.3, "neither is shown to be better")],
)  # fmt: skip
def test_main_result_follows_from_the_interval(low: float, high: float, words: str) -> None:
    margin = {"value": (low + high) / 2, "low": low, "high": high, "n": 40}
    results = {"accuracy": {"value": 0.7}, "margin": margin, "ahead_of_colour": margin,
               "ahead_of_majority": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}}  # fmt: skip
    text = pages.main_result(results, "c/r.ipynb")
    assert words in text and "`colour`" in text and "{glue:text}`c/r.ipynb::results.accuracy_of_colour:.3f`" in text
    assert pages.main_result({"accuracy": {"value": 0.7}}, "r") == ""


def test_reading_time_counts_prose_and_figures_only(tmp_path: Path) -> None:
    prose = "word " * 400
    assert reading.words(prose + "\n```python\n" + "code " * 900 + "\n```\n<b title='x y'>and</b> {term}`cell`") == 402
    assert reading.minutes(400) == 2 and reading.minutes(0) == 1 and reading.minutes(400, figures=4) == 3
    notebook = fake.notebook("data", executed=True)
    files.write_json(tmp_path / "book" / "chapters" / "01_data.ipynb", notebook)
    files.write_text(tmp_path / "book" / "use" / "a.md", prose)
    files.write_text(tmp_path / "book" / "generated" / "b.md", prose)
    assert reading.reading_times(tmp_path) == {"book/chapters/01_data": 1, "book/use/a": 2}
