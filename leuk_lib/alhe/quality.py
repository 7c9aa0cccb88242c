"""Quality of an enhancement: measures on cells whose masks are known, and a few that need no mask.

All on CIELAB lightness L* (0-100). ``before`` and ``after`` are (H,W,3) uint8 RGB; ``mask`` is (H,W) uint8 with
0 background, 128 cytoplasm, 255 nucleus. Where a region is missing or too small its measures are NaN for that image,
and the image is left out of their means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.alhe.baselines import Method
from leuk_lib.alhe.colour import LINEAR_OF_CODE
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import format_interval

BACKGROUND, CYTOPLASM, NUCLEUS = 0, 128, 255
MIN_PIXELS = 12  # of a region that is measured
WINDOW = 5  # side of the window of the local texture, pixels

# measure -> (description, which way is better)
MEASURES = {
    "cnr_cytoplasm": ("contrast-to-noise ratio of nucleus and cytoplasm", "higher"),
    "cnr_background": ("contrast-to-noise ratio of nucleus and background", "higher"),
    "texture_ratio": ("local texture inside the nucleus, over the input's", "higher"),
    "spread_ratio": ("deviation of lightness inside the nucleus, over the input's", "higher"),
    "background_ratio": ("deviation of lightness in the background, over the input's", "near 1"),
    "auc_nucleus": ("area under the ROC curve of darkness, nucleus against all other pixels", "higher"),
    "ambe": ("absolute mean brightness error, L*", "lower"),
    "ssim": ("structural similarity of lightness to the input", "higher"),
    "entropy": ("entropy of the lightness histogram, bits; noise raises it", "none"),
}
BOUNDED = ("auc_nucleus", "ssim")  # measures of at most 1, whose intervals are on Fisher's scale


def lightness(image: NDArray[Any]) -> NDArray[Any]:
    """L* (H,W) float32 in [0,100] of RGB (H,W,3) uint8."""
    return cv2.cvtColor(cv2.LUT(image, LINEAR_OF_CODE), cv2.COLOR_LRGB2LAB)[..., 0]


def cnr(values: NDArray[Any], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    r"""Contrast-to-noise ratio of two regions.

    .. math:: \mathrm{CNR} = \frac{|\mu_1 - \mu_2|}{\sqrt{(\sigma_1^2 + \sigma_2^2) / 2}}

    Args:
        values: (H,W) or (N,).
        first: mask of the first region.
        second: mask of the second region.

    Returns:
        The ratio; NaN if a region has fewer than 12 pixels or neither varies.

    >>> values = np.tile([1.0, 3.0, 9.0, 11.0], 12)  # means 2 and 10, both deviations 1
    >>> cnr(values, values < 5, values > 5)
    8.0
    """
    if first.sum() < MIN_PIXELS or second.sum() < MIN_PIXELS:
        return float("nan")
    a, b = values[first].astype(np.float64), values[second].astype(np.float64)
    noise = np.sqrt((a.var() + b.var()) / 2)
    return float(abs(a.mean() - b.mean()) / noise) if noise > 0 else float("nan")


def texture(values: NDArray[Any], region: NDArray[np.bool_]) -> float:
    """Mean standard deviation of ``values`` (H,W) in the 5x5 windows inside ``region`` (H,W); NaN for too few."""
    inner = cv2.erode(region.astype(np.uint8), np.ones((WINDOW, WINDOW), np.uint8), borderValue=0) > 0
    if inner.sum() < MIN_PIXELS:
        return float("nan")
    values = values.astype(np.float64)
    mean = cv2.blur(values, (WINDOW, WINDOW))
    variance = cv2.blur(values * values, (WINDOW, WINDOW)) - mean * mean
    return float(np.sqrt(np.maximum(variance[inner], 0)).mean())


def entropy(values: NDArray[Any]) -> float:
    """Shannon entropy in bits of the 256-bin histogram of L* in [0,100]. Noise raises it: do not rank methods by it."""
    counts = np.histogram(values, bins=256, range=(0, 100))[0]
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def measure(before: NDArray[Any], after: NDArray[Any], mask: NDArray[Any] | None = None) -> dict[str, float]:
    """Measure one enhanced image.

    Args:
        before: (H,W,3) uint8.
        after: (H,W,3) uint8.
        mask: (H,W) uint8 with 0, 128, 255; without it only ``ambe``, ``ssim`` and ``entropy`` are measured.

    Returns:
        A value per measure of ``MEASURES``.

    Raises:
        LeukError: the shapes differ.
    """
    if before.shape != after.shape or (mask is not None and mask.shape != before.shape[:2]):
        shape = None if mask is None else mask.shape
        raise LeukError(f"quality: shapes differ (before {before.shape}, after {after.shape}, mask {shape})")
    from skimage.metrics import structural_similarity

    old, new = lightness(before), lightness(after)
    values: dict[str, float] = {}
    if mask is not None:
        nucleus, cytoplasm, background = mask == NUCLEUS, mask == CYTOPLASM, mask == BACKGROUND
        values = {
            "cnr_cytoplasm": cnr(new, nucleus, cytoplasm),
            "cnr_background": cnr(new, nucleus, background),
            "texture_ratio": _ratio(texture(new, nucleus), texture(old, nucleus)),
            "spread_ratio": _ratio(_deviation(new, nucleus), _deviation(old, nucleus)),
            "background_ratio": _ratio(_deviation(new, background), _deviation(old, background)),
            "auc_nucleus": _auc(-new, nucleus),
        }
    window = min(7, min(old.shape) // 2 * 2 - 1)
    return values | {
        "ambe": float(abs(float(new.mean()) - float(old.mean()))),
        "ssim": float(structural_similarity(old, new, data_range=100.0, win_size=window)),
        "entropy": entropy(new),
    }


def compare(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8] | None,
    methods: Mapping[str, Method],
    labels: Sequence[str],
    groups: Sequence[str],
) -> pd.DataFrame:
    """Measure every method on every cell.

    Args:
        images: (N,H,W,3).
        masks: (N,H,W), or None where they are not known.
        methods: name -> function of an image.
        labels: (N,) class of each cell.
        groups: (N,) patient or other group of each cell.

    Returns:
        One row per cell and method: cell, label, group, method and the measures.
    """
    rows = []
    for cell, image in enumerate(images):
        mask = None if masks is None else masks[cell]
        for name, method in methods.items():
            keys = {"cell": cell, "label": labels[cell], "group": groups[cell], "method": name}
            rows.append(keys | measure(image, method(image), mask))
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame, seed: int, resamples: int = 2000, relative_to: str = "") -> pd.DataFrame:
    """Mean of each measure per method, with its 95 % interval.

    The cluster bootstrap resamples groups (patients, slides), the same for all methods.

    Args:
        table: ``compare``'s result.
        seed: seed of the resamples.
        resamples: number of resamples.
        relative_to: a method; if given, each mean is divided by that method's mean in the same resample, which gives a
            ratio with a paired interval.

    Returns:
        Columns method, measure, value, low, high, n (cells for which the measure is known).
    """
    names = [name for name in MEASURES if name in table.columns]
    methods = list(dict.fromkeys(table["method"]))
    order = {name: position for position, name in enumerate(methods)}
    bootstrap = ClusterBootstrap(table["group"], resamples, numpy_rng(seed, "alhe", "bootstrap"))
    cell = bootstrap.index, table["method"].map(order).to_numpy()
    values = table[names].to_numpy(dtype=np.float64)
    known = np.isfinite(values)
    sums = np.zeros((bootstrap.n_groups, len(methods), len(names)))
    counts = np.zeros_like(sums)
    np.add.at(sums, cell, np.where(known, values, 0.0))
    np.add.at(counts, cell, known)
    # Row 0 is the sample itself. einsum adds in a fixed order; BLAS would change the last bit of recorded numbers.
    weights = np.concatenate([np.ones((1, bootstrap.n_groups)), bootstrap.weights])
    totals, n = (np.einsum("rg,gmk->rmk", weights, part) for part in (sums, counts))
    means = np.divide(totals, n, out=np.full_like(totals, np.nan), where=n > 0)
    if relative_to:
        base = means[:, [order[relative_to]]]
        means = np.divide(means, base, out=np.full_like(means, np.nan), where=base != 0)
    rows = []
    for m, method in enumerate(methods):
        for k, name in enumerate(names):
            value, samples = means[0, m, k], means[1:, m, k]
            if name in BOUNDED and not relative_to:
                low, high = bootstrap.bounded_interval(value, samples)
            else:
                low, high = bootstrap.skewed_interval(value, samples)
            rows.append((method, name, value, low, high, int(counts[:, m, k].sum())))
    return pd.DataFrame(rows, columns=["method", "measure", "value", "low", "high", "n"])


def summary_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as a table to read: one row per method, one column per measure, "value [low, high]"."""
    cells = [
        format_interval(value, low, high, ".3g")
        for value, low, high in summary[["value", "low", "high"]].to_numpy(dtype=np.float64)
    ]
    table = summary.assign(text=cells).pivot(index="method", columns="measure", values="text")
    table = table.loc[list(dict.fromkeys(summary["method"])), list(dict.fromkeys(summary["measure"]))]
    return table.rename_axis(columns=None).reset_index()


def _ratio(value: float, base: float) -> float:
    return value / base if base > 0 else float("nan")


def _deviation(values: NDArray[Any], region: NDArray[np.bool_]) -> float:
    return float(values[region].astype(np.float64).std()) if region.sum() >= MIN_PIXELS else float("nan")


def _auc(score: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    positive, negative = int(truth.sum()), int((~truth).sum())
    if min(positive, negative) < MIN_PIXELS:
        return float("nan")
    from scipy.stats import rankdata

    # Mann-Whitney: ten times faster than a whole ROC curve.
    ranks = rankdata(score.ravel())[truth.ravel()].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))
