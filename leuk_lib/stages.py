"""The seven stages: their order, what reads what, and the parameters of each in every profile."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from leuk_lib.runs import card, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file, sha256_json
from leuk_lib.runs.params import StageParams, check, nearest, parse_value

PROFILES = ("smoke", "laptop", "paper")


@dataclass(frozen=True)
class StageSpec:
    """One notebook: name, title, parameters' class (``module:Class``), the stages and the project's files it reads."""

    name: str
    title: str
    params: str
    inputs: tuple[str, ...]
    files: tuple[str, ...] = ()

    @property
    def notebook(self) -> Path:
        """Path of the notebook. Raises ``LeukError`` where it is missing."""
        path = paths.stage_notebooks().get(self.name)
        if path is None:
            raise LeukError(f"stage {self.name}: no notebook notebooks/??_{self.name}.ipynb")
        return path

    def params_model(self) -> type[StageParams]:
        """The stage's parameter model (imports only pydantic)."""
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
    StageSpec(
        "wpat",
        "WPAT",
        "leuk_lib.wpat.params:WpatParams",
        ("data", "alhe", "acdb_gan", "fcmae"),
        (
            "book/reference/studies/ladder-pbc_barcelona_128.json",
            "book/reference/studies/explanation-tecom_wbc.json",
            "book/reference/studies/leakage-smear.json",
            "book/reference/studies/leakage-cnmc2019.json",
            "book/reference/studies/leakage-pbc_barcelona_128.json",
        ),
    ),
    StageSpec(
        "results",
        "Results",
        "leuk_lib.evaluation.params:ResultsParams",
        ("data", "alhe", "acdb_gan", "fcmae", "wpat"),
        (
            "book/reference/studies/ladder-pbc_barcelona_128.json",
            "book/reference/studies/enhancement-pbc_barcelona_128.json",
            "book/reference/studies/balancing-pbc_barcelona_128.json",
            "book/reference/studies/pretraining-pbc_barcelona_128.json",
            "book/reference/studies/leakage-smear.json",
        ),
    ),
    StageSpec("claims", "Claims", "leuk_lib.evaluation.params:ClaimsParams", ("results",), ("book/claims.yml",)),
)


def stage(name: str) -> StageSpec:
    """The stage of that name. Raises ``LeukError`` with the nearest valid name."""
    for spec in STAGES:
        if spec.name == name:
            return spec
    raise LeukError(f"unknown stage {name!r}; {nearest(name, [spec.name for spec in STAGES])}")


def needed(last: str) -> list[StageSpec]:
    """The stage of that name and all that it reads, directly or not, in order."""
    names = {stage(last).name}
    for spec in reversed(STAGES):
        if spec.name in names:
            names |= set(spec.inputs)
    return [spec for spec in STAGES if spec.name in names]


def load_profile(profile: str) -> dict[str, dict[str, Any]]:
    """Stage -> its parameters in ``notebooks/profiles/<profile>.yml``, checked against the models' names.

    Raises ``LeukError`` for an unknown profile, a damaged file, an unknown stage.
    """
    if profile not in PROFILES:
        raise LeukError(f"unknown profile {profile!r}; {nearest(profile, PROFILES)}")
    path = paths.profile_file(profile)
    try:
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise LeukError(f"{path}: cannot be read ({error})") from error
    sections = whole.get("stages") or {}
    for name in sections:
        stage(name)
    return {spec.name: dict(sections.get(spec.name) or {}) for spec in STAGES}


def parse_overrides(settings: list[str]) -> dict[str, dict[str, Any]]:
    """``["fcmae.epochs=3"]`` -> ``{"fcmae": {"epochs": 3}}``; values are YAML.

    Raises ``LeukError`` for anything else.
    """
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, parameter = key.partition(".")
        if not (equals and dot and parameter):
            raise LeukError(f"setting {setting!r}: must look like fcmae.epochs=3")
        found.setdefault(stage(name).name, {})[parameter] = parse_value(setting, value)
    return found


def stage_parameters(
    name: str, dataset: str, profile: str, seed: int, run: str, overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """All papermill parameters of one stage: profile, overrides, checked against the model before anything runs."""
    values = {**load_profile(profile)[name], **overrides.get(name, {})}
    common = {"dataset": dataset, "profile": profile, "seed": seed, "run": run}
    check(f"stage {name}", stage(name).params_model(), {**values, **common})
    return {**common, "stages": {name: values}}


@functools.cache
def depends_on(name: str) -> str:
    """Digest of what decides a stage besides parameters and inputs: its notebook, its code, its files, the lock file."""
    read = {file: sha256_file(paths.project_root() / file) for file in stage(name).files}
    return sha256_json([card.present_hashes(name), read])[:24]
