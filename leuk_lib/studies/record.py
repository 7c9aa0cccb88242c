"""Records of studies: the committed tables, their provenance, and what is known of them under the present code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
from pydantic import ConfigDict, RootModel, model_validator

from leuk_lib import quoting
from leuk_lib.data.fingerprint import RENDERED
from leuk_lib.runs import paths
from leuk_lib.runs.card import git_state
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import write_json
from leuk_lib.runs.records import Amount, Git, Moment, Record, read_record
from leuk_lib.studies.study import study_class

FOLDER = "book/reference/studies"
LOSS = "loss of "  # prefix of the canary's continuous numbers
RELATIVE = 1e-3  # tolerance of a loss: other processors and thread counts sum in another order
ABSOLUTE = 0.02  # tolerance of a mean over a table: a cell whose classes are nearly tied may change sides

STUDENT: Final = "student"
SEEDS: Final = "student-seeds"
#: Methods of the intervals in records, as a page states them. Tables hold no rows to compute them again from.
METHODS = {
    STUDENT: "Student's, over groups and seeds; those of scores are too short where seeds differ more than groups",
    SEEDS: "Student's, over groups and seeds",
}


class Commit(Git):
    """A commit and a time."""

    date: Moment


class Check(Commit):
    """Outcome of a canary: the numbers that moved."""

    moved: list[str]


class Acceptance(Check):
    """An entry of the log of accepted numbers."""

    reason: str


class Checks(RootModel[dict[str, Check]]):
    """Record -> outcome of its canary."""

    model_config = ConfigDict(strict=True)


class Table(Record):
    """A table as columns and rows."""

    columns: list[str]
    rows: list[list[str | bool | int | float | None]]

    @model_validator(mode="after")
    def _rows_are_full(self) -> Table:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row needs {len(self.columns)} values")
        return self


class RecordFile(Record):
    """The file of a :class:`StudyRecord`."""

    model_config = ConfigDict(extra="forbid")

    study: str
    title: str
    dataset: str
    content: str
    params: dict[str, Any]
    identity: str
    cpu_seconds: Amount
    device: str
    git: Git
    versions: dict[str, str]
    version: int
    canary: dict[str, float]
    verified: Commit
    accepted: list[Acceptance]
    tables: dict[str, Table]
    intervals: Literal["student", "student-seeds"] = STUDENT


@dataclass(frozen=True)
class StudyRecord:
    """The outcome of a study and where it comes from.

    Attributes:
        study: name of the study.
        title: the question that it answers.
        dataset: name of the data set.
        content: hash of the data.
        params: parameters, without the data set.
        identity: hash of parameters, data and code at that time.
        cpu_seconds: processor time of all jobs together.
        device: processor.
        git: commit of origin and whether there were uncommitted changes.
        versions: versions of Python and packages.
        version: version of the study (see ``Study.version``).
        canary: numbers of the canary: name -> value.
        verified: commit and date at which the canary last gave these numbers.
        accepted: log of ``leuk study accept``: date, commit, reason and the numbers that moved.
        tables: name -> columns and rows.
        intervals: method of the intervals in the tables, a key of ``METHODS``.
    """

    study: str
    title: str
    dataset: str
    content: str
    params: dict[str, Any]
    identity: str
    cpu_seconds: float
    device: str
    git: dict[str, Any]
    versions: dict[str, str]
    version: int
    canary: dict[str, float]
    verified: dict[str, Any]
    accepted: list[dict[str, Any]]
    tables: dict[str, dict[str, Any]]
    intervals: str = STUDENT

    def table(self, name: str) -> pd.DataFrame:
        """Return a table as a data frame; null is NaN.

        Raises:
            LeukError: the record has no such table.
        """
        if name not in self.tables:
            raise LeukError(f"study {self.study}: no table {name!r}; it has {', '.join(self.tables)}")
        table = self.tables[name]
        frame = pd.DataFrame(table["rows"], columns=table["columns"])
        return frame.fillna(float("nan")) if len(frame) else frame

    @property
    def name(self) -> str:
        """File name of the record without its ending."""
        return record_name(self.study, self.dataset)

    @property
    def command(self) -> str:
        """The command that repeats the study."""
        settings = " ".join(
            f"--set {quoting.shell(f'{key}={json.dumps(value)}')}" for key, value in self.params.items()
        )
        where = self.dataset if self.dataset == RENDERED else f"…/{self.dataset}"
        return f"leuk study {self.study} --dataset {where} {settings}"

    def state(self) -> str:
        """Say what is known of the record: "verified at …", "numbers moved at …" or "of another version".

        Nothing is computed: the answer is that of the canary's last run, in the record or by ``leuk study verify``.
        """
        version = study_class(self.study).version
        if version != self.version:
            return f"of another version: the record has {self.version}, the study {version}"
        check = read_checks().get(self.name, {})
        if check.get("date", "") >= self.verified["date"]:
            if check["moved"]:
                return f"numbers moved at {_commit(check)}: {'; '.join(check['moved'])}"
            return f"verified at {_commit(check)}"
        return f"verified at {_commit(self.verified)}"

    def provenance(self) -> pd.DataFrame:
        """Return what a reader needs to trust or repeat the study, as a table: item, value."""
        rows = [
            ("data", f"{self.dataset} (content {self.content[:12]})"), ("made at", _commit(self.git)),
            ("version", str(self.version)), ("state", self.state()), ("intervals", METHODS[self.intervals]), ("device", self.device),
            ("processor time", f"{self.cpu_seconds / 60:.0f} min"), ("torch", self.versions.get("torch", "–")),
            *((f"accepted on {entry['date'][:10]}", entry["reason"]) for entry in self.accepted),
            ("to repeat it", self.command),
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["item", "value"])

    def accept(self, numbers: Mapping[str, float], reason: str) -> StudyRecord:
        """Return the record with the canary's new ``numbers`` and the ``reason`` in its log; its tables stay."""
        now = present()
        entry = {**now, "reason": reason, "moved": moved(self.canary, numbers)}
        return replace(self, canary=dict(numbers), verified=now, accepted=[*self.accepted, entry])

    def save(self) -> Path:
        """Write the record where it is committed."""
        return write_json(paths.project_root() / record_file(self.study, self.dataset), asdict(self))


def present() -> dict[str, Any]:
    """The present commit, whether there are uncommitted changes, and the date (UTC, ISO 8601)."""
    return {**git_state(paths.project_root()), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def _commit(git: Mapping[str, Any]) -> str:
    return f"commit {(git['commit'] or 'none')[:12]}{' with uncommitted changes' if git['dirty'] else ''}"


def moved(recorded: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Compare the numbers of two runs of a canary.

    Returns:
        One line per number that differs beyond the tolerance or is missing on one side.

    >>> moved({"loss of a": 1.0, "scores.value": 0.50}, {"loss of a": 1.0005, "scores.value": 0.55})
    ['scores.value: recorded 0.5, now 0.55']
    """
    lines = []
    for name in dict.fromkeys([*recorded, *now]):
        before, after = recorded.get(name), now.get(name)
        if before is not None and after is not None:
            limit = RELATIVE * abs(before) if name.startswith(LOSS) else ABSOLUTE
            if abs(after - before) <= limit:
                continue
        values = ("none" if value is None else f"{value:.6g}" for value in (before, after))
        lines.append(f"{name}: recorded {', now '.join(values)}")
    return lines


def checks_file() -> Path:
    """File with the outcomes of ``leuk study verify`` in this working copy: record -> commit, date, moved."""
    return paths.results_root() / "studies" / "verified.json"


def record_name(study: str, dataset: str) -> str:
    """``<study>-<data set>``, from the data set's name or folder."""
    return f"{study}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(dataset).name)}"


def record_file(study: str, dataset: str) -> str:
    """Path of a record, relative to the project's folder (as ``stage.use_file`` wants it)."""
    return f"{FOLDER}/{record_name(study, dataset)}.json"


def load_record(path: Path) -> StudyRecord:
    """Read a record.

    Raises:
        LeukError: the file is missing, damaged or no record of this library.
    """
    return StudyRecord(
        **read_record(path, RecordFile, "a study's record of this library", "restore it, for example with git")
    )


def read_checks() -> dict[str, dict[str, Any]]:
    """Read :func:`checks_file`; nothing if there is none.

    Raises:
        LeukError: the file is damaged.
    """
    path = checks_file()
    if not path.exists():
        return {}
    return read_record(path, Checks, "the outcomes of `leuk study verify`", "delete it and verify again")


def records_of(study: str) -> list[StudyRecord]:
    """Read the committed records of a study."""
    folder = paths.project_root() / FOLDER
    return [load_record(path) for path in sorted(folder.glob(f"{study}-*.json"))]


def plain(value: Any) -> Any:
    """Turn a value into plain JSON: NumPy scalars to Python's, NaN to null, floats to six significant digits."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def to_table(frame: pd.DataFrame) -> dict[str, Any]:
    """Turn a data frame into plain JSON: columns and rows."""
    rows = [[plain(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return {"columns": [str(name) for name in frame.columns], "rows": rows}
