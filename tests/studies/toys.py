"""A study of two waves that costs nothing: the second adds up what the first wrote."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field

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
            return [{"job": job, "value": sum(parts), "gap": float("nan")}]
        value = self.params.factor * int(job.removeprefix("seed-"))
        (own / "value.txt").write_text(str(value))
        return [{"job": job, "value": value, "gap": 0.5}]

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        return {"values": pd.DataFrame([row for job in sorted(rows) for row in rows[job]])}
