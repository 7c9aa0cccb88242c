"""Raabin-WBC: one JSON file per field, ``{"Cell Numbers": n, "Cell_0": {x1, x2, y1, y2, Label1, Label2}, …}``.

The files are in ``jsons`` beside ``images``, in folders ``First_microscope`` and ``Second_microscope`` and batches. Two
experts labelled each cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from leuk_lib.data.boxes.box import Box, Field
from leuk_lib.data.boxes.files import FolderFiles, part_of_folders, without_image
from leuk_lib.data.findings import Finding
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.numbers import parse_number

COUNT = "Cell Numbers"
CELL = re.compile(r"Cell_?\s?\d+", re.IGNORECASE)
CORNERS = ("x1", "y1", "x2", "y2")


def is_raabin(content: Any) -> bool:
    """Whether parsed JSON is an annotation of Raabin's form."""
    return isinstance(content, dict) and COUNT in content


def read_raabin(
    files: FolderFiles, contents: Sequence[tuple[PurePosixPath, Any]], findings: list[Finding]
) -> list[Field]:
    """Read the boxes of Raabin's JSON files; microscope and batch become attributes.

    Args:
        files: The data folder.
        contents: Path and parsed content of each file.
        findings: Gets what was left out or decided.

    Raises:
        LeukError: For entries of another form, and for two annotations of one image.
    """
    fields: dict[PurePosixPath, Field] = {}
    for path, content in contents:
        boxes = []
        for name, entry in content.items():
            if CELL.fullmatch(name):
                boxes.append(_box(path, name, entry))
        stated = content[COUNT]
        if not _is(stated, len(boxes)):
            what = f"states {str(stated)[:20]} cells and holds {len(boxes)}"
            findings.append(Finding(str(path), what, "warning", "the annotation may be incomplete; compare its source"))
        image, why = files.image(path.stem, path)
        if image is None:
            findings.append(without_image(path, len(boxes), path.stem, why))
            continue
        if image in fields:
            raise LeukError(f"{path}: a second annotation of {image}; remove one of the two", exit_code=2)
        fields[image] = Field(str(image), tuple(boxes), part_of_folders(image), attributes=_places(image))
    return [fields[image] for image in sorted(fields)]


def _is(stated: Any, number: int) -> bool:
    try:
        return int(stated) == number
    except (TypeError, ValueError, OverflowError):
        return False


def _box(path: PurePosixPath, name: str, entry: Any) -> Box:
    if not isinstance(entry, dict):
        raise LeukError(f"{path}: {name} is not an object: {str(entry)[:80]}", exit_code=2)
    values = []
    for side in CORNERS:
        try:
            values.append(parse_number(entry[side]))
        except OverflowError:
            values.append(math.nan)
        except (KeyError, TypeError, ValueError):
            raise LeukError(
                f"{path}: {name}: {side} must be a number, got {str(entry.get(side))[:40]!r}", exit_code=2
            ) from None
    labels = [" ".join(str(entry.get(key) or "").split()) for key in ("Label1", "Label2")]
    attributes = tuple(
        (key, str(value))
        for key, value in entry.items()
        if key not in (*CORNERS, "Label1", "Label2") and isinstance(value, str | int | float)
    )
    x0, y0, x1, y1 = values
    return Box(x0, y0, x1, y1, labels[0], labels[1], attributes, f"{path}, {name}")


def _places(image: PurePosixPath) -> tuple[tuple[str, str], ...]:
    """Return microscope and batch that the folders state."""
    folders = [name for name in image.parts[:-1] if name.casefold() not in ("images", "jsons")]
    found = []
    for position, name in enumerate(folders):
        if "microscope" in name.casefold():
            found.append(("microscope", name))
            if len(folders) > position + 1:
                found.append(("batch", folders[position + 1]))
    return tuple(found)
