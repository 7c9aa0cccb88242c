"""Where a model looks: attention maps and captum's integrated gradients, judged by the known masks.

A map is (n,H,W), non-negative, summing to 1 over its image. Masks: 0 background, 128 cytoplasm, 255 nucleus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from leuk_lib.data.loading import CellSet
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap, percentile_interval
from leuk_lib.statistics.intervals import clustered_wilson
from leuk_lib.training.augment import normalise

NUCLEUS = 255


def to_shares(values: Tensor) -> Tensor:
    """Absolute values (n,H,W) scaled to sum 1 an image; an all-zero map becomes uniform."""
    size = values.abs().double()
    total = size.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, size / total.clamp(min=1e-300), torch.full_like(size, 1 / size[0].numel())).float()


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor, targets: ArrayLike, batch: int = 64) -> Tensor:
    """Attention of class ``targets`` (n,) for uint8 images: ``model(x, return_attention=True)`` gives (logits, (B,K,H,W))."""
    device, wanted = next(model.parameters()).device, torch.as_tensor(targets)
    model.eval()
    found = []
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        _, maps = model(normalise(images[rows].to(device)), return_attention=True)
        found.append(maps[torch.arange(maps.shape[0]), wanted[rows].to(device)].float().cpu())
    return to_shares(torch.cat(found))


def integrated_gradients(
    model: nn.Module, images: Tensor, targets: ArrayLike, steps: int = 8, batch: int = 16, times_image: bool = True
) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) of the target's logit, absolute, summed over RGB: (n,H,W).

    The baseline is each image's own border colour (its median): for a smear, "no cell", where black would be a cell
    darker than any. ``steps`` points of the path, Gauss-Legendre. Without ``times_image`` the mean gradient along the
    path is left as it is (sensitivity): times each pixel's distance from the baseline it adds up to the logit, but takes
    the picture's own outlines on.
    """
    from captum.attr import IntegratedGradients

    device, wanted = next(model.parameters()).device, torch.as_tensor(targets)
    model.eval()
    method = IntegratedGradients(model, multiply_by_inputs=times_image)
    found = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        empty = border_colour(part)[:, :, None, None].expand_as(part)
        x, blank = normalise(part).to(device), normalise(empty).to(device)
        target = wanted[start : start + batch].to(device)
        values = method.attribute(x, baselines=blank, target=target, n_steps=steps, method="gausslegendre")
        found.append(values.detach().abs().sum(dim=1).float().cpu())
    return to_shares(torch.cat(found))


def border_contrast_map(images: Tensor) -> Tensor:
    """A map that knows no model: how far each pixel's colour is from the border's, (n,H,W); what any map must beat.

    A share of area is a weak rival, since nearly every map prefers dark pixels, and these are the cell.
    """
    blank = border_colour(images)[:, :, None, None].float()
    return to_shares((images.float() - blank).abs().sum(dim=1))


def border_colour(images: Tensor) -> Tensor:
    """Median colour of the outermost pixels of uint8 images (n,3,H,W): uint8 (n,3)."""
    rim = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    return rim.median(dim=2).values


def pointing_game(maps: Tensor, inside: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2018): whether the highest pixel lies ``inside`` (n,H,W); ties by their share inside."""
    peak = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (peak & inside).flatten(1).sum(dim=1).float() / peak.flatten(1).sum(dim=1).float()


def attribution_shares(maps: Tensor, masks: Tensor | None) -> pd.DataFrame:
    """One row an image and region (cell, nucleus): share of attribution, pointing hit, and the region's share of area.

    ``area`` is what a map that knows nothing would score. Raises ``LeukError`` without masks.
    """
    if masks is None:
        raise LeukError("attribution shares: these cells have no masks, so it is unknown where the cell is")
    if maps.shape != masks.shape:
        raise LeukError(f"attribution shares: maps {tuple(maps.shape)} and masks {tuple(masks.shape)} differ")
    rows = []
    for region, inside in (("cell", masks > 0), ("nucleus", masks == NUCLEUS)):
        share = (maps * inside).sum(dim=(1, 2))
        hit, area = pointing_game(maps, inside), inside.float().mean(dim=(1, 2))
        there = inside.flatten(1).any(dim=1)
        rows += [
            {"cell": i, "region": region, "share": float(share[i]), "pointing": float(hit[i]), "area": float(area[i])}
            for i in np.flatnonzero(there.numpy())
        ]
    return pd.DataFrame(rows, columns=["cell", "region", "share", "pointing", "area"])


SUMMARY = ["method", "region", "measure", "value", "low", "high", "area", "n"]


def summarise_shares(
    tables: Mapping[str, pd.DataFrame], groups: NDArray[np.str_], seed: int, n_resamples: int = 1000
) -> pd.DataFrame:
    """One row a method, region and measure (share, pointing): mean, 95 % interval over whole groups, area, n.

    Intervals by bootstrap; Wilson's over groups where all images agree on 0 or 1, which resampling can only repeat.
    None (NaN) where there is one group.
    """
    rows: list[tuple[str, str, str, float, float, float, float, int]] = []
    for method, table in tables.items():
        for region in table["region"].unique():
            part = table[table["region"] == region]
            mine = groups[part["cell"].to_numpy()]
            bootstrap = ClusterBootstrap(mine, n_resamples, numpy_rng(seed, "attribution", method, region))
            for measure in ("share", "pointing"):
                values = part[measure].to_numpy(dtype=np.float64)
                if bootstrap.n_groups < 2:
                    low, high = float("nan"), float("nan")
                elif values.max() == 0 or values.min() == 1:
                    low, high, _ = clustered_wilson(values, mine)
                else:
                    low, high = percentile_interval(bootstrap.means(values))
                area = float(part["area"].mean())
                rows.append((method, region, measure, float(values.mean()), low, high, area, len(part)))
    return pd.DataFrame(rows, columns=SUMMARY)


def attribution_table(maps: Mapping[str, Tensor], cells: CellSet, index: Tensor, seed: int) -> pd.DataFrame:
    """Attribution of the cells at ``index`` by their masks, summarised a method; without masks a table without rows."""
    if cells.masks is None:
        return pd.DataFrame(columns=SUMMARY)
    masks = cells.masks[index]
    tables = {method: attribution_shares(values, masks) for method, values in maps.items()}
    return summarise_shares(tables, cells.groups[index.numpy()], seed)


def record_shares(stage: Any, summary: pd.DataFrame, prefix: str) -> None:
    """Put a summary into a stage's metrics as ``<prefix>_<method>_<region>_<measure>``."""
    for row in summary.to_dict("records"):
        key = f"{prefix}_{row['method']}_{row['region']}_{row['measure']}".replace(" ", "_")
        low, high = (None if np.isnan(row[end]) else float(row[end]) for end in ("low", "high"))
        stage.record(key, float(row["value"]), low, high, int(row["n"]))
