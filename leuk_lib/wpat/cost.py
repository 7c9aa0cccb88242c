"""Floating-point operations of WPAT against image size, counted by PyTorch on meta tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from leuk_lib.wpat.attention import CosineAttention
from leuk_lib.wpat.model import WPAT

SIDES = (64, 96, 128, 192, 256, 320, 384, 448)  # pixels


def cost_table(model: WPAT, sides: Sequence[int] = SIDES) -> pd.DataFrame:
    """Operations of one forward pass of one image.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two operations; norms and
    activations, which are linear in the pixels, are not.

    Args:
        model: A WPAT; not changed.
        sides: Sides of square images in pixels.

    Returns:
        One row per side, operations in GFLOP: side, pixels, tokens, encoder, wpat (everything on top of the encoder),
        full_attention (attention among all tokens instead of within windows, of the same width and depth).
    """
    meta = copy.deepcopy(model).to("meta").requires_grad_(False)
    maps: list[Tensor] = []

    def keep(encoder: nn.Module, images: tuple[Tensor], out: list[Tensor]) -> None:
        maps[:] = out[-meta.levels :]

    meta.encoder.register_forward_hook(keep)
    rows = []
    for side in sides:
        image = torch.empty(1, 3, side, side, device="meta")
        with FlopCounterMode(display=False) as counter:
            meta(image)
        total = counter.get_total_flops()
        encoder = sum(counter.get_flop_counts()[f"{type(meta).__name__}.encoder"].values())
        tokens = sum(m.shape[2] * m.shape[3] for m in maps)
        all_tokens = torch.empty(1, 1, tokens, meta.region_token.shape[0], device="meta")
        with FlopCounterMode(display=False) as counter:
            for module in meta.window_blocks.modules():
                if isinstance(module, CosineAttention):
                    module(all_tokens, all_tokens)
        rows.append(
            {
                "side": side, "pixels": side**2, "tokens": tokens, "encoder": encoder / 1e9,
                "wpat": (total - encoder) / 1e9, "full_attention": counter.get_total_flops() / 1e9,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
