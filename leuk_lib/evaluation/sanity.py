"""Does a map explain the model, or only the picture? The test by randomised weights of Adebayo et al. (2018).

A model's weights are made random part by part, from the answer down to the image (cascading randomisation), and the maps
are drawn again. A method whose maps do not change describes the image, not what the model has learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap, percentile_interval

Method = Callable[[nn.Module], Tensor]
COLUMNS = ["method", "randomised", "value", "low", "high", "n"]


def rank_correlation(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Spearman's correlation of every image's two maps, (n,H,W) each: (n,); ties share their ranks, NaN for a flat map."""
    ranks = [rankdata(maps.flatten(1).numpy(), axis=1) for maps in (a, b)]
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    length = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), length, out=np.full(len(x), np.nan), where=length > 0)


@torch.no_grad()
def randomise(model: nn.Module, prefixes: Sequence[str], seed: int) -> int:
    """Redraw, in place, every parameter whose name begins with one of ``prefixes``; returns how many numbers changed.

    A tensor is drawn from a normal distribution with its own mean and deviation, so that sizes stay and only what was
    learned goes; a tensor depends on the seed and its name alone. Raises ``LeukError`` for a prefix that fits no
    parameter.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            raise LeukError(f"randomise: no parameter of {type(model).__name__} begins with {prefix!r}")
    changed = 0
    for name, parameter in model.named_parameters():
        if not name.startswith(tuple(prefixes)):
            continue
        random = torch.Generator().manual_seed(derive(seed, "randomise", name) % 2**63)
        values = parameter.detach().float().cpu()
        deviation = float(values.std(unbiased=False)) if values.numel() > 1 else 0.0
        drawn = values.mean() + deviation * torch.randn(values.shape, generator=random)
        parameter.copy_(drawn.to(parameter))
        changed += parameter.numel() if deviation > 0 else 0
    return changed


def cascading_randomisation(
    model: nn.Module, parts: Mapping[str, Sequence[str]], methods: Mapping[str, Method], seed: int
) -> pd.DataFrame:
    """Rank correlation of each cell's map with that of the trained model, as more and more of the model is random.

    ``parts``: name -> prefixes of its parameters, the answer's side first; in a part's rows all parts up to it are
    random. ``methods``: name -> maps (n,H,W) of a model, of the same cells and classes each time. Columns: method,
    randomised, cell, value (NaN where a map is flat). ``model`` is left as it is.
    """
    first = {name: method(model) for name, method in methods.items()}
    spoiled, frames = copy.deepcopy(model), []
    for number, (part, prefixes) in enumerate(parts.items()):
        randomise(spoiled, prefixes, seed)
        up_to = part if number == 0 else f"… and {part}"
        for name, method in methods.items():
            found = rank_correlation(first[name], method(spoiled))
            frames.append(
                pd.DataFrame({"method": name, "randomised": up_to, "cell": np.arange(len(found)), "value": found})
            )
    return pd.concat(frames, ignore_index=True)


def summarise(cells: pd.DataFrame, groups: ArrayLike, seed: int, n_resamples: int = 1000) -> pd.DataFrame:
    """A row a method and degree of randomness: mean over the cells whose maps are not flat, 95 % interval, n.

    ``cells``: as :func:`cascading_randomisation` gives them; ``groups`` by their column ``cell``: the interval resamples whole groups.
    Raises ``LeukError`` where every map is flat.
    """
    group_of, rows = np.asarray(groups).astype(str), []
    for (method, randomised), part in cells.groupby(["method", "randomised"], sort=False):
        part = part[part["value"].notna()]
        if part.empty:
            raise LeukError(f"sanity check: every map of {method} is flat ({randomised} random)")
        values = part["value"].to_numpy(dtype=np.float64)
        bootstrap = ClusterBootstrap(
            group_of[part["cell"].to_numpy()], n_resamples, numpy_rng(seed, "sanity", method, randomised)
        )
        low, high = percentile_interval(bootstrap.means(values))
        rows.append((method, randomised, float(values.mean()), low, high, len(part)))
    return pd.DataFrame(rows, columns=COLUMNS)


def readable_summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a method: the correlation where everything is random, and what its interval, beside 1/2, says of the map."""
    rows = []
    for name, part in table.groupby("method", sort=False):
        end = part.iloc[-1]
        if end["high"] < 0.5:
            meaning = "the model's more than the image's"
        elif end["low"] > 0.5:
            meaning = "mostly the image's: read it with care"
        else:
            meaning = "undecided"
        rows.append((name, f"{end['value']:.2f} [{end['low']:.2f}, {end['high']:.2f}]", meaning))
    return pd.DataFrame(rows, columns=["map", "rank correlation with a wholly random model's map", "the map is"])


def record(stage: Recorder, table: pd.DataFrame, prefix: str = "sanity") -> None:
    """Put each method's last row, everything random, into a stage's metrics as ``<prefix>_<method>``."""
    for method, part in table.groupby("method", sort=False):
        end = part.iloc[-1]
        key = f"{prefix}_{str(method).replace(' ', '_')}"
        stage.record(key, float(end["value"]), float(end["low"]), float(end["high"]), int(end["n"]))
