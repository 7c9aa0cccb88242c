"""Label-preserving augmentation of batches: a cell has no up, and stain strength is nuisance (its hue is not).

Every function takes x (B,3,H,W) float in [0,1] on any device and a CPU generator, draws for every sample of the
batch on its own, and returns the same shape. In a run of several processes the draws must be those of the global
batch: pass ``rows`` (positions of x's samples in it) and ``total`` (its size).

Why not ``torchvision.transforms.v2``: given a batch, its transforms draw once for all samples of it; they take their
draws from torch's global state and not from a generator, so that neither a resumed run nor one of several processes
could repeat them; and none of them scales stains. Sample by sample v2's crop, turn and mirror cost 1.6 times as much as
ours at 64 px (batch 48) and 0.6 times at 224 px (batch 16); either is under 3 % of a training step
(``tests/benchmarks/bench_data.py``, two cores).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Optical density of unit stain in (R,G,B): azure B-methylene blue, eosin Y, and what neither explains.
STAINS = ((0.72, 0.58, 0.16), (0.10, 0.90, 0.20), (0.00, -0.21, 0.95))


def _uniform(columns: int, generator: torch.Generator, like: Tensor, rows: Tensor | None, total: int | None) -> Tensor:
    """(B, columns) in [0,1): the samples' own rows of a draw for the whole global batch."""
    draw = torch.rand(like.shape[0] if total is None else total, columns, generator=generator)
    if rows is not None:
        draw = draw[rows.cpu()]
    if draw.shape[0] != like.shape[0]:
        raise ValueError(f"{draw.shape[0]} draws for {like.shape[0]} samples: give rows and total together")
    return draw.to(like.device, like.dtype)


def dihedral(x: Tensor, generator: torch.Generator, *, rows: Tensor | None = None, total: int | None = None) -> Tensor:
    """Turn each square image by 0, 90, 180 or 270 degrees and mirror every second one, at random; exact."""
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"dihedral needs square images, got {tuple(x.shape)}")
    draw = _uniform(2, generator, x, rows, total)
    turns, mirror = (draw[:, 0] * 4).long(), draw[:, 1] < 0.5
    out = torch.empty_like(x)
    for way in range(8):
        chosen = torch.nonzero((turns == way % 4) & (mirror == (way >= 4)))[:, 0]
        if len(chosen):
            some = x[chosen].flip(-1) if way >= 4 else x[chosen]
            out[chosen] = torch.rot90(some, way % 4, dims=(-2, -1))
    return out


def random_resized_crop(
    x: Tensor,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    *,
    rows: Tensor | None = None,
    total: int | None = None,
) -> Tensor:
    """A random box of each image, resized back to (H,W), bilinear.

    ``scale``: range of the box's share of the area; ``ratio``: range of its width/height (log-uniform). The box
    lies inside the image. ``scale=(1, 1)``, ``ratio=(1, 1)`` is the identity to rounding.
    Source: the crop of Szegedy et al. 2015, as in torchvision's RandomResizedCrop.
    """
    draw = _uniform(4, generator, x, rows, total)
    area = scale[0] + (scale[1] - scale[0]) * draw[:, 0]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    root = torch.exp(0.5 * (low + (high - low) * draw[:, 1]))
    width, height = (area.sqrt() * root).clamp(max=1), (area.sqrt() / root).clamp(max=1)
    shift_x, shift_y = (1 - width) * (2 * draw[:, 2] - 1), (1 - height) * (2 * draw[:, 3] - 1)
    zero = torch.zeros_like(width)
    theta = torch.stack(
        [torch.stack([width, zero, shift_x], dim=1), torch.stack([zero, height, shift_y], dim=1)], dim=1
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def stain_jitter(
    x: Tensor,
    generator: torch.Generator,
    strength: float = 0.15,
    *,
    rows: Tensor | None = None,
    total: int | None = None,
) -> Tensor:
    """Scale the amount of each stain by its own factor in [1-strength, 1+strength], in optical density.

    White stays white; hue moves only as far as the two stains' balance does. ``strength`` in [0, 1); 0 is the
    identity to rounding. Source: the colour-deconvolution augmentation of Tellez et al. 2018, with the two stains
    of Romanowsky-Giemsa instead of haematoxylin and eosin.
    """
    if not 0 <= strength < 1:
        raise ValueError(f"strength {strength} must be in [0, 1)")
    factor = 1 + strength * (2 * _uniform(3, generator, x, rows, total) - 1)
    factor[:, 2] = 1  # the residual is no stain
    basis = F.normalize(torch.tensor(STAINS, device=x.device, dtype=x.dtype), dim=1)  # (stain, RGB)
    density = -torch.log(x.clamp(1 / 512, 1))
    mix = torch.linalg.inv(basis) @ (factor[:, :, None] * basis)  # (B, RGB in, RGB out)
    mixed = torch.bmm(mix.transpose(1, 2), density.flatten(2)).view_as(x)
    return mixed.neg_().exp_().clamp_(0, 1)


def normalise(x: Tensor) -> Tensor:
    """(B,3,H,W) uint8, or float in [0,1], to float standardised with ImageNet's mean and deviation."""
    if x.dtype == torch.uint8:
        x = x.float() / 255
    mean = torch.tensor(IMAGENET_MEAN, device=x.device, dtype=x.dtype)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=x.device, dtype=x.dtype)[:, None, None]
    return (x - mean) / std
