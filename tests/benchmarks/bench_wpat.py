"""WPAT's speed: forward + backward against a timm Swin of equal parameters, and cost against pixels.

Run: python tests/benchmarks/bench_wpat.py [--threads 2] [--seconds 5]. Both networks are timed in this process, in turns,
so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import time

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leuk_lib.fcmae.encoder import build_encoder
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


def flops(model: nn.Module, side: int) -> int:
    """Floating-point operations of one forward pass of one image, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, side, side))
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    ours = wpat()
    theirs = swin(64, trainable(ours))
    print(f"parameters: WPAT {trainable(ours):,}, Swin (width {theirs.embed_dim}) {trainable(theirs):,}")
    rates = rate({"WPAT": ours, "Swin": theirs}, torch.randn(16, 3, 64, 64), given.seconds)
    print(f"forward + backward, 16 images of 64 px: WPAT {rates['WPAT']:.0f} img/s, Swin {rates['Swin']:.0f} img/s")
    print(f"ratio WPAT / Swin: {rates['WPAT'] / rates['Swin']:.2f}")

    print("\nside px   forward GFLOP   per pixel, relative to 64 px   forward+backward ms")
    first = flops(ours, 64) / 64**2
    for side in (64, 128, 256, 448):
        count = flops(ours, side)
        x = torch.randn(1, 3, side, side)
        step(ours, x)
        milliseconds = 1000 * min(step(ours, x) for _ in range(3))
        print(f"{side:7d}   {count / 1e9:13.3f}   {count / side**2 / first:28.3f}   {milliseconds:19.0f}")


if __name__ == "__main__":
    main()
