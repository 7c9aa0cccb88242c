"""Fine-tuning, the same for WPAT and all trained baselines."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.training.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    dihedral,
    light_jitter,
    normalise,
    random_resized_crop,
    stain_jitter,
)
from leuk_lib.training.backbones import Backbone
from leuk_lib.training.compilation import compiled
from leuk_lib.training.drop_path import part_of_batch
from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.loop import TrainingLoop
from leuk_lib.training.mixing import mix
from leuk_lib.training.optimisers import build_optimisers, set_learning_rate
from leuk_lib.training.passes import mean_over_passes, passes
from leuk_lib.training.schedules import warming_decay, warmup_cosine
from leuk_lib.training.subset import evenly_spaced
from leuk_lib.training.transfer import ImageSource, on_device
from leuk_lib.wpat.linear_head import LinearClassifier
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

NO_WEIGHT_DECAY = ("latents", "queries", "level_embed")  # embeddings of WPAT, which are matrices
PREDICTED_PIXELS = 1 << 24  # at a time: 334 images of 224 px
MAX_FIT_IMAGES = 4096  # training images to which a linear head is fitted before the first step


@dataclass(frozen=True)
class Finetuned:
    """Result of fine-tuning.

    Attributes:
        model: The network with the selected weights, in eval mode.
        history: One row per step: step, loss, lr.
        curve: One row per evaluation on the validation part, as `validation_scores`: step, val_loss, val_accuracy,
            val_recall.
        best_step: Number of steps after which the selected weights were averaged.
        val_logits: Logits (n, K) of the validation part.
    """

    model: nn.Module
    history: pd.DataFrame
    curve: pd.DataFrame
    best_step: int
    val_logits: Tensor


class ModelSelection:
    """Weights of the lowest validation loss so far, and the validation curve; part of the checkpoint."""

    def __init__(self) -> None:
        self.best: dict[str, Tensor] = {}
        self.best_step = 0
        self.since_best = 0
        self.curve: list[dict[str, float]] = []

    def update(self, step: int, scores: dict[str, float], model: nn.Module) -> None:
        """Record an evaluation, and keep the weights if ``scores["val_loss"]`` is the lowest so far.

        The loss decides because on a small validation part accuracy takes few distinct values. Ties go to the earlier
        evaluation.
        """
        if not self.curve or scores["val_loss"] < min(row["val_loss"] for row in self.curve):
            self.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            self.best_step, self.since_best = step, 0
        else:
            self.since_best += 1
        self.curve.append({"step": float(step), **scores})

    def state_dict(self) -> dict[str, Any]:
        """The whole state as plain values and tensors."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        vars(self).update(state)


def augment(x: Tensor, loop: TrainingLoop, step: int, params: WpatParams) -> Tensor:
    """Rotate, flip, crop and jitter stain and light of this process's images x (b, 3, S, S) in [0,1] of the global batch."""
    rows, total = loop.shard(torch.arange(params.batch_size)), params.batch_size
    x = dihedral(x, loop.generator(step, "dihedral"), rows=rows, total=total)
    x = random_resized_crop(x, loop.generator(step, "crop"), (params.crop_min, 1.0), rows=rows, total=total)
    x = stain_jitter(x, loop.generator(step, "stain"), params.stain, rows=rows, total=total)
    if params.light:
        x = light_jitter(x, loop.generator(step, "light"), params.light, rows=rows, total=total)
    return x


def mix_batch(
    x: Tensor, labels: Tensor, n_classes: int, loop: TrainingLoop, step: int, params: WpatParams
) -> tuple[Tensor, Tensor]:
    """Apply mixup and CutMix to this process's images; targets are labels (b,) without mixing, else (b, K)."""
    if not (params.mixup or params.cutmix):
        return x, labels
    rows, total = loop.shard(torch.arange(params.batch_size)), params.batch_size
    rng = numpy_rng(params.seed, loop.label, step, "mix")
    return mix(x, F.one_hot(labels, n_classes).to(x.dtype), rng, params.mixup, params.cutmix, rows=rows, total=total)


def class_balanced_weights(labels: Tensor, n_classes: int, beta: float = 0.999, max_weight: float = 10.0) -> Tensor:
    r"""Class weights by the effective number of samples.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}

    clipped at ``max_weight`` times the smallest weight, then scaled to mean 1 over ``labels``. Without the clip, a class
    of one cell outweighs all others, and the network predicts it for every cell.

    Args:
        labels: Class of each training image (N,), int64.
        n_classes: Number of classes K.
        beta: :math:`\beta` in [0, 1).
        max_weight: Largest weight in units of the smallest, at least 1.

    Returns:
        Weights (K,), float32; 1 for classes without images.

    References:
        Cui et al. 2019, Class-balanced loss based on effective number of samples.

    Example:
        >>> class_balanced_weights(torch.tensor([0, 0, 0, 1]), n_classes=3).round(decimals=2)
        tensor([0.6700, 2.0000, 1.0000])
    """
    counts = torch.bincount(labels, minlength=n_classes).double()
    effective = (1 - beta**counts) / (1 - beta)
    weights = torch.where(counts > 0, 1 / effective.clamp(min=1), torch.zeros_like(counts))
    smallest = weights[counts > 0].min()
    weights = weights.clamp(max=float(max_weight * smallest))
    weights = weights / weights[labels].mean()
    return torch.where(counts > 0, weights, torch.ones_like(weights)).float()


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    r"""Cross-entropy with smoothed labels, each image weighted by its class.

    .. math:: L = \frac1b \sum_i w_{y_i} \operatorname{CE}\bigl(z_i, (1 - s)\,e_{y_i} + s/K\bigr)

    PyTorch's ``weight`` differs in two ways: it weights the smoothed part class by class, which moves most of it to the
    rare classes, and it divides by the weights of the batch, which differ between processes.

    Args:
        logits: z (b, K).
        target: Labels (b,), or class probabilities (b, K); these are weighted by their mean weight.
        weights: Class weights w (K,), or None for 1.
        smoothing: Label smoothing s in [0, 1).

    Returns:
        The loss, a scalar.
    """
    losses = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
    if weights is not None:
        losses = losses * (weights[target] if target.ndim == 1 else target @ weights)
    return losses.mean()


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: Tensor,
    device: torch.device,
    batch: int = 256,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Logits (n, K), float32 on the CPU, of uint8 images (n, 3, S, S), in eval mode; the model's mode is restored.

    At most ``batch`` images are passed at a time, and fewer if they have more than `PREDICTED_PIXELS` pixels.
    """
    was_training = model.training
    model.eval()
    batch = max(1, min(batch, PREDICTED_PIXELS // max(1, images.shape[-2] * images.shape[-1])))
    batches = (normalise(on_device(images[i : i + batch], device), mean, std) for i in range(0, len(images), batch))
    parts = [model(standardised).float().cpu() for standardised in batches]
    model.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, 0)


def validation_scores(logits: Tensor, labels: Tensor, balanced: bool) -> dict[str, float]:
    """Cross-entropy, accuracy, and mean recall over the classes present, of logits (n, K) and labels (n,).

    The cross-entropy is the mean over the images, or, ``balanced``, over the classes present: training against class
    imbalance serves balanced accuracy, and in the plain mean the common classes decide.
    """
    weights = 1 / torch.bincount(labels, minlength=logits.shape[1]).clamp(min=1).float() if balanced else None
    correct = (logits.argmax(dim=1) == labels).float()
    recalls = [correct[labels == k].mean() for k in labels.unique()]
    return {
        "val_loss": float(F.cross_entropy(logits, labels, weights)),
        "val_accuracy": float(correct.mean()),
        "val_recall": float(torch.stack(recalls).mean()),
    }


def _batch_positions(loop: TrainingLoop, step: int, labels: Tensor, params: WpatParams) -> Tensor:
    """Positions of the images of the global batch: shuffled epochs, or classes with equal probability."""
    if params.balance != "sampling":
        return loop.batch(step, len(labels), params.batch_size)
    probability = 1 / torch.bincount(labels).clamp(min=1)[labels].double()
    return torch.multinomial(probability, params.batch_size, replacement=True, generator=loop.generator(step, "order"))


def _row(label: str, step: int, rate: float, numbers: Mapping[str, list[float]]) -> dict[str, float]:
    """Row of the history; a loss or gradient that is not finite ends the training."""
    loss, norm = numbers["loss"][0], numbers["norm"][0]
    if not math.isfinite(loss + norm):
        raise LeukError(f"{label}: the loss is {loss} and its gradient {norm} at step {step}; lower lr")
    return {"loss": loss, "lr": rate}


def _backward(
    fabric: Fabric, wrapped: Any, model: nn.Module, x: Tensor, target: Tensor, weights: Tensor | None,
    params: WpatParams, seed: int,
) -> Tensor:  # fmt: skip
    """Add the gradients of this process's batch in ``accumulate`` passes; return its loss.

    Batch normalisation in the heads of WPAT and of a linear head takes its statistics over the whole batch. So with
    several passes, the features of each image are computed first, without gradients; then the loss and its gradient
    at the features, of the whole batch; then the features once more, part by part, with that gradient
    (Gao et al. 2021). Other networks are passed once, and batch normalisation inside them sees the images of a pass.

    Args:
        fabric: Device, precision and processes.
        wrapped: The network as ``fabric.setup`` returned it.
        model: The same network, bare.
        x: Images (b, 3, S, S) in [0,1].
        target: As in `weighted_cross_entropy`; likewise ``weights``.
        weights: Class weights.
        params: Passes and label smoothing.
        seed: The step's seed of torch's global generator.

    References:
        Gao et al. 2021, Scaling deep contrastive learning batch size under memory limited setup.
    """

    def loss_of(logits: Tensor, part: Tensor) -> Tensor:
        return weighted_cross_entropy(logits.float(), part, weights, params.label_smoothing)

    count = params.accumulate
    if count > 1 and isinstance(model, WPAT | LinearClassifier):
        return _backward_through_features(fabric, model, x.chunk(count), lambda logits: loss_of(logits, target), seed)
    losses = []
    parts = list(zip(x.chunk(count), target.chunk(count), strict=True))
    for (images, part), sync in passes(parts, fabric, wrapped):
        with sync:
            loss = loss_of(wrapped(normalise(images)), part)
            fabric.backward(loss / count)
        losses.append(loss.detach())
    return mean_over_passes(losses)


def _backward_through_features(
    fabric: Fabric,
    model: WPAT | LinearClassifier,
    parts: Sequence[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    seed: int,
) -> Tensor:
    """Do what `_backward` says of WPAT and linear heads; with several processes, average the gradients."""
    total = sum(len(part) for part in parts)

    def features(k: int) -> tuple[Tensor, ...]:
        torch.manual_seed(seed)  # drop path draws for the whole batch, of which this part takes its rows
        # One autocast context per pass: weights that it casts without gradients must not be used again.
        with fabric.autocast(), part_of_batch(k * len(parts[0]), total):
            return model.image_features(normalise(parts[k]))

    with torch.no_grad(), _running_statistics_kept(model):
        columns = zip(*[features(k) for k in range(len(parts))], strict=True)
    leaves = tuple(torch.cat(column).requires_grad_() for column in columns)
    with fabric.autocast():
        logits = model.classify(leaves)
    loss = loss_of(logits)
    loss.backward()
    gradients = zip(*[cast(Tensor, leaf.grad).split(len(parts[0])) for leaf in leaves], strict=True)
    for k, gradient in enumerate(gradients):
        torch.autograd.backward(features(k), gradient)
    if fabric.world_size > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(cast(Tensor, fabric.all_reduce(parameter.grad, reduce_op="mean")))
    return loss.detach()


@contextmanager
def _running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation inside a network of timm as they are."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def finetune(
    images: Tensor,
    labels: Tensor,
    val_images: Tensor,
    val_labels: Tensor,
    encoder_or_model: nn.Module,
    params: WpatParams,
    folder: Path,
    identity: str,
    fabric: Fabric,
    extra_images: Tensor | None = None,
    extra_labels: Tensor | None = None,
    n_classes: int | None = None,
    label: str = "WPAT",
) -> Finetuned:
    """Train a classifier, and return the averaged weights of the lowest validation loss.

    Args:
        images: Training images (N, 3, S, S), uint8.
        labels: Their classes (N,), int64.
        val_images: Validation images (n, 3, S, S), uint8.
        val_labels: Their classes (n,), int64.
        encoder_or_model: An ``Encoder``, on which a WPAT is built, or any network that maps standardised images
            (B, 3, S, S) to logits (B, K).
        params: Architecture and training.
        folder: For checkpoints.
        identity: A checkpoint of the same identity is continued.
        fabric: Device, precision and processes.
        extra_images: Synthetic training images, or None.
        extra_labels: Their classes, or None. They count for the class weights of ``params.balance = "weights"``.
        n_classes: Number of classes K; default: the highest label + 1.
        label: Name of the network for seeds, progress bar and messages.

    Raises:
        LeukError: If a part is empty, if mixing needs an even batch, if the batch cannot be cut into ``accumulate`` parts, or
            if the loss diverges.
    """
    if len(labels) == 0 or len(val_labels) == 0:
        raise LeukError(f"{label}: {len(labels)} training and {len(val_labels)} validation cells; both are needed")
    if (params.mixup or params.cutmix) and params.batch_size % (2 * fabric.world_size):
        raise LeukError(
            f"{label}: mixup and cutmix pair images, but batch_size {params.batch_size} is not an even number for each of "
            f"{fabric.world_size} processes; change batch_size, or set mixup and cutmix to 0"
        )
    if params.accumulate > 1 and params.batch_size % (fabric.world_size * params.accumulate):
        raise LeukError(
            f"{label}: batch_size {params.batch_size} cannot be cut into {fabric.world_size} processes x accumulate "
            f"{params.accumulate} equal parts"
        )
    n_classes = n_classes or int(torch.cat([labels, val_labels]).max()) + 1
    torch.manual_seed(derive(params.seed, label, "head"))
    model = WPAT(encoder_or_model, n_classes, params) if isinstance(encoder_or_model, Backbone) else encoder_or_model
    if extra_images is not None and extra_labels is not None and len(extra_labels):
        images, labels = torch.cat([images, extra_images]), torch.cat([labels, extra_labels])
    weights = None
    if params.balance == "weights":
        weights = class_balanced_weights(labels, n_classes, max_weight=params.max_weight).to(fabric.device)

    # Channels last: convolutions of timm's networks take 0.6 of the time on a CPU.
    model = model.to(fabric.device).to(memory_format=torch.channels_last)
    if isinstance(model, WPAT | LinearClassifier) and model.linear_head is not None:
        subset = evenly_spaced(len(images), MAX_FIT_IMAGES)
        batches = (normalise(batch.to(fabric.device)) for batch in images[subset].split(128))
        model.linear_head.fit(model.encoder, batches, labels[subset], weights)
    average = WeightAverage(model)
    selection = ModelSelection()
    layer_decay = params.layer_decay if isinstance(model, WPAT | LinearClassifier) else 1.0
    optimisers = build_optimisers(
        model, params.weight_decay, params.muon,
        lambda name, layer: layer.out_features == n_classes and ".lora_" not in name,  # LoRA's rank may equal K
        layer_decay=layer_decay, no_weight_decay=NO_WEIGHT_DECAY,
    )  # fmt: skip
    rise = max(1, round(params.warmup * params.steps))
    wrapped, *steppers = fabric.setup(compiled(model, params.torch_compile, fabric.device), *optimisers.values())
    evaluate_every = max(1, params.steps // params.evaluations)

    loop = TrainingLoop(fabric, folder, identity, params.steps, params.seed, label, params.checkpoint_every)
    loop.register(model=model, **optimisers, average=average, selection=selection)
    source = ImageSource(images, fabric.device)
    wrapped.train()
    for step in loop:
        rate = warmup_cosine(step, params.steps, params.lr, rise, rise)
        set_learning_rate(optimisers, rate, params.muon)
        rows = loop.shard(_batch_positions(loop, step, labels, params))
        x = augment(source.batch(rows), loop, step, params)
        x = x.contiguous(memory_format=torch.channels_last)
        x, target = mix_batch(x, on_device(labels[rows], fabric.device), n_classes, loop, step, params)
        wrapped.zero_grad(set_to_none=True)
        loss = _backward(fabric, wrapped, model, x, target, weights, params, derive(params.seed, label, step))
        global_loss: Any = fabric.all_reduce(loss, reduce_op="mean")
        # Only AdamW's gradients: the length of Muon's steps does not depend on the gradient's.
        norm: Any = fabric.clip_gradients(wrapped, steppers[0], max_norm=params.clip_norm, error_if_nonfinite=False)
        loop.record({"loss": global_loss, "norm": norm}, functools.partial(_row, label, step, rate))
        for stepper in steppers:
            stepper.step()
        average.update(model, warming_decay(params.ema_decay, step))
        if (step + 1) % evaluate_every == 0 or step + 1 == params.steps:
            loop.read()  # a training that has diverged ends before it is evaluated
            with fabric.autocast():
                logits = predict_logits(average.model, val_images, fabric.device)
            selection.update(step + 1, validation_scores(logits, val_labels, params.balance != "none"), average.model)
            if params.patience and selection.since_best >= params.patience:
                loop.stop()

    selected = average.model
    selected.load_state_dict(selection.best, strict=True)
    selected.eval()
    return Finetuned(
        model=selected,
        history=pd.DataFrame(loop.history),
        curve=pd.DataFrame(selection.curve).astype({"step": int}),
        best_step=selection.best_step,
        val_logits=predict_logits(selected, val_images, fabric.device),
    )
