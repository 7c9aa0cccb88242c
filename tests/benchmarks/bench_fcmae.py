"""Whole FCMAE training step: visible sites only, dense with masks, and timm on images with hidden pixels set to 0.

Run as a script (`make bench` does): python tests/benchmarks/bench_fcmae.py [--repeats 7] [--variant atto] ...
Prints medians, ratios and the peak memory of a step; ends with code 1 if visible-only is not the fastest and smallest.
"""

from __future__ import annotations

import argparse
import sys

import torch

from leuk_lib.chapters.fcmae import step_costs
from leuk_lib.fcmae.encoder import VARIANTS
from leuk_lib.fcmae.params import FcmaeParams


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(VARIANTS), default="atto")
    parser.add_argument("--stem-stride", type=int, default=2, choices=(1, 2, 4))
    parser.add_argument("--size", type=int, default=96, help="image side in px")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--mask-ratio", type=float, default=0.6)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    params = FcmaeParams(variant=options.variant, stem_stride=options.stem_stride, mask_ratio=options.mask_ratio)
    table = step_costs(params, options.size, options.batch, options.repeats, options.device)
    print(
        f"ConvNeXt V2 {options.variant}, {options.size} px, batch {options.batch}, mask ratio {options.mask_ratio}, "
        f"{options.threads} threads, torch {torch.__version__}, {options.repeats} repeats"
    )
    print(table.round(2).to_string(index=False))
    others = table.iloc[1:]
    fastest = (others["relative time"] > 1).all()
    smallest = (others["peak MiB"] > table["peak MiB"].iloc[0]).all()
    return 0 if fastest and smallest else 1


if __name__ == "__main__":
    sys.exit(main())
