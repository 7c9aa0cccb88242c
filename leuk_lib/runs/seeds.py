"""Named random streams. Each depends only on the seed and its name, so that no stream can disturb another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *keys: object) -> int:
    """Return the 63-bit seed of the stream named by ``keys``, the same on every machine.

    >>> derive(0, "fcmae", "masks") == derive(0, "fcmae", "masks") != derive(1, "fcmae", "masks")
    True
    """
    text = "\x1f".join([str(seed), *(str(key) for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *keys: object) -> np.random.Generator:
    """Return a NumPy generator of the stream named by ``keys``."""
    import numpy as np

    return np.random.default_rng(derive(seed, *keys))


def torch_generator(seed: int, *keys: object, device: str = "cpu") -> torch.Generator:
    """Return a torch generator of the stream named by ``keys`` on ``device``."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *keys))
