"""Many cells: who has how many, and the same pixels however many processes render them."""

from __future__ import annotations

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

# Share of the four classes; the rarest is a seventh of the most frequent, as rare diseases are in real collections.
SHARES = {"CML": 0.15, "CLL": 0.32, "AML": 0.46, "ALL": 0.07}
WORKING = 128  # pixels: smaller images are rendered at a multiple and averaged


@dataclass(frozen=True)
class Rendered:
    """One cell: image (S,S,3) uint8 RGB, mask (S,S) uint8 (0, 128, 255), and its record."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    record: dict[str, Any]


def plan(cells: int, patients: int, seed: int) -> pd.DataFrame:
    """Label and patient number of each of ``cells`` cells: imbalanced classes, patients of unequal size.

    Raises ``LeukError`` when there are fewer cells of a class than patients.
    """
    rows = []
    numbers = {label: round(cells * share) for label, share in SHARES.items()}
    numbers[max(SHARES, key=SHARES.__getitem__)] += cells - sum(numbers.values())
    for label, n in numbers.items():
        if n < patients:
            raise LeukError(
                f"rendered smear: {cells} cells give {label} only {n}, fewer than its {patients} patients; "
                f"ask for at least {int(np.ceil(patients / min(SHARES.values())))} cells or for fewer patients"
            )
        weights = numpy_rng(seed, "plan", label).dirichlet(np.full(patients, 6.0))
        extra = np.floor((n - patients) * weights).astype(int)
        extra[np.argsort(-weights)[: n - patients - extra.sum()]] += 1
        rows += [(label, p) for p in range(patients) for _ in range(1 + extra[p])]
    return pd.DataFrame(rows, columns=["label", "patient"])


def render(seed: int, index: int, patient: Patient, size: int) -> Rendered:
    """Cell ``index`` of the run with ``seed``: a function of its arguments alone."""
    rng = numpy_rng(seed, "cell", index)
    cell = draw_cell(rng, patient)
    canvas = Canvas(size * max(1, -(-WORKING // size)), FIELD_UM)
    centre = np.clip(rng.normal(0, 0.7, 2), -1.4, 1.4)
    stain = paint_cell(rng, canvas, cell, centre)

    scene = numpy_rng(seed, "scene", index)
    open_glass = 1 - stain.cell
    reds = red_cells(scene, canvas, patient, centre, 0.46 * cell.diameter) * open_glass
    plates = platelets(scene, canvas, patient, centre, 0.5 * cell.diameter) * open_glass
    specks = precipitate(scene, canvas)
    azure = stain.azure + RED_CELL[0] * reds + 0.5 * plates + 1.5 * specks
    eosin = stain.eosin + RED_CELL[1] * reds + 0.42 * plates + 0.8 * specks
    orange = stain.orange + RED_CELL[2] * reds
    image = expose(scene, transmit(azure, eosin, orange, patient), canvas, patient, size)

    shrink = {"dsize": (size, size), "interpolation": cv2.INTER_AREA}
    mask = np.where(cv2.resize(stain.cell, **shrink) > 0.5, 128, 0).astype(np.uint8)
    mask[cv2.resize(stain.nucleus, **shrink) > 0.5] = 255
    record = {"index": index, "label": patient.label, "patient": patient.name, **vars(cell)}
    return Rendered(image, mask, record)


def _render_some(
    task: tuple[int, int, float, list[tuple[int, str, int]]],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict[str, Any]]]:
    seed, size, effect, rows = task
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # images are small: parallel over cells, not inside OpenCV
    try:
        people: dict[tuple[str, int], Patient] = {}
        done = []
        for index, label, number in rows:
            who = people.setdefault((label, number), draw_patient(seed, label, number, effect))
            done.append(render(seed, index, who, size))
    finally:
        cv2.setNumThreads(threads)
    return np.stack([d.image for d in done]), np.stack([d.mask for d in done]), [d.record for d in done]


def render_smear(
    cells: int = 2400,
    patients: int = 16,
    size: int = 64,
    seed: int = 0,
    patient_effect: float = 1.0,
    workers: int = 1,
    classes: Sequence[str] = CLASSES,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], pd.DataFrame]:
    """A cohort: images (N,S,S,3) and masks (N,S,S) uint8, and the table of records.

    ``patients`` is per class; ``patient_effect`` scales how far slides differ (0: alike). ``workers`` processes
    share the work and do not change a byte; a script that asks for more than one needs the usual
    ``if __name__ == "__main__"``.
    """
    if size < 16:
        raise LeukError(f"rendered smear: {size} px shows no cell; ask for at least 16")
    rows = [
        (int(i), str(label), int(number))
        for i, (label, number) in enumerate(plan(cells, patients, seed).itertuples(index=False))
        if label in classes
    ]
    chunk = max(1, min(100, -(-len(rows) // max(workers, 1))))
    tasks = [(seed, size, patient_effect, rows[i : i + chunk]) for i in range(0, len(rows), chunk)]
    if workers <= 1:
        parts = [_render_some(task) for task in tasks]
    else:
        # spawn: a forked child of a process with running threads (torch, OpenCV) may hang
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(_render_some, tasks))
    images, masks, records = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(masks), pd.DataFrame([r for some in records for r in some])


def smear_cells(
    cells: int = 2400,
    patients: int = 16,
    size: int = 64,
    seed: int = 0,
    patient_effect: float = 1.0,
    workers: int = 1,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
) -> CellSet:
    """The rendered cohort as a split ``CellSet``: the quick way to cells for a test."""
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
