"""Reader of LeukemiaAttri: boxes whose fields are squeezed, with the diagnosis in their names.

The published sample fields (ten of one slide) show red cells 0.55 times as wide as high (median of 168, quartiles .51 and
.63), which fits fields of 16:9 that were resized to a square: 0.5625. Descriptions of the set say 0.60.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from leuk_lib.data.findings import Finding
from leuk_lib.data.readers.boxes import Boxes
from leuk_lib.data.readers.reader import Cell, Note, Options
from leuk_lib.runs.errors import LeukError

DEFAULT = "H_100X_C1"  # costly microscope, 100x, first camera: the one that experts annotated
_SUBSET = re.compile(r"[HL]_(100|40|10)X_C[12]", re.IGNORECASE)


class LeukemiaAttri(Boxes):
    """Reads one magnification and camera of LeukemiaAttri (COCO); the class is the diagnosis or the cell type."""

    name = "leukemia-attri"
    title = "LeukemiaAttri: boxes in squeezed fields of view; the diagnosis is in their names"
    aspect: ClassVar[float] = 0.5625
    tasks: ClassVar[tuple[str, ...]] = ("diagnosis", "cell-type")

    def recognises(self, path: object) -> bool:
        """Return False: its folders are recognised as boxes, which asks for the task."""
        return False

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the annotation files and the fields of view of the subset."""
        return super().sources(path, _with_subset(path, options))

    def cells(self, path: Path, options: Options) -> Iterator[Cell | Finding | Note]:
        """Yield the cells of one subset, field by field."""
        chosen = _with_subset(path, options)
        others = [name for name in subsets(path) if name.casefold() != chosen.text("subset").casefold()]
        also = f"; not read: {', '.join(others)}, which show the same cells again" if others else ""
        yield Note(f"subset: {chosen.text('subset') or 'no folder of one; all is read'}{also}")
        yield from super().cells(path, chosen)


def subsets(path: Path) -> list[str]:
    """List the folders that are named like a subset, at most two levels down, in alphabetical order."""
    candidates = [*path.glob("*"), *path.glob("*/*")]
    return sorted({folder.name for folder in candidates if folder.is_dir() and _SUBSET.fullmatch(folder.name)})


def _with_subset(path: Path, options: Options) -> Options:
    """Return the options with the subset to read: the one asked for, the only one, or ``DEFAULT``; all without subsets.

    Raises:
        LeukError: With exit code 2 where it is not there.
    """
    present = subsets(path)
    if not present and not options.text("subset"):
        return options
    wanted = options.text("subset") or (present[0] if len(present) == 1 else DEFAULT)
    found = next((name for name in present if name.casefold() == wanted.casefold()), "")
    if not found:
        raise LeukError(
            f"{path}: no subset {wanted} in it; present: {', '.join(present) or 'none'}; choose one with "
            "reader_options subset, as in --option subset=L_100X_C1",
            exit_code=2,
        )
    return replace(options, values={**options.values, "subset": found})


READER = LeukemiaAttri()
