"""Every path of the project, in one place. No notebook and no other module joins paths of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from leuk_lib.runs.errors import LeukError

MARKERS = ("_config.yml", "notebooks")


def project_root() -> Path:
    """Folder that holds ``_config.yml`` and ``notebooks``: ``LEUK_ROOT``, else upward from here, else beside the package."""
    if told := os.environ.get("LEUK_ROOT"):
        return Path(told).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if all((folder / marker).exists() for marker in MARKERS):
            return folder
    raise LeukError(
        f"{here} is not inside the project (no _config.yml and notebooks above it): "
        "go to the project's folder or set LEUK_ROOT"
    )


def results_root() -> Path:
    """``results/`` of the project, or the folder that ``LEUK_RESULTS`` names."""
    told = os.environ.get("LEUK_RESULTS")
    return Path(told).resolve() if told else project_root() / "results"


def run_folder(run: str) -> Path:
    """``results/<run>``."""
    return results_root() / run


def stage_folder(run: str, stage: str) -> Path:
    """``results/<run>/<stage>``."""
    return run_folder(run) / stage


def stage_notebooks() -> dict[str, Path]:
    """Stage name -> its notebook, in the order of the file names (``notebooks/04_fcmae.ipynb`` is stage ``fcmae``)."""
    found = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[3:]: path for path in found}


def profile_file(profile: str) -> Path:
    """``notebooks/profiles/<profile>.yml``."""
    return project_root() / "notebooks" / "profiles" / f"{profile}.yml"


def run_name(dataset: str, profile: str, seed: int) -> str:
    """Default name of a run: the data set's name, the profile and the seed (``smear-laptop-s0``)."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(dataset).name).strip("-.") or "data"
    return f"{name}-{profile}-s{seed}"
