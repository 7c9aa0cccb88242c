"""Copies of the project for tests that change something in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from leuk_lib.stages import STAGES


def copy_stage_files(root: Path, copy: Path) -> None:
    """Copy the project's files that stages read besides their inputs (claims, records of studies)."""
    for name in {name for spec in STAGES for name in spec.files}:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name)
