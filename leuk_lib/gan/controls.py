"""Positive and negative controls of the gate: real cells, cells of another class, copies, noise and blank images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.data.jpeg import recompress
from leuk_lib.gan.features import Features
from leuk_lib.gan.gate import Gate
from leuk_lib.runs.seeds import torch_generator


def noisy(images: Tensor, seed: int, deviation: float = 4.0) -> Tensor:
    """Add normal noise of ``deviation`` grey levels to uint8 images (N,3,S,S)."""
    generator = torch_generator(seed, "controls", "noise")
    return (images + deviation * torch.randn(images.shape, generator=generator)).round().clamp(0, 255).to(torch.uint8)


def shifted(images: Tensor, pixels: int = 1) -> Tensor:
    """Shift uint8 images (N,3,S,S) right and down by whole pixels, replicating the edge."""
    padded = torch.nn.functional.pad(images.float(), (pixels, 0, pixels, 0), mode="replicate")
    return padded[..., : images.shape[-2], : images.shape[-1]].to(torch.uint8)


def controls(
    gate: Gate,
    embed: Callable[[Tensor], Features],
    train: tuple[Tensor, NDArray[np.int64]],
    holdout: tuple[Tensor, NDArray[np.int64]],
    seed: int = 0,
    each: int = 40,
) -> pd.DataFrame:
    """Screen images for which the right answer is known.

    Only classes with limits take part. Held-out cells of their own class are tested by cross-fitted limits. Held-out
    cells of another class are presented under each wrong label in turn.

    Args:
        gate: The fitted gate.
        embed: Maps uint8 images to features, as for the gate.
        train: Images (N,3,S,S) uint8 and labels (N,) of the training cells that the gate was fitted on.
        holdout: The same of its held-out cells.
        seed: Seed of noise and choice.
        each: Largest number of images of a kind.

    Returns:
        One row per kind: key, image, "should be", the share accepted, the share that fails test (iii) (memorised), n.
    """
    known = np.array(sorted(gate.limits), dtype=np.int64)
    train_rows, holdout_rows = (_balanced_rows(part[1], known, each, seed) for part in (train, holdout))
    x, y = train[0][torch.from_numpy(train_rows)], train[1][train_rows]
    h, z = holdout[0][torch.from_numpy(holdout_rows)], holdout[1][holdout_rows]
    kinds: list[tuple[str, str, str, Tensor, NDArray[np.int64]]] = [
        ("own", "held-out real cells, own class", "accepted", h, z)
    ]
    if len(known) > 1 and len(z):
        index = np.searchsorted(known, z)
        step = 1 + np.arange(len(z)) % (len(known) - 1)
        wrong = known[(index + step) % len(known)]
        kinds.append(("other", "held-out real cells, another class", "rejected", h, wrong))
    kinds += [
        ("exact", "training cells, exact", "rejected", x, y),
        ("noise", "training cells, noise of 4 levels", "rejected", noisy(x, seed), y),
        ("mirrored", "training cells, mirrored", "rejected", x.flip(-1), y),
        ("shifted", "training cells, shifted by 1 px", "rejected", shifted(x), y),
        ("jpeg", "training cells, JPEG 75", "rejected", recompress(x, 75), y),
    ]
    generator = torch_generator(seed, "controls", "images")
    noise = torch.randint(0, 256, x.shape, generator=generator, dtype=torch.uint8)
    kinds += [
        ("uniform", "uniform noise", "rejected", noise, y),
        ("blank", "blank", "rejected", torch.full_like(x, 235), y),
    ]
    rows: list[dict[str, Any]] = []
    for key, kind, expected, images, labels in kinds:
        if not len(images):
            continue
        table = gate.screen(embed(images), labels, images)
        # Duplicates count as accepted: each image is tested by itself here.
        passed = (table["accepted"] | (table["reason"] == "duplicate")).to_numpy(dtype=bool)
        if key == "own":
            passed = gate.holdout_passed[holdout_rows]
        rows.append(
            {
                "key": key, "image": kind, "should be": expected, "accepted": float(passed.mean()),
                "memorised": float(gate.memorised(table).mean()), "n": len(images),
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["key", "image", "should be", "accepted", "memorised", "n"])


def _balanced_rows(labels: NDArray[np.int64], known: NDArray[np.int64], each: int, seed: int) -> NDArray[np.int64]:
    """Choose at most ``each`` images, evenly from the known classes."""
    order = torch.randperm(len(labels), generator=torch_generator(seed, "controls", "some")).numpy()
    order = order[np.isin(labels[order], known)]
    rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return order[np.argsort(rank, kind="stable")][:each]
