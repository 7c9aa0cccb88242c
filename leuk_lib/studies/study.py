"""What a study is: parameters, jobs in waves, and tables made from the jobs' rows."""

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
    """What every study knows."""

    dataset: str = Field(min_length=1, description="folder of images")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="one repetition of every arm a seed")
    threads: int = Field(
        1, ge=1, le=256, description="CPU threads of a job; fixed, since sums depend on it in the last bit"
    )


P = TypeVar("P", bound=StudyParams)
Row = dict[str, Any]


class Study(ABC, Generic[P]):
    """One experiment, cut into jobs (an arm and a seed, say) that are pure functions of parameters and data."""

    title: ClassVar[str]
    params_model: ClassVar[type[StudyParams]]
    #: Parameters that no job's rows depend on (which seeds there are besides its own, say): a job that is done stays
    #: done when they change, so that seeds can be added.
    not_of_jobs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, params: P) -> None:
        self.params = params

    @abstractmethod
    def waves(self) -> Sequence[Sequence[str]]:
        """Names of the jobs. Those of one wave may run side by side; a wave starts when the one before has ended."""

    @abstractmethod
    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """Do one job and return its rows of plain values.

        ``folder`` is the study's: ``folder/<job>/`` takes the job's files and checkpoints (under ``identity``), and the
        files of earlier waves' jobs lie beside it.
        """

    @abstractmethod
    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """The outcome: name -> table, from the rows of all jobs (job -> rows; NaN has become None)."""


def slug(name: str) -> str:
    """A name as a file name: letters, digits and hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def parse_settings(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """``["seeds=[0, 1]"]`` -> ``{"seeds": [0, 1]}``; values are YAML. Raises ``LeukError`` for anything else."""
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise LeukError(f"study {name}: setting {setting!r} must look like seeds=[0,1]")
        found[key] = parse_value(setting, value)
    return found


def study_path(name: str) -> str:
    """``module:Class`` of the study of that name. Raises ``LeukError`` with the nearest valid name."""
    if name not in STUDIES:
        raise LeukError(f"unknown study {name!r}; {nearest(name, STUDIES)}")
    return STUDIES[name]


def study_class(path: str) -> type[Study[Any]]:
    """The class that ``module:Class`` names."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)
