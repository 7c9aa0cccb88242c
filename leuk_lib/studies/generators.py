"""Two generators of synthetic cells for the leakage ladder: SMOTE, which remembers, and this library's small GAN.

Both are trained on the cells they are given and on nothing else; what a study compares is *which* cells these are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.samples import generate, resize
from leuk_lib.gan.train import train_gan
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import torch_generator
from leuk_lib.training.fabric import make_fabric

SMOTE, GAN = "SMOTE", "GAN"
NEIGHBOURS = 5  # of the same class, as SMOTE's authors have it


def smote(images: Tensor, labels: Tensor, wanted: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """``wanted`` (K,) synthetic cells a class: images (M,3,S,S) uint8 and labels (M,), class after class.

    images (N,3,S,S) uint8. A synthetic cell lies on the line between a cell and one of its nearest neighbours of the
    same class in pixel space, at a uniform place (Chawla et al. 2002). A class of one cell gives copies of it. Raises
    ``LeukError`` for a class that is wanted and has no cell.
    """
    made, names = [], []
    for k, count in enumerate(wanted.tolist()):
        if not count:
            continue
        mine = images[labels == k].float()
        if not len(mine):
            raise LeukError(f"SMOTE: {count} cells of class number {k} are wanted, which has no cell to start from")
        flat = mine.flatten(1)
        distance = torch.cdist(flat, flat)
        distance.fill_diagonal_(float("inf") if len(mine) > 1 else 0.0)
        near = distance.topk(min(NEIGHBOURS, max(1, len(mine) - 1)), largest=False).indices
        random = torch_generator(seed, "smote", k)
        parent = torch.randint(len(mine), (count,), generator=random)
        other = near[parent, torch.randint(near.shape[1], (count,), generator=random)]
        place = torch.rand(count, 1, 1, 1, generator=random)
        made.append((mine[parent] + place * (mine[other] - mine[parent])).round().to(torch.uint8))
        names.append(torch.full((count,), k))
    if not made:
        return images[:0], labels[:0]
    return torch.cat(made), torch.cat(names)


def gan(
    images: Tensor, labels: Tensor, wanted: Tensor, params: AcdbGanParams, folder: Path, identity: str
) -> tuple[Tensor, Tensor]:
    """The same by ACDB-GAN's networks and training (``train_gan``), without quota and gate: what the mistake is about.

    A class with fewer cells than ``params.min_count`` gets none.
    """
    trained = train_gan(images, labels, len(wanted), params, folder, identity, make_fabric(params))
    made, names = [images[:0]], [labels[:0]]
    for k, count in enumerate(wanted.tolist()):
        if count and bool(trained.learned[k]):
            made.append(resize(generate(trained.generator, k, count, params.latent, params.seed), images.shape[-1]))
            names.append(torch.full((count,), k))
    return torch.cat(made), torch.cat(names)


def nearest_group(images: Tensor, labels: Tensor, groups: Tensor, made: Tensor, names: Tensor) -> Tensor:
    """Group of the real cell of the same class that is nearest in pixels to each synthetic one: (M,) as ``groups`` (N,)."""
    out = torch.zeros(len(made), dtype=groups.dtype)
    for k in names.unique().tolist():
        real = torch.nonzero(labels == k)[:, 0]
        mine = torch.nonzero(names == k)[:, 0]
        distance = torch.cdist(made[mine].flatten(1).float(), images[real].flatten(1).float())
        out[mine] = groups[real[distance.argmin(dim=1)]]
    return out
