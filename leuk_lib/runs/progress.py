"""Progress of a stage or a command: a small file, written by the process that computes and shown by the one with a terminal.

A stage's notebook runs in a kernel, whose output nobody sees before the cell ends. ``runs.execute`` therefore names two
files in the kernel's environment: one for progress, and one whose existence requests a stop. A command that takes long
names a file for itself and its child processes (``of_command``). Outside of both neither is named: reports have no
effect, and ``track`` shows a plain bar.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TextIO, TypeVar

from pydantic import ConfigDict, Field

from leuk_lib.quoting import terminal
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.records import Record, read_record

Item = TypeVar("Item")

PROGRESS, STOP, QUIET = "LEUK_PROGRESS", "LEUK_STOP", "LEUK_QUIET"
IN_COMMAND = "LEUK_IN_COMMAND"  # set while a command shows the progress itself: training loops show no bars
WRITE_EVERY = 0.3  # s between two writes of the file
LINE_EVERY = 30.0  # s between two lines of a log
REDRAW_EVERY = 0.5  # s between two drawings of a terminal's line
ERASE = "\r\033[J"  # of a terminal: to the beginning of the line, and erase all from there on
STALE = 60.0  # s after which a report no longer says what is done now
JOB = ".job"  # ends the name of the file to which the jobs of a command report

_last_write = 0.0


class Report(Record):
    """The progress file; a loss may be NaN."""

    model_config = ConfigDict(allow_inf_nan=True)

    what: str
    step: int
    total: int
    time: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    values: dict[str, float] = Field(default_factory=dict)


def report(what: str, step: int, total: int, *, at_once: bool = False, **values: float) -> None:
    """Report that step ``step`` of ``total`` of ``what`` is done; ``values``, such as the loss, are shown.

    Calls in quick succession are skipped, except for the last step and with ``at_once``.
    """
    global _last_write
    file, now = os.environ.get(PROGRESS), time.monotonic()
    if not file or ((step < total or not total) and not at_once and now - _last_write < WRITE_EVERY):
        return
    _last_write = now
    content = {"what": what, "step": step, "total": total, "time": time.time(), "values": values}
    temporary = Path(file).with_name(f".{Path(file).name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content))
        temporary.replace(file)
    except OSError:  # a full disk stops the stage where it matters, not here
        temporary.unlink(missing_ok=True)


@contextmanager
def counted(what: str, total: int, unit: str = "step", done: int = 0, per: int = 1) -> Iterator[Callable[[int], None]]:
    """Report what is done of some work; outside of a stage and of a command, show a plain bar.

    Args:
        what: Name of the work, such as "reading".
        total: Units of all work; 0 if it is not known.
        unit: Name of one unit in the plain bar.
        done: Units that were done before.
        per: Units that are shown as one, such as the bytes of a megabyte.

    Yields:
        A function to call with the number of units that have been done since the last call.
    """
    if not os.environ.get(PROGRESS):
        from tqdm import tqdm

        off = True if os.environ.get(QUIET) else None  # None: only in a terminal
        with tqdm(
            total=total or None, initial=done, desc=what, unit=unit, unit_scale=per > 1, delay=2, disable=off
        ) as bar:
            yield bar.update
        return

    def update(units: int = 1) -> None:
        nonlocal done
        done += units
        report(what, done // per, -(-total // per))

    report(what, done // per, -(-total // per), at_once=True)
    yield update


def track(items: Iterable[Item], what: str, total: int, unit: str = "step") -> Iterator[Item]:
    """Yield the items of a loop, ``counted``."""
    with counted(what, total, unit) as update:
        for item in items:
            yield item
            update(1)


def stop_requested() -> bool:
    """Whether this run was asked to stop (Ctrl-C in the terminal that started it)."""
    file = os.environ.get(STOP)
    return file is not None and os.path.exists(file)  # noqa: PTH110  called at every step


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _steps(content: Mapping[str, Any]) -> str:
    """What is done, with the step and the total as far as they are known."""
    of = f"/{content['total']}" if content["total"] else ""
    return f"{content['what']} {content['step']}{of}" if of or content["step"] else str(content["what"])


def in_all(left: float) -> str:
    """Say the seconds that a run still takes."""
    return f"all: about {clock(left)} left by the reference's times"


class Shown(Protocol):
    """What can be shown while it changes."""

    def lines(self) -> Sequence[str]:
        """Describe the present state."""


class Monitor:
    """Reads a progress file and describes it in one line.

    Args:
        file: The progress file.
        subject: What the line is about, such as "smear-laptop-s0: wpat".
        start: When the work began, seconds since 1970; now by default.
        time_left: Returns the seconds until all is done, or None if nobody knows.
    """

    def __init__(
        self,
        file: Path,
        subject: str,
        start: float | None = None,
        time_left: Callable[[], float | None] | None = None,
    ) -> None:
        self.file, self.subject, self.time_left = file, subject, time_left
        self.start = time.time() if start is None else start
        self._first: dict[str, Any] = {}

    def read(self, suffix: str = "") -> dict[str, Any] | None:
        """Return what was reported last, or None; with ``suffix``, by a job (``of_jobs``)."""
        try:
            return read_record(Path(f"{self.file}{suffix}"), Report, "a report of progress", "delete it")
        except LeukError:
            return None

    def line(self, now: float | None = None) -> str:
        """Describe the state: what is done, step and total, values, time left of it and of the run."""
        now = time.time() if now is None else now
        content, elapsed = self.read(), now - self.start
        parts = [f"{self.subject} {clock(elapsed)}"]
        if content is not None:
            parts.append(_steps(content))
            parts += [f"{name} {value:.3g}" for name, value in content.get("values", {}).items()]
            if self._first.get("what") != content["what"]:
                self._first = content
            steps, seconds = content["step"] - self._first["step"], content["time"] - self._first["time"]
            if steps > 0 and content["step"] < content["total"]:
                parts.append(f"{clock(seconds / steps * (content['total'] - content['step']))} left")
        job = self.read(JOB)
        if job is not None and now - job["time"] < STALE:
            parts.append(_steps(job))
        if self.time_left and (left := self.time_left()) is not None:
            parts.append(in_all(left))
        return " · ".join(parts)

    def lines(self) -> list[str]:
        """Return the line as a list."""
        return [self.line()]

    @property
    def training(self) -> bool:
        """Whether a training that checks for a stop is running, in the stage's process or beside it."""
        return any(
            content is not None and content["step"] < content["total"] and time.time() - content["time"] < STALE
            for content in (self.read(), self.read(JOB))
        )


@contextmanager
def repeated(action: Callable[[], bool | None], every: float) -> Iterator[None]:
    """Call ``action`` every ``every`` seconds in a thread while the body runs, until it returns true."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(every) and not action():
            pass

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def shown(monitor: Shown, stream: TextIO | None = None) -> Iterator[None]:
    """Show a monitor's lines while the body runs: redrawn in a terminal, every half minute in a log; not if quiet."""
    out = stream or sys.stderr
    if os.environ.get(QUIET):
        yield
        return
    redraw = out.isatty()

    def draw() -> None:
        lines = monitor.lines()
        if redraw:  # the cursor stays at the first line, where whatever is printed next begins
            cut = "\n".join(line[: _width() - 1] for line in lines)
            out.write(f"{ERASE}{cut}\r" + (f"\033[{len(lines) - 1}A" if lines[1:] else ""))
        else:
            out.write("".join(f"{line}\n" for line in lines))
        out.flush()

    try:
        with repeated(draw, REDRAW_EVERY if redraw else LINE_EVERY):
            yield
    finally:
        if redraw:
            out.write(ERASE)
            out.flush()


def say(text: str) -> None:
    """Print a line to stderr, in a terminal in the place of the lines that are being shown."""
    print(f"{ERASE if sys.stderr.isatty() else ''}{text}", file=sys.stderr, flush=True)


@contextmanager
def of_command(subject: str, quiet: bool = False, stream: TextIO | None = None) -> Iterator[None]:
    """Show what a command reports while the body runs, in its own process or in child processes.

    Args:
        subject: What the line begins with, such as "data check my_images".
        quiet: Show nothing; the same as a value of ``LEUK_QUIET`` in the environment.
        stream: Instead of stderr.
    """
    with tempfile.TemporaryDirectory(prefix="leuk-progress-") as folder:
        file = Path(folder) / "progress.json"
        variables = {PROGRESS: str(file), IN_COMMAND: "1"} | ({QUIET: "1"} if quiet else {})
        with environment(variables), shown(Monitor(file, terminal(subject)), stream):
            yield


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which child processes inherit, while the body runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def of_jobs() -> None:
    """Report to a file of its own from now on: called in a child process whose parent reports, too."""
    if file := os.environ.get(PROGRESS):
        os.environ[PROGRESS] = f"{file}{JOB}"


@contextmanager
def of_job() -> Iterator[None]:
    """Do as ``of_jobs`` says while the body runs, after which nothing is shown of it any more."""
    before = os.environ.get(PROGRESS)
    of_jobs()
    try:
        yield
    finally:
        if before:
            forget(Path(before), JOB)
            os.environ[PROGRESS] = before


def forget(file: Path, *suffixes: str) -> None:
    """Remove a progress file, or those with ``suffixes``."""
    for suffix in suffixes or ("",):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 100
