r"""Temperature scaling: one divisor of the logits, fitted on held-out cells.

With logits :math:`z_{ik}`, labels :math:`y_i` and weights :math:`w_i`, the temperature minimises the negative log likelihood

.. math:: \frac{1}{\sum_i w_i} \sum_i w_i \Big(\ln \sum_k \exp(z_{ik} / T) - z_{i y_i} / T\Big).

References:
    Guo, C., Pleiss, G., Sun, Y. and Weinberger, K. Q. (2017). On calibration of modern neural networks. ICML, 1321-1330.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from leuk_lib.runs.errors import LeukError

T_MIN, T_MAX = 0.05, 20.0


def fit_temperature(logits: ArrayLike, labels: ArrayLike, weights: NDArray[Any] | None = None) -> float:
    r"""Temperature in [0.05, 20] with the highest likelihood of the labels under :math:`\operatorname{softmax}(z / T)`.

    Args:
        logits: (N,K) logits or log probabilities, finite.
        labels: (N,) columns of the true classes.
        weights: (N,) how often each cell counts, as in a resample; None: once.

    Returns:
        The temperature; 1 where none is better, as for a model with constant output.

    Raises:
        LeukError: there is no cell, a logit is NaN or infinite, a label is no column, or the weights are negative, all 0
            or not finite.

    >>> z = np.log([[0.9, 0.1]] * 4)  # stated 0.9, right 3 times in 4: logits of ln 9 should be ln 3, half as large
    >>> round(fit_temperature(z, [0, 0, 0, 1]), 4)
    2.0
    """
    z, columns = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if not len(z):
        raise LeukError("temperature: there is no cell to fit it on")
    if not np.isfinite(z).all():
        raise LeukError(
            f"temperature: {int((~np.isfinite(z)).any(axis=1).sum())} of {len(z)} cells have logits that are "
            "NaN or infinite"
        )
    fits = z.ndim == 2 and columns.shape == z.shape[:1] and columns.dtype.kind in "iu"
    if not fits or not np.isin(columns, np.arange(z.shape[1])).all():
        raise LeukError(f"temperature: needs a label of 0 to K - 1 for each of {len(z)} cells")
    if weights is not None and not (
        weights.shape == columns.shape and (weights >= 0).all() and 0 < weights.sum() < np.inf
    ):
        raise LeukError(f"temperature: needs a weight for each of {len(z)} cells, not negative and not all 0")
    z = z - z.max(axis=1, keepdims=True)  # the largest is 0 at every temperature, so that no exponential overflows
    true = z[np.arange(len(z)), columns]

    def nll(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.average(np.log(np.exp(z * inverse).sum(axis=1)) - true * inverse, weights=weights))

    best = minimize_scalar(nll, bounds=(np.log(T_MIN), np.log(T_MAX)), method="bounded", options={"xatol": 1e-8})
    return 1.0 if nll(0.0) <= best.fun + 1e-12 else float(np.exp(best.x))
