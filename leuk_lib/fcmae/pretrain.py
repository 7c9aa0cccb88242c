"""Masked pretraining of an encoder on unlabelled images: one function, resumable, on one or many processes."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from leuk_lib.fcmae.autoencoder import MaskedAutoencoder, split_loss, stained_patches
from leuk_lib.fcmae.contrast import Projector, info_nce
from leuk_lib.fcmae.encoder import Encoder, build_encoder, init_weights
from leuk_lib.fcmae.masking import random_masks
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import torch_generator
from leuk_lib.training.augment import dihedral, random_resized_crop, stain_jitter
from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.fabric import Fabric
from leuk_lib.training.loop import Stateful, TrainingLoop
from leuk_lib.training.optimisers import build_optimisers, set_learning_rate
from leuk_lib.training.schedules import warming_decay, warmup_cosine


class Monitor(Protocol):
    """Looks at the encoder after `steps` optimiser steps (0: the start); its state joins the checkpoint.

    Of several processes the first looks, and its state is handed to the others.
    """

    steps: Collection[int]

    def __call__(self, step: int, encoder: Encoder) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class PretrainResult:
    """The trained encoder, its autoencoder, and one row of `history` a step (step, loss, stained, field, lr)."""

    encoder: Encoder
    autoencoder: MaskedAutoencoder
    history: list[dict[str, Any]]


def mask_grid(size: int, params: FcmaeParams) -> tuple[int, int]:
    """Patches along the sides of S x S images. Raises LeukError if the mask patch does not divide them."""
    patch = 8 * params.stem_stride
    if size % patch or size // patch < 2:
        fitting = [s for s in (1, 2, 4) if size % (8 * s) == 0 and size // (8 * s) >= 2]
        advice = f"choose stem_stride {' or '.join(map(str, fitting))}" if fitting else "choose another image size"
        raise LeukError(
            f"images of {size} px cannot be masked in patches of {patch} px (8 x stem_stride {params.stem_stride}): "
            f"{advice}"
        )
    return size // patch, size // patch


def build_autoencoder(params: FcmaeParams) -> MaskedAutoencoder:
    """The untrained autoencoder of these parameters; its weights are a function of the seed."""
    generator = torch_generator(params.seed, "fcmae", "init")
    encoder = build_encoder(params.variant, params.stem_stride, generator=generator, init=params.init)
    autoencoder = MaskedAutoencoder(encoder, params.decoder_dim, params.norm_pix, params.norm_pix_eps)
    autoencoder.init_decoder(generator, params.init)
    return autoencoder


def build_projector(params: FcmaeParams, channels: int) -> Projector | None:
    """The untrained projector of the contrastive term, or None without one."""
    if not params.contrast:
        return None
    projector = Projector(channels)
    init_weights(projector, torch_generator(params.seed, "fcmae", "projector"), "fan_in")
    return projector


def pretrain(
    images: Tensor,
    params: FcmaeParams,
    folder: Path,
    identity: str,
    fabric: Fabric,
    monitor: Monitor | None = None,
) -> PretrainResult:
    """Train an encoder to fill in hidden patches of `images`; continues from a checkpoint of the same identity.

    images (N, 3, S, S) uint8, the training part only; labels are not asked for. `folder` takes the checkpoint.
    Weights are bit-identical however often the run was killed; `devices` and `accumulate` change them by
    rounding only. With `ema_decay` the weights' moving average is what is looked at and returned.
    Raises LeukError if S, the batch, the processes or the chunks do not fit together.
    """
    grid = mask_grid(images.shape[-1], params)
    batch, world = params.batch_size, fabric.world_size
    if batch % (world * params.accumulate):
        raise LeukError(
            f"batch_size {batch} cannot be cut into {world} processes x accumulate {params.accumulate} equal parts"
        )
    if params.contrast and params.accumulate > 1:
        raise LeukError(
            f"accumulate {params.accumulate} with contrast {params.contrast:g}: the contrastive term compares the whole "
            "batch at once; set contrast to 0 or accumulate to 1"
        )
    bare = build_autoencoder(params)
    some = torch.linspace(0, len(images) - 1, min(len(images), 256)).round().long()
    bare.start_at(images[some].float() / 255)
    projector = build_projector(params, bare.encoder.channels[-1])
    if projector is None:
        bare.encoder.norm.requires_grad_(False)  # belongs to the head: no pretraining gradient reaches it
    else:
        bare.projector = projector
    # Muon, as AdamW's early updates have few directions: on images as alike as blood cells the features then lose the
    # other directions within some hundred steps.
    optimisers = build_optimisers(
        bare, params.weight_decay, params.muon, lambda name, _: name == "pred", betas=(0.9, 0.95)
    )
    peak, warmup = params.lr_scale * batch / 256, round(params.warmup * params.steps)
    model, *steppers = fabric.setup(bare, *optimisers.values())
    average = WeightAverage(bare) if params.ema_decay else None
    kept = bare if average is None else cast(MaskedAutoencoder, average.model)
    loop = TrainingLoop(fabric, folder, identity, params.steps, params.seed, "FCMAE", params.checkpoint_every)
    states: dict[str, Stateful | None] = {"model": bare, **optimisers, "average": average, "monitor": monitor}
    loop.register(**{name: state for name, state in states.items() if state is not None})

    def look(step: int) -> None:
        if monitor is None or step not in monitor.steps:
            return
        if fabric.global_rank == 0:
            kept.eval()
            monitor(step, kept.encoder)
            bare.train()
        if fabric.world_size > 1:  # one process looks, but all go on to read what it saw
            monitor.load_state_dict(fabric.broadcast(monitor.state_dict()))

    bare.train()
    views = 2 if params.contrast else 1
    # Every view draws for itself: the global batch of draws is as many times as long.
    total = batch * views
    rows = torch.cat([loop.shard(torch.arange(batch)) + view * batch for view in range(views)])
    for step in loop:
        look(step)
        lr = warmup_cosine(step, params.steps, peak, warmup + 1, warmup)
        set_learning_rate(optimisers, lr, params.muon)
        mine = loop.shard(loop.batch(step, len(images), batch)).repeat(views)
        x = images[mine].to(fabric.device).float() / 255
        x = random_resized_crop(
            x, loop.generator(step, "crop"), scale=(params.crop_min, 1.0), rows=rows, total=total
        ).clamp(0, 1)
        x = dihedral(x, loop.generator(step, "dihedral"), rows=rows, total=total)
        if projector is not None:
            x = stain_jitter(x, loop.generator(step, "stain"), params.stain, rows=rows, total=total)
        visible = random_masks(total, grid, params.mask_ratio, loop.generator(step, "mask"))[rows]
        losses, parts = _backward(fabric, model, x, visible.to(fabric.device), params, projector)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        if average is not None:
            average.update(bare, warming_decay(params.ema_decay, step))
        _log(loop, fabric, losses, parts, lr)
    look(params.steps)
    kept.requires_grad_(True).train()
    return PretrainResult(kept.encoder, kept, loop.history)


def _backward(
    fabric: Fabric, model: Any, x: Tensor, visible: Tensor, params: FcmaeParams, projector: Projector | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of the batch in `accumulate` passes; returns its mean losses and the sums of `split_loss`."""
    patch, chunks = x.shape[-1] // visible.shape[-1], params.accumulate
    losses = {"loss": torch.zeros((), device=x.device)}
    parts = torch.zeros(4, device=x.device)
    pairs = list(zip(x.chunk(chunks), visible.chunk(chunks), strict=True))
    for position, (part, mask) in enumerate(pairs):
        wait = fabric.no_backward_sync(model) if position < len(pairs) - 1 else nullcontext()
        with wait:
            out = model(part, mask)
            whole = out.loss
            if projector is not None:
                losses["contrast"] = info_nce(projector(_everybodys(fabric, out.pooled)))
                whole = whole + params.contrast * losses["contrast"]
            fabric.backward(whole / chunks)
        losses["loss"] += out.loss.detach() / chunks
        parts += split_loss(out.patch_loss, mask, stained_patches(part, patch))
    return {name: value.detach() for name, value in losses.items()}, parts


def _everybodys(fabric: Fabric, pooled: Tensor) -> Tensor:
    """All processes' pooled features (2n, C) as one batch (2N, C), first views first, with their gradients."""
    if fabric.world_size == 1:
        return pooled.float()
    gathered: Any = fabric.all_gather(pooled.float(), sync_grads=True)  # (world, 2n, C)
    return torch.cat([view.flatten(0, 1) for view in gathered.chunk(2, dim=1)])


def _log(loop: TrainingLoop, fabric: Fabric, losses: dict[str, Tensor], parts: Tensor, lr: float) -> None:
    """One history row of the global batch: mean losses, and the error on stained patches and empty field apart."""
    means: dict[str, Any] = {name: fabric.all_reduce(value, reduce_op="mean") for name, value in losses.items()}
    sums: Any = fabric.all_reduce(parts, reduce_op="sum")
    stained, n_stained, field, n_field = sums.tolist()
    row = {name: float(mean) for name, mean in means.items()} | {"lr": lr}
    if n_stained:
        row["stained"] = stained / n_stained
    if n_field:
        row["field"] = field / n_field
    if not math.isfinite(row["loss"]):
        raise LeukError(f"FCMAE: the loss became {row['loss']} at step {loop.step}; lower lr_scale")
    loop.log(**row)
