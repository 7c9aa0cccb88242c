"""Read an annotated folder of any known format, and cut its boxes into cells one field at a time."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.boxes.box import FIELD, FORMATS, Annotation, Box, BoxOptions, Field
from leuk_lib.data.boxes.clean import choose_categories, place_boxes, squeezed
from leuk_lib.data.boxes.coco import is_coco, read_coco
from leuk_lib.data.boxes.crop import SHIFTED, cut, square_of
from leuk_lib.data.boxes.files import FolderFiles, same_name
from leuk_lib.data.boxes.raabin import is_raabin, read_raabin
from leuk_lib.data.boxes.voc import is_voc, read_voc
from leuk_lib.data.boxes.yolo import is_yolo, label_files, read_yolo
from leuk_lib.data.decode import Unreadable, decode_file
from leuk_lib.data.findings import Finding, unusual
from leuk_lib.data.layouts import role_of
from leuk_lib.runs.errors import LeukError

# LeukemiaAttri: slide, image, magnification and the patient's diagnosis.
FIELD_NAME = re.compile(
    r"(?P<slide>[^_]+)_(?P<image>[^_]+)_(?P<magnification>(?:10{1,3}|400?)x?)_(?P<diagnosis>ALL|AML|APML|CLL|CML)",
    re.IGNORECASE,
)
MAX_STEM = 60  # characters of a field's name in those of its cells
CUT_BY_BORDER = 1.0  # pixels from the border


@dataclass(frozen=True, eq=False)
class CutCell:
    """One cell cut out of a field.

    Attributes:
        name: Unique in the data folder, without a suffix: the field's path and the number of the box.
        image: (S,S,3) uint8.
        box: In pixels of the field; label and attributes.
        field: The field of view.
    """

    name: str
    image: NDArray[np.uint8]
    box: Box
    field: Field


def recognise(files: FolderFiles) -> Iterator[str]:
    """Yield the format of each annotation file of a folder; looks at the files' beginnings only."""
    for path in files.with_suffix(".json"):
        head = files.head(path)
        if b'"Cell Numbers"' in head:
            yield "raabin"
        elif _may_be_coco(head):
            yield "coco"
    yield from ("voc" for path in files.with_suffix(".xml") if is_voc(files.head(path, 4096)))
    yield from ("yolo" for path in label_files(files) if is_yolo(files.head(path, 4096).decode("utf-8", "replace")))


def _may_be_coco(head: bytes) -> bool:
    """Whether a JSON file begins like COCO; several of its names, since others use "images" or "annotations" too."""
    names = (
        b'"images"',
        b'"annotations"',
        b'"categories"',
        b'"file_name"',
        b'"image_id"',
        b'"bbox"',
        b'"supercategory"',
    )
    return sum(name in head for name in names) >= 2


def read_boxes(root: Path, options: BoxOptions | None = None) -> Annotation:
    """Read the boxes of a data folder, without looking at pixels.

    Args:
        root: The folder with annotations and images.
        options: How to read them.

    Raises:
        LeukError: With exit code 2 if there is no annotation, if there are several formats, magnifications or readings
            of the label and no option decides, if no image is found, and for files that cannot be read.
    """
    options = options or BoxOptions()
    files = FolderFiles(root, options.subset)
    name = options.format or _only(Counter(recognise(files)), files)
    findings: list[Finding] = []
    fields = _read_format(name, files, options, findings)
    for skipped in files.unnamed:
        findings.append(Finding(skipped, "file name cannot be printed", "error", "rename it"))
    archives = [path for path in files.paths if path.suffix.lower() in (".zip", ".rar", ".7z", ".gz", ".tar")]
    for path in archives:
        what = "archive is not read"
        findings.append(Finding(str(path), what, "warning", "unpack it here if it holds annotations or images"))
    _one_subset(root, fields)
    if not any(field.boxes for field in fields):
        raise LeukError(
            f"{root}: no box of its annotations ({name}) lies in an image of the folder; are images and annotations of "
            "the same set, and unpacked? (--reader folders reads class folders)",
            exit_code=2,
        )
    _about_images(files, fields, findings)
    fields, present = choose_categories(fields, options, findings)
    fields = _label_and_group(root, fields, options)
    counts = ", ".join(f"{label or 'no name'} {n}" for label, n in sorted(present.items()))
    groups = len({field.group for field in fields})
    by = "field of view" if any(field.group.startswith(FIELD) for field in fields) else "slide"
    squeeze = "" if options.aspect == 1 else f", pixels {options.aspect:g} times as wide as high"
    understood = (
        f"boxes ({name}): {sum(present.values())} in {len(fields)} fields of view; categories: {counts}",
        f"label: {'the diagnosis in the name of the field' if options.task == 'diagnosis' else 'the category of the box'}",
        f"group: {by} ({groups})",
        f"cells: squares around the boxes, {100 * options.padding:.0f} % margin{squeeze}",
    )
    return Annotation(files.root, name, tuple(fields), tuple(findings), understood)


def _only(found: Mapping[str, int], files: FolderFiles) -> str:
    if not found:
        archives = ", ".join(str(path) for path in files.with_suffix(".zip", ".rar"))
        packed = f"; unpack {archives} first" if archives else ""
        raise LeukError(f"{files.root}: no annotation of boxes ({', '.join(FORMATS)}) in it{packed}", exit_code=2)
    if len(found) > 1:
        shown = ", ".join(f"{name} ({number} files)" for name, number in sorted(found.items()))
        raise LeukError(
            f"{files.root}: boxes in several formats: {shown}; say which: --option format=NAME", exit_code=2
        )
    return next(iter(found))


def _read_format(name: str, files: FolderFiles, options: BoxOptions, findings: list[Finding]) -> list[Field]:
    if name == "voc":
        return read_voc(files, files.with_suffix(".xml"), findings)
    if name == "yolo":
        return read_yolo(files, label_files(files), options.classes, findings)
    fits, title = (is_coco, "COCO") if name == "coco" else (is_raabin, "Raabin's")
    contents: list[tuple[PurePosixPath, Any]] = []
    others = []
    for path in files.with_suffix(".json"):
        content = files.read_json(path)
        if fits(content):
            contents.append((path, content))
        else:
            others.append(path)
    if not contents:
        first = f"{others[0]} is JSON, but not {title} form; " if others else ""
        raise LeukError(
            f"{files.root}: {first}COCO needs the lists images, annotations and categories, Raabin's the key Cell Numbers",
            exit_code=2,
        )
    for path in others:
        findings.append(Finding(str(path), f"JSON that is not of {title} form", "warning", "it is ignored"))
    return read_coco(files, contents, findings) if name == "coco" else read_raabin(files, contents, findings)


def _one_subset(root: Path, fields: Sequence[Field]) -> None:
    """Refuse several magnifications or cameras, which show the same cells again."""
    subsets = Counter(
        folder
        for field in fields
        for folder in PurePosixPath(field.path).parts[:-1]
        if role_of(folder) == "magnification"
    )
    if len(subsets) > 1:
        shown = ", ".join(f"{name} ({n} fields)" for name, n in sorted(subsets.items()))
        raise LeukError(
            f"{root}: several magnifications or cameras, which show the same cells again: {shown}; "
            f"say which: --option subset={min(subsets)}",
            exit_code=2,
        )


def _about_images(files: FolderFiles, fields: Sequence[Field], findings: list[Finding]) -> None:
    empty = [field.path for field in fields if not field.boxes]
    if empty:
        what = f"images without boxes: {len(empty)} ({', '.join(empty[:3])}{', …' if len(empty) > 3 else ''})"
        findings.append(Finding(".", what, "info", "no cell is cut out of them; nothing to do if none is visible"))
    known = {field.path for field in fields}
    unlisted = [str(path) for path in files.images if str(path) not in known]
    if unlisted:
        what = f"images without an annotation: {len(unlisted)} ({', '.join(unlisted[:3])}{', …' if len(unlisted) > 3 else ''})"
        findings.append(Finding(".", what, "warning", "they are not used; is an annotation file missing?"))


def _label_and_group(root: Path, fields: Sequence[Field], options: BoxOptions) -> list[Field]:
    """Set the group of each field (its slide, else itself), and the label where it is the diagnosis."""
    names = {field.path: FIELD_NAME.fullmatch(PurePosixPath(field.path).stem) for field in fields}
    stated = [field for field in fields if names[field.path]]
    if not options.task and fields and len(stated) == len(fields):
        types = sorted({str(match["diagnosis"]).upper() for match in names.values() if match})
        raise LeukError(
            f"{root}: the label can be the category of the box (cell type) or the diagnosis in the fields' names "
            f"({', '.join(types)}); say which: --option task=cell-type or task=diagnosis",
            exit_code=2,
        )
    if options.task == "diagnosis" and len(stated) < len(fields):
        without = next(field.path for field in fields if not names[field.path])
        raise LeukError(
            f"{root}: task=diagnosis needs field names SLIDE_IMAGE_MAGNIFICATION_TYPE (ALL, AML, APML, CLL or CML); "
            f"{without} has none ({len(fields) - len(stated)} of {len(fields)})",
            exit_code=2,
        )
    out = []
    for field in fields:
        match = names[field.path]
        if match is None:
            out.append(replace(field, group=FIELD + field.path))
            continue
        diagnosis = match["diagnosis"].upper()
        extra = (*field.attributes, ("diagnosis", diagnosis), ("slide", match["slide"]))
        boxes = field.boxes
        if options.task == "diagnosis":
            boxes = tuple(
                replace(box, label=diagnosis, label2="", attributes=(("cell_type", box.label), *box.attributes))
                for box in boxes
            )
        group = f"{diagnosis} slide {match['slide']}"
        out.append(replace(field, group=group, boxes=boxes, attributes=extra))
    return out


def _cell_name(path: str, unique: bool) -> str:
    """Return the name of a field's cells; a hash distinguishes fields whose names are alike or too long."""
    folder, stem = PurePosixPath(path).parent, PurePosixPath(path).stem
    if not unique or len(stem) > MAX_STEM:
        stem = f"{stem[:MAX_STEM]}~{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    return (folder / stem).as_posix()


def cut_cells(annotation: Annotation, options: BoxOptions | None = None) -> Iterator[CutCell | Finding]:
    """Cut all cells; each field is decoded once.

    Args:
        annotation: Result of ``read_boxes``.
        options: As for ``read_boxes``.

    Yields:
        The cells in the order of fields and boxes, and findings among them.
    """
    options = options or BoxOptions()
    all_boxes: list[Box] = []
    border = moved_cells = 0
    stems = Counter(same_name(PurePosixPath(field.path).stem) for field in annotation.fields)
    for field in annotation.fields:
        if not field.boxes:
            continue
        try:
            decoded = decode_file(annotation.root / field.path)
        except Unreadable as error:
            what = f"field cannot be read: {error}; {len(field.boxes)} boxes"
            yield Finding(field.path, what, "error", "restore the file from its source")
            continue
        height, width = decoded.image.shape[:2]
        if "EXIF-rotated" in decoded.findings and (field.size != (width, height) or width == height):
            what = f"annotated field is turned by its EXIF orientation; {len(field.boxes)} boxes"
            advice = "it is not known whether its boxes are for the turned image; save it upright, and check the boxes"
            yield Finding(field.path, what, "error", advice)
            continue
        yield from unusual(field.path, [key for key in decoded.findings if key != "tiny"])
        findings: list[Finding] = []
        boxes = place_boxes(field, width, height, options, findings)
        yield from findings
        all_boxes += boxes
        name = _cell_name(field.path, stems[same_name(PurePosixPath(field.path).stem)] == 1)
        for number, box in enumerate(boxes):
            x, y, columns, rows, moved = square_of(box, width, height, options.padding, options.aspect)
            moved_cells += moved > SHIFTED
            border += min(box.x0, box.y0, width - box.x1, height - box.y1) <= CUT_BY_BORDER
            yield CutCell(f"{name}_{number:03d}", cut(decoded.image, (x, y, columns, rows)), box, field)
    if border:
        what = f"cells cut by the border of their field: {border} of {len(all_boxes)}"
        yield Finding(".", what, "info", "part of the cell is missing; nothing to do")
    if moved_cells:
        what = f"squares moved inwards at the border of their field: {moved_cells} of {len(all_boxes)}"
        yield Finding(".", what, "info", "the cell is not in the centre, and all pixels are real; nothing to do")
    if finding := squeezed(all_boxes, options.aspect):
        yield finding
