"""Comparison of runs: a verdict per number, causes from the cards."""

from __future__ import annotations

import copy
import re

import pytest

from leuk_lib.audit import compare
from leuk_lib.audit.reference import Rule, Rules, load_run, reference_of, write_reference
from leuk_lib.cli.main import main
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file, write_json

CARD = {
    "stage": "wpat", "run": "a", "profile": "laptop", "dataset": "smear", "device": "CPU",
    "params": {"run": "a", "seed": 0, "dataset": "/home/x/smear", "threads": 2}, "versions": {"torch": "2.15", "numpy": "2.4"},
    "hashes": {"code": {"leuk_lib.wpat.model": "1"}, "notebook": "n", "lock": "l"}, "inputs": {"data": {}}, "git": {"commit": "c", "dirty": False},
    "process": {"host": "secret", "pid": 1},
}  # fmt: skip


RULES = Rules(
    rules=(
        Rule(numbers=("*",), kind="half_interval", why="a test's rule"),
        Rule(numbers=("*",), kind="relative", size=0.02, why="a test's rule"),
    )
)


def write_run(folder, accuracy=0.9, card=None, data_card=None, extra=None):
    metrics = {
        "accuracy": {"value": accuracy, "low": 0.85, "high": 0.95, "n": 100},
        "loss": {"value": 2.0},
        **(extra or {}),
    }
    write_json(folder / "wpat" / "metrics.json", {"metrics": metrics})
    write_json(folder / "wpat" / "card.json", card or CARD)
    first = copy.deepcopy(CARD) | {"stage": "data", "inputs": {"dataset": {"content": "d"}}}
    write_json(folder / "data" / "metrics.json", {"metrics": {"cells": {"value": 10}}})
    write_json(folder / "data" / "card.json", data_card or first)
    return folder


def changed(card=CARD, **parts):
    return copy.deepcopy(card) | parts


def row(table, metric="accuracy"):
    return table[table["metric"] == metric].iloc[0]


def test_a_run_equals_itself_to_the_bit(tmp_path):
    table = compare.compare_runs(write_run(tmp_path / "a"), tmp_path / "a")
    assert set(table["verdict"]) == {"equal"} and set(table["cause"]) == {""}
    assert list(table.columns) == compare.COLUMNS


@pytest.mark.parametrize(("value", "verdict"), [(0.9 + 1e-12, "within"), (0.94, "within"), (0.951, "outside")])
def test_within_half_the_interval_of_the_reference(tmp_path, value, verdict):
    table = compare.compare_runs(write_run(tmp_path / "a", value), write_run(tmp_path / "b"))
    result = row(table)
    assert result["verdict"] == verdict
    assert result["tolerance"] == pytest.approx(0.05, abs=2e-6) and result["difference"] == pytest.approx(value - 0.9)


def test_a_reference_file_contains_its_tolerances(tmp_path):
    reference = reference_of(write_run(tmp_path / "b"), RULES)
    reference["tolerances"]["wpat.accuracy"] = {"value": 0.001, "rule": "relative"}
    write_json(tmp_path / "r.json", reference)
    result = row(compare.compare_runs(write_run(tmp_path / "a", 0.91), tmp_path / "r.json"))
    assert (result["verdict"], result["rule"], result["tolerance"]) == ("outside", "relative", 0.001)


def test_equal_means_the_whole_entry(tmp_path):
    """The same value with another interval or another n is not the same number."""
    ours = write_run(tmp_path / "a")
    for part, detail in (({"n": 99}, "n 99 not 100"), ({"low": 0.8}, "the interval alone differs")):
        entry = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 100, **part}
        write_json(ours / "wpat" / "metrics.json", {"metrics": {"accuracy": entry}})
        result = row(compare.compare_runs(ours, write_run(tmp_path / "b")))
        assert (result["verdict"], result["detail"]) == ("within", detail)


def sealed(folder, state="finished"):
    """A run whose card lists the hash of its numbers."""
    write_run(folder)
    outputs = {"metrics.json": sha256_file(folder / "wpat" / "metrics.json")}
    write_json(folder / "wpat" / "card.json", {**CARD, "state": state, "outputs": outputs})
    return folder


def test_numbers_that_are_not_those_of_their_cards_are_refused(tmp_path, capsys):
    """An edited number, a stage that runs again and a folder of two runs compared without a word."""
    good = sealed(tmp_path / "good")
    assert main(["compare", str(good), str(good)]) == 0
    edited = sealed(tmp_path / "edited")
    write_json(edited / "wpat" / "metrics.json", {"metrics": {"accuracy": {"value": 0.9001}}})
    mixed = write_run(tmp_path / "mixed", data_card=changed(stage="data", profile="smoke"))
    copied = write_run(tmp_path / "copied", data_card=CARD)
    capsys.readouterr()
    for run, words in (
        (edited, "metrics.json: was changed after its stage wrote it"),
        (sealed(tmp_path / "again", "running"), "of an earlier execution, its stage is running"),
        (mixed, "mixes runs: profile of stage"),
        (copied, "holds the card of stage 'wpat'"),
    ):
        for pair in ((run, good), (good, run)):
            assert main(["compare", *map(str, pair)]) == 2
            assert words in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_the_exit_code_tells_other_numbers_from_what_cannot_be_compared(tmp_path):
    run = write_run(tmp_path / "run")
    assert main(["compare", str(write_run(tmp_path / "other", 0.5)), str(run)]) == 1
    (run / "wpat" / "metrics.json").write_text("{")
    assert main(["compare", str(run), str(run)]) == 2
    (run / "wpat" / "card.json").unlink()
    assert main(["compare", str(run), str(run)]) == 2
    assert main(["compare", str(tmp_path / "gone"), str(run)]) == 2


def test_numbers_of_one_run_alone_are_missing(tmp_path):
    table = compare.compare_runs(
        write_run(tmp_path / "a", extra={"new": {"value": 1}}), write_run(tmp_path / "b", extra={"old": {"value": 1}})
    )
    assert row(table, "new")["verdict"] == row(table, "old")["verdict"] == "missing"
    assert row(table, "new")["detail"] == "not in the reference" and row(table, "old")["detail"] == "not in the run"


@pytest.mark.parametrize(
    ("card", "cause"),
    [
        (changed(params={"run": "a", "seed": 7}), "seed 7 not 0"),
        (changed(device="GPU"), "device: GPU not CPU"),
        (changed(versions={"torch": "2.11", "numpy": "2.4"}), "torch 2.11 not 2.15"),
        (changed(hashes={"code": {"leuk_lib.wpat.model": "2"}, "notebook": "n", "lock": "l"}), "code: wpat.model"),
        (changed(hashes={"code": CARD["hashes"]["code"], "notebook": "m", "lock": "l"}), "notebook: changed"),
        (changed(hashes={"code": CARD["hashes"]["code"], "notebook": "n", "lock": "k"}), "requirements.lock differs"),
        (changed(hashes={**CARD["hashes"], "code": {"leuk_lib.wpat.model": "1", "leuk_lib.figures.wpat": "2"}}), "none in the"),
        (changed(params={**CARD["params"], "threads": 4}), "threads: 4 not 2"),
        (changed(run="b", params={**CARD["params"], "run": "b", "dataset": "/other/smear"}), "none in the cards"),
    ],
)  # fmt: skip
def test_the_likely_cause_is_read_from_the_cards(tmp_path, card, cause):
    table = compare.compare_runs(write_run(tmp_path / "a", 0.91, card=card), write_run(tmp_path / "b"))
    assert cause in row(table)["cause"]
    assert row(table, "loss")["cause"] == ""


HARDWARE = {
    "cpu": "AuthenticAMD family 25", "cpu_flags": "avx avx2 fma", "cpu_capability": "AVX2", "blas": "openblas 0.3.30 (Zen)",
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"cpu_capability": "AVX512"}, "hardware: cpu capability AVX512 not AVX2"),
        ({"cpu_flags": "avx avx2 avx512f"}, "hardware: instruction sets with avx512f, without fma"),
        ({"blas": "openblas 0.3.30 (SkylakeX)"}, "hardware: blas openblas 0.3.30 (SkylakeX) not openblas 0.3.30 (Zen)"),
        ({"cpu_flags": "avx avx2 fma smep"}, compare.NO_CAUSE),  # no instructions that compute
        ({"cuda": "13.0"}, compare.NO_CAUSE),
        ({}, compare.NO_CAUSE),
    ],
)
def test_the_processor_behind_one_name_is_a_cause(tmp_path, facts, cause):
    ours = write_run(tmp_path / "a", 0.91, card=changed(hardware={**HARDWARE, **facts}))
    table = compare.compare_runs(ours, write_run(tmp_path / "b", card=changed(hardware=HARDWARE)))
    assert row(table)["cause"] == cause


def test_other_cuda_libraries_are_a_cause(tmp_path):
    gpu = {"cuda": "13.0", "cudnn": "91300", "driver": "580.1", "compute_capability": "9.0"}
    ours = write_run(tmp_path / "a", 0.91, card=changed(hardware=gpu))
    other = {**gpu, "cudnn": "91000", "driver": "570.2"}
    table = compare.compare_runs(ours, write_run(tmp_path / "b", card=changed(hardware=other)))
    assert row(table)["cause"] == "hardware: cudnn 91300 not 91000; driver 580.1 not 570.2"


def test_a_reference_without_facts_of_the_processor_is_said(tmp_path):
    ours = write_run(tmp_path / "a", 0.91, card=changed(hardware=HARDWARE))
    table = compare.compare_runs(ours, write_run(tmp_path / "b"))
    assert row(table)["cause"] == f"{compare.NO_CAUSE} (the reference's card has no facts of the processor)"


def test_lightning_contains_lightning_fabric(tmp_path):
    whole, part = ({name: "2.6.6", "torch": "2.15"} for name in ("lightning", "lightning-fabric"))
    ours = write_run(tmp_path / "a", 0.91, card=changed(versions=whole))
    table = compare.compare_runs(ours, write_run(tmp_path / "b", card=changed(versions=part)))
    assert row(table)["cause"].startswith(compare.NO_CAUSE)
    older = changed(versions={**part, "lightning-fabric": "2.5.0"})
    table = compare.compare_runs(ours, write_run(tmp_path / "c", card=older))
    assert "lightning-fabric 2.6.6 not 2.5.0" in row(table)["cause"]


def test_the_reference_of_the_most_similar_machine_counts(tmp_path, monkeypatch):
    """By the cards, not by the numbers: here those of the chosen reference differ most."""
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    intel = {"cpu": "GenuineIntel family 6", "cpu_flags": "avx avx2 avx512f fma", "cpu_capability": "AVX512"}
    cards = {
        "": (0.91, changed(hardware=HARDWARE, device="AMD")),
        "intel": (0.5, changed(hardware=intel, device="Intel")),
        "gpu": (0.91, changed(hardware=intel, device="H100", peak_gpu_mb=10.0)),
    }
    for machine, (accuracy, card) in cards.items():
        write_reference(write_run(tmp_path / f"run{machine}", accuracy, card=card), rules=RULES, machine=machine)

    def closest(**parts):
        ours = write_run(tmp_path / "ours", 0.91, card=changed(**parts))
        found = compare.closest_reference(load_run(ours)["cards"])
        return found.stem

    assert closest(hardware=intel, device="Xeon") == "smear-laptop+intel"
    assert closest(hardware=HARDWARE, device="EPYC") == "smear-laptop"
    assert closest(hardware={}, device="AMD") == "smear-laptop"
    assert closest(hardware=intel, device="H200", peak_gpu_mb=20.0) == "smear-laptop+gpu"
    assert compare.closest_reference({"data": changed(profile="paper")}) is None


def test_a_machines_label_is_a_word(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    with pytest.raises(LeukError, match="machine 'a/b'"):
        write_reference(write_run(tmp_path / "run"), rules=RULES, machine="a/b")


def test_an_upstream_cause_is_named_with_its_stage(tmp_path):
    first = changed(stage="data", inputs={"dataset": {"content": "other"}})
    table = compare.compare_runs(write_run(tmp_path / "a", 0.91, data_card=first), write_run(tmp_path / "b"))
    assert row(table)["cause"] == "data: other files (stage data)"


def test_the_summary_counts_all_numbers_and_names_one_cause_per_stage(tmp_path):
    table = compare.compare_runs(write_run(tmp_path / "a", 0.91, card=changed(device="GPU")), write_run(tmp_path / "b"))
    stages = compare.by_stage(table).set_index("stage")
    assert stages.loc["wpat", "likely cause"] == "device: GPU not CPU" and stages.loc["data", "likely cause"] == ""
    assert stages[list(compare.VERDICTS)].to_numpy().sum() == len(table) == 3
    assert re.findall(r"\d+", compare.sentence(table)) == ["3", "2", "1", "0"]  # all, equal, within, outside
    equal = compare.sentence(table[table["verdict"] == "equal"])
    assert re.findall(r"\d+", equal) == ["2"] and "equal to the bit" in equal


def test_a_source_without_numbers_does_not_agree_with_anything(tmp_path):
    write_json(tmp_path / "x.json", {"metrics": {"wpat": {}}})
    with pytest.raises(LeukError, match="holds no number to compare"):
        compare.compare_runs(tmp_path / "x.json", tmp_path / "x.json")


def test_a_reference_whose_cards_name_no_other_is_one_line(tmp_path, capsys):
    number = {"metrics": {"wpat": {"k": {"value": 1}}}}
    for cards, message in (
        ({}, "has no run card"),
        ({"wpat": changed(profile="[[*]**")}, "no reference smear-[[*]**.json"),
    ):
        write_json(tmp_path / "x.json", {**number, "cards": cards})
        assert main(["compare", str(tmp_path / "x.json")]) > 0
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(LeukError, match="no finished stage"):
        compare.compare_runs(tmp_path, tmp_path)
    with pytest.raises(LeukError, match="neither"):
        compare.compare_runs(write_run(tmp_path / "a"), tmp_path / "none.json")
    for wrong, message in (({"a": 1}, "not a reference"), ([1], "not a reference"), ({"metrics": {"wpat": {"k": {}}}}, r"not a reference \(metrics\.wpat\.k\.value"),
                        ({"metrics": {"wpat": {"k": {"value": None}}}}, r"not a reference \(metrics\.wpat\.k\.value")):  # fmt: skip
        write_json(tmp_path / "x.json", wrong)
        with pytest.raises(LeukError, match=message):
            compare.compare_runs(tmp_path / "a", tmp_path / "x.json")
