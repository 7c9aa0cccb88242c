"""ALHE for batches on any device; agrees with ``leuk_lib.alhe.enhance.alhe`` to 1/255.

The same steps as in `tiles`, `lut`, `gain` and `enhance`, where they are explained, over a batch at once. The grid is
the NumPy one's; everything else is written a second time on purpose: the two forms check each other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.alhe import colour, gain, tiles, torch_colour
from leuk_lib.alhe.colour import LEVELS_PER_ROOT, OFFSET
from leuk_lib.alhe.images import MIN_SIDE
from leuk_lib.alhe.lut import TAIL
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.runs.errors import LeukError

BINS = tiles.BINS
CHUNK = 1 << 18  # pixels at a time on a CPU, whose cache they fit into: fresh memory costs more than the arithmetic
ROUNDS = 40  # of redistribution, at most: halving alone would then be exact
CLOSE = 1e-4  # grey levels that a curve may miss its end by


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


@torch.no_grad()
def alhe_batch(images: Tensor, params: EnhanceParams | None = None) -> Tensor:
    """Enhance a batch (B,3,H,W), uint8 or float in [0,1]; same shape, type and device. No gradient passes through.

    Raises ``LeukError`` in one line for other shapes and types, NaN and values out of range.
    """
    params = params or EnhanceParams()
    _check(images)
    few = max(1, CHUNK // images[0, 0].numel()) if images.device.type == "cpu" else len(images)
    rows, columns = tiles.lay_tiles(images.shape[2], images.shape[3], params)
    seen = [_look(part, rows, columns, params) for part in images.split(few)]
    # What belongs to tiles is small, and has many steps: all images at once.
    histogram = torch.cat([each.histogram for each in seen])
    kappa = 1 + (params.kappa_max - 1) * _activity(histogram, torch.cat([each.ripples for each in seen]), params)
    curves = _shifts(histogram, kappa, params.contrast_floor)
    limits = _limits(torch.cat([each.densities for each in seen]), torch.cat([each.range for each in seen]), params)
    out = torch.empty_like(images)
    shared = (item.split(few) for item in (images, curves, limits, out))
    for each, part, curve, limit, to in zip(seen, *shared, strict=True):
        _write(each, part, curve, limit, to, rows, columns)
    return out


class _Seen(NamedTuple):
    """What is known of b images before anything about the rest of the batch.

    roots (b,3,H,W); levels (b,H,W) in grey levels; density (b,H,W), smoothed, and its range (b,2); counts of levels and
    ripples (b,rows,columns,256; of levels as shares), of densities (b,bins).
    """

    roots: Tensor
    levels: Tensor
    density: Tensor
    range: Tensor
    histogram: Tensor
    ripples: Tensor
    densities: Tensor


def _look(images: Tensor, rows: tiles.Axis, columns: tiles.Axis, params: EnhanceParams) -> _Seen:
    if images.dtype == torch.uint8:
        codes = images.int()
        f = torch_colour.roots_of_codes(codes)
    else:
        values = images.float()
        codes = (values * 255).round_().int()
        f = torch_colour.roots(torch_colour.mix(torch_colour.decode(values), colour.TO_XYZ))
    levels = ((f[:, 1] - OFFSET) * LEVELS_PER_ROOT).clamp_(0, BINS)
    density = _density(codes, params)
    limits = torch.stack([density.amin((1, 2)), density.amax((1, 2))], dim=1)
    return _Seen(f, levels, density, limits, *_histograms(levels, rows, columns), _density_histogram(density, limits))


def _write(
    seen: _Seen, images: Tensor, curves: Tensor, limits: Tensor, out: Tensor, rows: tiles.Axis, columns: tiles.Axis
) -> None:
    """The enhanced images into ``out``; what was seen is used up."""
    shift = _blend(curves, seen.levels, rows, columns).mul_(_smoothstep(seen.density, limits))
    # L' = L + shift with a*, b* kept: all three roots move by the same amount.
    f = seen.roots.add_((shift * (1 / LEVELS_PER_ROOT))[:, None])
    if images.dtype == torch.uint8:  # whose every colour comes back as it was where nothing moves
        out.copy_(torch_colour.coded(f))
    else:
        moved = torch_colour.encode(torch_colour.mix(torch_colour.cubes(f), colour.FROM_XYZ))
        torch.where((shift == 0)[:, None], images, moved.to(images.dtype), out=out)


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


# -- tiles -----------------------------------------------------------------------------------------------------


def _quantiles(counts: Tensor, *shares: float) -> list[Tensor]:
    """`tiles.quantiles`: for each share the quantile of every histogram (..., K), in bins."""
    cdf = counts.cumsum(-1)
    found = []
    for share in shares:
        target = share * cdf[..., -1]
        place = (cdf < target[..., None]).sum(-1, keepdim=True)
        inside = counts.gather(-1, place)[..., 0]
        before = cdf.gather(-1, place)[..., 0] - inside
        found.append(place[..., 0] + (target - before) / inside.clamp_min(1e-12))
    return found


def _counts(values: Tensor, group: Tensor, groups: int, bins: int) -> Tensor:
    """Histograms (groups, bins) of integer values (B,H,W) whose pixels belong to ``group`` (broadcast)."""
    place = (values + group * bins).reshape(-1)
    return torch.bincount(place, minlength=groups * bins).reshape(groups, bins).float()


def _mirrored(image: Tensor, axis: tiles.Axis, dim: int) -> Tensor:
    """(B,H,W) padded along an axis by reflection, the edge pixel repeated."""
    if not axis.pad:
        return image
    first, last = image.narrow(dim, 0, axis.pad), image.narrow(dim, axis.size - axis.pad, axis.pad)
    return torch.cat([first.flip(dim), image, last.flip(dim)], dim=dim)


def _histograms(levels: Tensor, rows: tiles.Axis, columns: tiles.Axis) -> tuple[Tensor, Tensor]:
    """Shares of levels and counts of ripples in every tile of (B,H,W): twice (B, rows, columns, 256)."""
    device = levels.device
    padded = _mirrored(_mirrored(levels, rows, 1), columns, 2)
    grid = (len(levels), rows.count, columns.count)
    down, right = (torch.arange(a.count * a.side, dtype=torch.int32, device=device) // a.side for a in (rows, columns))
    image = torch.arange(len(levels), dtype=torch.int32, device=device)[:, None, None] * (rows.count * columns.count)
    tile = image + (down[:, None] * columns.count + right)

    histogram = _counts(padded.int().clamp_max_(BINS - 1), tile, math.prod(grid), BINS)
    # Second differences down, then across: the kernel tiles.LAPLACIAN, by arithmetic that no batch size can alter.
    edged = F.pad(padded[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    fall = edged.diff(dim=1).diff(dim=1)
    ripple = fall.diff(dim=2).diff(dim=2).abs_()
    ripples = _counts((ripple * tiles.NOISE_STEP).round_().int().clamp_max_(BINS - 1), tile, math.prod(grid), BINS)
    return histogram.reshape(*grid, BINS) / (rows.side * columns.side), ripples.reshape(*grid, BINS)


def _activity(histogram: Tensor, ripples: Tensor, params: EnhanceParams) -> Tensor:
    """Activity (B, rows, columns) of tiles with these shares of levels and counts of ripples."""
    (median,) = _quantiles(ripples, 0.5)
    median = (median - 0.5).clamp_min(0) / tiles.NOISE_STEP
    noise = ((tiles.MAD_TO_SIGMA / tiles.LAPLACIAN_NORM * median) ** 2 + tiles.QUANTISATION).sqrt()

    entropy = -torch.special.xlogy(histogram, histogram).sum(-1) / torch.log(torch.tensor(float(BINS))).item()
    low, high = _quantiles(histogram, 0.05, 0.95)
    spread = high - low
    varied = ((entropy - params.entropy_low) / (params.entropy_high - params.entropy_low)).clamp(0, 1)
    earned = varied * ((spread / (tiles.GAUSS_SPREAD * noise) - 1) / 2).clamp(0, 1)
    if params.spread_limit > 0:
        earned = earned * (1 - spread / params.spread_limit).clamp(0, 1)
    return F.avg_pool2d(F.pad(earned, (1, 1, 1, 1), mode="replicate"), 3, stride=1).clamp(0, 1)


# -- curves ----------------------------------------------------------------------------------------------------


def _redistribute(slopes: Tensor, floor: Tensor, cap: Tensor) -> Tensor:
    """`lut.redistribute`, but a row that is done moves no more, so that its batch mates have no say in it."""
    bins = slopes.shape[-1]
    low, high = (floor - slopes).amin(1, keepdim=True), (cap - slopes).amax(1, keepdim=True)
    t = torch.zeros_like(low)
    for _ in range(ROUNDS):
        wanted = slopes + t
        given = torch.minimum(torch.maximum(wanted, floor), cap)
        missing = bins - given.sum(1, keepdim=True)
        open_ = missing.abs() > CLOSE
        if not bool(open_.any()):
            break
        free = (given == wanted).sum(1, keepdim=True)
        low, high = torch.where(missing > 0, t, low), torch.where(missing < 0, t, high)
        step = t + missing / free.clamp_min(1)
        step = torch.where((free > 0) & (step >= low) & (step <= high), step, (low + high) / 2)
        t = torch.where(open_, step, t)
    return torch.minimum(torch.maximum(slopes + t, floor), cap)


def _shifts(histogram: Tensor, kappa: Tensor, contrast_floor: float) -> Tensor:
    batch, rows, columns, bins = histogram.shape
    whole = histogram.mean((1, 2))
    levels = torch.arange(bins, device=histogram.device)
    low, high = _quantiles(whole, TAIL, 1 - TAIL)
    floor = ((levels + 1 > low[:, None]) & (levels < high[:, None])).float() * contrast_floor
    floor = floor.repeat_interleave(rows * columns, 0)
    cap = kappa.reshape(-1, 1)
    slopes = _redistribute(histogram.reshape(-1, bins) * bins, floor, cap)
    moved = F.pad((slopes - 1).cumsum(1), (1, 0))
    moved[:, -1] = 0
    moved *= cap > 1
    return moved.reshape(batch, rows, columns, bins + 1)


def _blend(curves: Tensor, levels: Tensor, rows: tiles.Axis, columns: tiles.Axis) -> Tensor:
    """As `blend.Table`: one bilinear look-up for level and grid row, in the curves of the tiles left and right."""
    batch, count, device = len(levels), rows.count * max(columns.count - 1, 1), levels.device
    upper, down = (torch.as_tensor(item, device=device) for item in rows.neighbours())
    left, across = (torch.as_tensor(item, device=device) for item in columns.neighbours())
    long = curves.transpose(1, 2)  # (B, columns, rows, 257)
    pair = long if columns.count == 1 else torch.stack([long[:, :-1], long[:, 1:]], dim=1)
    place = (upper + down)[:, None] + left * rows.count
    grid = torch.empty(*levels.shape, 2, device=device)
    grid[..., 0] = levels / (BINS / 2) - 1  # grid_sample wants coordinates from -1 to 1
    grid[..., 1] = place * (2 / max(count - 1, 1)) - 1
    read = F.grid_sample(
        pair.reshape(batch, -1, count, BINS + 1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    if columns.count == 1:
        return read[:, 0]
    here, there = read.unbind(1)
    return (there - here).mul_(across).add_(here)


# -- gain ------------------------------------------------------------------------------------------------------


def _density(codes: Tensor, params: EnhanceParams) -> Tensor:
    """Optical density (B,H,W), summed over the channels of 8-bit codes (B,3,H,W), box-smoothed."""
    # -log10 of the three codes' product, which float32 holds exactly: one logarithm instead of three look-ups.
    red, green, blue = codes.clamp_min(1).unbind(1)
    density = (red * green).mul_(blue).float().log10_().neg_().add_(3 * math.log10(255))
    half = params.gain_box // 2
    padded = F.pad(density[:, None], (half, half, half, half), mode="reflect")[:, 0]
    return _box(_box(padded, params.gain_box, 1), params.gain_box, 2)


def _box(image: Tensor, side: int, dim: int) -> Tensor:
    """Mean of ``side`` neighbouring pixels along an axis of (B,H,W), which gets shorter by side - 1."""
    size = image.shape[dim] - side + 1
    total = image.narrow(dim, 0, size).clone()
    for k in range(1, side):
        total += image.narrow(dim, k, size)
    return total.div_(side)


def _bin(limits: Tensor) -> Tensor:
    """Width (B,) of a bin between the least and the greatest density (B,2)."""
    return (limits[:, 1] - limits[:, 0]).clamp_min(1e-6) / gain.DENSITY_BINS


def _density_histogram(density: Tensor, limits: Tensor) -> Tensor:
    batch = len(density)
    scale = (1 / _bin(limits))[:, None, None]
    bins = ((density - limits[:, 0, None, None]) * scale).int().clamp_max_(gain.DENSITY_BINS - 1)
    image = torch.arange(batch, dtype=torch.int32, device=density.device)[:, None, None]
    return _counts(bins, image, batch, gain.DENSITY_BINS)


def _limits(counts: Tensor, limits: Tensor, params: EnhanceParams) -> Tensor:
    """Densities (B,2) at which the gain starts and is full."""
    low, high = _quantiles(counts, params.gain_low / 100, params.gain_high / 100)
    return limits[:, :1] + _bin(limits)[:, None] * torch.stack([low, high], dim=1)


def _smoothstep(density: Tensor, limits: Tensor) -> Tensor:
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    x = density.sub_(low).mul_(1 / (high - low).clamp_min(1e-6)).clamp_(0, 1)
    return (x * -2).add_(3).mul_(x).mul_(x)
