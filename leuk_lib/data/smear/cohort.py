"""Cohorts of rendered cells: number of cells per class and patient, rendering in parallel, split into parts."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.data.smear.field import RED_CELL, platelets, precipitate, red_cells
from leuk_lib.data.smear.individual import FIELD_UM, Patient, draw_cell, draw_patient
from leuk_lib.data.smear.morphology import CLASSES
from leuk_lib.data.smear.optics import expose, transmit
from leuk_lib.data.smear.paint import paint_cell
from leuk_lib.data.smear.shapes import Canvas
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import numpy_rng

if TYPE_CHECKING:
    from leuk_lib.data.cellset import CellSet

# Share of each class; the rarest is about a seventh of the most frequent, as in real collections.
CLASS_SHARES = {"CML": 0.15, "CLL": 0.32, "AML": 0.46, "ALL": 0.07}
MIN_CANVAS = 128  # pixels; smaller images are rendered at a multiple of their side and averaged


@dataclass(frozen=True)
class Rendered:
    """One rendered cell.

    Attributes:
        image: RGB, (S, S, 3) uint8.
        mask: (S, S) uint8; 0 background, 128 cytoplasm, 255 nucleus.
        record: index, label, patient and morphology (the fields of ``Cell``).
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    record: dict[str, Any]


def plan_cohort(cells: int, patients: int, seed: int) -> pd.DataFrame:
    """Assign cells to classes (imbalanced) and to patients (of unequal size).

    Args:
        cells: number of cells in total.
        patients: number of patients per class.
        seed: seed of the patients' sizes.

    Returns:
        One row per cell with its label and the number of its patient, from 0.

    Raises:
        LeukError: a class would have fewer cells than patients.

    >>> plan_cohort(240, 6, seed=0)["label"].value_counts().to_dict()
    {'AML': 110, 'CLL': 77, 'CML': 36, 'ALL': 17}
    """
    rows = []
    numbers = {label: round(cells * share) for label, share in CLASS_SHARES.items()}
    numbers[max(CLASS_SHARES, key=CLASS_SHARES.__getitem__)] += cells - sum(numbers.values())
    for label, n in numbers.items():
        if n < patients:
            raise LeukError(
                f"rendered smear: of {cells} cells only {n} are {label}, fewer than its {patients} patients; "
                f"use at least {int(np.ceil(patients / min(CLASS_SHARES.values())))} cells, or fewer patients"
            )
        weights = numpy_rng(seed, "plan", label).dirichlet(np.full(patients, 6.0))
        extra = np.floor((n - patients) * weights).astype(int)
        extra[np.argsort(-weights)[: n - patients - extra.sum()]] += 1
        rows += [(label, p) for p in range(patients) for _ in range(1 + extra[p])]
    return pd.DataFrame(rows, columns=["label", "patient"])


def render(seed: int, index: int, patient: Patient, size: int) -> Rendered:
    """Render one cell in its surroundings; the result depends on the arguments alone.

    Args:
        seed: seed of the cohort.
        index: number of the cell in the cohort.
        patient: whose cell it is.
        size: side of the image, pixels.
    """
    rng = numpy_rng(seed, "cell", index)
    cell = draw_cell(rng, patient)
    canvas = Canvas(size * max(1, -(-MIN_CANVAS // size)), FIELD_UM)
    centre = np.clip(rng.normal(0, 0.7, 2), -1.4, 1.4)
    stain = paint_cell(rng, canvas, cell, centre)

    scene_rng = numpy_rng(seed, "scene", index)
    outside = 1 - stain.cell
    erythrocytes = red_cells(scene_rng, canvas, patient, centre, 0.46 * cell.diameter) * outside
    thrombocytes = platelets(scene_rng, canvas, patient, centre, 0.5 * cell.diameter) * outside
    specks = precipitate(scene_rng, canvas)
    azure = stain.azure + RED_CELL[0] * erythrocytes + 0.5 * thrombocytes + 1.5 * specks
    eosin = stain.eosin + RED_CELL[1] * erythrocytes + 0.42 * thrombocytes + 0.8 * specks
    orange = stain.orange + RED_CELL[2] * erythrocytes
    image = expose(scene_rng, transmit(azure, eosin, orange, patient), canvas, patient, size)

    shrink = {"dsize": (size, size), "interpolation": cv2.INTER_AREA}
    mask = np.where(cv2.resize(stain.cell, **shrink) > 0.5, 128, 0).astype(np.uint8)
    mask[cv2.resize(stain.nucleus, **shrink) > 0.5] = 255
    record = {"index": index, "label": patient.label, "patient": patient.name, **vars(cell)}
    return Rendered(image, mask, record)


def _render_rows(
    task: tuple[int, int, float, list[tuple[int, str, int]]],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, Any]]]:
    seed, size, effect, rows = task
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # images are small: parallel over cells, not inside OpenCV
    try:
        patients = {key: draw_patient(seed, *key, effect) for key in dict.fromkeys(row[1:] for row in rows)}
        rendered = [render(seed, index, patients[label, number], size) for index, label, number in rows]
    finally:
        cv2.setNumThreads(threads)
    return np.stack([r.image for r in rendered]), np.stack([r.mask for r in rendered]), [r.record for r in rendered]


def render_smear(
    cells: int = 2400,
    patients: int = 16,
    size: int = 64,
    seed: int = 0,
    patient_effect: float = 1.0,
    workers: int = 1,
    classes: Sequence[str] = CLASSES,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], pd.DataFrame]:
    """Render a cohort.

    Args:
        cells: number of cells of all classes.
        patients: number of patients per class.
        size: side S of the images, pixels, at least 16.
        seed: seed of the cohort.
        patient_effect: how much the slides of patients differ; 0: not at all.
        workers: number of processes. The result is the same, to the bit, for any number; a script that uses more
            than one needs ``if __name__ == "__main__"``.
        classes: classes to render; the cells of each stay the same if others are left out.

    Returns:
        Images (N, S, S, 3) uint8 RGB, masks (N, S, S) uint8 as in ``Rendered``, and one record per cell.

    Raises:
        LeukError: images that are too small, or fewer cells of a class than patients.
    """
    if size < 16:
        raise LeukError(f"rendered smear: {size} px is too small to show a cell; use at least 16")
    rows = [
        (int(i), str(label), int(number))
        for i, (label, number) in enumerate(plan_cohort(cells, patients, seed).itertuples(index=False))
        if label in classes
    ]
    chunk = max(1, min(100, -(-len(rows) // max(workers, 1))))
    tasks = [(seed, size, patient_effect, rows[i : i + chunk]) for i in range(0, len(rows), chunk)]
    if workers <= 1:
        parts = [_render_rows(task) for task in tasks]
    else:
        # spawn: a forked child of a process with running threads (torch, OpenCV) may hang
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(_render_rows, tasks))
    images, masks, records = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(masks), pd.DataFrame(list(itertools.chain(*records)))


def smear_cells(
    cells: int = 2400,
    patients: int = 16,
    size: int = 64,
    seed: int = 0,
    patient_effect: float = 1.0,
    workers: int = 1,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
) -> CellSet:
    """Render a cohort (see ``render_smear``) and split it by patient into a ``CellSet``."""
    from leuk_lib.data.cellset import from_arrays
    from leuk_lib.data.splits import PARTS, split_groups

    images, masks, table = render_smear(cells, patients, size, seed, patient_effect, workers)
    labels = [CLASSES.index(label) for label in table["label"]]
    table = table.assign(path=[f"smear/{i:05d}" for i in table["index"]], group=table["patient"])
    parts = split_groups(labels, table["group"].to_numpy(dtype=str), fractions, seed)
    table["split"] = np.array(PARTS)[parts]
    first = ["path", "label", "group", "split"]
    table = table[first + [c for c in table.columns if c not in first]]
    return from_arrays(images, labels, CLASSES, table, "rendered", masks, "smear")
