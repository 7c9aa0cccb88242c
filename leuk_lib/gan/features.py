"""What the gate and the fidelity measures compare cells by: encoder features, thumbnails and texture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.training.augment import normalise

Features = NDArray[np.float32]

THUMBNAIL = 16  # px; side of the thumbnails that reveal copies
IDENTITY = 32  # number of the unchanged thumbnail in `transformed_thumbnails`


def feature_settings(params: AcdbGanParams) -> dict[str, Any]:
    """Return the parameters (``FcmaeParams``) of the feature network's pretraining.

    Unlike chapter 4 it uses the contrastive term, which places two views of a cell near each other, so that copies can
    be found. That features may then encode a slide's stain does little harm, because the verifier decides the class.
    """
    return shared_settings(params) | {
        "variant": "zepto", "stem_stride": {16: 1, 32: 1, 64: 2, 128: 4}[params.gan_size],
        "steps": params.feature_steps, "batch_size": 32, "decoder_dim": 64, "contrast": 1.0,
    }  # fmt: skip


def shared_settings(params: AcdbGanParams) -> dict[str, Any]:
    """Return the parameters that the networks of the gate take over from this stage."""
    names = (
        "dataset", "profile", "seed", "run", "threads", "accelerator", "devices", "precision", "torch_compile",
        "checkpoint_every", "images", "light",
    )  # fmt: skip
    return {name: getattr(params, name) for name in names}


class FrozenFeatures:
    """A frozen network that maps images to arrays.

    Args:
        encoder: The network; it is put into evaluation mode and frozen.
        pool: Maps standardised images (B,3,S,S) to (B,D); by default the network itself.
        batch: Images per forward pass.
        turns: Average over 1, 2 or 4 rotations, since a cell has no upright orientation.

    Raises:
        ValueError: For another number of turns.
    """

    def __init__(
        self, encoder: nn.Module, pool: Callable[[Tensor], Tensor] | None = None, batch: int = 128, turns: int = 1
    ) -> None:
        if turns not in (1, 2, 4):
            raise ValueError(f"turns {turns}: must be 1, 2 or 4")
        self.encoder = encoder.eval().requires_grad_(False)
        self.pool, self.batch, self.turns = pool or encoder, batch, turns

    @torch.no_grad()
    def embed(self, images: Tensor) -> Features:
        """Map uint8 images (N,3,S,S) to features (N,D); N may be 0."""
        device = next((p.device for p in self.encoder.parameters()), torch.device("cpu"))
        if len(images) == 0:
            blank = torch.zeros(1, *images.shape[1:], dtype=torch.uint8)
            return self.embed(blank)[:0]
        out = []
        for part in images.split(self.batch):
            x = normalise(part.to(device))
            views = [self.pool(torch.rot90(x, k * 4 // self.turns, dims=(-2, -1))) for k in range(self.turns)]
            out.append(torch.stack(views).mean(dim=0).float().cpu())
        return torch.cat(out).numpy()


@dataclass(frozen=True)
class Whitening:
    """Projection on standardised principal components, in which distances are comparable.

    ``mean`` (D,), ``basis`` (D,d).
    """

    mean: NDArray[Any]
    basis: NDArray[Any]

    @classmethod
    def fit(cls, features: NDArray[Any], components: int = 48, floor: float = 0.05) -> Whitening:
        """Fit on features (N,D).

        Args:
            features: Features (N,D).
            components: Largest number d of components.
            floor: Components with less than this share of the largest standard deviation are divided by that share
                instead of their own deviation, which would amplify noise.
        """
        x = np.asarray(features, dtype=np.float64)
        mean = x.mean(axis=0)
        _, s, vt = np.linalg.svd(x - mean, full_matrices=False)
        keep = min(components, int((s > 1e-8 * max(s[0], 1e-30)).sum()) or 1)
        deviation = np.maximum(s[:keep] / np.sqrt(max(len(x) - 1, 1)), floor * s[0] / np.sqrt(max(len(x) - 1, 1)))
        return cls(mean, (vt[:keep] / np.maximum(deviation, 1e-12)[:, None]).T)

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Map (N,D) to (N,d)."""
        return (np.asarray(features, dtype=np.float64) - self.mean) @ self.basis


def distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Return the Euclidean distances (M,N) between rows of a (M,d) and b (N,d).

    >>> distances(np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[5., 0.]])
    """
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))


def nearest_of_views(
    views: Iterable[NDArray[Any]], b: NDArray[Any], own: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """Return the smallest of the :func:`distances` (M,) between rows of all ``views`` (M,d) and rows of b (N,d).

    Args:
        views: The same M things, seen in several ways.
        b: What they are compared with.
        own: Row of b (M,) that each thing is not compared with.

    >>> nearest_of_views([np.array([[0.0, 1.0]]), np.array([[0.0, 9.0]])], np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([1]))
    array([1.])
    """
    squares, least = (b**2).sum(axis=1)[None], np.inf
    with threadpool_limits(1, user_api="blas"):  # many small products: a second thread waits longer than it computes
        for a in views:
            square = (a**2).sum(axis=1)[:, None] + squares - 2 * a @ b.T
            if own is not None:
                square[np.arange(len(a)), own] = np.inf
            least = np.minimum(least, square.min(axis=1))
    return np.sqrt(np.maximum(least, 0))


def thumbnails(images: Tensor) -> NDArray[np.float32]:
    """Map uint8 images (N,3,S,S) to blurred thumbnails (N,3*16*16), with distances in [0,1].

    Noise, JPEG compression and small shifts change them little.
    """
    x = F.interpolate(images.float(), size=(THUMBNAIL, THUMBNAIL), mode="area")
    x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return (x.flatten(1) / (255 * 3**0.5 * THUMBNAIL)).numpy()


def transformed_thumbnails(images: Tensor) -> Iterator[NDArray[np.float32]]:
    """Yield thumbnails (N,3*16*16) of uint8 images (N,3,S,S) under 72 transformations.

    These are shifts by up to one pixel in both directions, each with the eight rotations and reflections. Number
    ``IDENTITY`` is the unchanged image.
    """
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            flat = torch.from_numpy(thumbnails(images.roll((dy, dx), (-2, -1))))
            # Rotation and reflection commute with making thumbnails, so they come after it.
            grid = flat.reshape(len(images), 3, THUMBNAIL, THUMBNAIL)
            for turns in range(4):
                turned = grid.rot90(turns, (-2, -1))
                yield turned.flatten(1).numpy()
                yield turned.flip(-1).flatten(1).numpy()


def texture(images: Tensor) -> NDArray[np.float64]:
    r"""Return the logarithm of the mean absolute Laplacian, :math:`\ln(\overline{|\nabla^2 g|} + 10^{-3})`.

    Noise has far more texture than any cell, a blank image far less.

    Args:
        images: uint8 images (N,3,S,S); :math:`g` is the mean over channels in grey levels.

    Returns:
        (N,).
    """
    grey = images.float().mean(dim=1, keepdim=True)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return torch.log(F.conv2d(grey, kernel).abs().mean(dim=(1, 2, 3)) + 1e-3).double().numpy()
