"""Verdicts: unsuitable data never decide, small runs never refute, and each claim of the file gets a verdict."""

from __future__ import annotations

import pytest
import yaml

from leuk_lib.audit import claims, published
from leuk_lib.runs.errors import LeukError

RAABIN = {"kind": "micrographs", "dataset": "raabin", "classes": ["all", "AML", "CLL", "CML"], "profile": "paper"}
RENDERED = {"kind": "rendered", "dataset": "smear", "classes": ["ALL", "AML", "CLL", "CML"], "profile": "paper"}
OTHER_CELLS = {"kind": "micrographs", "dataset": "pbc", "classes": ["basophil", "platelet"], "profile": "paper"}


@pytest.fixture(scope="module")
def book():
    return claims.read_claims()


def verdict(book, name, entry, facts):
    claim = next(claim for claim in book.claims if claim.id == name)
    return claims.decide(claim, book.needs[claim.needs], entry, facts)[:2]


@pytest.mark.parametrize(
    "facts",
    [RENDERED, OTHER_CELLS, {**OTHER_CELLS, "classes": RAABIN["classes"]}, {**RAABIN, "classes": ["ALL", "AML"]}],
)
@pytest.mark.parametrize("value", [0.2, 0.96, 1.0])
def test_the_headline_is_never_decided_on_other_cells(book, facts, value):
    outcome, why = verdict(book, "accuracy", {"value": value, "low": value, "high": value}, facts)
    assert outcome == claims.CANNOT
    assert "make book DATA=raabin-leukemia PROFILE=paper" in why


def outcomes(met: str, missed: str) -> list[tuple[float, str, str]]:
    """Value, profile and verdict: a laptop run is too small to refute a claim, and a smoke run is not a result."""
    return [
        (0.97, "paper", met),
        (0.90, "paper", missed),
        (0.97, "laptop", met),
        (0.90, "laptop", claims.CANNOT),
        (0.97, "gpu", met),
        (0.90, "gpu", claims.CANNOT),
        (0.97, "smoke", claims.CANNOT),
    ]


@pytest.mark.parametrize(
    ("value", "profile", "expected"),
    [(0.945, "paper", claims.REPRODUCED), *outcomes(claims.REPRODUCED, claims.NOT_REPRODUCED)],
)
def test_the_headline_on_the_papers_cells(book, value, profile, expected):
    entry = {"value": value, "low": value - 0.01, "high": value + 0.01}
    assert verdict(book, "accuracy", entry, {**RAABIN, "profile": profile})[0] == expected


def test_a_verdict_states_whether_the_interval_includes_the_claim(book):
    assert "could decide" in verdict(book, "accuracy", {"value": 0.93, "low": 0.9, "high": 0.96}, RAABIN)[1]
    assert "whole interval" in verdict(book, "accuracy", {"value": 0.9, "low": 0.89, "high": 0.91}, RAABIN)[1]


ATTRI = {
    "kind": "micrographs", "dataset": "leukemia-attri", "classes": ["ALL", "AML", "CLL", "CML"], "profile": "paper",
    "test_cells": {"ALL": 300, "AML": 200, "CLL": 40, "CML": 90}, "test_groups": {"ALL": 5, "AML": 4, "CLL": 1, "CML": 2},
    "patients_known": True,
}  # fmt: skip


@pytest.mark.parametrize(("value", "profile", "expected"), outcomes(claims.REACHED, claims.NOT_REACHED))
@pytest.mark.parametrize("name", ["accuracy", "macro-recall", "macro-f1"])
def test_another_public_set_of_the_four_diagnoses_has_a_verdict_of_its_own(book, name, value, profile, expected):
    entry = {"value": value, "low": value - 0.01, "high": value + 0.01}
    outcome, why = verdict(book, name, entry, {**ATTRI, "profile": profile})
    assert outcome == expected and outcome not in (claims.REPRODUCED, claims.NOT_REPRODUCED)
    if expected == claims.CANNOT:
        assert "make book DATA=leukemia-attri" in why
    else:
        assert why.startswith("Asked of another public set of the same four diagnoses")
        assert "neither reproduced nor refuted" in why
        assert "ALL 5, AML 4, CLL 1, CML 2" in why
        assert "With one of CLL, effects of disease and person cannot be distinguished" in why


@pytest.mark.parametrize("facts", [ATTRI, RAABIN])
def test_a_class_without_test_cells_decides_nothing(book, facts):
    cells = {"ALL": 300, "AML": 200, "CLL": 0, "CML": 90}
    outcome, why = verdict(book, "accuracy", {"value": 0.99}, {**facts, "test_cells": cells})
    assert outcome == claims.CANNOT and "No cell of CLL is in the test part" in why


@pytest.mark.parametrize(
    "change",
    [{"classes": ["ALL", "AML", "APML", "CLL", "CML"]}, {"dataset": "my-cells"}, {"kind": "rendered"},
     {"classes": ["lymphoblast", "myeloblast"]}],
)  # fmt: skip
def test_other_classes_or_a_folder_of_that_name_only_are_not_that_set(book, change):
    outcome, why = verdict(book, "accuracy", {"value": 0.99}, {**ATTRI, **change})
    assert outcome == claims.CANNOT and "DATA=raabin-leukemia" in why and "DATA=leukemia-attri" in why


def test_unknown_patients_make_an_upper_bound(book):
    assert "an upper bound" in verdict(book, "accuracy", {"value": 0.99}, {**ATTRI, "patients_known": False})[1]
    several = {**ATTRI, "test_groups": dict.fromkeys(ATTRI["classes"], 3)}
    assert "person" not in verdict(book, "accuracy", {"value": 0.99}, several)[1]


def test_verdicts_about_other_sets_are_counted_only_where_there_are_any(book):
    numbers = claims.merge_numbers({"results": {"accuracy": {"value": 0.99}}}, published.figures(book.published))
    there = claims.count_in_words(claims.verdict_table(book, numbers, ATTRI, "r"))
    here = claims.count_in_words(claims.verdict_table(book, numbers, RENDERED, "r"))
    assert f"1 {claims.REACHED}" in there and "another public set" not in here


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.05, claims.REPRODUCED), (-0.01, 0.05, claims.NOT_REPRODUCED), (-0.05, -0.01, claims.NOT_REPRODUCED)],
)
def test_ahead_means_the_whole_interval(book, low, high, expected):
    outcome, why = verdict(book, "wpat", {"value": (low + high) / 2, "low": low, "high": high}, RENDERED)
    assert outcome == expected
    assert ("no difference is shown" in why) == (low < 0 < high)


def test_a_missing_number_cannot_decide(book):
    assert verdict(book, "robustness", None, RENDERED)[0] == claims.CANNOT
    outcome, why = verdict(book, "accuracy", None, RAABIN)
    assert outcome == claims.CANNOT and "results.accuracy" in why
    assert "no interval" in verdict(book, "wpat", {"value": 0.1}, RENDERED)[1]


@pytest.mark.parametrize(
    ("claim", "expected"),
    [("t-tests", claims.REPRODUCED), ("significance", claims.REPRODUCED), ("margin-published", claims.NOT_REPRODUCED), ("lists-fit", claims.NOT_REPRODUCED)],
)  # fmt: skip
def test_the_published_figures_are_decided_in_any_run(book, claim, expected):
    numbers = claims.merge_numbers({}, published.figures(book.published))
    table = claims.verdict_table(book, numbers, {**RENDERED, "profile": "smoke"}, "r").set_index("id")
    assert table.loc[claim, "verdict"] == expected
    assert table.loc[claim, "data"] == "published figures"


@pytest.mark.parametrize(
    ("name", "entry", "facts", "reason"),
    [
        ("accuracy", {"value": 0.9}, RENDERED, "Rendered cells cannot decide it."),
        ("accuracy", {"value": 0.9}, OTHER_CELLS, "Cells of other classes cannot decide it."),
        ("accuracy", {"value": 0.9}, {**OTHER_CELLS, "classes": RAABIN["classes"]}, "Other images cannot decide it."),
        ("accuracy", {"value": 0.9}, RAABIN, "Falls short of 0.96."),
        ("accuracy", {"value": 0.97}, RAABIN, "Reaches 0.96."),
        ("accuracy", {"value": 0.97}, {**RAABIN, "profile": "smoke"}, "A smoke run is not a result."),
        ("accuracy", {"value": 0.9}, {**RAABIN, "profile": "laptop"}, "A run in the profile laptop is too small to refute it."),
        ("accuracy", None, RAABIN, "This run has no such number."),
        ("wpat", {"value": 0.1, "low": 0.05, "high": 0.15}, RENDERED, "Its lower bound is above 0."),
        ("wpat", {"value": 0.1}, RENDERED, "It has no interval in this run."),
        ("accuracy", {"value": 0.9}, {**RAABIN, "test_cells": {"ALL": 0, "AML": 3}}, "No cell of ALL is in the test part."),
    ],
)  # fmt: skip
def test_the_reason_in_a_few_words(book, name, entry, facts, reason):
    claim = next(claim for claim in book.claims if claim.id == name)
    decision = claims.decide(claim, book.needs[claim.needs], entry, facts)
    assert decision.reason == reason and len(decision.reason) < len(decision.why)


def test_a_study_decides_in_any_run_and_is_named_in_the_row(book):
    entry = {"value": 0.03, "low": 0.01, "high": 0.05}
    numbers = claims.merge_numbers(
        {"comparison": {"ladder_wpat_minus_fcmae": entry}}, published.figures(book.published)
    )
    row = claims.verdict_table(book, numbers, {**RENDERED, "profile": "smoke"}, "r").set_index("id").loc["wpat"]
    assert row["verdict"] == claims.REPRODUCED and "study's real cells" in row["why"]
    assert row["data"] == "real cells of a study" and row["run"] == "committed record"


def test_every_claim_gets_a_row_and_our_value_is_shown_for_information(book):
    numbers = claims.merge_numbers(
        {"results": {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50}}}, published.figures(book.published)
    )
    table = claims.verdict_table(book, numbers, RENDERED, "r")
    assert table["id"].tolist() == [claim.id for claim in book.claims]
    assert set(table["verdict"]) <= set(claims.VERDICTS)
    assert table["why"].str.len().min() > 10
    row = table.set_index("id").loc["accuracy"]
    assert row["ours"] == "0.8 [0.7, 0.9], n = 50" and row["verdict"] == claims.CANNOT


def test_every_audit_key_exists(book):
    audit = published.figures(book.published)
    for claim in book.claims:
        if claim.metric.startswith("audit."):
            assert claim.metric.removeprefix("audit.") in audit, claim.id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["claims"][0].update(tolerence=1), "claims.0.tolerence"),
        (lambda b: b["claims"][0].update(needs="moon"), "needs 'moon'"),
        (lambda b: b["claims"].append(dict(b["claims"][0])), "two claims with the id"),
        (lambda b: b.pop("published"), "published"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, root, change, message):
    whole = yaml.safe_load((root / "book" / "claims.yml").read_text(encoding="utf-8"))
    change(whole)
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    with pytest.raises(LeukError, match=message):
        claims.read_claims(path)
    with pytest.raises(LeukError, match="cannot be read"):
        claims.read_claims(tmp_path / "none.yml")
