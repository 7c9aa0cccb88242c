"""Pascal VOC: one XML file per image; its pixels are counted from 1 and the last one belongs to the box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from leuk_lib.data.boxes.box import Box, Field
from leuk_lib.data.boxes.files import FolderFiles, part_of_folders, without_image
from leuk_lib.data.findings import Finding
from leuk_lib.data.layouts import part_of
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.numbers import parse_number

CORNERS = ("xmin", "ymin", "xmax", "ymax")
KNOWN = frozenset({"name", "bndbox", "part", "segm", "polygon"})


def is_voc(head: bytes) -> bool:
    """Whether a file that begins so may be a VOC annotation."""
    return b"<annotation" in head


def read_voc(files: FolderFiles, paths: Sequence[PurePosixPath], findings: list[Finding]) -> list[Field]:
    """Read the boxes of XML files; ``ImageSets/Main/{train,val,test}.txt`` gives published parts.

    Args:
        files: The data folder.
        paths: The XML files.
        findings: Gets what was left out or decided.

    Raises:
        LeukError: For files that cannot be read, and for two annotations of one image.
    """
    published = _image_sets(files, findings)
    fields: dict[PurePosixPath, Field] = {}
    owners: dict[PurePosixPath, PurePosixPath] = {}
    for path in paths:
        content = files.read_xml(path)
        if content.tag != "annotation":
            findings.append(Finding(str(path), f"not a VOC annotation (<{content.tag}>)", "info", "it is ignored"))
            continue
        boxes = []
        for place, item in enumerate(content.iter("object")):
            box = _box(path, place, item)
            if box is None:
                what = "annotations without a box: 1"
                findings.append(Finding(str(path), what, "error", "add its bndbox or delete the object"))
            else:
                boxes.append(box)
        name = path.stem
        stated = (content.findtext("filename") or "").strip()
        image, why = files.image(name, path)
        if image is None and stated:
            image, why = files.image(stated, path)
        if image is None:
            findings.append(without_image(path, len(boxes), stated or name, why))
            continue
        if image in fields:
            raise LeukError(f"{path} and {owners[image]} are both about {image}; remove one of the two", exit_code=2)
        owners[image] = path
        listed = published.get(image.stem, "") or part_of_folders(image)
        fields[image] = Field(str(image), tuple(boxes), listed, _size(content))
    return [fields[image] for image in sorted(fields)]


def _box(path: PurePosixPath, place: int, item: Element) -> Box | None:
    corners = item.find("bndbox")
    if corners is None:
        return None
    values = []
    for side in CORNERS:
        text = (corners.findtext(side) or "").strip()
        try:
            values.append(parse_number(text))
        except ValueError:
            raise LeukError(
                f"{path}: object {place}: {side} must be a number, got {text[:40]!r}", exit_code=2
            ) from None
    x0, y0, x1, y1 = values
    # Pixels are counted from 1. Reversed corners stay reversed, because ``place_boxes`` reports them.
    x0, x1 = (x0, x1 - 1) if x0 > x1 else (x0 - 1, x1)
    y0, y1 = (y0, y1 - 1) if y0 > y1 else (y0 - 1, y1)
    label = " ".join((item.findtext("name") or "").split())
    attributes = tuple(
        (child.tag, child.text.strip())
        for child in item
        if child.tag not in KNOWN and not len(child) and child.text and child.text.strip()
    )
    return Box(x0, y0, x1, y1, label, "", attributes, f"{path}, object {place}")


def _size(content: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(content.findtext(f"size/{name}") or 0) for name in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _image_sets(files: FolderFiles, findings: list[Finding]) -> dict[str, str]:
    """Read the published parts by image name; an image in two lists counts as test."""
    parts: dict[str, str] = {}
    conflicts = 0
    for path in files.with_suffix(".txt"):
        part = part_of(path.stem)
        if "ImageSets" not in path.parts[:-1] or path.parent.name != "Main" or not part or path.stem == "trainval":
            continue
        for line in files.read_text(path).splitlines():
            words = line.split()
            if not words or (len(words) > 1 and words[1] == "-1"):
                continue
            earlier = parts.get(words[0], part)
            conflicts += earlier != part
            parts[words[0]] = next((name for name in (earlier, part) if name.startswith("test")), earlier)
    if conflicts:
        what = f"fields in several published parts: {conflicts} names in ImageSets"
        findings.append(
            Finding("ImageSets/Main", what, "warning", "counted as test, so that they are never trained on")
        )
    return parts
