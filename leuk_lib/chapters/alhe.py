"""Chapter 2, ALHE: the cells that it shows, the trade-off over the clip limit, timing, and recorded numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.alhe import lut, quality
from leuk_lib.alhe.baselines import DESCRIPTIONS, SPREAD_LIMITED, Method, identity, methods
from leuk_lib.alhe.enhance import AlheMaps, alhe, explain
from leuk_lib.alhe.params import AlheParams, EnhanceParams
from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.data.cellset import CellSet
from leuk_lib.runs.recorder import Notes, Recorder
from leuk_lib.runs.seeds import numpy_rng

CLIP_LIMITS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of the trade-off curve
TRADE_OFF_CELLS = 80
SWITCHED_CELLS = 15  # the page holds them under each method
SEARCHED_CELLS = 48  # among which the most active one is shown
# Measure gained and measure that may suffer, each with the label of its axis; the second pair needs no masks.
WITH_MASKS = {
    "texture_ratio": "texture inside the nucleus, over the input's",
    "cnr_cytoplasm": "nucleus/cytoplasm CNR, over the input's",
}
WITHOUT_MASKS = {
    "ambe": "absolute mean brightness error (L*)",
    "ssim": "structural similarity to the input",
}


@dataclass(frozen=True)
class Sample:
    """Training cells as images.

    Attributes:
        images: (N,S,S,3) uint8.
        masks: (N,S,S) uint8, or None where they are not known.
        labels: (N,) class names.
        groups: (N,) patients or other groups.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    labels: list[str]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> Sample:
        """The first ``count`` cells."""
        masks = None if self.masks is None else self.masks[:count]
        return Sample(self.images[:count], masks, self.labels[:count], self.groups[:count])


def to_arrays(images: Tensor) -> NDArray[np.uint8]:
    """(N,3,H,W) tensor to (N,H,W,3) array."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def enhance_all(cells: CellSet, params: AlheParams) -> tuple[Tensor, float]:
    """Enhance every cell of every part, each from itself alone: (N,3,S,S) uint8, and milliseconds per cell."""
    start = time.perf_counter()
    enhanced = enhance_cells(cells.images, params, params.batch_size)
    return enhanced, (time.perf_counter() - start) * 1e3 / max(len(cells), 1)


def changed_share(before: Tensor, after: Tensor) -> float:
    """Share of the cells (N,3,S,S) in which at least one pixel changed."""
    return float((before != after).flatten(1).any(dim=1).double().mean())


def draw_sample(cells: CellSet, limit: int, seed: int) -> Sample:
    """Draw at most ``limit`` training cells, the classes in turn, so that rare ones are among them."""
    train = cells.indices("train").numpy()
    train = numpy_rng(seed, "alhe", "sample").permutation(train)
    labels = cells.labels.numpy()[train]
    turn = np.zeros(len(train), dtype=np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    chosen = torch.from_numpy(train[np.argsort(turn, kind="stable")[:limit]])
    return Sample(
        to_arrays(cells.images[chosen]),
        None if cells.masks is None else cells.masks[chosen].numpy(),
        [cells.classes[label] for label in cells.labels[chosen].tolist()],
        [str(group) for group in cells.groups[chosen.numpy()]],
    )


def stained_activity(maps: AlheMaps) -> NDArray[np.float64]:
    """Activity times mean gain of each tile, (rows, columns): how much the tile is really enhanced."""
    starts = [[max(0, k * axis.side - axis.pad) for k in range(axis.count)] for axis in (maps.rows, maps.columns)]
    total = np.add.reduceat(np.add.reduceat(maps.gain.astype(np.float64), starts[0], axis=0), starts[1], axis=1)
    heights, widths = (np.diff([*s, axis.size]) for s, axis in zip(starts, (maps.rows, maps.columns), strict=True))
    return maps.activity * total / (heights[:, None] * widths)


def most_active_cell(sample: Sample, params: EnhanceParams) -> tuple[NDArray[np.uint8], NDArray[np.uint8], AlheMaps]:
    """The cell with the most active stained tile, of the sample's first 48: image, enhanced image, maps."""
    searched = sample.images[:SEARCHED_CELLS]
    best = max(range(len(searched)), key=lambda k: stained_activity(explain(searched[k], params)[1]).max())
    image = searched[best]
    enhanced, maps = explain(image, params)
    return image, enhanced, maps


def most_active_tile(maps: AlheMaps, params: EnhanceParams) -> dict[str, Any]:
    """The most active stained tile, as the arguments of ``figures.alhe.one_tile`` after the image."""
    i, j = (int(k) for k in np.unravel_index(int(stained_activity(maps).argmax()), maps.activity.shape))
    rows, columns = maps.rows, maps.columns
    histogram = maps.stats.histogram
    return {
        "borders": (rows.borders, columns.borders),
        "box": (i * rows.side - rows.pad, j * columns.side - columns.pad, rows.side, columns.side),
        "histogram": histogram[i, j] / histogram[i, j].mean(),
        "slopes": np.diff(maps.luts[i, j]) + 1,
        "floor": lut.slope_floor(histogram, params.contrast_floor),
        "clip_limit": float(maps.clip_limits[i, j]),
        "shift": maps.luts[i, j],
        "shift_without_floor": lut.shift_luts(histogram, maps.clip_limits, 0.0)[i, j],
    }


def by_method(sample: Sample, params: EnhanceParams) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """One cell per class of the sample under every method: class -> method -> image."""
    first = {label: k for k, label in reversed(list(enumerate(sample.labels)))}
    return {
        label: {name: method(sample.images[first[label]]) for name, method in methods(params).items()}
        for label in sorted(first)
    }


def switch_images(
    sample: Sample, params: EnhanceParams, limit: int
) -> tuple[dict[str, NDArray[np.uint8]], list[str], dict[str, str]]:
    """The sample's first ``limit`` cells, at most 15, under every method and at most 64 pixels wide.

    Returns:
        Images (N,s,s,3) of each method, captions, descriptions of the methods.
    """
    first = sample.first(min(limit, SWITCHED_CELLS))
    images = {
        name: np.stack([_at_most(method(image), 64) for image in first.images])
        for name, method in methods(params).items()
    }
    return images, [label.replace("_", " ") for label in first.labels], DESCRIPTIONS


def _at_most(image: NDArray[Any], side: int) -> NDArray[Any]:
    return image if len(image) <= side else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def record_quality(stage: Recorder, summary: pd.DataFrame) -> None:
    """Record the means of input, ALHE and CLAHE 2: ``ssim_alhe``, ``cnr_cytoplasm_input`` and so on."""
    suffixes = {"input": "input", "ALHE": "alhe", "CLAHE 2": "clahe_2"}
    kept = summary[summary["method"].isin(list(suffixes)) & np.isfinite(summary["value"])]
    for method, measure, value, low, high, n in kept.itertuples(index=False, name=None):
        stage.record(f"{measure}_{suffixes[method]}", float(value), float(low), float(high), int(n))


def trade_off_measures(sample: Sample) -> dict[str, str]:
    """The two measures of the trade-off with their labels: those on masks where the masks are known."""
    return WITHOUT_MASKS if sample.masks is None else WITH_MASKS


def trade_off(sample: Sample, params: EnhanceParams, seed: int) -> pd.DataFrame:
    """What is gained and what it costs over the clip limit, for ALHE, without contrast floor, and with a spread limit.

    Args:
        sample: its first 80 cells are measured.
        params: ALHE's settings.
        seed: seed of the bootstrap.

    Returns:
        Columns variant, clip_limit, x, x_low, x_high, y, y_low, y_high: the measures of ``trade_off_measures``, as
        ratios to the input where masks are known.
    """
    part = sample.first(TRADE_OFF_CELLS)
    variants = {
        "ALHE": params,
        "no contrast floor": params.model_copy(update={"contrast_floor": 0.0}),
        "spread limit": SPREAD_LIMITED,
    }
    settings = {
        (name, limit): variant.model_copy(update={"clip_limit": limit})
        for name, variant in variants.items()
        for limit in CLIP_LIMITS
    }
    measured: dict[str, Method] = {"input": identity}
    measured |= {f"{name} {limit:g}": partial(alhe, params=setting) for (name, limit), setting in settings.items()}
    table = quality.compare(part.images, part.masks, measured, part.labels, part.groups)
    base = "" if part.masks is None else "input"
    summary = quality.summarise(table, seed, relative_to=base).set_index(["method", "measure"])
    rows = []
    for name, limit in settings:
        row: dict[str, Any] = {"variant": name, "clip_limit": limit}
        for axis, measure in zip("xy", trade_off_measures(sample), strict=True):
            for column, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                row[axis + suffix] = summary.at[(f"{name} {limit:g}", measure), column]
        rows.append(row)
    return pd.DataFrame(rows)


def cost(image: NDArray[np.uint8], side: int, params: EnhanceParams, rounds: int = 5) -> pd.DataFrame:
    """Time of each method on one image, the fastest of ``rounds``.

    Args:
        image: (H,W,3) uint8, enlarged to ``side`` pixels.
        side: pixels.
        params: ALHE's settings.
        rounds: interleaved repetitions.

    Returns:
        Columns method, ms (per image), over_clahe (times CLAHE 2). The batched form runs on 8 copies, on one thread.
    """
    big = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    batch = torch.from_numpy(big).permute(2, 0, 1)[None].repeat(8, 1, 1, 1)
    timed: dict[str, tuple[Any, int]] = {
        name: (partial(method, big), 1) for name, method in methods(params).items() if name != "input"
    }
    timed["ALHE, batch of 8 (torch)"] = (partial(enhance_cells, batch, params), 8)
    seconds = dict.fromkeys(timed, float("inf"))
    for _ in range(rounds):
        for name, (call, images) in timed.items():
            start = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], (time.perf_counter() - start) / images)
    return pd.DataFrame(
        [{"method": name, "ms": s * 1e3, "over_clahe": s / seconds["CLAHE 2"]} for name, s in seconds.items()]
    ).sort_values("ms", ignore_index=True)


def one_cell(cells: CellSet, enhanced: Tensor, stage: Notes) -> dict[str, Any] | None:
    """The same cell before and after: arguments of ``figures.alhe.one_cell``; None if there is none."""
    cell = find_cell(cells, stage)
    if cell is None:
        return None
    before, after = (to_arrays(images[cell.position : cell.position + 1])[0] for images in (cells.images, enhanced))
    inside = np.ones(before.shape[:2], bool) if cell.mask is None or not cell.mask.any() else cell.mask > 0
    lightness = [cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 0] for x in (before, after)]
    changed = (before != after).any(axis=-1)
    return {
        "before": before, "after": after, "lightness": [x[inside] for x in lightness], "whole_image": bool(inside.all()),
        "changed": float(changed.mean()),
    }  # fmt: skip
