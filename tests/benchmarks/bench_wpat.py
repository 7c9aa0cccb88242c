"""WPAT's speed and memory: forward + backward against a timm Swin of equal parameters, and cost against pixels.

Run: python tests/benchmarks/bench_wpat.py [--threads 2] [--seconds 5]. Both networks are timed in this process, in turns,
so that a busy machine slows both. Ends with code 1 if WPAT is not 1.3 times as fast, or holds more memory than Swin.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from leuk_lib.chapters.fcmae import peak_memory
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.wpat.cost import SIDES, cost_table
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams


def trainable(model: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def wpat(stem_stride: int = 2) -> WPAT:
    """The laptop profile's WPAT."""
    torch.manual_seed(0)
    return WPAT(build_encoder("zepto", stem_stride), 4, WpatParams())


def swin(size: int, parameters: int, patch: int = 2) -> SwinTransformer:
    """A three-stage Swin on ``patch``-pixel patches whose width brings it nearest to ``parameters``."""

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


def rate(models: dict[str, nn.Module], x: torch.Tensor, seconds: float) -> dict[str, float]:
    """Images a second of each model: the median step, taken in turns for about ``seconds`` each."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        step(model, x)
    until = time.perf_counter() + seconds * len(models)
    while time.perf_counter() < until:
        for name, model in models.items():
            taken[name].append(step(model, x))
    return {name: len(x) / sorted(times)[len(times) // 2] for name, times in taken.items()}


def passes(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One forward and backward pass that leaves no gradient behind."""

    def once() -> None:
        model(x).square().sum().backward()
        model.zero_grad(set_to_none=True)

    return once


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    ours = wpat()
    theirs = swin(64, trainable(ours))
    x = torch.randn(16, 3, 64, 64)
    print(f"parameters: WPAT {trainable(ours):,}, Swin (width {theirs.embed_dim}) {trainable(theirs):,}")
    rates = rate({"WPAT": ours, "Swin": theirs}, x, given.seconds)
    faster = rates["WPAT"] / rates["Swin"]
    print(f"forward + backward, 16 images of 64 px: WPAT {rates['WPAT']:.0f} img/s, Swin {rates['Swin']:.0f} img/s")
    print(f"ratio WPAT / Swin: {faster:.2f}")
    held = [peak_memory(passes(model, x)) for model in (ours, theirs)]
    print(f"peak memory of that step: WPAT {held[0]:.0f} MB, Swin {held[1]:.0f} MB, ratio {held[0] / held[1]:.2f}")

    print("\nside px   encoder GFLOP   WPAT on it   a pixel, to 64 px   full attention, a pixel   forward+backward ms")
    cost = cost_table(ours, SIDES)
    a_pixel = cost[["wpat", "full_attention"]].div(cost["pixels"], axis=0)
    a_pixel = a_pixel / a_pixel.iloc[0]
    for row, times in zip(cost.to_dict("records"), a_pixel.to_dict("records"), strict=True):
        x = torch.randn(1, 3, row["side"], row["side"])
        step(ours, x)
        milliseconds = 1000 * min(step(ours, x) for _ in range(3))
        print(
            f"{row['side']:7d}   {row['encoder']:13.3f}   {row['wpat']:10.3f}   {times['wpat']:17.3f}   "
            f"{times['full_attention']:23.2f}   {milliseconds:19.0f}"
        )
    return 0 if faster >= 1.3 and held[0] <= held[1] else 1


if __name__ == "__main__":
    sys.exit(main())
