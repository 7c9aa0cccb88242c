"""COCO: one JSON file with ``images``, ``annotations`` (``bbox`` = x, y, width, height in pixels) and ``categories``.

LeukemiaAttri has one per published part, in a folder beside ``Images``; other sets keep it among the images.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from leuk_lib.data.boxes.box import Box, Field
from leuk_lib.data.boxes.files import FolderFiles, part_of_folders, part_of_path
from leuk_lib.data.findings import Finding
from leuk_lib.runs.errors import LeukError

KEYS = ("images", "annotations", "categories")
# Names of an annotation that are not attributes of the cell.
STANDARD = frozenset(
    {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "ignore", "keypoints", "num_keypoints"}
)


def is_coco(content: Any) -> bool:
    """Whether parsed JSON is a COCO annotation of objects."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in KEYS)


def read_coco(
    files: FolderFiles, contents: Sequence[tuple[PurePosixPath, Any]], findings: list[Finding]
) -> list[Field]:
    """Read the boxes of COCO files.

    Entries of one image under several numbers, also in several files, become one field. A field that is in the test part
    of one file and in another part of another counts as test.

    Args:
        files: The data folder.
        contents: Path and parsed content of each file.
        findings: Gets what was left out or decided.

    Raises:
        LeukError: For entries of another form than COCO's.
    """
    boxes: dict[PurePosixPath, list[Box]] = defaultdict(list)
    sizes: dict[PurePosixPath, tuple[int, int] | None] = {}
    parts: dict[PurePosixPath, list[str]] = defaultdict(list)
    entries: Counter[PurePosixPath] = Counter()
    for path, content in contents:
        part = part_of_path(path)
        names = _categories(path, content["categories"], findings)
        images: dict[Any, PurePosixPath] = {}
        missing: dict[Any, str] = {}
        for entry in content["images"]:
            number, name = _image_entry(path, entry)
            if number in images or number in missing:
                raise LeukError(f"{path}: two images have the id {number!r}; boxes cannot be assigned", exit_code=2)
            image, why = files.image(name, path, part)
            if image is None:
                missing[number] = f"{name} ({why})" if why == "ambiguous" else name
                continue
            images[number] = image
            entries[image] += 1
            parts[image].append(part or part_of_folders(image))
            size = _size(entry)
            if sizes.setdefault(image, size) != size:
                raise LeukError(f"{path}: {image} is listed with the sizes {sizes[image]} and {size}", exit_code=2)
        _read_boxes(path, content["annotations"], names, images, missing, boxes, findings)
    fields = []
    for image, listed in sorted(parts.items()):
        if entries[image] > 1:
            what = f"image entry repeated: listed {entries[image]} times"
            findings.append(Finding(str(image), what, "warning", "its boxes are put together, repeated ones left out"))
        part = listed[0]
        if len(set(listed)) > 1:
            part = next((name for name in sorted(set(listed)) if name.startswith("test")), sorted(set(listed))[0])
            what = f"field in several published parts ({', '.join(sorted(map(repr, set(listed))))})"
            findings.append(Finding(str(image), what, "warning", f"counted as {part}, so that it is never trained on"))
        fields.append(Field(str(image), tuple(boxes[image]), part, sizes[image]))
    return fields


def _categories(path: PurePosixPath, listed: Sequence[Any], findings: list[Finding]) -> dict[int, str]:
    names: dict[int, str] = {}
    for entry in listed:
        if not isinstance(entry, dict) or not _is_number(entry.get("id")) or not isinstance(entry.get("name"), str):
            raise LeukError(f"{path}: a category needs a number as id and a name, got {str(entry)[:80]}", exit_code=2)
        if names.setdefault(entry["id"], entry["name"]) != entry["name"]:
            first = names[entry["id"]]
            raise LeukError(f"{path}: category {entry['id']} is {first!r} and {entry['name']!r}", exit_code=2)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        what = f"category under several numbers: {', '.join(twice)}"
        findings.append(Finding(str(path), what, "info", "read as one; nothing to do"))
    return names


def _image_entry(path: PurePosixPath, entry: Any) -> tuple[Any, str]:
    if isinstance(entry, dict) and isinstance(entry.get("id"), int | str):
        name = entry.get("file_name")
        if isinstance(name, str) and name.strip():
            return entry["id"], name
    raise LeukError(f"{path}: an image needs id and file_name, got {str(entry)[:80]}", exit_code=2)


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if not (_is_number(width) and _is_number(height) and 0 < width < math.inf and 0 < height < math.inf):
        return None
    return int(width), int(height)


def _read_boxes(
    path: PurePosixPath,
    annotations: Sequence[Any],
    names: dict[int, str],
    images: dict[Any, PurePosixPath],
    missing: dict[Any, str],
    boxes: dict[PurePosixPath, list[Box]],
    findings: list[Finding],
) -> None:
    """Sort the boxes by their images, and count those of missing images, unknown numbers and crowds."""
    lost: Counter[str] = Counter()
    unknown: Counter[Any] = Counter()
    strange: Counter[Any] = Counter()
    crowds = without = 0
    ids: set[Any] = set()
    repeated = 0
    for place, entry in enumerate(annotations):
        if not isinstance(entry, dict):
            raise LeukError(f"{path}: annotation {place} is not an object: {str(entry)[:80]}", exit_code=2)
        number, category = entry.get("image_id"), entry.get("category_id")
        box_id = entry.get("id")
        if isinstance(box_id, int | str):
            repeated += box_id in ids
            ids.add(box_id)
        if not isinstance(number, int | str) or (number not in images and number not in missing):
            unknown[str(number)[:40]] += 1
        elif number in missing:
            lost[missing[number]] += 1
        elif entry.get("iscrowd") == 1:
            crowds += 1
        elif not isinstance(category, int) or category not in names:
            strange[str(category)[:40]] += 1
        elif entry.get("bbox") is None:
            without += 1
        else:
            x, y, w, h = _four_numbers(path, place, entry["bbox"])
            attributes = tuple(_attributes(entry))
            source = f"{path}, annotation {box_id if isinstance(box_id, int | str) else place}"
            boxes[images[number]].append(Box(x, y, x + w, y + h, names[category], "", attributes, source))
    for name in missing.values():
        lost[name] += 0
    where = str(path)
    if lost:
        what = f"boxes without their image: {sum(lost.values())} boxes, {_listed(lost)}"
        findings.append(Finding(where, what, "error", "add the images, or check that this is their folder"))
    if unknown:
        what = f"boxes without an image entry: {sum(unknown.values())} boxes, image_id {_listed(unknown)}"
        findings.append(Finding(where, what, "error", "the annotation is incomplete; take it from its source again"))
    if strange:
        what = f"boxes of unknown categories: {sum(strange.values())} boxes, category_id {_listed(strange)}"
        findings.append(Finding(where, what, "error", "add the categories to the file"))
    if crowds:
        findings.append(Finding(where, f"boxes of crowds: {crowds} boxes", "error", "a crowd is not one cell"))
    if without:
        what = f"annotations without a box: {without}"
        findings.append(Finding(where, what, "error", "only boxes (bbox) are read, no outlines"))
    if repeated:
        what = f"box numbers repeated: {repeated}"
        findings.append(Finding(where, what, "warning", "all are read; programs that index by number lose some"))


def _listed(names: Counter[Any], limit: int = 3) -> str:
    shown = ", ".join(str(name) for name in list(names)[:limit])
    return shown + (f", … {len(names)} in all" if len(names) > limit else "")


def _four_numbers(path: PurePosixPath, place: int, values: Any) -> tuple[float, float, float, float]:
    if not isinstance(values, list) or len(values) != 4 or not all(map(_is_number, values)):
        raise LeukError(f"{path}: annotation {place}: bbox must be four numbers, got {str(values)[:80]}", exit_code=2)
    try:
        x, y, w, h = map(float, values)
    except OverflowError:
        return math.nan, math.nan, math.nan, math.nan
    return x, y, w, h


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _attributes(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the further values of an annotation, also those in an object ``attributes``."""
    found = []
    for name, value in entry.items():
        if name in STANDARD:
            continue
        if name == "attributes" and isinstance(value, dict):
            found += [(str(n), str(v)) for n, v in value.items() if isinstance(v, str | int | float)]
        elif isinstance(value, str | int | float):
            found.append((name, str(value)))
    return found
