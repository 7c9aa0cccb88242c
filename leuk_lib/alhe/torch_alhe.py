"""ALHE for batches on any device; agrees with ``leuk_lib.alhe.enhance.alhe`` to 1/255.

The same steps as in `tiles`, `lut`, `gain` and `enhance`, where they are explained, over a batch at once. The grid is
the NumPy one's; everything else is written a second time on purpose: the two forms check each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.alhe import colour, gain, tiles
from leuk_lib.alhe.colour import CORNER, DELTA, LEVELS_PER_ROOT, LINEAR, OFFSET, SLOPE
from leuk_lib.alhe.images import MIN_SIDE
from leuk_lib.alhe.lut import TAIL
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.runs.errors import LeukError

BINS = tiles.BINS


class ALHE(nn.Module):
    """``alhe_batch`` as a module: (B,3,H,W) uint8 or float in [0,1] -> the same. No weights, no state."""

    def __init__(self, params: EnhanceParams | None = None) -> None:
        super().__init__()
        self.params = params or EnhanceParams()

    def forward(self, images: Tensor) -> Tensor:
        return alhe_batch(images, self.params)

    def extra_repr(self) -> str:
        return f"kappa_max={self.params.kappa_max:g}, contrast_floor={self.params.contrast_floor:g}"


def enhance_cells(images: Tensor, params: EnhanceParams | None = None, batch: int = 64) -> Tensor:
    """All cells (N,3,S,S) uint8 enhanced, ``batch`` at a time; each image's result is its own, whatever the batch.

    Runs on one thread: the steps are many and small, and threads that wait for each other on a busy machine made it
    six times slower than none.
    """
    if batch < 1:
        raise LeukError(f"enhance_cells: batch = {batch}; must be at least 1")
    out = torch.empty(images.shape, dtype=images.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                out[start : start + batch] = alhe_batch(images[start : start + batch], params)
    finally:
        torch.set_num_threads(threads)
    return out


def alhe_batch(images: Tensor, params: EnhanceParams | None = None) -> Tensor:
    """Enhance a batch (B,3,H,W), uint8 or float in [0,1]; same shape, type and device.

    Raises ``LeukError`` in one line for other shapes and types, NaN and values out of range.
    """
    params = params or EnhanceParams()
    _check(images)
    if images.dtype == torch.uint8:
        codes = images.long()
        linear = torch.as_tensor(LINEAR, device=images.device)[codes]
    else:
        codes = torch.round(images.float() * 255).long()
        linear = _decode(images.float())
    fx, fy, fz = _lab_roots(linear)
    levels = ((fy - OFFSET) * LEVELS_PER_ROOT).clamp(0, BINS)
    rows, columns = tiles.lay_tiles(levels.shape[1], levels.shape[2], params)

    histogram, active = _activity(levels, rows, columns, params)
    kappa = 1 + (params.kappa_max - 1) * active
    curves = _shifts(histogram, kappa, params.contrast_floor)
    shift = _stain_gain(codes, params) * _blend(curves, levels, rows, columns)

    moved = shift / LEVELS_PER_ROOT
    result = _encode(_from_roots(fx + moved, fy + moved, fz + moved))
    if images.dtype == torch.uint8:
        result = torch.round(result * 255).to(torch.uint8)
    return torch.where((shift == 0)[:, None], images, result.to(images.dtype))


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise LeukError(f"ALHE: expected a batch (B,3,H,W), got {shape}")
    if images.numel() == 0:
        raise LeukError(f"ALHE: the batch is empty (shape {tuple(images.shape)})")
    if min(images.shape[2:]) < MIN_SIDE:
        raise LeukError(f"ALHE: {images.shape[2]}x{images.shape[3]} pixels; both sides must be at least {MIN_SIDE}")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise LeukError(f"ALHE: type {images.dtype} is not understood; use uint8 or float in [0,1]")
    if not torch.isfinite(images).all():
        raise LeukError("ALHE: the batch holds NaN or infinite values; replace them first")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise LeukError(f"ALHE: values from {low:.4g} to {high:.4g}; float images must be in [0,1]")


# -- colour ----------------------------------------------------------------------------------------------------


def _decode(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _lab_roots(linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    red, green, blue = linear.unbind(1)
    roots = []
    for a, b, c in colour.TO_XYZ.tolist():
        t = (a * red + b * green + c * blue).clamp(0, 1)
        roots.append(torch.where(t > CORNER, t.clamp_min(CORNER) ** (1 / 3), SLOPE * t + OFFSET))
    return roots[0], roots[1], roots[2]


def _from_roots(fx: Tensor, fy: Tensor, fz: Tensor) -> Tensor:
    x, y, z = (torch.where(f > DELTA, f * f * f, (f - OFFSET) / SLOPE) for f in (fx, fy, fz))
    return torch.stack([a * x + b * y + c * z for a, b, c in colour.FROM_XYZ.tolist()], dim=1)


def _encode(linear: Tensor) -> Tensor:
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


# -- tiles -----------------------------------------------------------------------------------------------------


def _quantile(counts: Tensor, q: float) -> Tensor:
    cdf = counts.cumsum(-1)
    target = q * cdf[..., -1]
    place = (cdf < target[..., None]).sum(-1, keepdim=True)
    inside = counts.gather(-1, place)[..., 0]
    before = cdf.gather(-1, place)[..., 0] - inside
    return place[..., 0] + (target - before) / inside.clamp_min(1e-12)


def _counts(values: Tensor, groups: int, bins: int) -> Tensor:
    """Histograms (groups, bins) of integer values (groups, n)."""
    offsets = torch.arange(groups, device=values.device)[:, None] * bins
    return torch.bincount((values + offsets).reshape(-1), minlength=groups * bins).reshape(groups, bins).float()


def _mirror(size: int, pad: int, device: torch.device) -> Tensor:
    """Indices of ``size`` pixels padded by reflection, the edge pixel repeated."""
    index = torch.arange(-pad, size + pad, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def _activity(levels: Tensor, rows: tiles.Axis, columns: tiles.Axis, params: EnhanceParams) -> tuple[Tensor, Tensor]:
    """Histograms of fractions (B, rows, columns, 256) and activity (B, rows, columns)."""
    batch, device = len(levels), levels.device
    padded = levels[:, _mirror(rows.size, rows.pad, device)][:, :, _mirror(columns.size, columns.pad, device)]
    grid = (batch, rows.count, columns.count)
    groups, pixels = batch * rows.count * columns.count, rows.side * columns.side

    def by_tile(values: Tensor) -> Tensor:
        cut = values.reshape(batch, rows.count, rows.side, columns.count, columns.side)
        return cut.transpose(2, 3).reshape(groups, pixels)

    histogram = _counts(by_tile(padded.long().clamp_max(BINS - 1)), groups, BINS) / pixels
    # Second differences down, then across: the kernel tiles.LAPLACIAN, by arithmetic that no batch size can alter.
    edged = F.pad(padded[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    down = edged[:, :-2] - 2 * edged[:, 1:-1] + edged[:, 2:]
    ripple = (down[:, :, :-2] - 2 * down[:, :, 1:-1] + down[:, :, 2:]).abs()
    ripples = _counts(by_tile((ripple * tiles.NOISE_STEP).round().long().clamp_max(BINS - 1)), groups, BINS)
    median = (_quantile(ripples, 0.5) - 0.5).clamp_min(0) / tiles.NOISE_STEP
    noise = ((tiles.MAD_TO_SIGMA / tiles.LAPLACIAN_NORM * median) ** 2 + tiles.QUANTISATION).sqrt()

    entropy = -torch.special.xlogy(histogram, histogram).sum(-1) / torch.log(torch.tensor(float(BINS))).item()
    spread = _quantile(histogram, 0.95) - _quantile(histogram, 0.05)
    varied = ((entropy - params.entropy_low) / (params.entropy_high - params.entropy_low)).clamp(0, 1)
    earned = varied * ((spread / (tiles.GAUSS_SPREAD * noise) - 1) / 2).clamp(0, 1)
    if params.spread_limit > 0:
        earned = earned * (1 - spread / params.spread_limit).clamp(0, 1)
    smooth = F.avg_pool2d(F.pad(earned.reshape(grid), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return histogram.reshape(*grid, BINS), smooth.clamp(0, 1)


# -- curves ----------------------------------------------------------------------------------------------------


def _redistribute(slopes: Tensor, floor: Tensor, cap: Tensor) -> Tensor:
    bins = slopes.shape[-1]
    ones = torch.ones_like(slopes)
    corners, order = torch.cat([floor - slopes, cap - slopes], 1).sort(dim=1, stable=True)
    rising = torch.cat([ones, -ones], 1).gather(1, order).cumsum(1)
    sums = F.pad((rising[:, :-1] * corners.diff(dim=1)).cumsum(1), (1, 0)) + floor.sum(1, keepdim=True)
    place = ((sums <= bins).sum(1, keepdim=True) - 1).clamp_min(0)
    slope = rising.gather(1, place)
    missing = torch.where(slope > 0, (bins - sums.gather(1, place)) / slope.clamp_min(1), torch.zeros_like(slope))
    return torch.minimum(torch.maximum(slopes + corners.gather(1, place) + missing, floor), cap)


def _shifts(histogram: Tensor, kappa: Tensor, contrast_floor: float) -> Tensor:
    batch, rows, columns, bins = histogram.shape
    whole = histogram.mean((1, 2))
    levels = torch.arange(bins, device=histogram.device)
    low, high = _quantile(whole, TAIL), _quantile(whole, 1 - TAIL)
    floor = ((levels + 1 > low[:, None]) & (levels < high[:, None])).float() * contrast_floor
    floor = floor.repeat_interleave(rows * columns, 0)
    cap = kappa.reshape(-1, 1)
    slopes = _redistribute(histogram.reshape(-1, bins) * bins, floor, cap)
    moved = F.pad((slopes - 1).cumsum(1), (1, 0))
    moved[:, -1] = 0
    moved = torch.where(cap <= 1, torch.zeros_like(moved), moved)
    return moved.reshape(batch, rows, columns, bins + 1)


def _blend(curves: Tensor, levels: Tensor, rows: tiles.Axis, columns: tiles.Axis) -> Tensor:
    batch, device = len(levels), levels.device
    flat, edges = curves.reshape(-1), BINS + 1
    level = levels.long().clamp_max(BINS - 1)
    fraction = levels - level
    upper, down = (torch.as_tensor(item, device=device) for item in rows.neighbours())
    left, across = (torch.as_tensor(item, device=device) for item in columns.neighbours())
    image = torch.arange(batch, device=device)[:, None, None] * (rows.count * columns.count * edges) + level

    def corners() -> Iterator[Tensor]:
        for row, row_weight in ((upper, 1 - down), ((upper + 1).clamp_max(rows.count - 1), down)):
            for column, weight in ((left, 1 - across), ((left + 1).clamp_max(columns.count - 1), across)):
                index = image + (row[:, None] * columns.count + column) * edges
                low = flat[index]
                yield (low + fraction * (flat[index + 1] - low)) * (row_weight[:, None] * weight)

    total = torch.zeros_like(levels)
    for corner in corners():
        total += corner
    return total


# -- gain ------------------------------------------------------------------------------------------------------


def _stain_gain(codes: Tensor, params: EnhanceParams) -> Tensor:
    batch, device = len(codes), codes.device
    density = torch.as_tensor(gain.DENSITY, device=device)[codes].sum(1)
    half = params.gain_box // 2
    density = F.avg_pool2d(F.pad(density[:, None], (half,) * 4, mode="reflect"), params.gain_box, stride=1)[:, 0]
    least, most = density.flatten(1).aminmax(dim=1)
    step = (most - least).clamp_min(1e-6) / gain.DENSITY_BINS
    bins = ((density - least[:, None, None]) / step[:, None, None]).long().clamp(0, gain.DENSITY_BINS - 1)
    counts = _counts(bins.reshape(batch, -1), batch, gain.DENSITY_BINS)
    low, high = (least + step * _quantile(counts, q / 100) for q in (params.gain_low, params.gain_high))
    x = (density - low[:, None, None]) / (high - low).clamp_min(1e-6)[:, None, None]
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)
