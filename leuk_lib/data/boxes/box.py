"""Boxes, the fields of view that they lie in, and how they are to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leuk_lib.data.findings import Finding
from leuk_lib.runs.errors import LeukError

RANGES = {"padding": (0, 4), "aspect": (0.1, 10), "min_side": (2, 1000)}  # of the numbers in ``BoxOptions``
FORMATS = ("coco", "yolo", "voc", "raabin")
FIELD = "field:"  # prefix of a group's name that is only a field of view: overlapping fields may still be joined


@dataclass(frozen=True, slots=True)
class Box:
    """One annotated box, in pixels of its field; the right and lower edges are not part of it.

    Attributes:
        x0: Left edge.
        y0: Upper edge.
        x1: Right edge.
        y1: Lower edge.
        label: Category.
        label2: Category by a second expert, or "".
        attributes: (name, value) pairs.
        source: Where the annotation has the box, for messages.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    label2: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Field:
    """One field of view with its boxes.

    Attributes:
        path: Its image, relative to the data folder, POSIX.
        boxes: In the order of the annotation.
        part: Published part, or "".
        size: Width and height that the annotation states, or None.
        fractions: Coordinates are fractions of the image's width and height (YOLO), not pixels.
        group: Patient or slide, else the field itself (``FIELD`` and its path).
        attributes: (name, value) pairs of all cells of the field.
    """

    path: str
    boxes: tuple[Box, ...]
    part: str = ""
    size: tuple[int, int] | None = None
    fractions: bool = False
    group: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Annotation:
    """All annotated fields of a data folder.

    Attributes:
        root: The folder.
        format: One of ``FORMATS``.
        fields: Sorted by path.
        findings: What was left out or decided.
        understood: How the folder was read, in lines for a person.
    """

    root: Path
    format: str
    fields: tuple[Field, ...]
    findings: tuple[Finding, ...] = ()
    understood: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoxOptions:
    """How boxes become cells.

    Attributes:
        format: One of ``FORMATS``; "" to recognise it.
        subset: Folder to read where a set has several, such as "H_100X_C1" (one magnification and camera).
        classes: Names of the classes of YOLO files in their order; () to read them from ``data.yaml`` or ``classes.txt``.
        categories: Categories to take; () for all but those that mean none.
        task: "cell-type": the label is the category; "diagnosis": the label is in the field's file name; "" for the
            category, refused where file names also hold a diagnosis.
        class_map: Category -> new name; "" drops it. Decides about boxes that stand under two categories.
        padding: Margin on each side, as a share of the box's longer side.
        aspect: Width of a pixel over its height as recorded: 0.6 for fields squeezed to 60 % of their width.
        min_side: Boxes with a shorter side are left out, pixels.
        rescale: Boxes are in pixels of the stated size where the image has another.

    Raises:
        LeukError: For values out of range.
    """

    format: str = ""
    subset: str = ""
    classes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    task: Literal["", "cell-type", "diagnosis"] = ""
    class_map: Mapping[str, str] = field(default_factory=dict)
    padding: float = 0.25
    aspect: float = 1.0
    min_side: float = 8.0
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.format and self.format not in FORMATS:
            raise LeukError(f"boxes: format {self.format!r}; allowed: {', '.join(FORMATS)}", exit_code=2)
        if self.task not in ("", "cell-type", "diagnosis"):
            raise LeukError(f"boxes: task {self.task!r}; allowed: cell-type, diagnosis", exit_code=2)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise LeukError(f"boxes: {name} {value!r} must be from {low} to {high}", exit_code=2)
