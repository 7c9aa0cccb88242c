"""Build hook: a wheel contains the notebooks, profiles and pages that `leuk init` lays out."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProjectFiles(BuildHookInterface):
    """Adds the files of the project folder to the wheel, under ``leuk_lib/_project``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """List the files; an editable install reads them from the checkout."""
        if version == "editable":
            return
        root = Path(self.root)
        content = runpy.run_path(str(root / "leuk_lib" / "runs" / "content.py"))
        build_data["force_include"] |= {name: f"leuk_lib/_project/{name}" for name in content["files"](root)}
