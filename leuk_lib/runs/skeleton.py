"""A folder of notebooks, profiles and pages to work in, laid out from the installed package or from a checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

from leuk_lib.runs import paths
from leuk_lib.runs.content import files
from leuk_lib.runs.errors import LeukError

PACKED = "_project"  # folder of a wheel's package with the files; .ci/wheel.py fills it


def source() -> Path:
    """Return the project folder in the installed wheel, else the checkout.

    Raises:
        LeukError: The package was installed without one.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / PACKED, package.parent):
        if paths.is_project(folder):
            return folder
    raise LeukError(f"{package}: was installed without the notebooks; install leuk-lib from a wheel or a checkout")


def lay_out(folder: Path) -> Path:
    """Copy notebooks, profiles and pages into a new or empty folder and return it.

    Raises:
        LeukError: The folder has files, or is a file.
    """
    folder, origin = paths.real_path(paths.user_path(folder)), source()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LeukError(f"{folder}: is not an empty folder; name a new one", exit_code=2)
    for name in files(origin):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin / name, place)
    return folder
