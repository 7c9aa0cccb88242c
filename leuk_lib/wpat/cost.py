"""What WPAT costs against the image's size: floating-point operations, counted by torch on shapes without numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from leuk_lib.wpat.attention import CosineAttention
from leuk_lib.wpat.model import WPAT

SIDES = (64, 96, 128, 192, 256, 320, 384, 448)  # pixels


def cost_table(model: WPAT, sides: Sequence[int] = SIDES) -> pd.DataFrame:
    """Operations (GFLOP) of one forward pass of one image, a row a side: pixels, tokens, encoder, wpat, full_attention.

    ``wpat``: everything on top of the encoder. ``full_attention``: what one attention of the same width among all
    tokens of the scales would cost instead of the windows, for as many pairs. Matrix products, convolutions and
    attention are counted, a multiplication and an addition as two; norms and activations, linear in pixels, are not.
    """
    shape = copy.deepcopy(model).to("meta")
    rows = []
    for side in sides:
        image = torch.empty(1, 3, side, side, device="meta")
        with FlopCounterMode(display=False) as counter:
            shape(image)
        whole = counter.get_total_flops()
        encoder = sum(counter.get_flop_counts()[f"{type(shape).__name__}.encoder"].values())
        maps = shape.encoder(image)[-shape.scales :]
        tokens = sum(m.shape[2] * m.shape[3] for m in maps)
        everything = torch.empty(1, 1, tokens, shape.region.shape[0], device="meta")
        with FlopCounterMode(display=False) as counter:
            for module in shape.window_steps.modules():
                if isinstance(module, CosineAttention):
                    module(everything, everything)
        rows.append(
            {
                "side": side, "pixels": side**2, "tokens": tokens, "encoder": encoder / 1e9,
                "wpat": (whole - encoder) / 1e9, "full_attention": counter.get_total_flops() / 1e9,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
