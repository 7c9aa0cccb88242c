"""Reference records: content, privacy, and the rules of their tolerances."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.test_compare import CARD, changed, write_run
from leuk_lib.audit import compare, reference
from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError

values = st.floats(-1e6, 1e6)


@pytest.fixture(scope="module")
def rules(root):
    return reference.read_rules(root / paths.REFERENCES / "tolerances.yml")


@given(value=values, low=values, width=st.floats(0, 1e6))
def test_half_the_interval_is_the_tolerance_if_there_is_one(rules, value, low, width):
    allowed, kind = rules.tolerance("wpat.accuracy", {"value": value, "low": low, "high": low + width})
    assert kind == "half_interval"
    assert ((low + width) - low) / 2 <= allowed <= ((low + width) - low) / 2 + 1.1e-6 * max(1, abs(value))


@pytest.mark.parametrize(
    ("name", "entry", "kind", "allowed"),
    [
        ("data.cells", {"value": 400}, "exact", 0),
        ("claims.reproduced", {"value": 3}, "exact", 0),
        ("acdb_gan.accepted", {"value": 100}, "count", 10),
        ("wpat.loss", {"value": -2.0}, "relative", 0.04),
        ("acdb_gan.gate_own", {"value": 0.5, "n": 40}, "proportion", 0.148005),  # scipy: binomtest(20, 40)
        ("wpat.wpat_val_balanced_accuracy", {"value": 0.5, "n": 40}, "proportion", 0.148005),
        ("wpat.temperature", {"value": 2.0}, "relative", 0.4),
        ("results.nll", {"value": 2.0, "low": 1.9, "high": 2.1}, "half_interval", 0.1),
        ("acdb_gan.gate_own", {"value": 0.5}, "relative", 0.01),
        ("acdb_gan.gate_exact", {"value": 0.0, "n": 40}, "relative", 0),
        ("trust.sanity_attention", {"value": 0.19, "low": 0.13, "high": 0.25}, "absolute", 0.2),
        ("trust.sanity_image_alone", {"value": 1.0, "low": 1.0, "high": 1.0}, "half_interval", 0),
        ("trust.tecom_sanity_attention", {"value": 0.1, "low": 0.0, "high": 0.2}, "exact", 0),
        ("data.frame", {"value": 0.2, "low": 0.1, "high": 0.3}, "half_interval", 0.1),
    ],
)
def test_the_stated_rules(rules, name, entry, kind, allowed):
    tolerance, rule = rules.tolerance(name, entry)
    assert rule == kind and tolerance == pytest.approx(allowed, abs=2e-6 * max(1, abs(entry["value"])))


def test_a_reference_names_the_rule_of_every_number(tmp_path, rules):
    whole = reference.reference_of(write_run(tmp_path / "a"), rules)
    named = {f"{stage}.{key}" for stage, entries in whole["metrics"].items() for key in entries}
    assert set(whole["tolerances"]) == named
    assert {entry["rule"] for entry in whole["tolerances"].values()} == {"half_interval", "relative", "exact"}


def test_a_reference_contains_no_host_process_or_folder(tmp_path, rules):
    card = changed(
        params={**CARD["params"], "weights": "C:\\Users\\x\\w.safetensors"}, process={"host": "secret"}, seconds=3.5,
        inputs={"files": {"/home/x/split.json": "1", "book/record.json": "2"}},
    )  # fmt: skip
    path = reference.write_reference(write_run(tmp_path / "a", card=card), tmp_path / "r.json", rules)
    text = path.read_text()
    assert "secret" not in text and "/home" not in text and "Users" not in text
    kept = json.loads(text)["cards"]["wpat"]
    assert (
        kept["params"]["dataset"] == "smear" and kept["params"]["weights"] == "w.safetensors" and kept["seconds"] == 3.5
    )
    assert kept["inputs"] == {"files": {"split.json": "1", "book/record.json": "2"}}
    assert set(compare.compare_runs(tmp_path / "a", path)["verdict"]) == {"equal"}


def test_one_line_per_number_and_the_same_bytes_each_time(tmp_path, rules):
    run = write_run(tmp_path / "a")
    first = reference.write_reference(run, tmp_path / "1.json", rules).read_text()
    assert reference.write_reference(run, tmp_path / "2.json", rules).read_text() == first
    assert [line for line in first.splitlines() if '"accuracy":' in line] == [
        '   "accuracy": {"value": 0.9, "low": 0.85, "high": 0.95, "n": 100},'
    ]
    assert json.loads(first) == reference.reference_of(run, rules)


def test_references_are_named_after_data_set_and_profile(tmp_path, monkeypatch, rules):
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    assert paths.reference_file("/x/my cells", "paper") == tmp_path / paths.REFERENCES / "my-cells-paper.json"
    path = reference.write_reference(write_run(tmp_path / "a"), rules=rules)
    assert path.name == "smear-laptop.json"
    assert list(reference.all_references()) == ["smear-laptop"]


@pytest.mark.parametrize(
    "text", ["", "rules: []", "rules: [{numbers: ['*'], kind: guess, why: because of that}]", "rules: [{kind: exact}]", "a: [",
             "rules: [{numbers: ['*'], kind: relative, size: -1, why: because of that}]"],
)  # fmt: skip
def test_invalid_rules_are_one_line(tmp_path, text):
    path = tmp_path / "t.yml"
    path.write_text(text)
    with pytest.raises(LeukError, match=r"t\.yml: (no readable tolerance rules|cannot be read)"):
        reference.read_rules(path)


def test_a_number_without_a_rule_is_an_error(tmp_path):
    rules = reference.Rules(rules=(reference.Rule(numbers=("data.*",), kind="exact", why="a test's rule"),))
    with pytest.raises(LeukError, match=r"no tolerance rule fits wpat\.accuracy"):
        reference.reference_of(write_run(tmp_path / "a"), rules)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("tolerances", {"wpat.accuracy": {"rule": "exact"}}),
        ("tolerances", {"wpat.accuracy": {"value": "0.1", "rule": "exact"}}),
        ("tolerances", {"wpat.accuracy": {"value": float("nan"), "rule": "exact"}}),
        ("tolerances", {"wpat": 3}),
        ("tolerances", []),
        ("cards", {"wpat": []}),
    ],
)
def test_a_damaged_reference_is_one_line(tmp_path, rules, part, content):
    path = reference.write_reference(write_run(tmp_path / "run"), tmp_path / "reference.json", rules)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {part: content}))
    with pytest.raises(LeukError, match=r"reference\.json"):
        reference.load_run(path)
