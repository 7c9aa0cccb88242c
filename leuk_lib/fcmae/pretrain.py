"""Masked pretraining of an encoder on unlabelled images; resumable, on one or several processes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from leuk_lib.fcmae.autoencoder import MaskedAutoencoder, split_loss, stained_patches
from leuk_lib.fcmae.contrast import Projector, info_nce
from leuk_lib.fcmae.encoder import Encoder, build_encoder, init_weights
from leuk_lib.fcmae.masking import random_masks
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import torch_generator
from leuk_lib.training.augment import dihedral, light_jitter, random_resized_crop, stain_jitter
from leuk_lib.training.compilation import compiled
from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.loop import Stateful, TrainingLoop
from leuk_lib.training.optimisers import build_optimisers, set_learning_rate
from leuk_lib.training.passes import passes
from leuk_lib.training.schedules import warming_decay, warmup_cosine
from leuk_lib.training.subset import evenly_spaced
from leuk_lib.training.transfer import ImageSource, on_device

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric


class Monitor(Stateful, Protocol):
    """Evaluates the encoder during pretraining.

    Its state is part of the checkpoint. With several processes only the first calls it, and the others receive its
    state.

    Attributes:
        steps: Numbers of optimiser steps after which it is called; 0: before the first.
    """

    steps: Collection[int]

    def __call__(self, step: int, encoder: Encoder) -> None:
        """Evaluate `encoder`, which has been trained for `step` steps."""
        ...


@dataclass(frozen=True)
class PretrainResult:
    """The trained encoder, its autoencoder, and one row of `history` per step (step, loss, stained, field, lr)."""

    encoder: Encoder
    autoencoder: MaskedAutoencoder
    history: list[dict[str, Any]]


def mask_grid(size: int, params: FcmaeParams) -> tuple[int, int]:
    """Number of patches along height and width of images with `size` x `size` pixels.

    Raises:
        LeukError: The mask patch does not divide the image into at least 2 x 2 patches.
    """
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
    """Build the untrained autoencoder; its weights depend on `params` only, the seed included."""
    generator = torch_generator(params.seed, "fcmae", "init")
    encoder = build_encoder(params.variant, params.stem_stride, generator=generator, init=params.init)
    autoencoder = MaskedAutoencoder(encoder, params.decoder_dim, params.norm_pix, params.norm_pix_eps)
    autoencoder.init_decoder(generator, params.init)
    return autoencoder


def build_projector(params: FcmaeParams, channels: int) -> Projector | None:
    """Build the untrained projector of the contrastive term; None without such a term."""
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
    start: Encoder | None = None,
) -> PretrainResult:
    """Train an encoder to reconstruct hidden patches, or continue from a checkpoint of the same identity.

    With ``params.steps`` 0 the encoder is returned as it starts.

    The weights are equal to the bit however often the run was interrupted; `devices` and `accumulate` change them by
    rounding only. With `ema_decay` the moving average of the weights is monitored and returned.

    Args:
        images: (N, 3, S, S) uint8, the training part only.
        params: Parameters of the stage.
        folder: Where the checkpoint is kept.
        identity: A checkpoint with another identity is not continued.
        fabric: From `make_fabric`.
        monitor: Called during training; see `Monitor`.
        start: Encoder whose weights to start from, of the variant and stem stride of `params`; None: random weights.

    Raises:
        LeukError: The image size, the batch, the processes and `accumulate` do not fit together, or the loss is no
            longer finite.
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
    model = build_autoencoder(params)
    if start is not None:
        model.encoder.load_state_dict(start.state_dict(), strict=True)
    sample = evenly_spaced(len(images), 256)
    model.init_output_bias(images[sample].float() / 255)
    projector = build_projector(params, model.encoder.channels[-1])
    if projector is None:
        model.encoder.norm.requires_grad_(False)  # part of the head, which reconstruction does not train
    else:
        model.projector = projector
    # Blood cells look much alike, so that AdamW's early updates have low rank and the features lose directions within
    # some hundred steps. Muon's updates have full rank.
    optimisers = build_optimisers(
        model, params.weight_decay, params.muon, lambda name, _: name == "pred", betas=(0.9, 0.95)
    )
    peak, warmup = params.base_lr * batch / 256, round(params.warmup * params.steps)
    wrapped, *wrapped_optimisers = fabric.setup(
        compiled(model, params.torch_compile, fabric.device), *optimisers.values()
    )
    average = WeightAverage(model) if params.ema_decay else None
    result = model if average is None else cast(MaskedAutoencoder, average.model)
    loop = TrainingLoop(fabric, folder, identity, params.steps, params.seed, "FCMAE", params.checkpoint_every)
    states: dict[str, Stateful | None] = {"model": model, **optimisers, "average": average, "monitor": monitor}
    loop.register(**{name: state for name, state in states.items() if state is not None})

    def run_monitor(step: int) -> None:
        if monitor is None or step not in monitor.steps:
            return
        if fabric.global_rank == 0:
            result.eval()
            monitor(step, result.encoder)
            model.train()
        if fabric.world_size > 1:
            monitor.load_state_dict(fabric.broadcast(monitor.state_dict()))

    model.train()
    source = ImageSource(images, fabric.device)
    views = 2 if params.contrast else 1
    # Each view has its own random draws, so the global batch of draws is `views` times as long.
    total = batch * views
    rows = torch.cat([loop.shard(torch.arange(batch)) + view * batch for view in range(views)])
    for step in loop:
        run_monitor(step)
        lr = warmup_cosine(step, params.steps, peak, warmup + 1, warmup)
        set_learning_rate(optimisers, lr, params.muon)
        positions = loop.shard(loop.batch(step, len(images), batch)).repeat(views)
        x = source.batch(positions)
        x = random_resized_crop(
            x, loop.generator(step, "crop"), scale=(params.crop_min, 1.0), rows=rows, total=total
        ).clamp(0, 1)
        x = dihedral(x, loop.generator(step, "dihedral"), rows=rows, total=total)
        if projector is not None:
            x = stain_jitter(x, loop.generator(step, "stain"), params.stain, rows=rows, total=total)
        if params.light:
            x = light_jitter(x, loop.generator(step, "light"), params.light, rows=rows, total=total)
        visible = random_masks(total, grid, params.mask_ratio, loop.generator(step, "mask"))[rows]
        losses, sums = _backward(fabric, wrapped, x, visible, params, projector)
        for optimiser in wrapped_optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if average is not None:
            average.update(model, warming_decay(params.ema_decay, step))
        _log(loop, fabric, losses, sums, lr)
    run_monitor(params.steps)
    result.requires_grad_(True).train()
    return PretrainResult(result.encoder, result, loop.history)


def _backward(
    fabric: Fabric, model: Any, x: Tensor, visible: Tensor, params: FcmaeParams, projector: Projector | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Accumulate the gradients of the batch in `accumulate` passes; return mean losses and sums of `split_loss`.

    The mask ``visible`` is on the CPU.
    """
    patch, chunks = x.shape[-1] // visible.shape[-1], params.accumulate
    losses = {"loss": torch.zeros((), device=x.device)}
    sums = torch.zeros(4, device=x.device)
    parts = list(zip(x.chunk(chunks), visible.chunk(chunks), strict=True))
    for (part, mask), sync in passes(parts, fabric, model):
        with sync:
            out = model(part, mask)
            loss = out.loss
            if projector is not None:
                losses["contrast"] = info_nce(projector(_gather_views(fabric, out.pooled)))
                loss = loss + params.contrast * losses["contrast"]
            fabric.backward(loss / chunks)
        losses["loss"] += out.loss.detach() / chunks
        sums += split_loss(out.patch_loss, on_device(mask, x.device), stained_patches(part, patch))
    return {name: value.detach() for name, value in losses.items()}, sums


def _gather_views(fabric: Fabric, pooled: Tensor) -> Tensor:
    """Pooled features (2n, C) of all processes as one batch (2N, C), first views first, with gradients."""
    if fabric.world_size == 1:
        return pooled.float()
    gathered: Any = fabric.all_gather(pooled.float(), sync_grads=True)  # (world, 2n, C)
    return torch.cat([view.flatten(0, 1) for view in gathered.chunk(2, dim=1)])


def _log(loop: TrainingLoop, fabric: Fabric, losses: dict[str, Tensor], sums: Tensor, lr: float) -> None:
    """Log the global batch's mean losses, and its error on stained patches and on empty field separately."""
    means: dict[str, Any] = {name: fabric.all_reduce(value, reduce_op="mean") for name, value in losses.items()}
    totals: Any = fabric.all_reduce(sums, reduce_op="sum")
    step = loop.step

    def row(values: Mapping[str, list[float]]) -> dict[str, float]:
        stained, n_stained, field, n_field = values["sums"]
        row = {name: values[name][0] for name in means} | {"lr": lr}
        if n_stained:
            row["stained"] = stained / n_stained
        if n_field:
            row["field"] = field / n_field
        if not math.isfinite(row["loss"]):
            raise LeukError(f"FCMAE: the loss became {row['loss']} at step {step}; lower base_lr")
        return row

    loop.record({**means, "sums": totals}, row)
