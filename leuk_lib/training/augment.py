"""Augmentation of batches that keeps the label: orientation, framing, stain strength and light carry no class.

Every function takes x (B,3,H,W) float in [0,1] on any device and a CPU generator, makes separate draws for every
sample, and returns the same shape. With several processes the draws are those of the global batch: pass ``rows``
(positions of the samples in it) and ``total`` (its size); one without the other is a ``ValueError``.

Why not ``torchvision.transforms.v2``: its transforms make one draw per batch, and take it from torch's global state, so
that neither a resumed run nor several processes could repeat it; and none of them scales stains. The cost of both is
compared by ``tests/benchmarks/bench_data.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from leuk_lib.training.transfer import on_device

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Optical density of unit stain in (R,G,B): azure B and methylene blue, eosin Y, and the residual.
STAINS = ((0.72, 0.58, 0.16), (0.10, 0.90, 0.20), (0.00, -0.21, 0.95))


def _uniform(
    columns: int, generator: torch.Generator, like: Tensor, rows: Tensor | None, total: int | None,
    device: torch.device | str | None = None,
) -> Tensor:  # fmt: skip
    """Uniform draws (B, columns) in [0,1): the rows of these samples in a draw for the global batch.

    They are of the dtype of ``like``, and on its device unless ``device`` is given.
    """
    if (rows is None) != (total is None) or (rows is not None and len(rows) != len(like)):
        raise ValueError(f"{len(like)} samples of a global batch: give rows and total together, one row per sample")
    draw = torch.rand(like.shape[0] if total is None else total, columns, generator=generator)
    if rows is not None:
        draw = draw[rows.cpu()]
    return on_device(draw.to(like.dtype), like.device if device is None else device)


def dihedral(x: Tensor, generator: torch.Generator, *, rows: Tensor | None = None, total: int | None = None) -> Tensor:
    """Rotate each image by 0, 90, 180 or 270 degrees and mirror it with probability 1/2, without interpolation.

    Raises:
        ValueError: The images are not square.
    """
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"dihedral needs square images, got {tuple(x.shape)}")
    draw = _uniform(2, generator, x, rows, total, device="cpu")  # the CPU must know which images to turn
    turns, mirror = (draw[:, 0] * 4).long(), draw[:, 1] < 0.5
    out = torch.empty_like(x)
    for element in range(8):  # of the dihedral group
        chosen = torch.nonzero((turns == element % 4) & (mirror == (element >= 4)))[:, 0]
        if len(chosen):
            chosen = on_device(chosen, x.device)
            images = x[chosen].flip(-1) if element >= 4 else x[chosen]
            out[chosen] = torch.rot90(images, element % 4, dims=(-2, -1))
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
    """Crop a random box inside each image and resize it to (H,W), bilinearly.

    ``scale=(1, 1)`` with ``ratio=(1, 1)`` is the identity to rounding.

    Args:
        x: (B,3,H,W) in [0,1].
        generator: Source of the draws.
        scale: Range of the box's share of the area.
        ratio: Range of its width divided by its height, drawn log-uniformly.
        rows: As in the module.
        total: As in the module.

    References:
        Szegedy et al. 2015; torchvision's RandomResizedCrop.
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
    r"""Scale the amount of each stain by a random factor.

    The optical density :math:`-\log x` of a pixel is a mixture :math:`\sum_s a_s u_s` of stains with unit vectors
    :math:`u_s`; each :math:`a_s` is multiplied by a factor drawn uniformly from
    :math:`[1 - \mathrm{strength}, 1 + \mathrm{strength}]`. White stays white.

    Args:
        x: (B,3,H,W) in [0,1].
        generator: Source of the draws.
        strength: In [0, 1); 0 is the identity to rounding.
        rows: As in the module.
        total: As in the module.

    Raises:
        ValueError: ``strength`` is out of range.

    References:
        Tellez et al. 2018, here with the two stains of Romanowsky-Giemsa instead of haematoxylin and eosin.
    """
    if not 0 <= strength < 1:
        raise ValueError(f"strength {strength} must be in [0, 1)")
    factor = 1 + strength * (2 * _uniform(3, generator, x, rows, total) - 1)
    factor[:, 2] = 1  # the residual is not a stain
    basis = F.normalize(torch.tensor(STAINS, dtype=x.dtype), dim=1)  # (stain, RGB)
    # Inverted on the CPU: on a GPU the host would wait for it, to learn whether the matrix is singular.
    inverse, basis = on_device(torch.linalg.inv(basis), x.device), on_device(basis, x.device)
    density = -torch.log(x.clamp(1 / 512, 1))
    mix = inverse @ (factor[:, :, None] * basis)  # (B, RGB in, RGB out)
    mixed = torch.bmm(mix.transpose(1, 2), density.flatten(2)).view_as(x)
    return mixed.neg_().exp_().clamp_(0, 1)


def light_jitter(
    x: Tensor,
    generator: torch.Generator,
    strength: float = 0.1,
    gamma: float = 0.0,
    *,
    rows: Tensor | None = None,
    total: int | None = None,
) -> Tensor:
    r"""Change the lamp's colour and brightness (or the camera's white balance), and the camera's tone curve.

    Channel :math:`c` of image :math:`i` becomes

    .. math:: y_{ic} = \min(1,\ g_{ic}\, x_{ic}^{\gamma_i}),

    with gains :math:`g_{ic}` drawn uniformly from :math:`[1 - \mathrm{strength}, 1 + \mathrm{strength}]`, whose mean is 1,
    and :math:`\gamma_i` from :math:`[1 - \mathrm{gamma}, 1 + \mathrm{gamma}]`. Black stays black; what becomes brighter
    than white is cut off, as a sensor does.

    Args:
        x: (B,3,H,W) in [0,1].
        generator: Source of the draws.
        strength: In [0, 1); 0 leaves brightness and colour alone.
        gamma: In [0, 1); 0 leaves the tone curve alone.
        rows: As in the module.
        total: As in the module.

    Raises:
        ValueError: ``strength`` or ``gamma`` is out of range.
    """
    for name, value in (("strength", strength), ("gamma", gamma)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} {value} must be in [0, 1)")
    draw = 2 * _uniform(4, generator, x, rows, total) - 1
    if gamma:
        x = x.clamp(min=0) ** (1 + gamma * draw[:, 3, None, None, None])
    return (x * (1 + strength * draw[:, :3, None, None])).clamp(0, 1)


def normalise(x: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Standardise (B,3,H,W), uint8 or float in [0,1], with ``mean`` and ``std`` of RGB in [0,1]; float."""
    if x.dtype == torch.uint8:
        x = x.float() / 255
    centre, scale = (on_device(torch.tensor(values, dtype=x.dtype), x.device)[:, None, None] for values in (mean, std))
    return (x - centre) / scale
