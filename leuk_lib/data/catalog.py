"""Catalogue of known data sets by name, and where their files lie. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

from leuk_lib.data.known_set import Download, KnownSet, Option, plain
from leuk_lib.data.known_sets import KNOWN, LEUKEMIAS, WBC_TYPES
from leuk_lib.runs import paths

__all__ = ["KNOWN_SETS", "LEUKEMIAS", "WBC_TYPES", "Download", "KnownSet", "Option", "data_root", "home", "plain"]

KNOWN_SETS: dict[str, KnownSet] = {known.name: known for known in KNOWN}


def data_root() -> Path:
    """Return the folder of the known sets: ``LEUK_DATA``, or ``data/`` in the project's folder."""
    folder = os.environ.get("LEUK_DATA")
    return paths.user_path(folder) if folder else paths.project_root() / "data"


def home(known: KnownSet) -> Path:
    """Return the folder of a known set."""
    return data_root() / known.name
