"""Speed and memory of WPAT against a timm Swin with as many parameters, and cost against image size.

Run: python tests/benchmarks/bench_wpat.py [--threads 2] [--seconds 5]. The networks are timed in turns in one process, so
that a busy machine slows both. Exit code 1 if WPAT is less than 1.3 times as fast as Swin, or needs more memory.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from timing import in_turns, ratio
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from leuk_lib.chapters.fcmae import peak_memory
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.wpat.cost import SIDES, cost_table
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams


def trainable(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def wpat(stem_stride: int = 2) -> WPAT:
    """WPAT of the laptop profile."""
    torch.manual_seed(0)
    return WPAT(build_encoder("zepto", stem_stride), 4, WpatParams())


def swin(size: int, parameters: int, patch: int = 2) -> SwinTransformer:
    """A Swin with three stages, of the width whose number of parameters is closest to ``parameters``."""

    def build(dim: int) -> SwinTransformer:
        return SwinTransformer(
            img_size=size, patch_size=patch, num_classes=4, window_size=4, embed_dim=dim, depths=(2, 2, 4),
            num_heads=(2, 4, 8),
        )  # fmt: skip

    best = min(range(16, 129, 8), key=lambda dim: abs(trainable(build(dim)) - parameters))
    return build(best)


def step(model: nn.Module, x: torch.Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    model(x).square().sum().backward()
    return time.perf_counter() - start


def step_times(models: dict[str, nn.Module], x: torch.Tensor, seconds: float) -> dict[str, NDArray[np.float64]]:
    """Seconds of a step of each model, the minimum of three per round; the models take turns for ``seconds`` each."""
    longest = max(max(step(model, x) for _ in range(2)) for model in models.values())
    rounds = max(3, round(seconds / (3 * longest)))
    return in_turns({name: functools.partial(step, model, x) for name, model in models.items()}, rounds)


def forward_backward(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A function that runs a forward and a backward pass and frees the gradients."""

    def run() -> None:
        model(x).square().sum().backward()
        model.zero_grad(set_to_none=True)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    ours = wpat()
    theirs = swin(64, trainable(ours))
    x = torch.randn(16, 3, 64, 64)
    print(f"parameters: WPAT {trainable(ours):,}, Swin (width {theirs.embed_dim}) {trainable(theirs):,}")
    times = step_times({"WPAT": ours, "Swin": theirs}, x, arguments.seconds)
    rates = {name: len(x) / seconds.min() for name, seconds in times.items()}
    speedup = ratio(times["Swin"], times["WPAT"])
    print(f"forward + backward, 16 images of 64 px: WPAT {rates['WPAT']:.0f} img/s, Swin {rates['Swin']:.0f} img/s")
    print(f"WPAT is {speedup} times as fast as Swin")
    memory = [peak_memory(forward_backward(model, x)) for model in (ours, theirs)]
    print(
        f"peak memory of that step: WPAT {memory[0]:.0f} MB, Swin {memory[1]:.0f} MB, ratio {memory[0] / memory[1]:.2f}"
    )

    print(
        "\nside px   encoder GFLOP   WPAT GFLOP   per pixel, to 64 px   full attention, per pixel   forward+backward ms"
    )
    cost = cost_table(ours, SIDES)
    per_pixel = cost[["wpat", "full_attention"]].div(cost["pixels"], axis=0)
    per_pixel = per_pixel / per_pixel.iloc[0]
    for row, relative in zip(cost.to_dict("records"), per_pixel.to_dict("records"), strict=True):
        x = torch.randn(1, 3, row["side"], row["side"])
        step(ours, x)
        milliseconds = 1000 * min(step(ours, x) for _ in range(3))
        print(
            f"{row['side']:7d}   {row['encoder']:13.3f}   {row['wpat']:10.3f}   {relative['wpat']:17.3f}   "
            f"{relative['full_attention']:23.2f}   {milliseconds:19.0f}"
        )
    return 0 if speedup.value >= 1.3 and memory[0] <= memory[1] else 1


if __name__ == "__main__":
    sys.exit(main())
