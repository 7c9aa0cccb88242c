"""Base of all studies: parameters, jobs in waves, tables from the rows of the jobs."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd
from pydantic import Field

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import FrozenParams, nearest, parse_value
from leuk_lib.studies import STUDIES


class StudyParams(FrozenParams):
    """Parameters shared by all studies."""

    dataset: str = Field(min_length=1, description="folder of images")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="one repetition of every arm per seed")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of a job; sums depend on it in the last bit")


P = TypeVar("P", bound=StudyParams)
Row = dict[str, Any]


class Study(ABC, Generic[P]):
    """One experiment, cut into jobs (one arm and seed, say) that are pure functions of parameters and data."""

    title: ClassVar[str]
    #: Raised by hand when the study's numbers should move: records of an earlier version are then out of date.
    version: ClassVar[int]
    #: Parameters of the canary (see ``leuk_lib.studies.canary``): the whole study in seconds, on few rendered cells.
    canary: ClassVar[Mapping[str, Any]]
    params_model: ClassVar[type[StudyParams]]
    #: Parameters that no job's rows depend on (the list of seeds, say): finished jobs stay finished when they change.
    not_of_jobs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, params: P) -> None:
        self.params = params

    @abstractmethod
    def waves(self) -> Sequence[Sequence[str]]:
        """Names of the jobs. Those of one wave may run in parallel; a wave starts when the one before has ended."""

    @abstractmethod
    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """Do one job.

        Args:
            job: a name from :meth:`waves`.
            folder: the study's folder; the job writes into ``folder/<job>/`` and may read the files of earlier waves.
            identity: of parameters, data and code; checkpoints with another identity are not continued.

        Returns:
            Rows of plain values. ``loss``, where a row has it, is part of the canary.
        """

    @abstractmethod
    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """Return the outcome, name -> table, from the rows of all jobs (job -> rows; NaN has become None)."""


def slug(name: str) -> str:
    """Turn a name into a file name of letters, digits and hyphens.

    >>> slug("+ FCMAE (two views)")
    'fcmae-two-views'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def parse_settings(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Parse settings from the command line; values are YAML.

    Raises:
        LeukError: a setting is not of the form ``name=value``, or a parameter is given twice.

    >>> parse_settings("toy", ["seeds=[0, 1]"])
    {'seeds': [0, 1]}
    """
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise LeukError(f"study {name}: setting {setting!r} must look like seeds=[0,1]")
        if key in parsed:
            raise LeukError(f"study {name}: setting {setting!r}: {key} is given twice; keep the right one")
        parsed[key] = parse_value(setting, value)
    return parsed


def study_class(name: str) -> type[Study[Any]]:
    """Import the class of a study.

    Raises:
        LeukError: unknown name; the message gives the nearest valid one.
    """
    if name not in STUDIES:
        raise LeukError(f"unknown study {name!r}; {nearest(name, STUDIES)}")
    return load_class(STUDIES[name])


def load_class(path: str) -> type[Study[Any]]:
    """Import the class that ``module:Class`` names."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)
