"""The exercises at the end of chapters 2 to 5, read from the notebooks."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leuk_lib.runs.records import read_metrics
from leuk_lib.stages import load_profile, parse_overrides, stage, stage_parameters

CHAPTERS = ("alhe", "acdb_gan", "fcmae", "wpat")
SAVE_TIME = ("backbones", "timed_steps")  # parameters that the exercises set besides the one that they change
FIRST = "leuk run --profile smoke --run exercise"  # the run that all exercises start from


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        stage: Name of the chapter's stage.
        question: Its text.
        command: The command's arguments after ``leuk``.
        answer: The folded text.
    """

    stage: str
    question: str
    command: tuple[str, ...]
    answer: str

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """The parameters that the command sets, per stage."""
        return parse_overrides([value for flag, value in itertools.pairwise(self.command) if flag == "--set"])

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters of the stage that differ from the smoke profile, without those that only save time."""
        values = stage(self.stage).params_model()(**load_profile("smoke")[self.stage]).model_dump()
        return {
            name: value
            for name, value in self.overrides[self.stage].items()
            if name not in SAVE_TIME and values[name] != value
        }

    def params(self) -> Any:
        """The stage's parameters in the smoke profile, as the command changes them."""
        return smoke_params(self.stage, self.overrides)


def smoke_params(name: str, overrides: dict[str, dict[str, Any]] | None = None) -> Any:
    """Parameters of a stage in the smoke profile, on one thread."""
    values = stage_parameters(name, "smear", "smoke", 0, "exercise", overrides or {})["stages"][name]
    return stage(name).params_model()(**values, profile="smoke", threads=1)


def section(name: str) -> str:
    """The text of a chapter's exercises."""
    cells = json.loads(stage(name).notebook.read_text(encoding="utf-8"))["cells"]
    (text,) = ["".join(cell["source"]) for cell in cells if cell["id"] == "exercises"]
    return text


def commands(text: str) -> list[str]:
    """The shell commands of a text, each on one line."""
    return [block.replace("\\\n", " ").strip() for block in re.findall(r"```bash\n(.+?)```", text, re.DOTALL)]


def exercises(name: str) -> list[Exercise]:
    """The exercises of a chapter, in order."""
    found = []
    for part in re.split(r"^\*\*\d\.\*\* ", section(name), flags=re.MULTILINE)[1:]:
        (command,) = commands(part)
        question = part.partition("```bash")[0].strip()
        (answer,) = re.findall(r"<summary>Answer</summary>\n\n(.+?)\n\n</details>", part, re.DOTALL)
        found.append(Exercise(name, question, tuple(shlex.split(command)[1:]), answer))
    return found


def metrics(run: Path, name: str) -> dict[str, float]:
    """The numbers that a stage of a run recorded."""
    return {key: entry["value"] for key, entry in read_metrics(run / name).items()}
