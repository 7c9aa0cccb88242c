"""OpenCV, seen by the type checker as ``Any``: its own stubs give every result as ``Mat | UMat | None``."""

from __future__ import annotations

import importlib
from typing import Any

cv2: Any = importlib.import_module("cv2")
