"""ALHE for batches on any device; agrees with ``leuk_lib.alhe.enhance.alhe`` to 1/255.

The steps of `activity`, `lut`, `gain`, `colour` and `enhance`, where they are explained, over a batch at once. Grid,
constants and the formula of the activity are shared; the rest is written for tensors, and the tests compare both forms.
What histograms count is computed in whole numbers (also where float32 holds them), so that both forms count the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.alhe import activity, colour, gain
from leuk_lib.alhe.colour import CORNER, DELTA, LEVELS_PER_ROOT, OFFSET, SLOPE
from leuk_lib.alhe.images import check_range, check_size
from leuk_lib.alhe.lut import NEWTON_ROUNDS, TAIL
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.tiles import BINS, TileAxis, ratio, tile_grid
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.threads import torch_threads

CHUNK_PIXELS = 1 << 18  # at a time on a CPU, whose cache they fit into: fresh memory costs more than the arithmetic
TOLERANCE = 1e-4  # grey levels by which a curve may miss its end
# Of an 8-bit code: its word of linear light in the lower 16 bits, its optical density in steps in the upper ones.
PACKED_OF_CODE = colour.WORD_OF_CODE + (gain.DENSITY_OF_CODE.astype(np.int32) << 16)


class ALHE(nn.Module):
    """``alhe_batch`` as a module: (B,3,H,W) uint8 or float in [0,1] -> the same. No weights, no state."""

    def __init__(self, params: EnhanceParams | None = None) -> None:
        super().__init__()
        self.params = params or EnhanceParams()

    def forward(self, images: Tensor) -> Tensor:
        """Enhance a batch (B,3,H,W); no gradient passes through."""
        return alhe_batch(images, self.params)

    def extra_repr(self) -> str:
        """The settings in ``repr``."""
        return f"clip_limit={self.params.clip_limit:g}, contrast_floor={self.params.contrast_floor:g}"


def enhance_cells(images: Tensor, params: EnhanceParams | None = None, batch_size: int = 64) -> Tensor:
    """Enhance a set of cells batch by batch; the result of an image does not depend on the batch.

    Runs on one thread: the steps are many and small, and on a busy machine threads that wait for each other made it
    six times slower.

    Args:
        images: (N,3,S,S) uint8.
        params: settings of the enhancement.
        batch_size: cells at a time, at least 1.

    Returns:
        (N,3,S,S) uint8.

    Raises:
        LeukError: ``batch_size`` below 1, or what ``alhe_batch`` refuses.
    """
    if batch_size < 1:
        raise LeukError(f"enhance_cells: batch_size = {batch_size}; must be at least 1")
    out = torch.empty(images.shape, dtype=images.dtype)
    with torch_threads(1), torch.inference_mode():
        for start in range(0, len(images), batch_size):
            out[start : start + batch_size] = alhe_batch(images[start : start + batch_size], params)
    return out


@torch.no_grad()
def alhe_batch(images: Tensor, params: EnhanceParams | None = None) -> Tensor:
    """Enhance a batch. No gradient passes through.

    Args:
        images: (B,3,H,W) RGB, uint8 or float in [0,1], both sides at least 8.
        params: settings of the enhancement.

    Returns:
        A batch of the same shape, type and device.

    Raises:
        LeukError: another shape or type, NaN, or values out of range.
    """
    params = params or EnhanceParams()
    _check(images)
    chunk = max(1, CHUNK_PIXELS // images[0, 0].numel()) if images.device.type == "cpu" else len(images)
    rows, columns = tile_grid(images.shape[2], images.shape[3], params)
    stats = [_image_stats(part, rows, columns, params) for part in images.split(chunk)]
    # What belongs to tiles is small, and has many steps: all images at once.
    histogram = torch.cat([part.histogram for part in stats])
    active = _activity(histogram, torch.cat([part.laplacian for part in stats]), params)
    luts = _shift_luts(histogram, activity.clip_limits(active, params), params.contrast_floor)
    ranges = torch.cat([part.range for part in stats])
    limits = _gain_limits(torch.cat([part.densities for part in stats]), ranges, params)
    out = torch.empty_like(images)
    chunks = (item.split(chunk) for item in (images, luts, out, *limits))
    for part, image, lut, enhanced, *limit in zip(stats, *chunks, strict=True):
        _write(part, image, lut, _GainLimits(*limit), enhanced, rows, columns)
    return out


class _ImageStats(NamedTuple):
    """What is computed of b images before the tone curves.

    roots (b,3,H,W); levels (b,H,W) in grey levels; density (b,H,W) in steps, smoothed, and its range (b,2); counts of
    levels and of |Laplacian| (b,rows,columns,256); counts of densities (b,bins).
    """

    roots: Tensor
    levels: Tensor
    density: Tensor
    range: Tensor
    histogram: Tensor
    laplacian: Tensor
    densities: Tensor


def _image_stats(images: Tensor, rows: TileAxis, columns: TileAxis, params: EnhanceParams) -> _ImageStats:
    if images.dtype == torch.uint8:
        packed = _look_up(PACKED_OF_CODE, images.int())
        words = _mix_words(packed & 0xFFFF)
        f = _look_up(colour.ROOT_OF_WORD, words)
        exact = levels = _look_up(colour.LEVEL_OF_WORD, words[:, 1])
    else:
        values = images.float()
        packed = _look_up(PACKED_OF_CODE, (values * 255).round_().int())
        f = _roots(_mix(_decode(values), colour.TO_XYZ))
        levels = ((f[:, 1] - OFFSET) * LEVELS_PER_ROOT).clamp_(0, BINS)
        # For the histograms, read at 16 bits.
        words = _mix_words(_look_up(colour.WORD_OF_CODE_16, (values * 65535).round_().int()))
        exact = _look_up(colour.LEVEL_OF_WORD, words[:, 1])
    density = _density(packed >> 16, params)
    limits = torch.stack([density.amin((1, 2)), density.amax((1, 2))], dim=1)
    return _ImageStats(
        f, levels, density, limits, *_histograms(exact, rows, columns), _density_histogram(density, limits)
    )


def _write(
    stats: _ImageStats,
    images: Tensor,
    luts: Tensor,
    limits: _GainLimits,
    out: Tensor,
    rows: TileAxis,
    columns: TileAxis,
) -> None:
    """Write the enhanced images into ``out``; overwrites ``stats``."""
    shift = _interpolate(luts, stats.levels, rows, columns).mul_(_smoothstep(stats.density, limits))
    # L' = L + shift with a*, b* kept: all three roots move by the same amount.
    f = stats.roots.add_((shift * (1 / LEVELS_PER_ROOT))[:, None])
    if images.dtype == torch.uint8:  # every 8-bit colour comes back as it was where the shift is 0
        out.copy_(_codes_of_roots(f))
    else:
        shifted = _encode(_mix(_cubes(f), colour.FROM_XYZ))
        torch.where((shift == 0)[:, None], images, shifted.to(images.dtype), out=out)


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise LeukError(f"alhe: expected a batch (B,3,H,W), got {shape}")
    if images.numel() == 0:
        raise LeukError(f"alhe: the batch is empty (shape {tuple(images.shape)})")
    check_size(*images.shape[2:])
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise LeukError(f"alhe: type {images.dtype} is not supported; use uint8 or float in [0,1]")
    check_range(bool(torch.isfinite(images).all()), float(images.min()), float(images.max()))


# -- tiles and activity ----------------------------------------------------------------------------------------


def _quantiles(counts: Tensor, *shares: float) -> list[tuple[Tensor, Tensor]]:
    """`tiles.histogram_quantiles` of histograms (..., K): for each share the bin, and the part of it in [0,1]."""
    cdf = counts.cumsum(-1)
    quantiles = []
    for share in shares:
        numerator, denominator = ratio(share)
        target = numerator * cdf[..., -1]
        bins = (denominator * cdf < target[..., None]).sum(-1, keepdim=True)
        inside = denominator * counts.gather(-1, bins)[..., 0]
        above = denominator * cdf.gather(-1, bins)[..., 0] - target
        quantiles.append((bins[..., 0], 1 - above / inside.clamp_min(1)))
    return quantiles


def _counts(values: Tensor, group: Tensor, groups: int, bins: int) -> Tensor:
    """Histograms (groups, bins), int64, of integer values (B,H,W) whose pixels belong to ``group`` (broadcast)."""
    index = (values + group * bins).reshape(-1)
    return torch.bincount(index, minlength=groups * bins).reshape(groups, bins)


def _reflect(image: Tensor, axis: TileAxis, dim: int) -> Tensor:
    """(B,H,W) padded along an axis by reflection, the edge pixel repeated."""
    if not axis.pad:
        return image
    first, last = image.narrow(dim, 0, axis.pad), image.narrow(dim, axis.size - axis.pad, axis.pad)
    return torch.cat([first.flip(dim), image, last.flip(dim)], dim=dim)


def _histograms(levels: Tensor, rows: TileAxis, columns: TileAxis) -> tuple[Tensor, Tensor]:
    """Counts of levels and of |Laplacian| in every tile of (B,H,W): twice (B, rows, columns, 256)."""
    device = levels.device
    padded = _reflect(_reflect(levels, rows, 1), columns, 2)
    grid = (len(levels), rows.count, columns.count)
    down, right = (torch.arange(a.count * a.side, dtype=torch.int32, device=device) // a.side for a in (rows, columns))
    image = torch.arange(len(levels), dtype=torch.int32, device=device)[:, None, None] * (rows.count * columns.count)
    tile = image + (down[:, None] * columns.count + right)

    histogram = _counts(padded.int().clamp_max_(BINS - 1), tile, math.prod(grid), BINS)
    # Second differences down, then across, which is the kernel activity.LAPLACIAN: sums that no batch size can alter.
    edged = F.pad(padded[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    laplacian = edged.diff(dim=1).diff(dim=1)
    laplacian = laplacian.diff(dim=2).diff(dim=2).abs_()
    bins = (laplacian * activity.NOISE_STEP).round_().int().clamp_max_(BINS - 1)
    counts = _counts(bins, tile, math.prod(grid), BINS)
    return histogram.reshape(*grid, BINS), counts.reshape(*grid, BINS)


def _activity(histogram: Tensor, laplacian: Tensor, params: EnhanceParams) -> Tensor:
    """Activity (B, rows, columns) of tiles with these counts of levels and of |Laplacian|."""
    ((whole, part),) = _quantiles(laplacian, 0.5)
    median = (whole + part - 0.5).clamp_min(0) / activity.NOISE_STEP
    noise = ((activity.MAD_TO_SIGMA / activity.LAPLACIAN_NORM * median) ** 2 + activity.QUANTISATION).sqrt()

    shares = histogram / histogram[0, 0, 0].sum()
    entropy = -torch.special.xlogy(shares, shares).sum(-1) / math.log(BINS)
    (low, low_part), (high, high_part) = _quantiles(histogram, *activity.SPREAD_TAILS)
    active: Tensor = activity.tile_activity(entropy, (high - low) + (high_part - low_part), noise, params)
    return F.avg_pool2d(F.pad(active, (1, 1, 1, 1), mode="replicate"), 3, stride=1).clamp(0, 1)


# -- look-up tables --------------------------------------------------------------------------------------------


def _redistribute(histogram: Tensor, floor: Tensor, clip_limit: Tensor) -> Tensor:
    """`lut.redistribute`, but a row that is done stays as it is, so that the rest of the batch has no influence on it."""
    bins = histogram.shape[-1]
    low, high = (floor - histogram).amin(1, keepdim=True), (clip_limit - histogram).amax(1, keepdim=True)
    t = torch.zeros_like(low)
    for n in range(NEWTON_ROUNDS + bins + 1):
        raised = histogram + t
        slopes = torch.minimum(torch.maximum(raised, floor), clip_limit)
        missing = bins - slopes.sum(1, keepdim=True)
        open_ = missing.abs() > TOLERANCE
        if not bool(open_.any()):
            break
        low, high = torch.where(missing > 0, t, low), torch.where(missing < 0, t, high)
        if n < NEWTON_ROUNDS:
            free = (slopes == raised).sum(1, keepdim=True)
            step = t + missing / free.clamp_min(1)
            step = torch.where((step > low) & (step < high), step, (low + high) / 2)
        else:
            at_limit, at_floor = histogram + low >= clip_limit, histogram + high <= floor
            free = bins - (at_limit | at_floor).sum(1, keepdim=True)
            held = torch.where(at_limit, clip_limit, torch.where(at_floor, floor, histogram))
            step = (bins - held.sum(1, keepdim=True)) / free.clamp_min(1)
        t = torch.where(open_, torch.where(free > 0, step, (low + high) / 2), t)
    return slopes


def _shift_luts(histogram: Tensor, clip_limit: Tensor, contrast_floor: float) -> Tensor:
    """`lut.shift_luts` of a batch: (B, rows, columns, K+1) of (B, rows, columns, K)."""
    batch, rows, columns, bins = histogram.shape
    whole = histogram.sum((1, 2))
    upto = whole.cumsum(1)
    below, total = upto - whole, upto[:, -1:]
    numerator, denominator = ratio(TAIL)
    tail = numerator * total
    begun = (denominator * upto > tail) | (denominator * below >= tail)
    ended = denominator * below >= denominator * total - tail
    floor = ((begun & ~ended).float() * contrast_floor).repeat_interleave(rows * columns, 0)
    limit = clip_limit.reshape(-1, 1)
    mean = histogram[0, 0, 0].sum() / bins
    slopes = _redistribute(histogram.reshape(-1, bins) / mean, floor, limit)
    shifts = F.pad((slopes - 1).cumsum(1), (1, 0))
    shifts[:, -1] = 0
    shifts *= limit > 1
    return shifts.reshape(batch, rows, columns, bins + 1)


def _interpolate(luts: Tensor, levels: Tensor, rows: TileAxis, columns: TileAxis) -> Tensor:
    """As `lut.LutGrid`: one bilinear look-up for level and grid row, in the tables of the tiles left and right."""
    batch, count, device = len(levels), rows.count * max(columns.count - 1, 1), levels.device
    upper, down = (torch.as_tensor(item, device=device) for item in rows.neighbours())
    left, across = (torch.as_tensor(item, device=device) for item in columns.neighbours())
    stacked = luts.transpose(1, 2)  # (B, columns, rows, 257)
    pair = stacked if columns.count == 1 else torch.stack([stacked[:, :-1], stacked[:, 1:]], dim=1)
    row = (upper + down)[:, None] + left * rows.count
    grid = torch.empty(*levels.shape, 2, device=device)
    grid[..., 0] = levels / (BINS / 2) - 1  # grid_sample wants coordinates from -1 to 1
    grid[..., 1] = row * (2 / max(count - 1, 1)) - 1
    shift = F.grid_sample(
        pair.reshape(batch, -1, count, BINS + 1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    if columns.count == 1:
        return shift[:, 0]
    at_left, at_right = shift.unbind(1)
    return (at_right - at_left).mul_(across).add_(at_left)


# -- gain ------------------------------------------------------------------------------------------------------


def _density(steps: Tensor, params: EnhanceParams) -> Tensor:
    """Optical density (B,H,W) in steps: the sum over channels (B,3,H,W) and over a box."""
    red, green, blue = steps.unbind(1)
    density = (red + green).add_(blue).float()
    half = params.gain_box // 2
    padded = F.pad(density[:, None], (half, half, half, half), mode="reflect")[:, 0]
    return _box(_box(padded, params.gain_box, 1), params.gain_box, 2)


def _box(image: Tensor, side: int, dim: int) -> Tensor:
    """Sum of ``side`` neighbouring pixels along an axis of (B,H,W), which gets shorter by side - 1."""
    size = image.shape[dim] - side + 1
    total = image.narrow(dim, 0, size).clone()
    for k in range(1, side):
        total += image.narrow(dim, k, size)
    return total


def _bin_width(limits: Tensor) -> Tensor:
    """`gain.bin_width`, (B,), of the least and the greatest density (B,2)."""
    exponent = torch.frexp(limits[:, 1] - limits[:, 0]).exponent - 8
    return torch.bitwise_left_shift(torch.ones_like(exponent), exponent.clamp_min(0))


def _density_histogram(density: Tensor, limits: Tensor) -> Tensor:
    batch = len(density)
    scale = (1 / _bin_width(limits))[:, None, None]
    bins = ((density - limits[:, 0, None, None]) * scale).int()
    image = torch.arange(batch, dtype=torch.int32, device=density.device)[:, None, None]
    return _counts(bins, image, batch, gain.DENSITY_BINS)


class _GainLimits(NamedTuple):
    """Where the gain starts, whole steps and the rest of one, and by how many steps later it is full: each (B,)."""

    whole: Tensor
    rest: Tensor
    extent: Tensor


def _gain_limits(counts: Tensor, ranges: Tensor, params: EnhanceParams) -> _GainLimits:
    width = _bin_width(ranges)
    (low, low_part), (high, high_part) = _quantiles(counts, params.gain_low / 100, params.gain_high / 100)
    extent = width * ((high - low) + (high_part - low_part))
    return _GainLimits(ranges[:, 0] + width * low, width * low_part, extent.clamp_min(gain.LEAST_RANGE))


def _smoothstep(density: Tensor, limits: _GainLimits) -> Tensor:
    whole, rest, scale = (item[:, None, None] for item in (limits.whole, limits.rest, 1 / limits.extent))
    x = density.sub_(whole).sub_(rest).mul_(scale).clamp_(0, 1)
    return (x * -2).add_(3).mul_(x).mul_(x)


# -- colour ----------------------------------------------------------------------------------------------------


def _look_up(table: NDArray[Any], index: Tensor) -> Tensor:
    """``table[index]`` of a small NumPy table; ten times faster than indexing."""
    values = torch.as_tensor(table, device=index.device)
    return values.index_select(0, index.reshape(-1)).reshape(index.shape)


def _mix(image: Tensor, matrix: NDArray[Any]) -> Tensor:
    """Mix the channels of (B,3,H,W) by a 3x3 matrix: sums written out, whose last bit no batch size can alter."""
    red, green, blue = image.unbind(1)
    out = torch.empty_like(image)
    for k, (a, b, c) in enumerate(matrix.tolist()):
        torch.mul(red, a, out=out[:, k]).add_(green, alpha=b).add_(blue, alpha=c)
    return out


def _mix_words(words: Tensor) -> Tensor:
    """Words of XYZ (B,3,H,W) of 16-bit words of linear light, both int32: whole numbers below 2^31, rounded once."""
    red, green, blue = words.unbind(1)
    out = torch.empty_like(words)
    for k, (a, b, c) in enumerate(colour.MIX.tolist()):
        torch.mul(red, a, out=out[:, k]).add_(green, alpha=b).add_(blue, alpha=c)
    return out.add_(colour.MIX_UNIT // 2).bitwise_right_shift_(colour.MIX_BITS)


def _codes_of_roots(f: Tensor) -> Tensor:
    """The 8-bit image (B,3,H,W) of these roots, which are overwritten."""
    words = _mix(_cubes(f), colour.FROM_XYZ * 65535).add_(0.5).clamp_(0, 65535)
    return _look_up(colour.CODE_OF_WORD, words.int())


# Each of these curves is a power above a corner and a line below it. A corner's clamp on either side of a sum
# chooses between them faster than ``torch.where`` does.


def _decode(srgb: Tensor) -> Tensor:
    """Decode sRGB in [0,1] to linear light."""
    power = ((srgb.clamp_min(colour.SRGB_CORNER) + colour.SRGB_OFFSET) / (1 + colour.SRGB_OFFSET)) ** colour.SRGB_GAMMA
    return power.add_((srgb - colour.SRGB_CORNER).clamp_max_(0), alpha=1 / colour.SRGB_SLOPE)


def _encode(linear: Tensor) -> Tensor:
    """Encode linear light, clipped to [0,1] and overwritten, to sRGB in [0,1]."""
    linear = linear.clamp_(0, 1)
    power = linear.clamp_min(colour.LINEAR_CORNER).pow_(1 / colour.SRGB_GAMMA)
    power = power.mul_(1 + colour.SRGB_OFFSET).sub_(colour.SRGB_OFFSET)
    return power.add_((linear - colour.LINEAR_CORNER).clamp_max_(0), alpha=colour.SRGB_SLOPE).clamp_(0, 1)


def _roots(xyz: Tensor) -> Tensor:
    """Roots f of X/Xn, Y/Yn, Z/Zn, which are clipped to [0,1] and overwritten."""
    xyz = xyz.clamp_(0, 1)
    return xyz.clamp_min(CORNER).pow_(1 / 3).add_((xyz - CORNER).clamp_max_(0), alpha=SLOPE)


def _cubes(f: Tensor) -> Tensor:
    """Light of roots, which are overwritten."""
    dark = bool(f.amin() < DELTA)  # rare in a smear, and the line costs two passes over the batch
    line = (f - DELTA).clamp_max_(0) if dark else None
    light = f.clamp_min_(DELTA).pow_(3)
    return light if line is None else light.add_(line, alpha=1 / SLOPE)
