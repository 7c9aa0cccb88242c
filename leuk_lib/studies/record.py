"""The committed outcome of a study: its tables, and all that one must know to trust or to repeat them."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.data.fingerprint import RENDERED
from leuk_lib.runs import code, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json, write_json

FOLDER = "book/reference/studies"


@dataclass(frozen=True)
class StudyRecord:
    """What a study found (``tables``), with what (``params``, ``content`` hash of the data, ``versions``, ``device``) and by
    which code (``git``, ``code``: module -> SHA-256). ``cpu_seconds``: processor time of all jobs together."""

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
    code: dict[str, str]
    tables: dict[str, dict[str, Any]]

    def table(self, name: str) -> pd.DataFrame:
        """A table as a data frame; null is NaN. Raises ``LeukError`` for a name that the record lacks."""
        if name not in self.tables:
            raise LeukError(f"study {self.study}: no table {name!r}; it has {', '.join(self.tables)}")
        table = self.tables[name]
        frame = pd.DataFrame(table["rows"], columns=table["columns"])
        return frame.fillna(float("nan")) if len(frame) else frame

    @property
    def command(self) -> str:
        """The command that repeats the study."""
        settings = " ".join(f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in self.params.items())
        where = self.dataset if self.dataset == RENDERED else f"…/{self.dataset}"
        return f"leuk study {self.study} --dataset {where} {settings}"

    def changed_since(self) -> list[str]:
        """Modules that decided the outcome and are no longer what they were then."""
        now = code.hashes_of(set(self.code) & code.all_modules())
        return sorted(name for name, digest in self.code.items() if now.get(name) != digest)

    def provenance(self) -> pd.DataFrame:
        """What a reader must know, as a table: item, value."""
        changed = self.changed_since()
        commit = f"{(self.git['commit'] or 'none')[:12]}{' with uncommitted changes' if self.git['dirty'] else ''}"
        since = f"changed since in {len(changed)} of {len(self.code)} modules: {', '.join(changed[:4])}{', …' if len(changed) > 4 else ''}"
        rows = [
            ("data", f"{self.dataset} (content {self.content[:12]})"), ("git commit", commit),
            ("code since then", since if changed else "unchanged"), ("device", self.device),
            ("processor time", f"{self.cpu_seconds / 60:.0f} min"), ("torch", self.versions.get("torch", "–")),
            ("to repeat it", self.command),
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["item", "value"])

    def save(self) -> Path:
        """Write the record where it is committed."""
        return write_json(paths.project_root() / record_file(self.study, self.dataset), asdict(self))


def record_name(study: str, dataset: str) -> str:
    """``<study>-<data set>``, from the data set's name or folder."""
    return f"{study}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(dataset).name)}"


def record_file(study: str, dataset: str) -> str:
    """Path of a record, relative to the project's folder (as ``stage.use_file`` wants it)."""
    return f"{FOLDER}/{record_name(study, dataset)}.json"


def load_record(path: Path) -> StudyRecord:
    """Read a record. Raises ``LeukError`` for a missing, damaged or foreign file."""
    whole = read_json(path)
    try:
        return StudyRecord(**whole)
    except TypeError as error:
        raise LeukError(f"{path}: not a study's record of this library ({error})") from error


def plain(value: Any) -> Any:
    """A value as JSON knows it: NumPy scalars become Python's, NaN null, floats keep six significant digits."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def to_table(frame: pd.DataFrame) -> dict[str, Any]:
    """A data frame as plain JSON: columns and rows."""
    rows = [[plain(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return {"columns": [str(name) for name in frame.columns], "rows": rows}
