"""Models of the JSON files that a run writes. Whoever reads one checks it first, so that nothing else has to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import AGAIN, MAX_NAME, is_unchanged, read_json

CHECKSUM = "checksum"  # entry of a run's card


def _moment(text: str) -> str:
    if not 1970 <= datetime.fromisoformat(text).year < 9000:
        raise ValueError("must be a time from 1970 on")
    return text


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError("must be a path within the stage's folder")
    if any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in path.parts):
        raise ValueError(f"must be a path whose parts have at most {MAX_NAME} bytes")
    return name


Moment = Annotated[str, AfterValidator(_moment)]
Inside = Annotated[str, AfterValidator(_inside)]
Amount = Annotated[float, Field(ge=0)]
Hash = Annotated[str, Field(min_length=1)]


class Record(BaseModel):
    """What is common: nothing is converted, numbers are finite, further entries are allowed."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Entry(Record):
    """One number of ``metrics.json``, with its 95 % interval and sample size where they are known."""

    value: int | float
    low: int | float | None = None
    high: int | float | None = None
    n: int | None = Field(None, ge=0)
    unit: str = ""

    @model_validator(mode="after")
    def _interval_is_whole(self) -> Entry:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval needs both low and high")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("the low end of its interval lies above the high end")
        return self


class Metrics(Record):
    """``metrics.json`` of a stage."""

    metrics: dict[str, Entry]


class Hashes(Record):
    """Hashes of what a stage depends on besides its inputs."""

    notebook: str | None
    lock: str | None
    code: dict[str, str]


class Git(Record):
    """Commit of the project; None outside a checkout."""

    commit: str | None
    dirty: bool | None


class Process(Record):
    """The process that runs a stage."""

    host: str
    pid: int = Field(gt=0, lt=2**31)


class PublicCard(Record):
    """The parts of a card that references hold, which have no checksum."""

    stage: str
    run: str
    profile: str
    dataset: str
    params: dict[str, Any]
    device: str | None = None
    started: Moment | None = None
    seconds: Amount | None = None
    peak_rss_mb: Amount | None = None
    peak_gpu_mb: Amount | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)  # cards of earlier versions have none
    hashes: Hashes = Hashes(notebook=None, lock=None, code={})
    inputs: dict[str, dict[str, str]] = Field(default_factory=dict)
    git: Git = Git(commit=None, dirty=None)

    @model_validator(mode="before")
    @classmethod
    def _is_unchanged(cls, card: Any) -> Any:
        if isinstance(card, Mapping) and not is_unchanged(card, CHECKSUM):
            raise ValueError("it was changed after its stage wrote it: its checksum is wrong")
        return card


class CardParams(Record):
    """The parameters in a card, for a reader that needs nothing else."""

    params: dict[str, Any]


class SharedParams(Record):
    """Parameters that all stages of a run have in common."""

    dataset: str
    profile: str
    seed: int


class RunCard(PublicCard):
    """``card.json`` of a stage."""

    state: Literal["running", "finished", "failed"]
    params: Annotated[dict[str, Any], AfterValidator(lambda values: SharedParams.model_validate(values) and values)]
    identity: str | None
    started: Moment
    finished: Moment | None
    seconds: Amount | None
    peak_rss_mb: Amount | None
    peak_gpu_mb: Amount | None
    device: str | None
    process: Process
    git: Git
    versions: dict[str, str]
    hashes: Hashes
    inputs: dict[str, dict[str, str]]
    outputs: dict[Inside, Hash]
    measured: dict[str, int | float]
    notes: list[str]
    error: str | None
    executed: str | None = None
    checksum: str | None = None  # cards of earlier versions have none

    @model_validator(mode="after")
    def _fits_its_state(self) -> RunCard:
        if self.state == "finished" and None in (self.identity, self.finished, self.seconds):
            raise ValueError("a finished stage has an identity, an end and a duration")
        if "dataset" in self.inputs and "content" not in self.inputs["dataset"]:
            raise ValueError("the data set has no content hash")
        return self


class Tolerance(Record):
    """Largest difference from a reference that still agrees."""

    value: Amount
    rule: str


class Reference(Record):
    """A reference record."""

    metrics: dict[str, dict[str, Entry]]
    cards: dict[str, PublicCard] = Field(default_factory=dict)
    tolerances: dict[str, Tolerance] = Field(default_factory=dict)


def check_record(value: Any, model: type[BaseModel], source: object, what: str, advice: str) -> dict[str, Any]:
    """Return ``value`` unchanged if it fits ``model``.

    Args:
        value: What was read.
        model: The model of the file.
        source: The file, for the error message.
        what: What the file should be, for the error message.
        advice: What to do if it is not, for the error message.

    Raises:
        LeukError: If it does not fit. The message names the first entry that is wrong.
    """
    try:
        TypeAdapter(model).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        entry = f"{where}: " if where else ""
        raise LeukError(f"{source}: not {what} ({entry}{first['msg'][:200]}); {advice}", exit_code=2) from error
    return value


def read_record(path: Path, model: type[BaseModel], what: str, advice: str) -> dict[str, Any]:
    """Read a JSON file and check it against ``model`` (see :func:`check_record`)."""
    return check_record(read_json(path, advice), model, path, what, advice)


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the numbers in a stage's ``metrics.json``: key -> value, low, high, n, unit.

    Raises:
        LeukError: If the file is missing, damaged, or of another kind.
    """
    content = read_record(folder / "metrics.json", Metrics, "the numbers of a stage", AGAIN)
    return content["metrics"]


def glued_name(output: Mapping[str, Any]) -> str:
    """Return the name under which a notebook's output keeps a number for the book, or ""."""
    scrap = output.get("metadata", {}).get("scrapbook") if isinstance(output.get("metadata"), Mapping) else None
    return str(scrap.get("name", "")) if isinstance(scrap, Mapping) else ""
