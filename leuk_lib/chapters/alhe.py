"""What chapter 2 asks of ALHE: which cells to look at, how strong to be, what it costs."""

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

from leuk_lib.alhe import baselines as peers
from leuk_lib.alhe import lut, quality
from leuk_lib.alhe.enhance import AlheMaps, alhe, explain
from leuk_lib.alhe.params import AlheParams, EnhanceParams
from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.data.loading import CellSet
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import numpy_rng

STRENGTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
TRADED = 80  # cells of the trade-off curve
# (measure gained, measure that may suffer), with words for axes; the second pair needs no masks.
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
    """Training cells in image layout: images (N,S,S,3) uint8, masks (N,S,S) or None, labels and groups (N,)."""

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


def draw_sample(cells: CellSet, limit: int, seed: int) -> Sample:
    """At most ``limit`` training cells, the classes taking turns so that rare ones are among them."""
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
    """Activity times mean gain of each tile, (rows, columns): where enhancement really acts."""
    starts = [[max(0, k * axis.side - axis.pad) for k in range(axis.count)] for axis in (maps.rows, maps.columns)]
    total = np.add.reduceat(np.add.reduceat(maps.gain.astype(np.float64), starts[0], axis=0), starts[1], axis=1)
    heights, widths = (np.diff([*s, axis.size]) for s, axis in zip(starts, (maps.rows, maps.columns), strict=True))
    return maps.activity * total / (heights[:, None] * widths)


def show_case(sample: Sample, params: EnhanceParams) -> tuple[NDArray[np.uint8], NDArray[np.uint8], AlheMaps]:
    """Of the sample's first 48 cells the one with the most active stained tile: image, enhanced, maps."""
    best = max(range(min(len(sample), 48)), key=lambda k: stained_activity(explain(sample.images[k], params)[1]).max())
    image = sample.images[best]
    enhanced, maps = explain(image, params)
    return image, enhanced, maps


@dataclass(frozen=True)
class TileCase:
    """One tile in numbers: its place, box (top, left, side, side) in pixels, slopes before and after, its curves."""

    place: tuple[int, int]
    box: tuple[int, int, int, int]
    raw: NDArray[np.float64]
    slopes: NDArray[np.float64]
    floor: NDArray[np.float64]
    kappa: float
    shift: NDArray[np.float64]
    plain_shift: NDArray[np.float64]


def busiest_tile(maps: AlheMaps, params: EnhanceParams) -> TileCase:
    """The most active stained tile; ``plain_shift`` is its curve without the contrast floor."""
    i, j = (int(k) for k in np.unravel_index(int(stained_activity(maps).argmax()), maps.kappa.shape))
    plain = lut.shifts(maps.stats.histogram, maps.kappa, 0.0)[i, j]
    rows, columns = maps.rows, maps.columns
    return TileCase(
        place=(i, j),
        box=(i * rows.side - rows.pad, j * columns.side - columns.pad, rows.side, columns.side),
        raw=maps.stats.histogram[i, j] * len(maps.stats.histogram[i, j]),
        slopes=np.diff(maps.curves[i, j]) + 1,
        floor=lut.floor_of(maps.stats.histogram, params.contrast_floor),
        kappa=float(maps.kappa[i, j]),
        shift=maps.curves[i, j],
        plain_shift=plain,
    )


def axes_of(sample: Sample) -> dict[str, str]:
    """The two measures a trade-off is drawn between, with their labels: on masks where there are masks."""
    return WITHOUT_MASKS if sample.masks is None else WITH_MASKS


def trade_off(sample: Sample, params: EnhanceParams, seed: int) -> pd.DataFrame:
    """What is gained and what it costs, over kappa_max, for ALHE with and without contrast floor and its first design.

    Columns variant, kappa_max, and value, low, high of ``x`` and ``y`` (the measures of ``axes_of``; ratios to the
    input where masks are known). The first ``TRADED`` cells of the sample are used.
    """
    part = sample.first(TRADED)
    variants = {
        "ALHE": params,
        "ALHE without contrast floor": params.model_copy(update={"contrast_floor": 0.0}),
        "first design": peers.FIRST_DESIGN,
    }
    settings = {
        (name, kappa): setting.model_copy(update={"kappa_max": kappa})
        for name, setting in variants.items()
        for kappa in STRENGTHS
    }
    methods: dict[str, peers.Method] = {"input": peers.unchanged}
    methods |= {f"{name} {kappa:g}": partial(alhe, params=setting) for (name, kappa), setting in settings.items()}
    table = quality.compare(part.images, part.masks, methods, part.labels, part.groups)
    base = "" if part.masks is None else "input"
    summary = quality.summarise(table, seed, relative_to=base).set_index(["method", "measure"])
    rows = []
    for name, kappa in settings:
        row: dict[str, Any] = {"variant": name, "kappa_max": kappa}
        for axis, measure in zip("xy", axes_of(sample), strict=True):
            for column, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                row[axis + suffix] = summary.at[(f"{name} {kappa:g}", measure), column]
        rows.append(row)
    return pd.DataFrame(rows)


def cost(image: NDArray[np.uint8], side: int, params: EnhanceParams, rounds: int = 5) -> pd.DataFrame:
    """Milliseconds an image of ``side`` pixels of each method, the fastest of ``rounds``: columns method, ms, over_clahe.

    The image is enlarged to that side. The batched form is measured on 8 copies, on one thread.
    """
    big = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    batch = torch.from_numpy(big).permute(2, 0, 1)[None].repeat(8, 1, 1, 1)
    timed: dict[str, tuple[Any, int]] = {
        name: (lambda method=method: method(big), 1)
        for name, method in peers.methods(params).items()
        if name != "input"
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


def record_quality(stage: Recorder, summary: pd.DataFrame) -> None:
    """Put the means of input, ALHE and CLAHE 2 into the stage's metrics: ``ssim_alhe``, ``cnr_cytoplasm_input``, …"""
    short = {"input": "input", "ALHE": "alhe", "CLAHE 2": "clahe_2"}
    kept = summary[summary["method"].isin(list(short)) & np.isfinite(summary["value"])]
    for method, measure, value, low, high, n in kept.itertuples(index=False, name=None):
        stage.record(f"{measure}_{short[method]}", float(value), float(low), float(high), int(n))


def enhance_all(cells: CellSet, params: AlheParams) -> tuple[Tensor, float]:
    """Every cell of every part enhanced, (N,3,S,S) uint8, and milliseconds a cell.

    An image is enhanced from itself alone, so that no part learns anything from another.
    """
    start = time.perf_counter()
    enhanced = enhance_cells(cells.images, params, params.batch)
    return enhanced, (time.perf_counter() - start) * 1e3 / max(len(cells), 1)


def changed_share(before: Tensor, after: Tensor) -> float:
    """Share of the cells in which at least one pixel changed."""
    return float((before != after).flatten(1).any(dim=1).double().mean())


def pairs_by_class(
    cells: CellSet, enhanced: Tensor, shown: int, seed: int
) -> dict[str, list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]:
    """For each class that training has: ``shown`` cells, before and after."""
    train = cells.indices("train").numpy()
    drawn = numpy_rng(seed, "alhe", "pairs").permutation(train)
    pairs = {}
    for label, name in enumerate(cells.classes):
        chosen = torch.from_numpy(drawn[cells.labels.numpy()[drawn] == label][:shown])
        if len(chosen):
            both = zip(to_arrays(cells.images[chosen]), to_arrays(enhanced[chosen]), strict=True)
            pairs[name] = list(both)
    return pairs


def to_switch(
    sample: Sample, params: EnhanceParams, limit: int = 15
) -> tuple[dict[str, NDArray[np.uint8]], list[str], dict[str, str]]:
    """The sample's first cells under every method, at most 64 pixels wide: pictures, captions, and what is said."""
    first = sample.first(limit)
    pictures = {}
    for name, method in peers.methods(params).items():
        pictures[name] = np.stack([_at_most(method(image), 64) for image in first.images])
    return pictures, [label.replace("_", " ") for label in first.labels], peers.SAID


def _at_most(image: NDArray[Any], side: int) -> NDArray[Any]:
    return image if len(image) <= side else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def by_method(sample: Sample, params: EnhanceParams) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """One cell of each class in the sample under every method: class -> method -> image."""
    firsts = {label: k for k, label in reversed(list(enumerate(sample.labels)))}
    methods = peers.methods(params)
    return {
        label: {name: method(sample.images[firsts[label]]) for name, method in methods.items()}
        for label in sorted(firsts)
    }
