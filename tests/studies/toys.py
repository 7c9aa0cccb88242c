"""A study of two waves that costs nothing: the second adds up what the first wrote; and a made-up record."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field

from leuk_lib.studies.record import StudyRecord, to_table
from leuk_lib.studies.study import Row, Study, StudyParams


class ToyParams(StudyParams):
    """Parameters of the toy."""

    factor: int = Field(2, ge=1, description="what the seeds are multiplied by")
    resamples: int = Field(1, description="what no job depends on")
    linger: float = Field(0, description="seconds that a job takes")
    die_at: str = Field("", description="job whose process ends at once")


class Toy(Study[ToyParams]):
    """factor * seed, and the sum."""

    title = "A toy"
    version = 1
    canary: ClassVar[Mapping[str, Any]] = {"dataset": "smear", "seeds": (1, 2)}
    not_of_jobs = frozenset({"resamples"})
    params_model = ToyParams

    def waves(self) -> Sequence[Sequence[str]]:
        return [[f"seed-{seed}" for seed in self.params.seeds], ["sum"]]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        if job == self.params.die_at and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(9)
        own = folder / job
        own.mkdir(parents=True, exist_ok=True)
        with (own / "runs.txt").open("a") as log:
            log.write("ran\n")
        (own / "process.txt").write_text(str(os.getpid()))
        time.sleep(self.params.linger)
        if job == "sum":
            parts = [int((folder / name / "value.txt").read_text()) for name in self.waves()[0]]
            return [{"job": job, "value": sum(parts), "gap": float("nan"), "loss": 2.0}]
        value = self.params.factor * int(job.removeprefix("seed-"))
        (own / "value.txt").write_text(str(value))
        return [{"job": job, "value": value, "gap": 0.5, "loss": 0.5 * value}]

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        whole = pd.DataFrame([row for job in sorted(rows) for row in rows[job]])
        return {"values": whole.drop(columns="loss")}


def made_record(study: str, tables: Mapping[str, pd.DataFrame], params: Mapping[str, Any] | None = None) -> StudyRecord:
    """A record with these tables and otherwise made-up contents."""
    return StudyRecord(
        study=study, title="t", dataset="cells", content="c", params=dict(params or {}), identity="i", cpu_seconds=1.0,
        device="cpu", git={"commit": "0" * 40, "dirty": False}, versions={}, version=1, canary={"loss of a": 1.0},
        verified={"commit": "1" * 40, "dirty": False, "date": "2026-01-01T00:00:00+00:00"}, accepted=[],
        tables={name: to_table(table) for name, table in tables.items()},
    )  # fmt: skip
