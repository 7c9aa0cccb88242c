"""What stage ``results`` states about the data of its run (``facts.json``), for chapter 10 and the page of published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from leuk_lib.data.splits import PARTS
from leuk_lib.runs.records import Record, read_record

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class DataFacts(Record):
    """Name and kind of the data, classes, and the cells and groups of the parts and of each class in the test part."""

    dataset: str
    profile: str
    kind: Literal["rendered", "micrographs"]
    classes: list[str] = Field(min_length=1)
    cells: dict[str, Count]
    shares: dict[str, Share]
    groups_test: Count
    test_cells: dict[str, Count] = Field(default_factory=dict)
    test_groups: dict[str, Count] = Field(default_factory=dict)
    patients_known: bool = True

    @model_validator(mode="after")
    def _is_complete(self) -> DataFacts:
        if missing := [part for part in PARTS if part not in self.cells]:
            raise ValueError(f"cells of {missing[0]} are not stated")
        if unknown := sorted({*self.test_cells, *self.test_groups} - set(self.classes)):
            raise ValueError(f"{unknown[0][:100]} is no class")
        return self


def read_facts(path: Path) -> dict[str, Any]:
    """Read ``facts.json``.

    Raises:
        LeukError: If the file is missing, damaged, or of another kind.
    """
    return read_record(path, DataFacts, "the facts about a run's data", "delete it and run stage results again")
