"""Fine-tuning under one budget: WPAT and every trained baseline go through :func:`finetune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.training.augment import dihedral, normalise, random_resized_crop, stain_jitter
from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.fabric import Fabric
from leuk_lib.training.loop import TrainingLoop
from leuk_lib.training.mixing import mix
from leuk_lib.training.optimisers import build_optimisers, set_learning_rate
from leuk_lib.training.schedules import warming_decay, warmup_cosine
from leuk_lib.wpat.linear_head import LinearHead
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams

NO_WEIGHT_DECAY = ("latents", "queries", "level_embed")
FITTED_ON = 4096  # training images, at most, to which a pooled head is fitted before the first step


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning gives back: the chosen weights, and how they were chosen.

    history: a row a step (step, loss, lr); curve: a row a look at the validation part (step, val_loss, val_accuracy,
    val_recall: mean over the classes that are there); best_step: steps taken when the chosen weights were averaged.
    """

    model: nn.Module
    history: pd.DataFrame
    curve: pd.DataFrame
    best_step: int
    val_logits: Tensor


class Selection:
    """The best look at the validation part so far, how many came since, and all looks; part of the checkpoint."""

    def __init__(self) -> None:
        self.best: dict[str, Tensor] = {}
        self.best_step = 0
        self.since_best = 0
        self.curve: list[dict[str, float]] = []

    def consider(self, step: int, scores: dict[str, float], model: nn.Module) -> None:
        """Keep ``model``'s weights if ``scores['val_loss']`` is the lowest; ties go to the earlier look.

        The loss decides because a small validation part gives accuracy few distinct values.
        """
        if not self.curve or scores["val_loss"] < min(row["val_loss"] for row in self.curve):
            self.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            self.best_step, self.since_best = step, 0
        else:
            self.since_best += 1
        self.curve.append({"step": float(step), **scores})

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values and tensors."""
        return {
            "best": self.best, "best_step": self.best_step, "since_best": self.since_best, "curve": self.curve,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.best, self.best_step = state["best"], state["best_step"]
        self.since_best, self.curve = state["since_best"], state["curve"]


def augment(x: Tensor, loop: TrainingLoop, step: int, params: WpatParams) -> Tensor:
    """Turn, mirror, crop and re-stain this process's part x (b, 3, S, S) in [0,1] of the global batch."""
    rows, total = loop.shard(torch.arange(params.batch_size)), params.batch_size
    x = dihedral(x, loop.generator(step, "dihedral"), rows=rows, total=total)
    x = random_resized_crop(x, loop.generator(step, "crop"), (params.crop_min, 1.0), rows=rows, total=total)
    return stain_jitter(x, loop.generator(step, "stain"), params.stain, rows=rows, total=total)


def mixed(
    x: Tensor, labels: Tensor, n_classes: int, loop: TrainingLoop, step: int, params: WpatParams
) -> tuple[Tensor, Tensor]:
    """Mixup and CutMix of this process's part; the targets stay labels (b,) where neither is asked for, else (b, K)."""
    if not (params.mixup or params.cutmix):
        return x, labels
    rows, total = loop.shard(torch.arange(params.batch_size)), params.batch_size
    rng = numpy_rng(params.seed, loop.label, step, "mix")
    return mix(x, F.one_hot(labels, n_classes).to(x.dtype), rng, params.mixup, params.cutmix, rows=rows, total=total)


def effective_weights(labels: Tensor, n_classes: int, beta: float = 0.999, largest: float = 10.0) -> Tensor:
    """Loss weights (K,) by the effective number of samples (Cui et al. 2019), their mean over ``labels`` 1.

    Classes without a cell get 1. ``largest``: most that a class may weigh in units of the smallest weight; without a
    limit a class of one cell outweighs every other one, and the network answers that class for all cells.
    """
    counts = torch.bincount(labels, minlength=n_classes).double()
    effective = (1 - beta**counts) / (1 - beta)
    weights = torch.where(counts > 0, 1 / effective.clamp(min=1), torch.zeros_like(counts))
    smallest = weights[counts > 0].min()
    weights = weights.clamp(max=float(largest * smallest))
    weights = weights / weights[labels].mean()
    return torch.where(counts > 0, weights, torch.ones_like(weights)).float()


def weighed_loss(logits: Tensor, target: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (b, K) and labels (b,) or (b, K), each image's times its class's weight (K,) if given.

    Not torch's ``weight``, which also weighs the smoothed part class by class and so moves most of it to the rare classes;
    nor divided by the batch's weights: processes must agree on the denominator.
    """
    losses = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
    if weights is not None:
        losses = losses * (weights[target] if target.ndim == 1 else target @ weights)
    return losses.mean()


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor, device: torch.device, batch: int = 256) -> Tensor:
    """Logits (n, K) float32 on the CPU of uint8 images (n, 3, S, S); the model's mode is left as it was."""
    was_training = model.training
    model.eval()
    parts = [model(normalise(images[i : i + batch].to(device))).float().cpu() for i in range(0, len(images), batch)]
    model.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, 0)


def validation_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Cross-entropy, accuracy and mean recall over the classes present, of logits (n, K)."""
    right = (logits.argmax(dim=1) == labels).float()
    recalls = [right[labels == k].mean() for k in labels.unique()]
    return {
        "val_loss": float(F.cross_entropy(logits, labels)),
        "val_accuracy": float(right.mean()),
        "val_recall": float(torch.stack(recalls).mean()),
    }


def _draw(loop: TrainingLoop, step: int, labels: Tensor, params: WpatParams) -> Tensor:
    """Positions of the global batch: shuffled epochs, or an equal chance for every class."""
    if params.balance != "sampling":
        return loop.batch(step, len(labels), params.batch_size)
    chance = 1 / torch.bincount(labels).clamp(min=1)[labels].double()
    return torch.multinomial(chance, params.batch_size, replacement=True, generator=loop.generator(step, "order"))


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
    """Train a classifier and return the average weights that were best on the validation part.

    images (N,3,S,S) uint8 and labels (N,) int64 with their synthetic ``extra_`` companions; an ``Encoder`` is given a
    WPAT head of ``n_classes`` (default: the highest label + 1), any other module must map standardised (B,3,S,S) to
    logits (B,K). With ``params.balance`` "weights" the loss weighs the classes by all cells that are learned from,
    the synthetic ones counted in. Checkpoints go to ``folder`` and are continued under the same ``identity``. Raises
    LeukError if there is nothing to train or to validate on, if mixing finds no partner, and if the loss diverges.
    """
    if len(labels) == 0 or len(val_labels) == 0:
        raise LeukError(f"{label}: {len(labels)} training and {len(val_labels)} validation cells; both parts need some")
    if (params.mixup or params.cutmix) and params.batch_size % (2 * fabric.world_size):
        raise LeukError(
            f"{label}: batch_size {params.batch_size} does not give each of {fabric.world_size} processes an even number of "
            "images, which mixup and cutmix pair; change batch_size, or set both to 0"
        )
    n_classes = n_classes or int(torch.cat([labels, val_labels]).max()) + 1
    torch.manual_seed(derive(params.seed, label, "head"))
    model = WPAT(encoder_or_model, n_classes, params) if isinstance(encoder_or_model, Encoder) else encoder_or_model
    if extra_images is not None and extra_labels is not None and len(extra_labels):
        images, labels = torch.cat([images, extra_images]), torch.cat([labels, extra_labels])
    weights = None
    if params.balance == "weights":
        weights = effective_weights(labels, n_classes, largest=params.max_weight).to(fabric.device)

    model = model.to(fabric.device)
    pooled = getattr(model, "pooled", None)
    if isinstance(pooled, LinearHead):
        some = torch.linspace(0, len(images) - 1, min(len(images), FITTED_ON)).round().long()
        pooled.start_at(
            model.encoder,  # type: ignore[arg-type]
            (normalise(part.to(fabric.device)) for part in images[some].split(128)), labels[some], weights,
        )  # fmt: skip
    average = WeightAverage(model)
    selection = Selection()
    layer_decay = params.layer_decay if hasattr(model, "encoder") else 1.0
    optimisers = build_optimisers(
        model, params.weight_decay, params.muon, lambda _, layer: layer.out_features == n_classes,
        layer_decay=layer_decay, no_weight_decay=NO_WEIGHT_DECAY,
    )  # fmt: skip
    rise = max(1, round(params.warmup * params.steps))
    wrapped, *steppers = fabric.setup(model, *optimisers.values())
    look_every = max(1, params.steps // params.evaluations)

    loop = TrainingLoop(fabric, folder, identity, params.steps, params.seed, label, params.checkpoint_every)
    loop.register(model=model, **optimisers, average=average, selection=selection)
    wrapped.train()
    for step in loop:
        rate = warmup_cosine(step, params.steps, params.lr, rise, rise)
        set_learning_rate(optimisers, rate, params.muon)
        mine = loop.shard(_draw(loop, step, labels, params))
        x = augment(images[mine].to(fabric.device).float() / 255, loop, step, params)
        x, target = mixed(x, labels[mine].to(fabric.device), n_classes, loop, step, params)
        logits = wrapped(normalise(x))
        loss = weighed_loss(logits.float(), target, weights, params.label_smoothing)
        everywhere = float(fabric.all_reduce(loss.detach(), reduce_op="mean"))  # type: ignore[arg-type]
        wrapped.zero_grad(set_to_none=True)
        fabric.backward(loss)
        # Muon's steps have a length of their own, whatever the gradient's.
        norm = fabric.clip_gradients(wrapped, steppers[0], max_norm=params.clip_norm, error_if_nonfinite=False)
        if not math.isfinite(everywhere + float(norm)):  # type: ignore[arg-type]
            raise LeukError(f"{label}: the loss is {everywhere} and its gradient {norm} at step {step}; lower lr")
        for stepper in steppers:
            stepper.step()
        average.update(model, warming_decay(params.ema_decay, step))
        loop.log(loss=everywhere, lr=rate)
        if (step + 1) % look_every == 0 or step + 1 == params.steps:
            with fabric.autocast():
                seen = predict_logits(average.model, val_images, fabric.device)
            selection.consider(step + 1, validation_scores(seen, val_labels), average.model)
            if params.patience and selection.since_best >= params.patience:
                loop.stop()

    chosen = average.model
    chosen.load_state_dict(selection.best, strict=True)
    chosen.eval()
    return Finetuned(
        model=chosen,
        history=pd.DataFrame(loop.history),
        curve=pd.DataFrame(selection.curve).astype({"step": int}),
        best_step=selection.best_step,
        val_logits=predict_logits(chosen, val_images, fabric.device),
    )
