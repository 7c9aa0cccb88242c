"""Notebook files, checked when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import AGAIN, refuse_pipe
from leuk_lib.runs.numbers import load_json
from leuk_lib.runs.records import Moment, Record, check_record

RESTORE = "restore it, for example with git"
Text = str | list[str]


def _bundle(data: dict[str, Any]) -> dict[str, Any]:
    """Refuse a value that is no text, unless its type is one of JSON."""
    for kind, value in data.items():
        lines = value if isinstance(value, list) else [value]
        if not kind.endswith("json") and not all(isinstance(line, str) for line in lines):
            raise ValueError(f"{kind[:50]} must be a text")
    return data


class CellMetadata(Record):
    """What the library reads of a cell's metadata."""

    tags: list[str] = Field(default_factory=list)
    mystnb: dict[str, Any] = Field(default_factory=dict)


class OutputMetadata(Record):
    """What the library reads of an output's metadata."""

    scrapbook: dict[str, Any] = Field(default_factory=dict)


class Output(Record):
    """One output of a code cell."""

    output_type: str
    name: str = ""
    text: Text = ""
    data: Annotated[dict[str, Any], AfterValidator(_bundle)] = Field(default_factory=dict)
    metadata: OutputMetadata = OutputMetadata()

    @model_validator(mode="after")
    def _streams_have_texts(self) -> Output:
        if self.output_type == "stream" and not {"name", "text"} <= self.model_fields_set:
            raise ValueError("a stream has a name and a text")
        return self


class Cell(Record):
    """One cell."""

    cell_type: Literal["code", "markdown", "raw"]
    source: Text
    metadata: CellMetadata = CellMetadata()
    execution_count: int | None = None
    outputs: list[Output] = Field(default_factory=list)


class Clock(Record):
    """When papermill executed a notebook; None before."""

    start_time: Moment | None = None
    end_time: Moment | None = None


class NotebookMetadata(Record):
    """What the library reads of a notebook's metadata."""

    papermill: Clock | None = None


class Notebook(Record):
    """The parts of a notebook (format 4) that the library reads."""

    cells: list[Cell]
    metadata: NotebookMetadata


def read_notebook(path: Path, advice: str = AGAIN) -> dict[str, Any]:
    """Read a notebook as a dictionary.

    Args:
        path: The file.
        advice: What to do if it is no notebook, for the error message.

    Raises:
        LeukError: If the file is missing, or is no notebook.
    """
    try:
        refuse_pipe(path)
        content = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LeukError(f"{path}: no such file; {advice}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise LeukError(f"{path}: not a readable notebook ({reason[:200]}); {advice}") from error
    return check_record(content, Notebook, path, "a notebook", advice)
