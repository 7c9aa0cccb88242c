"""Profiles and settings: what is written has an effect, or is refused by name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from leuk_lib.runs.errors import LeukError
from leuk_lib.stages import PROFILES, STAGES, load_profile, parse_overrides, stage, stage_parameters


@pytest.fixture
def profiles(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose profiles can be changed."""
    folder = tmp_path / "notebooks" / "profiles"
    folder.mkdir(parents=True)
    for name in PROFILES:
        (folder / f"{name}.yml").write_bytes((root / "notebooks" / "profiles" / f"{name}.yml").read_bytes())
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    return folder


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("stage:\n  data: {}\n", r"unknown entry 'stage'; did you mean 'stages'"),
        ("profile: paper\nstages: {}\n", "says profile: 'paper'"),
        ("stages: [1]\n", "must be a mapping of stages"),
        ("stages:\n  data: 5\n", "data = 5: must be a mapping"),
        ("stages:\n  dta: {}\n", "unknown stage 'dta'"),
        ("stages:\n  fcmae: {seed: 5}\n", "fcmae.seed: all stages share it; give it with --seeds"),
        ("stages:\n  fcmae: {1: 5}\n", "parameter 1: its name must be a text"),
        ("- 1\n", "names and values"),
    ],
)
def test_a_profile_of_another_shape_is_one_line(profiles: Path, text: str, why: str):
    (profiles / "smoke.yml").write_text(text)
    with pytest.raises(LeukError, match=why):
        for spec in STAGES:
            stage_parameters(spec.name, "smear", "smoke", 0, "r", {})


def test_an_empty_profile_has_the_defaults(profiles: Path):
    (profiles / "smoke.yml").write_text("")
    assert set(map(tuple, load_profile("smoke").values())) == {()}


@pytest.mark.parametrize("name", ["dataset", "profile", "seed", "run"])
def test_a_setting_that_all_stages_share_is_refused(name: str):
    with pytest.raises(LeukError, match=f"fcmae.{name}: all stages share it; give it with --"):
        parse_overrides([f"fcmae.{name}=5"])


@pytest.mark.parametrize(
    "value", ["1:30", "010", "2001-13-45", "1_000", "yes", "[1", "{", "9" * 5000, "nan", ".nan", "\x00"]
)
def test_a_value_that_is_no_number_is_refused(value: str):
    with pytest.raises(LeukError):
        stage_parameters("data", "smear", "smoke", 0, "r", parse_overrides([f"data.cells={value}"]))


@pytest.mark.parametrize("name", ["", "-x", "..", "a/b", "x" * 161, "a\n", "ä", "`x`"])
def test_a_name_of_a_run_that_is_no_folder_name_is_refused(name: str):
    with pytest.raises(LeukError, match="run"):
        stage_parameters("data", "smear", "smoke", 0, name, {})


@pytest.mark.parametrize(
    ("old", "present"),
    [
        ("wpat.baselines=[colour]", "comparison.baselines"),
        ("wpat.shifted_cells=9", "trust.shifted_cells"),
        ("wpat.explained_cells=9", "trust.explained_cells"),
        ("wpat.gradient_steps=9", "trust.gradient_steps"),
        ("wpat.shifted=9", "trust.shifted_cells"),
    ],
)
def test_a_parameter_that_moved_to_another_stage_names_it(old: str, present: str):
    with pytest.raises(LeukError, match=f"did you mean '{present}'"):
        stage_parameters("wpat", "smear", "smoke", 0, "r", parse_overrides([old]))
    name, field = present.split(".")
    assert field in stage(name).params_model().model_fields


def fuzz(profiles: Path, times: int, seed: int) -> None:
    rng = random.Random(seed)
    original = (profiles / "smoke.yml").read_text()
    lines = original.splitlines()
    bits = [
        "stages:",
        "  data:",
        "    x: 1",
        "- 1",
        "a: &a [1]",
        "b: *a",
        "\t",
        "'",
        '"',
        "{",
        "]",
        "5: 5",
        "? x",
        "!!int x",
        "%",
        "\x85",
    ]
    for _ in range(times):
        kind = rng.randrange(4)
        changed = list(lines)
        if kind == 0:
            changed.insert(rng.randrange(len(lines)), rng.choice(bits))
        elif kind == 1:
            del changed[rng.randrange(len(lines))]
        elif kind == 2:
            at = rng.randrange(len(lines))
            changed[at] = (
                changed[at].partition(":")[0]
                + ": "
                + rng.choice(["", "null", "[]", "{}", "x", "-1", "1e400", ".nan", "1:30"])
            )
        data = "\n".join(changed).encode()
        if kind == 3:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        (profiles / "smoke.yml").write_bytes(data)
        for spec in STAGES:
            try:
                stage_parameters(spec.name, "smear", "smoke", 0, "r", {})
            except LeukError as error:
                assert "\n" not in str(error)
                break


def test_mutated_profiles_are_one_line(profiles: Path):
    fuzz(profiles, 20, 1)


@pytest.mark.long
def test_two_thousand_mutated_profiles_are_one_line(profiles: Path):
    fuzz(profiles, 2000, 2)


def test_the_committed_profiles_mean_the_same_to_papermill(root: Path):
    """Papermill reads them by YAML 1.1."""
    for profile in PROFILES:
        content = yaml.safe_load((root / "notebooks" / "profiles" / f"{profile}.yml").read_text())
        assert {name: dict(values) for name, values in (content["stages"] or {}).items() if values} == {
            name: values for name, values in load_profile(profile).items() if values
        }
