"""What chapter 5 draws: the model's tensors, what its windows and latents look at, cells to show. Arrays and tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from leuk_lib.fcmae.weights import load_backbone
from leuk_lib.training.augment import normalise
from leuk_lib.wpat.model import WPAT, Layout, paint
from leuk_lib.wpat.params import WpatParams


def tensor_table(encoder_path: Path, params: WpatParams, size: int, n_classes: int) -> pd.DataFrame:
    """Every tensor between image and logits, with its step and size: name, step, height, width, channels."""
    encoder = load_backbone(encoder_path)
    with torch.no_grad():
        maps = encoder.eval()(torch.zeros(1, 3, size, size))
    used = list(zip(encoder.strides, maps, strict=True))
    sizes = [(m.shape[2], m.shape[3]) for m in maps[-params.scales :]]
    layout = Layout.of(sizes, params.window, torch.device("cpu"))
    rows: list[tuple[str, str, int, int, int]] = [("image", "image", size, size, 3)]
    rows += [(f"stride {s}", "encoder", m.shape[2], m.shape[3], m.shape[1]) for s, m in used]
    rows += [(f"tokens {s}", "window tokens", m.shape[2], m.shape[3], params.dim) for s, m in used[-params.scales :]]
    rows += [
        ("regions", "region tokens", sum(layout.counts), 1, params.dim),
        ("latents", "latents", params.latents, 1, params.dim),
        ("queries", "class queries", n_classes, 1, params.dim),
    ]
    if params.pooled:  # mean, deviation and maximum of every channel of every map
        rows.append(("pooled", "pooled features", 3, 1, sum(encoder.channels)))
    rows.append(("logits", "logits", n_classes, 1, 1))
    return pd.DataFrame(rows, columns=["name", "step", "height", "width", "channels"])


def parameter_counts(model: WPAT) -> pd.DataFrame:
    """Trainable numbers of the encoder and of what WPAT puts on it."""
    encoder = sum(p.numel() for p in model.encoder.parameters())
    rest = sum(p.numel() for p in model.parameters()) - encoder
    return pd.DataFrame({"part": ["encoder", "windows, latents, queries"], "parameters": [encoder, rest]})


@dataclass(frozen=True)
class Seen:
    """One image and the attention of the last pair: strides of the scales, region (H,W), latents (n,H,W)."""

    image: NDArray[np.uint8]
    strides: tuple[int, ...]
    region: NDArray[Any]
    latents: NDArray[Any]


@torch.no_grad()
def seen_by(model: WPAT, image: Tensor, shown: int = 4) -> Seen:
    """What region tokens of the finest scale look at, and what the ``shown`` most different latents read.

    image (3,H,W) uint8. Latents are chosen greedily, each the farthest from those before.
    """
    device = next(model.parameters()).device
    x = normalise(image[None].to(device))
    look = model.look(x, need_weights=True)
    assert look.inside is not None and look.between is not None  # asked for
    size = (int(x.shape[-2]), int(x.shape[-1]))
    finest = torch.zeros(1, 1, sum(look.layout.counts), device=device)
    finest[..., : look.layout.counts[0]] = 1
    region = paint(finest, look.inside, look.layout, model.side, size)[0, 0]
    maps = paint(look.between[0], look.inside, look.layout, model.side, size)[0]
    chosen = [0]
    distance = torch.cdist(maps.flatten(1), maps.flatten(1))
    while len(chosen) < min(shown, len(maps)):
        chosen.append(int(distance[chosen].min(dim=0).values.argmax()))
    strides = model.encoder.strides[-model.scales :]
    return Seen(image.permute(1, 2, 0).numpy(), tuple(strides), region.cpu().numpy(), maps[chosen].cpu().numpy())


def cells_to_show(
    labels: NDArray[np.int64], probs: NDArray[Any], classes: tuple[str, ...], shown: int
) -> dict[str, pd.DataFrame]:
    """Up to ``shown`` right and wrong cells each: the surest of every class in turn, and the surest mistakes.

    labels (n,), probs (n,K). Columns: position, label, predicted, probability.
    """
    predicted = probs.argmax(axis=1)
    table = pd.DataFrame(
        {
            "position": np.arange(len(labels)), "label": [classes[k] for k in labels],
            "predicted": [classes[k] for k in predicted], "probability": probs.max(axis=1),
        }
    )  # fmt: skip
    table = table.sort_values("probability", ascending=False, kind="stable")
    right = table[table["label"] == table["predicted"]]
    turn = right.groupby("label").cumcount()
    right = right.assign(turn=turn).sort_values(["turn", "label"], kind="stable").drop(columns="turn")
    wrong = table[table["label"] != table["predicted"]]
    return {"right": right.head(shown), "wrong": wrong.head(shown)}


def spread_out(count: int, wanted: int) -> Tensor:
    """``wanted`` positions (or all) evenly spread over range(count)."""
    wanted = min(count, wanted)
    return torch.linspace(0, count - 1, wanted).round().long() if wanted else torch.zeros(0, dtype=torch.long)
