"""How long a whole training step takes: visible sites only, dense with masks, or timm with zeroed input."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from leuk_lib.fcmae.autoencoder import MaskedAutoencoder
from leuk_lib.fcmae.encoder import VARIANTS, build_encoder
from leuk_lib.fcmae.masking import random_masks, upsample_mask
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.training.augment import normalise

VISIBLE, DENSE, ZEROED = "visible sites only", "dense with masks", "timm, input zeroed"


class _ZeroedEncoder(nn.Module):
    """What one would write without masked compute: timm's ConvNeXt V2 on an image with hidden pixels set to 0.

    Its blocks see the hole's edge and compute every site. It stands in for our encoder in timing only.
    """

    def __init__(self, variant: str, stem_stride: int) -> None:
        super().__init__()
        from timm.models.convnext import ConvNeXt

        spec = VARIANTS[variant]
        # timm's patch_size 2 adds a fifth halving: build the usual stem and replace it by ours.
        body = ConvNeXt(
            depths=spec["depths"], dims=spec["dims"], use_grn=True, ls_init_value=None, num_classes=0,
            conv_mlp=variant not in ("tiny", "base"),
        )  # fmt: skip
        body.stem[0] = nn.Conv2d(3, spec["dims"][0], stem_stride, stem_stride)
        self.stem, self.stages, self.norm = body.stem, body.stages, nn.LayerNorm(spec["dims"][-1])
        self.channels: tuple[int, ...] = spec["dims"]
        self.patch = 8 * stem_stride

    def forward(self, x: Tensor, visible: Tensor, dense: bool = False) -> list[Tensor]:
        """Features of the last stage, as a list of one."""
        return [self.stages(self.stem(x * upsample_mask(visible, self.patch)[:, None]))]


def training_step(
    form: str,
    variant: str = "atto",
    stem_stride: int = 2,
    size: int = 96,
    batch: int = 32,
    mask_ratio: float = 0.6,
    decoder_dim: int = 128,
    device: str = "cpu",
) -> Callable[[], None]:
    """A closure that makes one whole training step (forward, backward, AdamW) of the given form.

    `form`: VISIBLE, DENSE or ZEROED. Images are noise: the time does not depend on them.
    """
    generator = torch.Generator().manual_seed(0)
    if form == ZEROED:
        encoder: nn.Module = _ZeroedEncoder(variant, stem_stride)
    elif form in (VISIBLE, DENSE):
        encoder = build_encoder(variant, stem_stride, generator=generator)
    else:
        raise ValueError(f"form {form!r} is none of {VISIBLE!r}, {DENSE!r}, {ZEROED!r}")
    model = MaskedAutoencoder(encoder, decoder_dim).to(device)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = normalise(torch.rand(batch, 3, size, size, generator=generator)).to(device)
    side = size // (8 * stem_stride)
    visible = random_masks(batch, (side, side), mask_ratio, generator).to(device)

    def step() -> None:
        loss = model(images, visible, dense=form == DENSE).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def measure(steps: Mapping[str, Callable[[], None]], repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of every repeat of every step, after one warm-up each.

    The forms take turns, so that another load on the machine hits all alike and the ratio stays fair.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(step: Callable[[], None], device: str = "cpu") -> float:
    """Most bytes that a step holds at one time above what was there before it: activations and gradients, in MB.

    On the CPU as torch's profiler sees its allocator, on a GPU as CUDA's own statistics do.
    """
    step()  # the optimiser's state is made by the first step and stays
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0) / 2**20


def ratios(seconds: Mapping[str, list[float]], megabytes: Mapping[str, float] | None = None) -> pd.DataFrame:
    """One row a form: median milliseconds a step, how often the first form fits into it (median over the paired
    repeats), and with `megabytes` its peak memory."""
    first = next(iter(seconds))
    rows = []
    for name, values in seconds.items():
        times = [a / b for a, b in zip(values, seconds[first], strict=True)]
        rows.append(
            {"form": name, "ms a step": 1e3 * statistics.median(values), "times the first": statistics.median(times)}
        )
    table = pd.DataFrame(rows)
    return table if megabytes is None else table.assign(**{"peak MB": [megabytes[name] for name in seconds]})


def compare(params: FcmaeParams, size: int, batch: int = 16, repeats: int = 3) -> pd.DataFrame:
    """Time and peak memory (`ratios`) of a run's own model in all three forms, on `batch` noise images of `size` px."""
    forms = {
        form: training_step(
            form, params.variant, params.stem_stride, size, batch, params.mask_ratio, params.decoder_dim
        )
        for form in (VISIBLE, DENSE, ZEROED)
    }
    return ratios(measure(forms, repeats), {form: peak_memory(step) for form, step in forms.items()})
