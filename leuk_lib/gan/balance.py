r"""Class balancing: how often the GAN draws a class, and how many synthetic cells the class may receive.

Pure functions on arrays (K,) with one entry per class. :math:`n_c` is the number of training cells and :math:`r_c` the
recall on held-out cells; :math:`d_c = \max(0, \bar r - r_c)` is the recall deficit.

References:
    Cui et al. 2019 (effective number of samples). The recall terms are this companion's reading of the paper's
    "adaptive class distribution balancing".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def effective_number(counts: ArrayLike, beta: float = 0.999) -> Floats:
    r"""Return the effective number of samples, :math:`E_c = (1 - \beta^{n_c}) / (1 - \beta)`.

    Args:
        counts: :math:`n_c` (K,).
        beta: In (0,1). :math:`E_c` is at most :math:`n_c` and at most :math:`1/(1-\beta)`.

    >>> effective_number([1, 2, 100], beta=0.5)
    array([1. , 1.5, 2. ])
    """
    n = np.asarray(counts, dtype=np.float64)
    # expm1 keeps the digits that 1 - beta^n loses for beta near 1.
    return -np.expm1(n * np.log(beta)) / (1 - beta)


def shrunk_recall(hits: ArrayLike, counts: ArrayLike, strength: float = 10.0) -> Floats:
    r"""Return the recall per class, shrunk towards the mean recall of all classes.

    .. math:: r_c = \frac{h_c + s\,\bar r}{n_c + s}

    Args:
        hits: Held-out cells recognised, :math:`h_c` (K,).
        counts: Held-out cells, :math:`n_c \ge h_c` (K,). A class without any gets :math:`\bar r`.
        strength: :math:`s \ge 0`, the number of cells that the mean counts for.
    """
    h, n = np.asarray(hits, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    seen = n > 0
    mean = float((h[seen] / n[seen]).mean()) if seen.any() else 0.0
    return (h + strength * mean) / (n + strength)


def recall_deficit(recall: ArrayLike) -> Floats:
    r"""Return :math:`d_c = \max(0, \bar r - r_c)`.

    >>> recall_deficit([1.0, 0.5])
    array([0.  , 0.25])
    """
    r = np.asarray(recall, dtype=np.float64)
    return np.maximum(0.0, r.mean() - r)


def sampling_weights(counts: ArrayLike, recall: ArrayLike, eta: float = 1.0, min_count: int = 1) -> Floats:
    r"""Return the class probabilities of a training batch, :math:`\pi_c \propto \sqrt{n_c}\,e^{\eta d_c}`.

    Args:
        counts: :math:`n_c` (K,).
        recall: :math:`r_c` (K,) in [0,1].
        eta: Weight of the recall deficit.
        min_count: Classes with fewer cells get probability 0.

    Raises:
        ValueError: If no class has ``min_count`` cells.
    """
    n = np.asarray(counts, dtype=np.float64)
    weight = np.where(n >= max(min_count, 1), np.sqrt(n) * np.exp(eta * recall_deficit(recall)), 0.0)
    if not weight.any():
        raise ValueError(f"no class has {min_count} cells")
    return weight / weight.sum()


def quota(
    counts: ArrayLike,
    recall: ArrayLike,
    beta: float = 0.999,
    scarcity_weight: float = 1.0,
    recall_weight: float = 1.0,
    rho: float = 1.0,
) -> NDArray[np.int64]:
    r"""Return the number of synthetic cells that each class should receive.

    .. math::
        q_c = \min\left(\left\lceil n_c \left(a_1 \frac{\max E - E_c}{\max E} + a_2\, d_c\right)\right\rceil,
        \lfloor \rho n_c \rfloor\right)

    Args:
        counts: :math:`n_c` (K,).
        recall: :math:`r_c` (K,) in [0,1].
        beta: See :func:`effective_number`.
        scarcity_weight: :math:`a_1`, the weight of missing cells.
        recall_weight: :math:`a_2`, the weight of missing recall.
        rho: At most this many synthetic cells per real one.

    Returns:
        :math:`q_c` (K,); 0 for a class that lacks neither cells nor recall.

    >>> quota([10, 1000], [0.8, 0.8])
    array([10,  0])
    """
    n = np.asarray(counts, dtype=np.float64)
    effective = effective_number(n, beta)
    largest = effective.max() if len(n) else 0.0
    scarcity = (largest - effective) / largest if largest > 0 else np.zeros_like(n)
    # Subtract the rounding error, of which ceil would make a cell.
    wanted = np.ceil(n * (scarcity_weight * scarcity + recall_weight * recall_deficit(recall)) - 1e-9)
    return np.minimum(wanted, np.floor(rho * n)).astype(np.int64)


def damped(previous: ArrayLike, new: ArrayLike, damping: float) -> NDArray[np.int64]:
    r"""Return the quota of the next round, :math:`\lambda q^{old} + (1-\lambda) q^{new}`, rounded.

    >>> damped([10, 0], [20, 3], damping=0.5)
    array([15,  2])
    """
    old, fresh = np.asarray(previous, dtype=np.float64), np.asarray(new, dtype=np.float64)
    return np.rint(damping * old + (1 - damping) * fresh).astype(np.int64)
