"""Named random streams: every stream is a function of the seed and its name, so none can disturb another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *keys: object) -> int:
    """63-bit seed of the stream named by ``keys`` (SHA-256, the same on every machine and Python)."""
    text = "\x1f".join([str(seed), *(str(key) for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *keys: object) -> np.random.Generator:
    """NumPy generator of the stream named by ``keys``."""
    import numpy as np

    return np.random.default_rng(derive(seed, *keys))


def torch_generator(seed: int, *keys: object, device: str = "cpu") -> torch.Generator:
    """Torch generator of the stream named by ``keys`` on ``device``."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *keys))
