"""What the gate does to images whose answer is known: real, of another class, copied, noise, blank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.gan.features import Features
from leuk_lib.gan.gate import Gate
from leuk_lib.runs.seeds import torch_generator


def noisy(images: Tensor, seed: int, deviation: float = 4.0) -> Tensor:
    """uint8 (N,3,S,S) with normal noise of ``deviation`` grey levels."""
    generator = torch_generator(seed, "controls", "noise")
    return (images + deviation * torch.randn(images.shape, generator=generator)).round().clamp(0, 255).to(torch.uint8)


def shifted(images: Tensor, pixels: int = 1) -> Tensor:
    """Moved right and down by whole pixels, the edge repeated."""
    padded = torch.nn.functional.pad(images.float(), (pixels, 0, pixels, 0), mode="replicate")
    return padded[..., : images.shape[-2], : images.shape[-1]].to(torch.uint8)


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Through JPEG at ``quality`` and back."""
    out = []
    for image in images.permute(0, 2, 3, 1).numpy():
        code = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        out.append(decoded[..., ::-1].transpose(2, 0, 1).copy())
    return torch.from_numpy(np.stack(out)) if out else images


def controls(
    gate: Gate,
    embed: Callable[[Tensor], Features],
    train: tuple[Tensor, NDArray[np.int64]],
    held: tuple[Tensor, NDArray[np.int64]],
    seed: int = 0,
    each: int = 40,
) -> pd.DataFrame:
    """A row a kind of image: key, image, what should happen, share accepted, share "memorised" (test iii fails), n.

    ``train``, ``held``: images (N,3,S,S) uint8 and labels, those the gate was fitted on; ``each``: at most so many
    images a kind. Only classes that the gate knows take part. Held-out cells of their own class are judged by limits
    from other held-out cells. Held-out cells of another class are offered under every wrong label in turn.
    """
    known = np.array(sorted(gate.limits), dtype=np.int64)
    some, chosen = (_some(part[1], known, each, seed) for part in (train, held))
    x, y = train[0][torch.from_numpy(some)], train[1][some]
    h, z = held[0][torch.from_numpy(chosen)], held[1][chosen]
    kinds: list[tuple[str, str, str, Tensor, NDArray[np.int64]]] = [
        ("own", "held-out real cells, own class", "accepted", h, z)
    ]
    if len(known) > 1 and len(z):
        place = np.searchsorted(known, z)
        step = 1 + np.arange(len(z)) % (len(known) - 1)
        kinds.append(("other", "held-out real cells, another class", "rejected", h, known[(place + step) % len(known)]))
    kinds += [
        ("exact", "training cells, exact", "rejected", x, y),
        ("noise", "training cells, noise of 4 levels", "rejected", noisy(x, seed), y),
        ("mirrored", "training cells, mirrored", "rejected", x.flip(-1), y),
        ("shifted", "training cells, shifted by 1 px", "rejected", shifted(x), y),
        ("jpeg", "training cells, JPEG 75", "rejected", jpeg(x), y),
    ]
    generator = torch_generator(seed, "controls", "images")
    noise = torch.randint(0, 256, x.shape, generator=generator, dtype=torch.uint8)
    kinds += [
        ("uniform", "uniform noise", "rejected", noise, y),
        ("blank", "blank", "rejected", torch.full_like(x, 235), y),
    ]
    rows: list[dict[str, Any]] = []
    for key, kind, wanted, images, labels in kinds:
        if not len(images):
            continue
        # One at a time as far as test (iv) goes: here the question is each image by itself.
        table = gate.judge(embed(images), labels, images)
        passed = (table["accepted"] | (table["reason"] == "duplicate")).to_numpy(dtype=bool)
        if key == "own":
            passed = gate.held_passed[chosen]
        near = gate.memorised(table)
        rows.append(
            {
                "key": key, "image": kind, "should be": wanted, "accepted": float(passed.mean()),
                "memorised": float(near.mean()), "n": len(images),
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["key", "image", "should be", "accepted", "memorised", "n"])


def _some(labels: NDArray[np.int64], known: NDArray[np.int64], each: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most ``each`` images, drawn evenly over the known classes."""
    order = torch.randperm(len(labels), generator=torch_generator(seed, "controls", "some")).numpy()
    order = order[np.isin(labels[order], known)]
    rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return order[np.argsort(rank, kind="stable")][:each]
