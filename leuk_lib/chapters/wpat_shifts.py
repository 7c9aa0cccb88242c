"""How a run's own models fare on shifted test cells: accuracy by kind and strength, with intervals over groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.evaluation.baselines import Scorer
from leuk_lib.evaluation.robustness import SHIFTS, STRENGTHS
from leuk_lib.runs.seeds import numpy_rng, torch_generator
from leuk_lib.statistics.bootstrap import ClusterBootstrap, percentile_interval

NONE = "none"


def shift_table(
    scorers: Mapping[str, Scorer],
    images: Tensor,
    labels: Tensor,
    groups: NDArray[np.str_],
    enhance: Callable[[Tensor], Tensor],
    seed: int,
    n_resamples: int = 500,
) -> pd.DataFrame:
    """One row a model, kind and strength: model, kind, strength, value (accuracy), low, high, n, groups.

    images (n,3,S,S) uint8 as the camera took them; ``enhance`` is what every model's images go through afterwards.
    Strength 0 is there once, under kind ``none``. All models see the same shifted cells and the same resamples.
    """
    bootstrap = ClusterBootstrap(groups, n_resamples, numpy_rng(seed, "shifts"))
    conditions = [(NONE, 0.0), *((kind, strength) for kind in SHIFTS for strength in STRENGTHS[kind])]
    rows = []
    for kind, strength in conditions:
        shifted = images if kind == NONE else SHIFTS[kind](images, strength, torch_generator(seed, "shift", kind))
        seen = enhance(shifted)
        for name, score in scorers.items():
            right = (score(seen, None).argmax(axis=1) == labels.numpy()).astype(np.float64)
            low, high = percentile_interval(bootstrap.means(right)) if bootstrap.n_groups > 1 else (float("nan"),) * 2
            row = {"model": name, "kind": kind, "strength": strength, "value": float(right.mean()), "low": low}
            rows.append(row | {"high": high, "n": len(labels), "groups": bootstrap.n_groups})
    return pd.DataFrame(rows)
