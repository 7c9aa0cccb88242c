"""Sanity check of attribution maps by cascading randomisation: does a map depend on the model, or only on the image?

The weights are replaced by random ones, part by part from the output down to the input, and the maps are computed again.
If a method's maps stay the same, they describe the image and not what the model has learned.

References:
    Adebayo, J. et al. (2018). Sanity checks for saliency maps. NeurIPS 31.
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
from leuk_lib.statistics.bootstrap import ClusterBootstrap
from leuk_lib.statistics.intervals import format_interval

Method = Callable[[nn.Module], Tensor]
COLUMNS = ["method", "randomised", "value", "low", "high", "n"]


def rank_correlation(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Spearman's rank correlation between two maps of each image.

    Args:
        a: (n,H,W) maps; ties share their mean rank.
        b: (n,H,W) maps of the same images.

    Returns:
        (n,) in [-1,1], NaN where one of the maps is constant.
    """
    ranks = [rankdata(maps.flatten(1).numpy(), axis=1) for maps in (a, b)]
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    length = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), length, out=np.full(len(x), np.nan), where=length > 0)


@torch.no_grad()
def randomise(model: nn.Module, prefixes: Sequence[str], seed: int, stream: Callable[[str], str] = str) -> int:
    """Redraw parameters in place from a normal distribution with each tensor's own mean and standard deviation.

    The scale of the weights stays and what was learned is lost. A draw depends only on the seed and ``stream(name)``.

    Args:
        model: the model to change.
        prefixes: parameters whose name begins with one of these are redrawn.
        seed: seed of the draws.
        stream: name of a parameter -> name of its random stream, for a model whose parameters were renamed.

    Returns:
        Number of changed elements.

    Raises:
        LeukError: a prefix that fits no parameter.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            raise LeukError(f"randomise: no parameter of {type(model).__name__} begins with {prefix!r}")
    changed = 0
    for name, parameter in model.named_parameters():
        if not name.startswith(tuple(prefixes)):
            continue
        random = torch.Generator().manual_seed(derive(seed, "randomise", stream(name)) % 2**63)
        values = parameter.detach().float().cpu()
        deviation = float(values.std(unbiased=False)) if values.numel() > 1 else 0.0
        drawn = values.mean() + deviation * torch.randn(values.shape, generator=random)
        parameter.copy_(drawn.to(parameter))
        changed += parameter.numel() if deviation > 0 else 0
    return changed


def cascading_randomisation(
    model: nn.Module, parts: Mapping[str, Sequence[str]], methods: Mapping[str, Method], seed: int,
    stream: Callable[[str], str] = str,
) -> pd.DataFrame:  # fmt: skip
    """Rank correlation of each cell's map with the trained model's map, as more and more of the model is random.

    Args:
        model: the trained model; it is copied, not changed.
        parts: name of a part -> prefixes of its parameters, from the output to the input. In the rows of a part all
            parts up to it are random.
        methods: name of a method -> function from a model to maps (n,H,W), always of the same cells and classes.
        seed: seed of the random weights.
        stream: as in :func:`randomise`.

    Returns:
        Columns method, randomised (part), cell (position), value (NaN where a map is constant).
    """
    trained = {name: method(model) for name, method in methods.items()}
    randomised, frames = copy.deepcopy(model), []
    for number, (part, prefixes) in enumerate(parts.items()):
        randomise(randomised, prefixes, seed, stream)
        up_to = part if number == 0 else f"… and {part}"
        for name, method in methods.items():
            values = rank_correlation(trained[name], method(randomised))
            frames.append(
                pd.DataFrame({"method": name, "randomised": up_to, "cell": np.arange(len(values)), "value": values})
            )
    return pd.concat(frames, ignore_index=True)


def summarise(cells: pd.DataFrame, groups: ArrayLike, seed: int, n_resamples: int = 1000) -> pd.DataFrame:
    """Mean correlation per method and degree of randomisation, with a 95 % interval over groups (NaN for one group).

    Args:
        cells: output of :func:`cascading_randomisation`; rows with NaN are left out.
        groups: (n,) group of each cell, by its position.
        seed: seed of the resamples.
        n_resamples: number of resamples.

    Returns:
        Columns method, randomised, value, low, high, n.

    Raises:
        LeukError: all maps of a method are constant.
    """
    group_of, rows = np.asarray(groups).astype(str), []
    for (method, randomised), part in cells.groupby(["method", "randomised"], sort=False):
        part = part[part["value"].notna()]
        if part.empty:
            raise LeukError(f"sanity check: every map of {method} is flat ({randomised} random), so none can be ranked")
        values = part["value"].to_numpy(dtype=np.float64)
        bootstrap = ClusterBootstrap(
            group_of[part["cell"].to_numpy()], n_resamples, numpy_rng(seed, "sanity", method, randomised)
        )
        value = float(values.mean())
        low, high = bootstrap.bounded_interval(value, bootstrap.means(values))
        rows.append((method, randomised, value, low, high, len(part)))
    return pd.DataFrame(rows, columns=COLUMNS)


def readable_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Correlation with a fully random model per method, and what it means: the interval against 1/2.

    Args:
        table: output of :func:`summarise`.
    """
    rows = []
    for name, part in table.groupby("method", sort=False):
        last = part.iloc[-1]
        if last["high"] < 0.5:
            meaning = "the model more than the image"
        elif last["low"] > 0.5:
            meaning = "mostly the image: read it with care"
        else:
            meaning = "undecided"
        rows.append((name, format_interval(last["value"], last["low"], last["high"], ".2f"), meaning))
    return pd.DataFrame(rows, columns=["map", "rank correlation with the map of a random model", "the map shows"])


def record(stage: Recorder, table: pd.DataFrame, prefix: str = "sanity") -> None:
    """Record each method's correlation with a fully random model in a stage's metrics as ``<prefix>_<method>``."""
    for method, part in table.groupby("method", sort=False):
        last = part.iloc[-1]
        key = f"{prefix}_{str(method).replace(' ', '_')}"
        stage.record(key, float(last["value"]), float(last["low"]), float(last["high"]), int(last["n"]))
