"""Generators of synthetic cells for the study of leakage: SMOTE, which memorises, and a small GAN.

Both learn from the given cells only; the study compares which cells these are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from leuk_lib.gan.generate import generate, resize
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.train import train_gan
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import torch_generator
from leuk_lib.training.fabric import make_fabric

SMOTE, GAN = "SMOTE", "GAN"
NEIGHBOURS = 5  # of the same class, as in the original paper


def smote(images: Tensor, labels: Tensor, wanted: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    r"""Draw synthetic cells between real ones (SMOTE).

    A synthetic cell is :math:`x + u (x' - x)` with a real cell :math:`x`, one of its nearest neighbours :math:`x'` of the
    same class in pixel space, and :math:`u` uniform in [0, 1]. A class of one cell gives copies of it.

    Args:
        images: (N,3,S,S) uint8.
        labels: (N,) class positions.
        wanted: (K,) number of synthetic cells per class.
        seed: seed of the draws.

    Returns:
        Images (M,3,S,S) uint8 and labels (M,), class after class.

    Raises:
        LeukError: cells of a class are wanted that has none.

    References:
        Chawla, N. V. et al. (2002). SMOTE: synthetic minority over-sampling technique. JAIR 16, 321-357.
    """
    synthetic, synthetic_labels = [], []
    for k, count in enumerate(wanted.tolist()):
        if not count:
            continue
        of_class = images[labels == k].float()
        if not len(of_class):
            raise LeukError(f"SMOTE: {count} cells of class number {k} are wanted, which has none")
        flat = of_class.flatten(1)
        distance = torch.cdist(flat, flat)
        distance.fill_diagonal_(float("inf") if len(of_class) > 1 else 0.0)
        near = distance.topk(min(NEIGHBOURS, max(1, len(of_class) - 1)), largest=False).indices
        random = torch_generator(seed, "smote", k)
        parent = torch.randint(len(of_class), (count,), generator=random)
        other = near[parent, torch.randint(near.shape[1], (count,), generator=random)]
        fraction = torch.rand(count, 1, 1, 1, generator=random)
        synthetic.append((of_class[parent] + fraction * (of_class[other] - of_class[parent])).round().to(torch.uint8))
        synthetic_labels.append(torch.full((count,), k))
    if not synthetic:
        return images[:0], labels[:0]
    return torch.cat(synthetic), torch.cat(synthetic_labels)


def gan(
    images: Tensor, labels: Tensor, wanted: Tensor, params: AcdbGanParams, folder: Path, identity: str
) -> tuple[Tensor, Tensor]:
    """Draw synthetic cells with ACDB-GAN's networks and training, without quota and gate.

    Args and return value as for :func:`smote`; ``folder`` and ``identity`` are those of the checkpoints. A class with
    fewer cells than ``params.min_count`` gets none.
    """
    trained = train_gan(images, labels, len(wanted), params, folder, identity, make_fabric(params))
    synthetic, synthetic_labels = [images[:0]], [labels[:0]]
    for k, count in enumerate(wanted.tolist()):
        if count and bool(trained.learned[k]):
            synthetic.append(
                resize(generate(trained.generator, k, count, params.latent, params.seed), images.shape[-1])
            )
            synthetic_labels.append(torch.full((count,), k))
    return torch.cat(synthetic), torch.cat(synthetic_labels)


def nearest_group(
    images: Tensor, labels: Tensor, groups: Tensor, synthetic: Tensor, synthetic_labels: Tensor
) -> Tensor:
    """Find, for each synthetic cell, the group of the nearest real cell of its class in pixel space.

    Args:
        images: (N,3,S,S) real cells.
        labels: (N,) their classes; every class of a synthetic cell must be among them.
        groups: (N,) integers.
        synthetic: (M,3,S,S) synthetic cells.
        synthetic_labels: (M,) classes of the synthetic cells.

    Returns:
        (M,) groups.
    """
    out = torch.zeros(len(synthetic), dtype=groups.dtype)
    for k in synthetic_labels.unique().tolist():
        real = torch.nonzero(labels == k)[:, 0]
        of_class = torch.nonzero(synthetic_labels == k)[:, 0]
        distance = torch.cdist(synthetic[of_class].flatten(1).float(), images[real].flatten(1).float())
        out[of_class] = groups[real[distance.argmin(dim=1)]]
    return out
