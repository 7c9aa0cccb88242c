"""The stages: their order, their inputs, and their parameters in every profile."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leuk_lib.runs import card, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file, sha256_json
from leuk_lib.runs.params import StageParams, check, nearest, parse_value
from leuk_lib.runs.yaml_files import read_plain

PROFILES = ("smoke", "laptop", "gpu", "paper")
PROFILE_KEYS = ("profile", "stages")
COMMON = {"dataset": "--dataset", "profile": "--profile", "seed": "--seeds", "run": "--run"}  # parameter -> option


@dataclass(frozen=True)
class StageSpec:
    """One stage: name, title, parameter model as ``module:Class``, the stages and project files that it reads."""

    name: str
    title: str
    params: str
    inputs: tuple[str, ...]
    files: tuple[str, ...] = ()

    @property
    def notebook(self) -> Path:
        """Path of the notebook.

        Raises:
            LeukError: If there is none.
        """
        path = paths.stage_notebooks().get(self.name)
        if path is None:
            raise LeukError(f"stage {self.name}: no notebook notebooks/??_{self.name}.ipynb")
        return path

    def params_model(self) -> type[StageParams]:
        """Import and return the stage's parameter model; this loads pydantic but not torch."""
        module, name = self.params.split(":")
        return getattr(importlib.import_module(module), name)


STAGES = (
    StageSpec("data", "Data", "leuk_lib.data.params:DataParams", ()),
    StageSpec(
        "alhe",
        "ALHE",
        "leuk_lib.alhe.params:AlheParams",
        ("data",),
        ("book/reference/studies/enhancement-pbc_barcelona_128.json",),
    ),
    StageSpec(
        "acdb_gan",
        "ACDB-GAN",
        "leuk_lib.gan.params:AcdbGanParams",
        ("data", "alhe"),
        ("book/reference/studies/balancing-pbc_barcelona_128.json",),
    ),
    StageSpec(
        "fcmae",
        "FCMAE V2",
        "leuk_lib.fcmae.params:FcmaeParams",
        ("data", "alhe"),
        ("book/reference/studies/pretraining-pbc_barcelona_128.json",),
    ),
    StageSpec("wpat", "WPAT", "leuk_lib.wpat.params:WpatParams", ("data", "alhe", "acdb_gan", "fcmae")),
    StageSpec(
        "comparison",
        "Comparison",
        "leuk_lib.wpat.params:ComparisonParams",
        ("data", "alhe", "fcmae", "wpat"),
        (
            "book/reference/studies/ladder-pbc_barcelona_128.json",
            "book/reference/studies/budget-pbc_barcelona_128.json",
        ),
    ),
    StageSpec(
        "leakage",
        "Leakage",
        "leuk_lib.evaluation.params:LeakageParams",
        (),
        (
            "book/reference/studies/leakage-smear.json",
            "book/reference/studies/leakage-cnmc2019.json",
            "book/reference/studies/leakage-pbc_barcelona_128.json",
        ),
    ),
    StageSpec(
        "trust",
        "Trust",
        "leuk_lib.evaluation.params:TrustParams",
        ("data", "alhe", "fcmae", "wpat", "comparison"),
        (
            "book/reference/studies/ladder-pbc_barcelona_128.json",
            "book/reference/studies/explanation-tecom_wbc.json",
        ),
    ),
    StageSpec(
        "results",
        "Results",
        "leuk_lib.evaluation.params:ResultsParams",
        ("data", "alhe", "acdb_gan", "fcmae", "wpat", "comparison", "leakage", "trust"),
        (
            "book/reference/studies/ladder-pbc_barcelona_128.json",
            "book/reference/studies/budget-pbc_barcelona_128.json",
            "book/reference/studies/enhancement-pbc_barcelona_128.json",
            "book/reference/studies/balancing-pbc_barcelona_128.json",
            "book/reference/studies/pretraining-pbc_barcelona_128.json",
            "book/reference/studies/leakage-smear.json",
        ),
    ),
    StageSpec("claims", "Claims", "leuk_lib.evaluation.params:ClaimsParams", ("results",), ("book/claims.yml",)),
)


def stage(name: str) -> StageSpec:
    """Return the stage of that name.

    Raises:
        LeukError: If there is none, with the nearest valid name.
    """
    for spec in STAGES:
        if spec.name == name:
            return spec
    raise LeukError(f"unknown stage {name!r}; {nearest(name, [spec.name for spec in STAGES])}")


def needed(last: str) -> list[StageSpec]:
    """Return a stage and all stages that it reads, directly or not, in order.

    >>> [spec.name for spec in needed("fcmae")]
    ['data', 'alhe', 'fcmae']
    """
    names = {stage(last).name}
    for spec in reversed(STAGES):
        if spec.name in names:
            names |= set(spec.inputs)
    return [spec for spec in STAGES if spec.name in names]


def load_profile(profile: str) -> dict[str, dict[str, Any]]:
    """Return ``{stage: parameters}`` of ``notebooks/profiles/<profile>.yml``.

    Raises:
        LeukError: If the profile or one of its stages is unknown, or if the file cannot be read.
    """
    if profile not in PROFILES:
        raise LeukError(f"unknown profile {profile!r}; {nearest(profile, PROFILES)}")
    path = paths.profile_file(profile)
    content = read_plain(path)
    for name in content:
        if name not in PROFILE_KEYS:
            raise LeukError(f"{path}: unknown entry {name!r}; {nearest(name, PROFILE_KEYS)}", exit_code=2)
    if content.get("profile", profile) != profile:
        raise LeukError(f"{path}: says profile: {content['profile']!r}; it must be {profile!r}", exit_code=2)
    sections = content.get("stages") or {}
    if not isinstance(sections, dict):
        raise LeukError(f"{path}: stages = {sections!r}: must be a mapping of stages to parameters", exit_code=2)
    for name, values in sections.items():
        stage(str(name))
        if values is not None and not isinstance(values, dict):
            raise LeukError(f"{path}: {name} = {values!r}: must be a mapping of parameters to values", exit_code=2)
        _refuse_common(f"{path}: {name}", values or {})
    return {spec.name: dict(sections.get(spec.name) or {}) for spec in STAGES}


def _refuse_common(where: str, values: Mapping[Any, Any]) -> None:
    """Raise ``LeukError`` for a parameter that all stages share, which a stage's own value would not change."""
    for name in values:
        if name in COMMON:
            raise LeukError(f"{where}.{name}: all stages share it; give it with {COMMON[name]}", exit_code=2)


def parse_overrides(settings: list[str]) -> dict[str, dict[str, Any]]:
    """Parse settings ``STAGE.NAME=VALUE`` whose values are YAML.

    >>> parse_overrides(["fcmae.steps=3", "comparison.baselines=[colour]"])
    {'fcmae': {'steps': 3}, 'comparison': {'baselines': ['colour']}}

    Raises:
        LeukError: If a setting has another form, or if a parameter is given twice.
    """
    overrides: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, parameter = key.partition(".")
        if not (equals and dot and parameter):
            raise LeukError(f"setting {setting!r}: must look like fcmae.steps=3")
        _refuse_common(f"setting {setting!r}: {name}", {parameter: value})
        if parameter in overrides.setdefault(stage(name).name, {}):
            raise LeukError(f"setting {setting!r}: {key} is given twice; keep the right one")
        overrides[name][parameter] = parse_value(setting, value)
    return overrides


def stage_parameters(
    name: str, dataset: str, profile: str, seed: int, run: str, overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the papermill parameters of one stage from its profile and overrides, checked against its model."""
    values = {**load_profile(profile)[name], **overrides.get(name, {})}
    common = {"dataset": dataset, "profile": profile, "seed": seed, "run": run}
    check(f"stage {name}", stage(name).params_model(), {**values, **common})
    return {**common, "stages": {name: values}}


def card_parameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of one stage, as its run card has them, from what `stage_parameters` returned."""
    common = {key: value for key, value in given.items() if key != "stages"}
    return stage(name).params_model()(**common, **given["stages"][name]).model_dump(mode="json")


@functools.cache
def depends_on(name: str) -> str:
    """Return a hash of a stage's notebook, code and files and of the lock file, for Snakemake."""
    file_hashes = {file: sha256_file(paths.project_root() / file) for file in stage(name).files}
    return sha256_json([card.present_hashes(name), file_hashes])[:24]
