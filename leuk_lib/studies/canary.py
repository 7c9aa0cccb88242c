"""Canaries: each study run whole, in seconds, on few rendered cells, to notice that its numbers would move.

A canary takes the path of its study (reading, training, testing, tables). Its numbers are stored in the study's
records and repeated by the tests and by ``leuk study verify``: the mean loss of each job, which reacts to any change of
the computation, and the means over each table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import write_json
from leuk_lib.runs.threads import torch_threads
from leuk_lib.studies.record import (
    LOSS,
    SEEDS,
    StudyRecord,
    checks_file,
    moved,
    plain,
    present,
    read_checks,
    records_of,
)
from leuk_lib.studies.study import Row, Study, study_class

#: Folders of rendered cells that stand for a data set, an external test set and a small set: cells, patients per class.
FOLDERS = {"cells": (96, 6), "elsewhere": (60, 3), "patients": (60, 3)}
SIZE = 32  # side of the images, pixels


@dataclass(frozen=True)
class Canary:
    """A canary that has run: the study, the rows of its jobs, its tables, and the numbers that are compared."""

    study: Study[Any]
    rows: dict[str, list[Row]]
    tables: dict[str, pd.DataFrame]

    @property
    def numbers(self) -> dict[str, float]:
        """Mean loss of each job with a loss, and mean value, low and high of each table; six significant digits."""
        numbers = {}
        for job, rows in self.rows.items():
            losses = [row["loss"] for row in rows if row.get("loss") is not None]
            if losses:
                numbers[f"{LOSS}{job}"] = float(np.mean(losses))
        for name, table in self.tables.items():
            for column in {"value", "low", "high"} & set(table.columns):
                numbers[f"{name}.{column}"] = float(table[column].mean())
        return {name: plain(value) for name, value in sorted(numbers.items()) if np.isfinite(value)}


def render_folders(root: Path) -> Path:
    """Write rendered cells as folders of images with a manifest of patients; return the first folder."""
    for seed, (folder, (count, patients)) in enumerate(FOLDERS.items()):
        cells = smear_cells(cells=count, patients=patients, size=SIZE, seed=seed)
        table = cells.table.assign(path=[f"{label}/{k}.png" for k, label in enumerate(cells.table["label"])])
        for path, image in zip(table["path"], cells.images, strict=True):
            (root / folder / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / path), np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
        table[["path", "label", "group"]].to_csv(root / folder / "manifest.csv", index=False)
    return root / next(iter(FOLDERS))


def run_canary(name: str, folder: Path) -> Canary:
    """Run the canary of a study in an empty ``folder``, in this process, on one thread."""
    study_type = study_class(name)
    dataset = study_type.canary.get("dataset") or str(render_folders(folder / "data"))
    study = study_type(study_type.params_model(**{**study_type.canary, "dataset": dataset}))
    with torch_threads(1):
        rows = {
            job: [
                {key: plain(value) for key, value in row.items()} for row in study.run(job, folder / "jobs", "canary")
            ]
            for wave in study.waves()
            for job in wave
        }
    return Canary(study, rows, study.tables(rows))


def canary_numbers(name: str) -> dict[str, float]:
    """Run the canary of a study in a temporary folder and return its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        return run_canary(name, Path(folder)).numbers


def verify(names: Iterable[str], update: bool = False) -> list[StudyRecord]:
    """Repeat the canaries of studies and note for each of their records whether its numbers moved.

    The outcome is written to ``results/studies/verified.json``, from which ``StudyRecord.state`` reads it.

    Args:
        names: names of studies.
        update: also write the present commit into the records whose numbers agree.

    Returns:
        The records.
    """
    checked = []
    now = present()  # before a record is written, which is a change of the project too
    for name in names:
        numbers = canary_numbers(name)
        for record in records_of(name):
            differences = moved(*(comparable(record, part) for part in (record.canary, numbers)))
            write_json(checks_file(), {**read_checks(), record.name: {**now, "moved": differences}})
            if update and not differences and record.version == study_class(name).version:
                record = replace(record, verified=now)
                record.save()
            checked.append(record)
    return checked


def comparable(record: StudyRecord, numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers without ends of intervals, if the record's intervals are of an earlier method."""
    ends = () if record.intervals == SEEDS else (".low", ".high")
    return {name: value for name, value in numbers.items() if not name.endswith(ends)}


def accept(name: str, reason: str) -> list[Path]:
    """Store the present numbers of a study's canary in its records, with the reason; the tables stay.

    Raises:
        LeukError: the reason is empty, or the study has no record.
    """
    records = records_of(name) if study_class(name) else []
    if not reason.strip():
        raise LeukError(f"study {name}: an acceptance needs a reason")
    if not records:
        raise LeukError(f"study {name}: no record in the book yet; leuk study {name} --record writes one")
    numbers = canary_numbers(name)
    return [record.accept(numbers, reason).save() for record in records]
