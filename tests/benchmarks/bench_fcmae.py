"""Whole FCMAE training step: visible sites only, against dense with masks and against timm with zeroed input.

Run as a script (`make bench` does): python tests/benchmarks/bench_fcmae.py [--repeats 7] [--variant atto] …
Prints medians, ratios and the peak memory of a step; ends with code 1 if visible-only is not the fastest and smallest.
"""

from __future__ import annotations

import argparse
import sys

import torch

from leuk_lib.fcmae.encoder import VARIANTS
from leuk_lib.fcmae.speed import DENSE, VISIBLE, ZEROED, measure, peak_memory, ratios, training_step


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
    steps = {
        form: training_step(
            form, options.variant, options.stem_stride, options.size, options.batch, options.mask_ratio,
            device=options.device,
        )
        for form in (VISIBLE, DENSE, ZEROED)
    }  # fmt: skip
    seconds = measure(steps, options.repeats)
    table = ratios(seconds, {form: peak_memory(step, options.device) for form, step in steps.items()})
    table["first, of its memory"] = table["peak MB"].iloc[0] / table["peak MB"]
    print(
        f"ConvNeXt V2 {options.variant}, {options.size} px, batch {options.batch}, mask ratio {options.mask_ratio}, "
        f"{options.threads} threads, torch {torch.__version__}, {options.repeats} repeats"
    )
    print(table.round(2).to_string(index=False))
    return 0 if bool((table.iloc[1:, 2] > 1).all() and (table["first, of its memory"].iloc[1:] < 1).all()) else 1


if __name__ == "__main__":
    sys.exit(main())
