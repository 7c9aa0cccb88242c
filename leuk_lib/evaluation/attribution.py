r"""Attribution: attention maps and integrated gradients, compared with the masks of cell and nucleus.

A map is (n,H,W), not negative, and sums to 1 over each image. Masks: 0 background, 128 cytoplasm, 255 nucleus.

References:
    Sundararajan, M., Taly, A. and Yan, Q. (2017). Axiomatic attribution for deep networks. ICML, 3319-3328.

    Zhang, J. et al. (2018). Top-down neural attention by excitation backprop. Int. J. Comput. Vis. 126, 1084-1102.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from leuk_lib.data.cellset import CellSet
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import Rate, equal_groups
from leuk_lib.training.augment import normalise

NUCLEUS = 255
PATH_PIXELS = 1 << 22  # of the images of a path that are differentiated at a time: 83 images of 224 px


def to_shares(values: Tensor) -> Tensor:
    """Absolute values (n,H,W) scaled to sum 1 per image; an all-zero map becomes uniform."""
    size = values.abs().double()
    total = size.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, size / total.clamp(min=1e-300), torch.full_like(size, 1 / size[0].numel())).float()


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor, targets: ArrayLike, batch: int = 64) -> Tensor:
    """Attention maps of one class per image.

    Args:
        model: called with ``return_attention=True`` it returns logits (B,K) and maps (B,K,H,W).
        images: (n,3,H,W) uint8.
        targets: (n,) class of each map.
        batch: images per forward pass.

    Returns:
        (n,H,W) maps.
    """
    device, classes = next(model.parameters()).device, torch.as_tensor(targets)
    model.eval()
    maps_of_batches = []
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        _, maps = model(normalise(images[rows].to(device)), return_attention=True)
        maps_of_batches.append(maps[torch.arange(maps.shape[0]), classes[rows].to(device)].float().cpu())
    return to_shares(torch.cat(maps_of_batches))


def integrated_gradients(
    model: nn.Module, images: Tensor, targets: ArrayLike, steps: int = 8, batch: int = 16, times_image: bool = True
) -> Tensor:
    r"""Integrated gradients of the target class's logit f, absolute, summed over RGB.

    .. math:: \mathrm{IG}_i(x) = (x_i - x'_i) \int_0^1 \frac{\partial f}{\partial x_i}\big(x' + \alpha (x - x')\big)\,
              \mathrm d\alpha

    The baseline :math:`x'` is the median colour of each image's border: on a smear it means "no cell", whereas black
    would mean a cell darker than any.

    Args:
        model: maps standardised images (B,3,H,W) to logits (B,K).
        images: (n,3,H,W) uint8.
        targets: (n,) class of each map.
        steps: points of the path (Gauss-Legendre quadrature).
        batch: images per call; of their ``batch * steps`` points on the paths, as many as have `PATH_PIXELS` are
            differentiated at a time.
        times_image: False drops the factor :math:`x_i - x'_i` and leaves the mean gradient (sensitivity). With the
            factor a map sums to the change of the logit, but takes on the outlines of the image.

    Returns:
        (n,H,W) maps.

    References:
        Sundararajan et al. 2017 (see the module).
    """
    from captum.attr import IntegratedGradients

    device, classes = next(model.parameters()).device, torch.as_tensor(targets)
    model.eval()
    method = IntegratedGradients(model, multiply_by_inputs=times_image)
    maps_of_batches = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        empty = border_colour(part)[:, :, None, None].expand_as(part)
        x, baseline = normalise(part).to(device), normalise(empty).to(device)
        target = classes[start : start + batch].to(device)
        values = method.attribute(
            x, baselines=baseline, target=target, n_steps=steps, method="gausslegendre",
            internal_batch_size=points_at_once(len(x), steps, x.shape[-1]),
        )  # fmt: skip
        maps_of_batches.append(values.detach().abs().sum(dim=1).float().cpu())
    return to_shares(torch.cat(maps_of_batches))


def points_at_once(images: int, steps: int, side: int) -> int | None:
    """Number of points on the paths of ``images`` images that are differentiated at a time; None: all.

    >>> points_at_once(16, 8, 64), points_at_once(16, 32, 224)
    (None, 83)
    """
    most = max(images, PATH_PIXELS // side**2)  # one point of each image, or more
    return None if images * steps <= most else most


def border_contrast_map(images: Tensor) -> Tensor:
    """Control without a model: distance of each pixel's colour from the border colour.

    It is a harder control than the share of area: nearly every map prefers dark pixels, and those are the cell.

    Args:
        images: (n,3,H,W) uint8.

    Returns:
        (n,H,W) maps.
    """
    background = border_colour(images)[:, :, None, None].float()
    return to_shares((images.float() - background).abs().sum(dim=1))


def border_colour(images: Tensor) -> Tensor:
    """Median colour (n,3) uint8 of the outermost pixels of images (n,3,H,W) uint8."""
    rim = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    return rim.median(dim=2).values


def pointing_game(maps: Tensor, inside: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2018): 1 if a map's highest pixel lies ``inside``, else 0; ties give their share inside.

    Args:
        maps: (n,H,W).
        inside: (n,H,W) bool.

    Returns:
        (n,) in [0,1].
    """
    peak = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (peak & inside).flatten(1).sum(dim=1).float() / peak.flatten(1).sum(dim=1).float()


def attribution_shares(maps: Tensor, masks: Tensor | None) -> pd.DataFrame:
    """Share of each map inside the cell and inside the nucleus.

    Args:
        maps: (n,H,W).
        masks: (n,H,W) uint8.

    Returns:
        One row per image and region, where the region has a pixel: cell (position), region, share of the attribution,
        pointing (`pointing_game`), area (share of the image, the score of a uniform map).

    Raises:
        LeukError: no masks, or masks of another shape.
    """
    if masks is None:
        raise LeukError("attribution shares: these cells have no masks, so it is unknown where the cell is")
    if maps.shape != masks.shape:
        raise LeukError(f"attribution shares: maps {tuple(maps.shape)} and masks {tuple(masks.shape)} differ")
    rows = []
    for region, inside in (("cell", masks > 0), ("nucleus", masks == NUCLEUS)):
        share = (maps * inside).sum(dim=(1, 2))
        hit, area = pointing_game(maps, inside), inside.float().mean(dim=(1, 2))
        present = inside.flatten(1).any(dim=1)
        rows += [
            {"cell": i, "region": region, "share": float(share[i]), "pointing": float(hit[i]), "area": float(area[i])}
            for i in np.flatnonzero(present.numpy())
        ]
    return pd.DataFrame(rows, columns=["cell", "region", "share", "pointing", "area"])


SUMMARY = ["method", "region", "measure", "value", "low", "high", "area", "n"]


def mean_share(values: NDArray[np.float64], groups: NDArray[np.str_], bootstrap: ClusterBootstrap) -> Rate:
    """Mean of values in [0,1] over images as a rate, for its interval over groups.

    Args:
        values: (n,) a value per image.
        groups: (n,) group of each image.
        bootstrap: resamples of these groups.
    """
    return Rate(float(values.mean()), bootstrap.spread(bootstrap.means(values)), len(values), equal_groups(groups))


def summarise_shares(
    tables: Mapping[str, pd.DataFrame], groups: NDArray[np.str_], seed: int, n_resamples: int = 1000
) -> pd.DataFrame:
    """Mean of each measure over the images, with 95 % intervals over groups.

    Intervals are `Rate.interval` with the standard error of the cluster bootstrap; NaN for one group.

    Args:
        tables: method -> `attribution_shares`.
        groups: (n,) group of each image.
        seed: seed of the resamples.
        n_resamples: number of resamples.

    Returns:
        One row per method, region and measure (share, pointing): columns ``SUMMARY``.
    """
    rows: list[tuple[str, str, str, float, float, float, float, int]] = []
    for method, table in tables.items():
        for region in table["region"].unique():
            part = table[table["region"] == region]
            part_groups = groups[part["cell"].to_numpy()]
            bootstrap = ClusterBootstrap(part_groups, n_resamples, numpy_rng(seed, "attribution", method, region))
            for measure in ("share", "pointing"):
                values = part[measure].to_numpy(dtype=np.float64)
                mean = mean_share(values, part_groups, bootstrap)
                area = float(part["area"].mean())
                rows.append((method, region, measure, mean.value, *mean.interval(), area, len(part)))
    return pd.DataFrame(rows, columns=SUMMARY)


def attribution_table(maps: Mapping[str, Tensor], cells: CellSet, index: Tensor, seed: int) -> pd.DataFrame:
    """`summarise_shares` of the cells at ``index``; without masks a table without rows.

    Args:
        maps: method -> (n,H,W).
        cells: all cells.
        index: (n,) positions of the mapped cells.
        seed: seed of the resamples.
    """
    if cells.masks is None:
        return pd.DataFrame(columns=SUMMARY)
    masks = cells.masks[index]
    tables = {method: attribution_shares(values, masks) for method, values in maps.items()}
    return summarise_shares(tables, cells.groups[index.numpy()], seed)


def record_shares(stage: Recorder, summary: pd.DataFrame, prefix: str) -> None:
    """Record a summary in a stage's metrics as ``<prefix>_<method>_<region>_<measure>``."""
    for row in summary.to_dict("records"):
        key = f"{prefix}_{row['method']}_{row['region']}_{row['measure']}".replace(" ", "_")
        low, high = (None if np.isnan(row[end]) else float(row[end]) for end in ("low", "high"))
        stage.record(key, float(row["value"]), low, high, int(row["n"]))
