"""How often the GAN looks at a class, and how many synthetic cells a class is owed. Pure functions on arrays.

All arrays are (K,), one entry a class. Source: Cui et al. 2019 (effective number of samples); the recall terms are
this companion's definition of the paper's "adaptive class distribution balancing".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def effective_number(counts: ArrayLike, beta: float = 0.999) -> Floats:
    """E_c = (1 - beta^n_c) / (1 - beta): n_c for beta -> 0 … 1, never above 1/(1-beta); 0 for an empty class."""
    n = np.asarray(counts, dtype=np.float64)
    # expm1 keeps the digits that 1 - beta^n loses for beta near 1.
    return -np.expm1(n * np.log(beta)) / (1 - beta)


def shrunk_recall(hits: ArrayLike, counts: ArrayLike, strength: float = 10.0) -> Floats:
    """Recall a class, pulled to the mean over classes as if ``strength`` more cells had had it.

    hits <= counts are held-out cells recognised and seen. A class without held-out cells gets the mean (0 if no
    class has any).
    """
    h, n = np.asarray(hits, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    seen = n > 0
    mean = float((h[seen] / n[seen]).mean()) if seen.any() else 0.0
    return (h + strength * mean) / (n + strength)


def missing_recall(recall: ArrayLike) -> Floats:
    """max(0, mean recall - recall_c)."""
    r = np.asarray(recall, dtype=np.float64)
    return np.maximum(0.0, r.mean() - r)


def sampling(counts: ArrayLike, recall: ArrayLike, eta: float = 1.0, min_count: int = 1) -> Floats:
    """pi_c proportional to sqrt(n_c) exp(eta max(0, mean recall - recall_c)); 0 under ``min_count`` cells.

    Sums to 1. Raises ``ValueError`` if no class has ``min_count`` cells.
    """
    n = np.asarray(counts, dtype=np.float64)
    weight = np.where(n >= max(min_count, 1), np.sqrt(n) * np.exp(eta * missing_recall(recall)), 0.0)
    if not weight.any():
        raise ValueError(f"no class has {min_count} cells")
    return weight / weight.sum()


def quota(
    counts: ArrayLike, recall: ArrayLike, beta: float = 0.999, need: float = 1.0, weak: float = 1.0, rho: float = 1.0
) -> NDArray[np.int64]:
    """q_c = min(ceil(n_c (need (max E - E_c)/max E + weak [mean recall - recall_c]+)), floor(rho n_c)).

    Zero for a class that lacks neither cells nor recall.
    """
    n = np.asarray(counts, dtype=np.float64)
    effective = effective_number(n, beta)
    top = effective.max() if len(n) else 0.0
    scarce = (top - effective) / top if top > 0 else np.zeros_like(n)
    # A need of rounding error only is none: ceil would make a cell of it.
    wanted = np.ceil(n * (need * scarce + weak * missing_recall(recall)) - 1e-9)
    return np.minimum(wanted, np.floor(rho * n)).astype(np.int64)


def damped(previous: ArrayLike, new: ArrayLike, damping: float) -> NDArray[np.int64]:
    """The next round's quota: ``damping`` parts of the previous one, the rest of the new one; between the two."""
    old, fresh = np.asarray(previous, dtype=np.float64), np.asarray(new, dtype=np.float64)
    return np.rint(damping * old + (1 - damping) * fresh).astype(np.int64)
