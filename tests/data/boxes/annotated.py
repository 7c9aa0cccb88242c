"""Small annotated folders in every format, with the faults of published sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.toys import coded, picture

WIDTH, HEIGHT = 200, 160


def field_image(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A field (H,W,3) of smooth random colours, different for each seed."""
    return np.ascontiguousarray(cv2.resize(picture(seed, 128, 40), (width, height), interpolation=cv2.INTER_CUBIC))


def write_field(path: Path, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Write a field as PNG and return its pixels."""
    image = field_image(seed, width, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(coded(image))
    return image


def write_text(path: Path, text: str) -> Path:
    """Write a text file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def coco(
    path: Path,
    images: list[tuple[int, str]],
    boxes: list[tuple[int, int, list[Any]]],
    categories: tuple[str, ...] = ("monocyte", "neutrophil", "none"),
    size: tuple[int, int] | None = (WIDTH, HEIGHT),
    **attributes: Any,
) -> Path:
    """Write a COCO file; images are (id, name), boxes (image id, category from 1, bbox)."""
    stated = {} if size is None else {"width": size[0], "height": size[1]}
    content = {
        "images": [{"id": number, "file_name": name, **stated} for number, name in images],
        "annotations": [
            {"id": k, "image_id": number, "category_id": category, "bbox": bbox, "area": 1, "iscrowd": 0, **attributes}
            for k, (number, category, bbox) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, start=1)],
    }
    return write_text(path, json.dumps(content))


def voc(
    path: Path, boxes: list[tuple[str, float, float, float, float]], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Path:
    """Write a Pascal VOC file; boxes are name, xmin, ymin, xmax, ymax."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in boxes
    )
    sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return write_text(path, f"<annotation><filename>{path.stem}.png</filename>{sizes}{objects}</annotation>")


def raabin(path: Path, cells: list[tuple[float, float, float, float, str, str]], stated: int | None = None) -> Path:
    """Write a JSON file of Raabin's form; cells are x1, y1, x2, y2 and two labels."""
    content: dict[str, Any] = {"Cell Numbers": len(cells) if stated is None else stated}
    for k, (x1, y1, x2, y2, first, second) in enumerate(cells):
        content[f"Cell_{k}"] = {"x1": x1, "x2": x2, "y1": y1, "y2": y2, "Label1": first, "Label2": second}
    return write_text(path, json.dumps(content))
