"""Reader of annotated fields of view (``leuk_lib.data.boxes``): each box becomes a cell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from leuk_lib.data.boxes.box import FORMATS, RANGES, BoxOptions
from leuk_lib.data.findings import Finding
from leuk_lib.data.readers.reader import Cell, CellReader, Note, Options
from leuk_lib.runs.errors import LeukError

ANNOTATIONS = (".json", ".xml", ".txt")


class Boxes(CellReader):
    """Reads boxes in COCO, YOLO, Pascal VOC and Raabin's JSON; every box is a cell, its group at least its field."""

    name = "boxes"
    title = "boxes in fields of view (COCO, YOLO, Pascal VOC, Raabin's JSON)"
    options: ClassVar[Mapping[str, str]] = {
        "format": "coco, yolo, voc or raabin, where a folder holds several",
        "task": "cell-type (the category of the box) or diagnosis (in the field's name, as in LeukemiaAttri)",
        "subset": "folder that is read where there are several magnifications or cameras, as in H_100X_C1",
        "categories": "categories to take, separated by commas; otherwise all but those that mean none",
        "map": "OLD:NEW, separated by commas: renames categories before boxes are compared",
        "classes": "names of YOLO's classes in their order, where no data.yaml or classes.txt is there",
        "padding": "margin on each side as a share of the box's longer side, 0 to 4 (0.25)",
        "aspect": "width of the field's pixels over their height, 0.1 to 10 (1): 0.6 widens squeezed fields",
        "min_side": "boxes with a shorter side are left out, pixels, 2 to 1000 (8)",
        "rescale": "yes: boxes are in pixels of the size that the annotation states, not of the image",
    }
    aspect: ClassVar[float] = 1.0
    tasks: ClassVar[tuple[str, ...]] = ("", "cell-type", "diagnosis")

    def recognises(self, path: Path) -> bool:
        """Return whether a folder holds annotations of boxes, by the beginnings of its JSON, XML and text files."""
        if not path.is_dir() or not _may_be_annotated(path):
            return False
        from leuk_lib.data.boxes.files import FolderFiles
        from leuk_lib.data.boxes.read import recognise

        try:
            return any(recognise(FolderFiles(path)))
        except (LeukError, OSError):
            return False

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the files that may be annotations, and the fields of view."""
        from leuk_lib.data.boxes.files import FolderFiles

        files = FolderFiles(path, options.text("subset"))
        return [
            files.root / file for file in (*files.with_suffix(*ANNOTATIONS, ".yaml", ".yml", ".names"), *files.images)
        ]

    def cells(self, path: Path, options: Options) -> Iterator[Cell | Finding | Note]:
        """Yield the cells field by field; each field is decoded once."""
        from leuk_lib.data.boxes.read import CutCell, cut_cells, read_boxes

        if not path.is_dir():
            raise LeukError(
                f"{path}: reader {self.name} needs the folder that holds annotations and images", exit_code=2
            )
        chosen = self._chosen(options)
        annotation = read_boxes(path, chosen)
        yield from map(Note, annotation.understood)
        yield from annotation.findings
        for item in cut_cells(annotation, chosen):
            if not isinstance(item, CutCell):
                yield item
                continue
            box = item.box
            place = f"{item.field.path} {box.x0:.0f},{box.y0:.0f},{box.x1:.0f},{box.y1:.0f}"
            yield Cell(
                name=item.name,
                label=box.label,
                image=item.image,
                source=place,
                group=item.field.group,
                part=item.field.part,
                label2=box.label2,
                attributes=dict((*item.field.attributes, *box.attributes)),
            )

    def _chosen(self, options: Options) -> BoxOptions:
        renamed = {}
        for pair in options.names("map"):
            old, colon, new = pair.partition(":")
            if not colon or not old.strip():
                raise LeukError(f"reader {self.name}: option map={pair} must be OLD:NEW", exit_code=2)
            renamed[old.strip()] = new.strip()
        return BoxOptions(
            format=options.one_of("format", ("", *FORMATS)),
            subset=options.text("subset"),
            classes=tuple(options.names("classes")),
            categories=tuple(options.names("categories")),
            task=options.one_of("task", self.tasks),  # type: ignore[arg-type]
            class_map=renamed,
            padding=options.number("padding", BoxOptions.padding, *RANGES["padding"]),
            aspect=options.number("aspect", self.aspect, *RANGES["aspect"]),
            min_side=options.number("min_side", BoxOptions.min_side, *RANGES["min_side"]),
            rescale=options.one_of("rescale", ("no", "yes")) == "yes",
        )


def _may_be_annotated(path: Path) -> bool:
    """Whether a folder holds any JSON, XML or text file beside the usual descriptions."""
    for _, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.lower().endswith(ANNOTATIONS) for name in names):
            return True
    return False


READER = Boxes()
