"""All paths of the project."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path

from leuk_lib.runs.errors import LeukError

MARKERS = ("_config.yml", "notebooks")
REFERENCES = "book/reference"
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
MAX_RUN = 160  # characters of a run's name
MAX_NAME = 100  # characters of a data set's name in that of a run; file systems allow 255 bytes


def user_path(text: str | Path) -> Path:
    """Return the path that a person typed: ``~`` and ``~name`` become home folders, where there is such a user.

    >>> user_path("~no such user/cells").as_posix()
    '~no such user/cells'
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def real_path(path: str | Path) -> Path:
    """Return an absolute path with its links followed; ``Path.resolve`` fails at one that leads to itself."""
    return Path(os.path.realpath(path))


def is_project(folder: Path) -> bool:
    """Return whether a folder has ``_config.yml`` and ``notebooks``, as a project folder has."""
    return all((folder / marker).exists() for marker in MARKERS)


def project_root() -> Path:
    """Return ``LEUK_ROOT``, or the nearest project folder above the working directory, or the one above the package.

    A project folder has ``_config.yml`` and ``notebooks``.

    Raises:
        LeukError: If there is none, or if the working directory was removed.
    """
    if root := os.environ.get("LEUK_ROOT"):
        return real_path(root)
    try:
        here = Path.cwd().resolve()
    except FileNotFoundError as error:
        raise LeukError("the working folder was removed: go to the project's folder, or set LEUK_ROOT") from error
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if is_project(folder):
            return folder
    raise LeukError(
        f"{here} is not inside the project (no _config.yml and notebooks above it): "
        "go to the project's folder, set LEUK_ROOT, or make such a folder with `leuk init FOLDER`"
    )


def results_root() -> Path:
    """Return ``LEUK_RESULTS``, or ``results/`` of the project."""
    folder = os.environ.get("LEUK_RESULTS")
    return real_path(folder) if folder else project_root() / "results"


def is_run_name(run: str) -> bool:
    """Return whether a run can have this name."""
    return len(run) <= MAX_RUN and re.fullmatch(RUN_NAME, run) is not None


def run_folder(run: str) -> Path:
    """Return ``results/<run>``.

    Raises:
        LeukError: If ``run`` cannot be the name of a run, for example because it leads out of the folder.
    """
    if not is_run_name(run):
        raise LeukError(
            f"run {run[:200]!r}: is no name of a run (letters, digits, '_', '.', '-'; at most {MAX_RUN} characters)",
            exit_code=2,
        )
    return results_root() / run


def stage_folder(run: str, stage: str) -> Path:
    """Return ``results/<run>/<stage>``."""
    return run_folder(run) / stage


def stage_notebooks() -> dict[str, Path]:
    """Return ``{stage: notebook}`` in the order of the file names; ``04_fcmae.ipynb`` is stage ``fcmae``."""
    notebooks = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[3:]: path for path in notebooks}


def profile_file(profile: str) -> Path:
    """Return ``notebooks/profiles/<profile>.yml``."""
    return project_root() / "notebooks" / "profiles" / f"{profile}.yml"


def reference_file(dataset: str, profile: str, machine: str = "") -> Path:
    """Path of the committed reference of a data set (name or folder) and a profile.

    Args:
        dataset: Name or folder of the data set.
        profile: The profile.
        machine: Label of the machine, if there are several references: ``smear-laptop+intel.json``.

    Raises:
        LeukError: If the label cannot be part of a file name.
    """
    if machine and not re.fullmatch(RUN_NAME, machine):
        raise LeukError(f"machine {machine[:200]!r}: letters, digits, '_', '.' and '-' only, as in intel", exit_code=2)
    stem = run_name(dataset, profile, 0).removesuffix("-s0")
    return project_root() / REFERENCES / f"{stem}{'+' if machine else ''}{machine}.json"


def run_name(dataset: str, profile: str, seed: int) -> str:
    """Return the default name of a run.

    Folders of one name share it; their runs are distinguished by the cards (``card.refuse_other_dataset``). A name without
    a letter that file names can hold everywhere is replaced by a part of its hash, a long one is cut and ends with it.

    >>> run_name("data/my cells", "laptop", 0)
    'my-cells-laptop-s0'
    >>> run_name("data/細胞", "laptop", 0)
    'data-7edf5f-laptop-s0'
    """
    given = unicodedata.normalize("NFC", Path(dataset).name)
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", given).rstrip("-.").lstrip("-._") or f"data-{digest}"
    if len(name) > MAX_NAME:
        name = f"{name[:MAX_NAME]}-{digest}"
    return f"{name}-{profile}-s{seed}"
