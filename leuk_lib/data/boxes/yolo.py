"""YOLO: one text file per image, rows "class x y width height" in fractions of the image; the centre is x, y.

Class names stand in ``data.yaml``, ``classes.txt`` or ``obj.names``. LeukemiaAttri's rows go on with seven numbers, the
morphological attributes (its description names six).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import yaml

from leuk_lib.data.boxes.box import Box, Field
from leuk_lib.data.boxes.files import FolderFiles, part_of_folders, same_name, without_image
from leuk_lib.data.findings import Finding
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.numbers import parse_number
from leuk_lib.runs.yaml_files import parse_yaml

CLASS_LISTS = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "labels.names")
NOT_ROWS = frozenset(
    {"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "trainval.txt", "requirements.txt"}
)
MAX_YAML = 1 << 18


def is_yolo(head: str) -> bool:
    """Whether a text that begins so holds YOLO rows: at least five numbers, the first an integer."""
    for line in head.splitlines():
        words = line.split()
        if not words:
            continue
        try:
            numbers = [parse_number(word) for word in words]
        except ValueError:
            return False
        return len(numbers) >= 5 and words[0].removesuffix(".0").isdecimal()
    return False


def label_files(files: FolderFiles) -> list[PurePosixPath]:
    """Return the text files that lie in a folder ``labels`` or have the name of an image."""
    images = {same_name(path.stem) for path in files.images}
    return [
        path
        for path in files.with_suffix(".txt")
        if path.name.casefold() not in NOT_ROWS
        and "ImageSets" not in path.parts
        and not path.name.casefold().startswith(("readme", "license"))
        and (same_name(path.stem) in images or "labels" in map(str.casefold, path.parts[:-1]))
    ]


def read_yolo(
    files: FolderFiles, paths: Sequence[PurePosixPath], classes: Sequence[str], findings: list[Finding]
) -> list[Field]:
    """Read the boxes of text files; their coordinates stay fractions until the image's size is known.

    Args:
        files: The data folder.
        paths: The text files.
        classes: Names of the classes; empty to read the folder's own list.
        findings: Gets what was left out or decided.

    Raises:
        LeukError: Without a list of classes or with two that differ, for rows of another form (outlines, fewer than five
            numbers), and for classes that the list does not name.
    """
    names, listed_in = _class_names(files, classes)
    fields: dict[PurePosixPath, Field] = {}
    columns: Counter[int] = Counter()
    first: dict[int, str] = {}
    for path in paths:
        rows = []
        for number, line in enumerate(files.read_text(path).splitlines(), start=1):
            if words := line.split():
                rows.append((number, _numbers(path, number, words)))
                columns[len(words)] += 1
                first.setdefault(len(words), f"{path}, line {number}")
        boxes = []
        for number, row in rows:
            index = row[0]
            if not (index.is_integer() and 0 <= index < len(names)):
                raise LeukError(
                    f"{path}, line {number}: class {index:g}, but {listed_in} names {len(names)} (0 to {len(names) - 1}); "
                    "give the list that belongs to these files",
                    exit_code=2,
                )
            x, y, w, h = row[1:5]
            attributes = tuple((f"attribute_{k}", f"{value:g}") for k, value in enumerate(row[5:], start=1))
            corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            boxes.append(Box(*corners, names[int(index)], "", attributes, f"{path}, line {number}"))
        image, why = files.image(path.stem, path, part_of_folders(path))
        if image is None:
            findings.append(without_image(path, len(boxes), path.stem, why))
            continue
        if image in fields:
            raise LeukError(f"{path}: a second annotation of {image}; remove one of the two", exit_code=2)
        fields[image] = Field(str(image), tuple(boxes), part_of_folders(image), fractions=True)
    _check_columns(columns, first, fields, findings)
    return [fields[image] for image in sorted(fields)]


def _numbers(path: PurePosixPath, number: int, words: list[str]) -> list[float]:
    try:
        row = [parse_number(word) for word in words]
    except ValueError:
        raise LeukError(f"{path}, line {number}: must be numbers, got {' '.join(words)[:60]!r}", exit_code=2) from None
    if len(row) < 5:
        raise LeukError(f"{path}, line {number}: {len(row)} numbers; a row is class, x, y, width, height", exit_code=2)
    if not math.isfinite(row[0]):
        raise LeukError(f"{path}, line {number}: the class must be a number from 0", exit_code=2)
    return row


def _check_columns(
    columns: Counter[int], first: dict[int, str], fields: dict[PurePosixPath, Field], findings: list[Finding]
) -> None:
    """Say what further columns are; refuse outlines, which would be read as boxes."""
    if not columns or set(columns) == {5}:
        return
    extra = [float(value) for f in fields.values() for box in f.boxes for _, value in box.attributes]
    if len(columns) > 1 or any(not value.is_integer() for value in extra):
        width = max(columns)
        if set(columns) == {6}:
            what = f"6 columns ({columns[6]} rows): the last looks like a detector's confidence"
            advice = "labels of a detector are no ground truth; take the annotators' files"
            findings.append(Finding(".", what, "warning", advice))
            return
        raise LeukError(
            f"{first[width]}: {width} numbers in a row ({', '.join(f'{n} rows of {k}' for k, n in sorted(columns.items()))}); "
            "outlines (segmentation) are not read: export boxes, five numbers per row",
            exit_code=2,
        )
    width = max(columns)
    what = f"{width} columns: {width - 5} more than a box has ({columns[width]} rows)"
    findings.append(
        Finding(".", what, "info", f"kept as attribute_1 to attribute_{width - 5}; their names are not stated")
    )


def _class_names(files: FolderFiles, classes: Sequence[str]) -> tuple[list[str], str]:
    if classes:
        return list(classes), "the option classes"
    found: dict[str, list[str]] = {}
    for path in files.paths:
        if path.name.casefold() in CLASS_LISTS:
            names = _yaml_names(files, path) if path.suffix in (".yaml", ".yml") else _text_names(files, path)
            if names:
                found[str(path)] = names
    if not found:
        raise LeukError(
            f"{files.root}: YOLO rows name classes by number, and no {', '.join(CLASS_LISTS[:1] + CLASS_LISTS[3:5])} is "
            "there; add it, or give the names in their order: --option classes=A,B (--reader folders reads class folders)",
            exit_code=2,
        )
    (where, names), *others = found.items()
    for other, different in others:
        if different != names:
            raise LeukError(f"{where} and {other} name different classes; remove one, or give classes", exit_code=2)
    return names, where


def _text_names(files: FolderFiles, path: PurePosixPath) -> list[str]:
    lines = [" ".join(line.split()) for line in files.read_text(path).rstrip().splitlines()]
    if any(not line for line in lines):
        raise LeukError(f"{path}: an empty line between the class names; their numbers are unclear", exit_code=2)
    return lines


def _yaml_names(files: FolderFiles, path: PurePosixPath) -> list[str]:
    try:
        content = parse_yaml(files.read(path, MAX_YAML).decode("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise LeukError(f"{path}: cannot be read as YAML ({error})", exit_code=2) from error
    if not isinstance(content, dict) or "names" not in content:
        return []
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise LeukError(f"{path}: the numbers of the classes must be 0 to {len(names) - 1}", exit_code=2)
        names = [names[k] for k in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise LeukError(f"{path}: names must be a list of class names", exit_code=2)
    if isinstance(count := content.get("nc"), int) and count != len(names):
        raise LeukError(f"{path}: nc is {count}, but {len(names)} names are listed", exit_code=2)
    return [" ".join(str(name).split()) for name in names]
