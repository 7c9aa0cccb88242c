"""A small imitation of LeukemiaAttri from rendered cells: its folders, names, JSON and traps.

Source of names and form: GitHub intelligentMachines-ITU/Blood-Cancer-Dataset-Lukemia-Attri-MICCAI-2024 (its sample files
are called ``4_15_1000_ALL.png``, its categories are listed in ``data/WBC_v1.yaml``) and public descriptions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from leuk_lib.data.smear.cohort import render_smear

SQUEEZE = 0.6  # of the width
SIDE = 640  # pixels of a field
TILE = 64  # pixels of a rendered cell
CATEGORIES = (
    "none", "myeloblast", "lymphoblast", "neutrophil", "atypical lymphocyte", "promonocyte", "monoblast", "lymphocyte",
    "myelocyte", "abnormal promyelocyte", "monocyte", "metamyelocyte", "eosinophil", "basophil",
)  # fmt: skip
TYPES = {
    "ALL": "lymphoblast",
    "AML": "myeloblast",
    "APML": "abnormal promyelocyte",
    "CLL": "lymphocyte",
    "CML": "myelocyte",
}
# Diagnosis -> slides of the training part, slides of the test part. CLL and APML have one person in each.
SLIDES = {
    "ALL": ((1, 2), (4,)),
    "AML": ((6, 7), (9,)),
    "APML": ((11,), (12,)),
    "CLL": ((13,), (14,)),
    "CML": ((15, 16), (18,)),
}
RENDERED = {"ALL": 310, "AML": 80, "CLL": 52, "CML": 150}  # cells of a cohort that has enough cells of the class
AGAIN = (1, 4, 13)  # slides that the second subset shows again
FIELDS, CELLS = 2, 4  # fields of a slide, cells of a field
ATTRIBUTES = {
    "cell_size": 1, "nuclear_chromatio": 0, "nuclear_shape": 1, "nucleolus": 0, "cytoplasm": 1,
    "cytoplasmic_basophilia": 2, "cytoplasmic_vacuoles": 4,
}  # fmt: skip


def imitation(root: Path, subsets: tuple[str, ...] = ("H_100X_C1", "L_40X_C2"), seed: int = 0) -> dict[str, int]:
    """Write the imitation below ``root``.

    Each field has four cells, and a box of category none on bare glass; the second field of a slide shows the last cell of
    the first again. Traps of the first training field: it is listed twice, its first box also stands under another
    category, and one of its boxes is 2 pixels wide. The subsets show the same cells; slide 4 is in the test part of the
    first and in the training part of the second. Their folders differ in case.

    Returns:
        Number of cells of each diagnosis in the first subset, without the repeated ones and the traps.
    """
    rendered = {label: render_smear(n, 3, TILE, seed, classes=[label]) for label, n in RENDERED.items()}
    images, masks = (np.concatenate([cells[k] for cells in rendered.values()]) for k in (0, 1))
    starts = np.cumsum([0, *(len(cells[0]) for cells in rendered.values())]).tolist()
    pools = {label: list(range(starts[k], starts[k + 1])) for k, label in enumerate(rendered)}
    counts: dict[str, int] = {}
    for number, subset in enumerate(subsets):
        home = root / "LeukemiaAttri_Dataset" / subset
        pictures, labels = (("Images", "json_labels"), ("images", "WBC_detection"))[number % 2]
        magnification = {"100X": "1000", "40X": "400", "10X": "100"}[subset.split("_")[1]]
        json_of: dict[str, dict[str, list[Any]]] = {part: _empty() for part in ("train", "test")}
        rest = {label: list(pool) for label, pool in pools.items()}
        for diagnosis, parts in SLIDES.items():
            for part, slides in zip(("train", "test"), parts, strict=True):
                for slide in slides:
                    if number and slide not in AGAIN:
                        continue
                    other = "train" if number and slide == 4 else part
                    _slide(
                        home / pictures / other, json_of[other], slide, diagnosis, magnification, rest, images, masks
                    )
                    if not number:
                        counts[diagnosis] = counts.get(diagnosis, 0) + FIELDS * CELLS
        _traps(json_of["train"])
        for part, content in json_of.items():
            (home / labels).mkdir(parents=True, exist_ok=True)
            (home / labels / f"{part}.json").write_text(json.dumps(content))
    return counts


def _empty() -> dict[str, list[Any]]:
    return {
        "images": [], "annotations": [],
        "categories": [{"id": number, "name": name, "supercategory": "WBC"} for number, name in enumerate(CATEGORIES)],
    }  # fmt: skip


def _slide(
    folder: Path, content: dict[str, list[Any]], slide: int, diagnosis: str, magnification: str,
    rest: dict[str, list[int]], images: np.ndarray, masks: np.ndarray,
) -> None:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    again: int | None = None
    for position in range(1, FIELDS + 1):
        width = round(SIDE / SQUEEZE)
        glass = np.percentile(images[rest["AML" if diagnosis == "APML" else diagnosis][0]].reshape(-1, 3), 95, axis=0)
        rng = np.random.default_rng([slide, position])
        field = np.clip(glass + rng.normal(0, 2, (SIDE, width, 3)), 0, 255).astype(np.uint8)
        name = f"{slide}_{position}_{magnification}_{diagnosis}.png"
        number = len(content["images"])
        content["images"].append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        boxes = []
        for place in range(CELLS):
            cell = (
                again if place == 0 and again is not None else rest["AML" if diagnosis == "APML" else diagnosis].pop()
            )
            again = cell if place == CELLS - 1 else again
            x, y = 60 + 240 * place + 17 * position, 80 + 110 * place + 29 * position
            field[y : y + TILE, x : x + TILE] = images[cell]
            rows, columns = np.nonzero(masks[cell])
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            boxes.append((TYPES[diagnosis], float(x + left), float(y + top), float(right - left), float(bottom - top)))
        boxes.append(("none", 20.0, 560.0, 60.0, 60.0))
        squeezed = cv2.resize(field, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / name), squeezed[..., ::-1])
        for label, x0, y0, w, h in boxes:
            box = [round(SQUEEZE * x0, 2), y0, round(SQUEEZE * w, 2), h]
            _annotate(content, number, label, box)


def _annotate(content: dict[str, list[Any]], image: int, label: str, box: list[float]) -> None:
    content["annotations"].append(
        {
            "id": len(content["annotations"]) + 1, "image_id": image, "category_id": CATEGORIES.index(label), "bbox": box,
            "area": box[2] * box[3], "iscrowd": 0, **ATTRIBUTES,
        }
    )  # fmt: skip


def _traps(content: dict[str, list[Any]]) -> None:
    first = content["images"][0]
    content["images"].append({**first, "id": len(content["images"]) + 1000})
    boxes = [entry for entry in content["annotations"] if entry["image_id"] == first["id"]]
    _annotate(content, first["id"], "monoblast", list(boxes[0]["bbox"]))
    _annotate(content, first["id"], TYPES["ALL"], [300.0, 300.0, 2.0, 40.0])
