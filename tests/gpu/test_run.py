"""The script for minutes on a GPU, tried on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu import parts, reference
from leuk_lib.stages import STAGES

HERE = Path(__file__).resolve().parent


def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run the driver in this process; returns its exit code and the summary."""
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["run.sh", "--device", "cpu", "--work", str(tmp_path / "work"), "--out", str(out), *words]
    )
    code = parts.main()
    return code, json.loads((out / "summary.json").read_text())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Parts that are a line of Python each; the test may change them."""
    lines = {part: "print('fine')" for part in parts.LIMITS if part != "environment"}
    monkeypatch.setattr(
        parts,
        "commands",
        lambda *_: {part: lambda seconds, part=part: [sys.executable, "-c", lines[part]] for part in lines},
    )
    monkeypatch.setattr(parts, "LEAST", 0.1)
    monkeypatch.setattr(parts, "GRACE", 3.0)
    return lines


def states(summary: dict[str, Any]) -> dict[str, str]:
    return {part: entry["state"] for part, entry in summary["parts"].items()}


def test_a_part_that_fails_or_takes_too_long_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: dict[str, str]
):
    monkeypatch.setattr(parts, "LIMITS", {**parts.LIMITS, "training": 2.0})
    fake["methods"] = "import sys; print('wrong here'); sys.exit(3)"
    fake["training"] = "import time; time.sleep(600)"
    fake["processes"] = f"import sys; sys.exit({parts.SKIPPED})"
    code, summary = call(monkeypatch, tmp_path)
    assert states(summary) == {
        "environment": "passed", "methods": "failed", "training": "out of time", "processes": "skipped", "bench": "passed",
        "reference": "passed",
    }  # fmt: skip
    assert code == 1 and not summary["passed"]
    assert summary["parts"]["methods"]["said"] == "wrong here"
    assert "wrong here" in (tmp_path / "out" / "run.log").read_text()

    # Called again, it repeats what did not pass and nothing else.
    fake["methods"] = fake["training"] = "print('mended')"
    fake["bench"] = "raise SystemExit(1)"
    code, summary = call(monkeypatch, tmp_path)
    assert code == 0 and summary["parts"]["bench"]["earlier"] and "earlier" not in summary["parts"]["methods"]
    code, summary = call(monkeypatch, tmp_path, "--fresh", "--parts", "bench")
    assert code == 1 and states(summary) == {"bench": "failed"}


def test_what_is_unfinished_goes_on_in_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: dict[str, str]
):
    fake["reference"] = f"import sys; sys.exit({parts.UNFINISHED})"
    code, summary = call(monkeypatch, tmp_path, "--parts", "reference")
    assert code == 0 and states(summary) == {"reference": "unfinished"}
    fake["reference"] = "print('to the end')"
    _, summary = call(monkeypatch, tmp_path, "--parts", "reference")
    assert states(summary) == {"reference": "passed"} and "earlier" not in summary["parts"]["reference"]


def test_without_time_no_part_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: dict[str, str]):
    code, summary = call(monkeypatch, tmp_path, "--minutes", "0.1")
    assert code == 1 and set(states(summary).values()) == {"no time"}


def test_other_code_or_another_device_repeats_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: dict[str, str]
):
    call(monkeypatch, tmp_path, "--parts", "bench")
    monkeypatch.setattr(parts, "code_hash", lambda: "other")
    _, summary = call(monkeypatch, tmp_path, "--parts", "bench")
    assert "earlier" not in summary["parts"]["bench"]


def test_a_machine_that_is_taken_away_has_left_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: dict[str, str]
):
    fake["bench"] = f"import json; print(sorted(json.load(open({str(tmp_path / 'out' / 'summary.json')!r}))['parts']))"
    _, summary = call(monkeypatch, tmp_path)
    assert summary["parts"]["bench"]["said"] == "['environment', 'methods', 'processes', 'training']"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    versions = {"torch": "2.11.0+cu130", "lightning": "2.6.6", "pydantic": "2.1.0"}
    monkeypatch.setattr(parts, "installed", lambda name: versions.get(name, ""))
    missing = parts.missing_packages()
    assert "pydantic>=2.10 (has 2.1.0)" in missing and any(line.startswith("captum") for line in missing)
    assert not any(line.startswith(("torch>", "torch ", "lightning", "snakemake", "papermill")) for line in missing)


def test_the_steps_of_the_reference_run_fit_into_the_time():
    bench = {
        "profile": "gpu",
        "tiny": False,
        "stages": {"fcmae": {"profile_seconds": 100.0}, "acdb_gan": {"profile_seconds": 300.0}},
    }
    stages = [spec.name for spec in STAGES]
    assert reference.factor(bench, "gpu", 10_000, stages) == 1.0
    assert reference.factor(bench, "gpu", 400, stages) == pytest.approx(0.5 * reference.SHARE * 400 / 200)
    assert reference.factor(bench, "smoke", 1, stages) == reference.factor({}, "gpu", 1, stages) == 1.0
    assert reference.settings("fcmae", "gpu", 1.0) == reference.settings("data", "gpu", 0.1) == {}
    full, cut = reference.settings("acdb_gan", "gpu", 0.999999), reference.settings("acdb_gan", "gpu", 0.25)
    assert cut.keys() == full.keys() == set(reference.STEPS["acdb_gan"])
    assert all(cut[name] == -(-full[name] // 4) for name in full)


def test_each_network_counts_in_the_stage_that_trains_it(monkeypatch: pytest.MonkeyPatch):
    values = {
        "wpat": {"backbones": ["fcmae", "resnet18"]},
        "comparison": {
            "baselines": ["majority", "colour", "background", "linear_probe", "resnet10t", "resnet18@pretrained",
                          "knn:dinobloom_s@pretrained", "linear:dinobloom_s@pretrained", "lora:dinobloom_s@pretrained"]
        },
    }  # fmt: skip
    monkeypatch.setattr(reference, "load_profile", lambda profile: {spec.name: {} for spec in STAGES} | values)
    bench = {"stages": {"alhe": {"profile_seconds": 7.0}, "wpat": {"profile_seconds": 10.0}}}
    stages = [spec.name for spec in STAGES]
    assert reference.training_seconds(bench, "gpu", stages) == {"alhe": 7.0, "wpat": 20.0, "comparison": 30.0}
    assert reference.training_seconds(bench, "gpu", ["alhe", "wpat"]) == {"alhe": 7.0, "wpat": 20.0}


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param("environment methods", marks=pytest.mark.slow),
        pytest.param("bench reference", marks=pytest.mark.long),
        pytest.param("training processes", marks=pytest.mark.long),
    ],
)
def test_the_whole_script_on_the_cpu(tmp_path: Path, chosen: str):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEUK_")}
    done = subprocess.run(
        [str(HERE / "run.sh"), "--device", "cpu", "--cheapest", "--work", str(tmp_path / "work"), "--parts", chosen],
        env={**environment, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert done.stdout.startswith("tests/gpu/run.sh: ")
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["passed"] and states(summary) == dict.fromkeys(chosen.split(), "passed")
    assert {file.name for file in out.iterdir()} == {"run.log", "summary.json"} | {
        f"{part}.json" for part in chosen.split() if part != "environment"
    }
    assert len(list(out.iterdir())) <= 8 and max(file.stat().st_size for file in out.iterdir()) < 2**20
    for part in {"methods", "training", "processes"} & set(chosen.split()):
        record = json.loads((out / f"{part}.json").read_text())
        assert record["failed"] == [] and all(row["passed"] for row in record["checks"])
    if "bench" in chosen:
        bench = json.loads((out / "bench.json").read_text())
        assert set(bench["stages"]) == {"alhe", "wpat"}
        wpat = bench["stages"]["wpat"]
        assert min(wpat[name] for name in ("images_per_second", "flop_per_image", "bytes_per_image", "copy_share")) > 0
        assert "data" in json.loads((out / "reference.json").read_text())["metrics"]
