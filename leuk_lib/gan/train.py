"""Training of the GAN with Lightning Fabric, on one or many processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from leuk_lib.gan import losses
from leuk_lib.gan.ada import AdaController, Augmentation, class_sums, sample_augmentation
from leuk_lib.gan.balance import sampling_weights
from leuk_lib.gan.generate import generate, resize
from leuk_lib.gan.networks import Discriminator, Generator, NetworkConfig
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive
from leuk_lib.training.augment import dihedral
from leuk_lib.training.compilation import compiled
from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.loop import TrainingLoop
from leuk_lib.training.passes import mean_over_passes, passes
from leuk_lib.training.schedules import cosine, ema_decay, ramp
from leuk_lib.training.transfer import ImageSource, on_device

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

LABEL = "ACDB-GAN"
SNAPSHOTS = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the training at which samples are kept
SNAPSHOT_SAMPLES = 4  # samples per class in a snapshot
STD_GROUP = 16  # images compared by the minibatch standard deviation, whatever the number of processes
GAMMA_SIZE = 32  # px; image side that ``gamma`` refers to


@dataclass(frozen=True)
class GanResult:
    """The trained networks and the course of training.

    Attributes:
        generator: Averaged weights, in evaluation mode.
        discriminator: The discriminator.
        learned: Classes with enough cells to be learned, (K,) bool.
        sampling_weights: Class probabilities of a batch, (K,).
        history: One row per logged step, with r_<c> and p_<c> for class number c.
        snapshots: Samples of the same latents during training, (T,K,n,3,S,S) uint8; blank for classes not learned.
        snapshot_steps: Their T steps.
    """

    generator: Generator
    discriminator: Discriminator
    learned: Tensor
    sampling_weights: Tensor
    history: pd.DataFrame
    snapshots: Tensor
    snapshot_steps: tuple[int, ...]


class _Snapshots:
    """Samples by step; part of the checkpoint."""

    def __init__(self) -> None:
        self.images: dict[int, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        return {str(step): images for step, images in self.images.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.images = {int(step): images for step, images in state.items()}


def network_config(params: AcdbGanParams, n_classes: int) -> NetworkConfig:
    """Return the sizes of the networks from the stage's parameters."""
    return NetworkConfig(
        size=params.gan_size, n_classes=n_classes, width=params.width, max_width=params.max_width,
        blocks=params.blocks, groups=params.groups, latent=params.latent, patch=params.patch,
    )  # fmt: skip


def build(params: AcdbGanParams, n_classes: int) -> tuple[Generator, Discriminator]:
    """Return both networks with random weights that depend on the seed only.

    The memory format is channels last, in which narrow convolutions are faster (24 channels at 32 px on a CPU: 1.5 times
    forward, 2.1 times backward).
    """
    config = network_config(params, n_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(params.seed, LABEL, "weights"))
        networks = Generator(config), Discriminator(config)
    return networks[0].to(memory_format=torch.channels_last), networks[1].to(memory_format=torch.channels_last)


def train_gan(
    images: Tensor,
    labels: Tensor,
    n_classes: int,
    params: AcdbGanParams,
    folder: Path,
    identity: str,
    fabric: Fabric,
    recall: ArrayLike | None = None,
) -> GanResult:
    """Train generator and discriminator, or continue from a checkpoint in ``folder``.

    Args:
        images: Training cells (N,3,S,S) uint8.
        labels: Their labels (N,) int64 in 0 … K-1. Classes with fewer than ``params.min_count`` cells are not learned.
        n_classes: Number K of classes.
        params: Networks and training.
        folder: Folder of the checkpoint.
        identity: Only a checkpoint of the same identity is continued.
        fabric: Device, precision and processes.
        recall: Shrunk held-out recall (K,) for the sampling weights; None: equal for all classes.

    Raises:
        LeukError: If no class has enough cells, if ``accumulate`` does not fit the batch, or if the training diverges.
    """
    _check_accumulate(params, fabric.world_size)
    counts = torch.bincount(labels, minlength=n_classes)
    learned = counts >= params.min_count
    if not learned.any():
        raise LeukError(
            f"ACDB-GAN: no class has min_count = {params.min_count} inner-training cells (largest: {int(counts.max())})"
        )
    recalls = np.ones(n_classes) if recall is None else np.asarray(recall, dtype=np.float64)
    weights = torch.from_numpy(sampling_weights(counts.numpy(), recalls, params.eta, params.min_count))
    small = torch.cat([resize(part, params.gan_size) for part in images.split(512)])

    generator, discriminator = build(params, n_classes)
    adam = {"lr": params.lr, "betas": (0.0, 0.9), "eps": 1e-8, "fused": True}
    opt_g: torch.optim.Optimizer = torch.optim.Adam(generator.parameters(), **adam)  # type: ignore[arg-type]
    opt_d: torch.optim.Optimizer = torch.optim.Adam(discriminator.parameters(), **adam)  # type: ignore[arg-type]
    # Not the discriminator: PyTorch cannot differentiate a compiled network twice, as the penalties do.
    model_g, opt_g = fabric.setup(compiled(generator, params.torch_compile, fabric.device), opt_g)
    model_d, opt_d = fabric.setup(discriminator, opt_d)
    discriminate = _unwrapped(model_d, fabric)
    ema = WeightAverage(generator)
    ada = AdaController(n_classes, params.ada_target, params.ada_images, device=fabric.device)
    snapshots = _Snapshots()

    loop = TrainingLoop(fabric, folder, identity, params.steps, params.seed, LABEL, every=params.checkpoint_every)
    loop.register(
        generator=generator, discriminator=discriminator, optimizer_g=opt_g, optimizer_d=opt_d,
        ema=ema, ada=ada, snapshots=snapshots,
    )  # fmt: skip
    sampler = _RealSampler(ImageSource(small, fabric.device), labels, weights)
    snapshot_steps = tuple(sorted({max(1, round(share * params.steps)) for share in SNAPSHOTS}))
    log_every = max(1, params.steps // 150)
    first_gamma = params.gamma * (params.gan_size / GAMMA_SIZE) ** 2

    for step in loop:
        progress = step / params.steps
        label_ramp = ramp(progress, params.ramp_start, params.ramp_end)
        gamma = cosine(progress, first_gamma, first_gamma * params.gamma_end)
        for group in [*opt_g.param_groups, *opt_d.param_groups]:
            group["lr"] = cosine(progress, params.lr, params.lr / 4)
            group["betas"] = (0.0, cosine(progress, 0.9, 0.99))
        penalise = gamma > 0 and step % params.penalty_every == 0

        # -- discriminator
        discriminator.requires_grad_(True)
        batch = _batch(loop, sampler, ada, params, step, "d", fabric)
        opt_d.zero_grad()
        terms: list[dict[str, Tensor]] = []
        for part, sync in passes(batch.parts(params.accumulate), fabric, model_d):
            with torch.no_grad(), fabric.autocast():
                fake = generator(part.z, part.y, label_ramp).float()
            y = torch.cat([part.y, part.y])
            std_groups = torch.cat([part.std_groups, -1 - part.std_groups])  # real and generated are not compared
            with sync:
                delta, r1, r2 = losses.discriminator_terms(
                    discriminate, part.augment, part.real, fake, penalise, y, label_ramp, std_groups
                )
                loss = losses.discriminator_loss(delta)
                total = loss
                if r1 is not None and r2 is not None:
                    # Lazy regularisation: every k-th step with k times the weight.
                    total = loss + losses.penalty(r1, r2, params.penalty_every * gamma)
                fabric.backward(total / params.accumulate)
            row = {"loss_d": loss.detach(), "delta": delta.detach()}
            if r1 is not None and r2 is not None:
                row |= {"r1": r1.detach().mean(), "r2": r2.detach().mean()}
            terms.append(row)
        opt_d.step()
        means = {name: mean_over_passes([row[name] for row in terms]) for name in terms[0] if name != "delta"}
        signs, seen = class_sums(torch.sign(torch.cat([row["delta"] for row in terms])), batch.y, n_classes)
        ada.update(_sum(fabric, signs), _sum(fabric, seen))

        # -- generator; calls the bare discriminator, whose gradients are neither needed nor reduced
        discriminator.requires_grad_(False)
        batch = _batch(loop, sampler, ada, params, step, "g", fabric)
        opt_g.zero_grad()
        losses_g: list[Tensor] = []
        for part, sync in passes(batch.parts(params.accumulate), fabric, model_g):
            with sync:
                fake = model_g(part.z, part.y, label_ramp).float()
                seen_real, seen_fake = part.augment(torch.cat([part.real, fake])).chunk(2)
                with fabric.autocast():
                    with torch.no_grad():
                        logit_real = discriminator(seen_real, part.y, label_ramp, part.std_groups).float()
                    logit_fake = discriminator(seen_fake, part.y, label_ramp, part.std_groups).float()
                loss = losses.generator_loss(losses.relativistic_logits(logit_real, logit_fake))
                fabric.backward(loss / params.accumulate)
            losses_g.append(loss.detach())
        opt_g.step()
        means["loss_g"] = mean_over_passes(losses_g)
        ema.update(generator, ema_decay(params.batch_size, cosine(progress, 0.0, params.ema_halflife)))

        logged = step % log_every == 0 or step == params.steps - 1
        if logged or (step + 1) % params.checkpoint_every == 0:
            names = ("loss_d", "loss_g", "r1", "r2")
            figures = {name: _mean(fabric, means[name]) for name in names if name in means}
            r, p = ada.r.tolist(), ada.p.tolist()
            for c in torch.nonzero(learned).flatten().tolist():
                figures |= {f"r_{c}": r[c], f"p_{c}": p[c]}
            _require_finite(figures, step, params.lr)
            if logged:
                loop.log(**figures, ramp=label_ramp)
        if step + 1 in snapshot_steps:
            snapshots.images[step + 1] = _snapshot(ema.model, n_classes, params, learned)

    return GanResult(
        generator=ema.model,  # type: ignore[arg-type]
        discriminator=discriminator,
        learned=learned,
        sampling_weights=weights,
        history=pd.DataFrame(loop.history),
        snapshots=torch.stack([snapshots.images[step] for step in snapshot_steps]),
        snapshot_steps=snapshot_steps,
    )


def _check_accumulate(params: AcdbGanParams, processes: int) -> None:
    """Require that each pass has whole groups of the minibatch standard deviation.

    Raises:
        LeukError: If it has not.
    """
    share = processes * params.accumulate
    if params.accumulate > 1 and params.batch_size % (share * STD_GROUP):
        raise LeukError(
            f"{LABEL}: accumulate {params.accumulate} cuts batch_size {params.batch_size} of {processes} processes into "
            f"passes that are no multiple of {STD_GROUP} images, which the discriminator compares; "
            f"make batch_size a multiple of {share * STD_GROUP}, or accumulate smaller"
        )


def _unwrapped(model: Any, fabric: Fabric) -> Callable[..., Tensor]:
    """Return the forward pass of a module of ``fabric.setup`` without Fabric's check of backward passes.

    Processes and precision remain. The check forbids ``torch.autograd.grad`` on outputs under mixed precision, so that
    no loss escapes the scaling of float16. Gradient penalties are part of the loss that Fabric scales.
    """
    wrapped = model._forward_module

    def forward(*args: Any) -> Tensor:
        with fabric.autocast():
            return cast(Tensor, wrapped(*args))

    return forward


class _RealSampler:
    """Samples labels, then a real image of each."""

    def __init__(self, images: ImageSource, labels: Tensor, weights: Tensor) -> None:
        self.images, self.weights = images, weights
        self.members = [torch.nonzero(labels == c).flatten() for c in range(len(weights))]
        self.sizes = torch.tensor([len(m) for m in self.members])

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return positions and labels of a global batch, (B,) each."""
        y = torch.multinomial(self.weights, batch_size, replacement=True, generator=generator)
        u = torch.rand(batch_size, generator=generator, dtype=torch.float64)
        index = (u * self.sizes[y]).long()
        return torch.stack([self.members[c][i] for c, i in zip(y.tolist(), index.tolist(), strict=True)]), y


@dataclass(frozen=True)
class _Batch:
    """One process's share of a step.

    ``real`` (B,3,S,S) in [-1,1], ``y`` (B,), ``z`` (B,L); ``augment`` takes [real; fake]; ``std_groups`` (B,) numbers
    the groups within which the discriminator compares images.
    """

    real: Tensor
    y: Tensor
    z: Tensor
    augment: Augmentation
    std_groups: Tensor

    def parts(self, count: int) -> list[_Batch]:
        """``count`` equal parts, each with its generated images' part of the augmentation; all draws stay the same.

        Loss and penalties are means over images, pairs lie within a part, images are compared within groups of which no
        part has a fraction, and the augmentation's probabilities change only after the step. So the mean of the parts'
        gradients is the gradient of the whole batch.
        """
        if count == 1:
            return [self]
        thetas = zip(*(half.chunk(count) for half in self.augment.theta.chunk(2)), strict=True)
        stains = zip(*(half.chunk(count) for half in self.augment.stain.chunk(2)), strict=True)
        augments = [
            Augmentation(torch.cat(theta), torch.cat(stain)) for theta, stain in zip(thetas, stains, strict=True)
        ]
        columns = (
            self.real.chunk(count),
            self.y.chunk(count),
            self.z.chunk(count),
            augments,
            self.std_groups.chunk(count),
        )
        return [_Batch(*part) for part in zip(*columns, strict=True)]


def _batch(
    loop: TrainingLoop,
    sampler: _RealSampler,
    ada: AdaController,
    params: AcdbGanParams,
    step: int,
    network: str,
    fabric: Fabric,
) -> _Batch:
    """Draw this process's share of a step for ``network`` "d" or "g".

    Real images are rotated and reflected at random before augmentation, because cells have no orientation. Generated
    ones are not: with it, the generator drew fewer different cells.
    """
    n = params.batch_size
    positions, y = sampler.draw(n, loop.generator(step, network, "labels"))
    z = torch.randn(n, params.latent, generator=loop.generator(step, network, "latent"))
    rows = loop.shard(torch.arange(n))
    real = sampler.images.batch(positions[rows])
    real = dihedral(real, loop.generator(step, network, "turn"), rows=rows, total=n) * 2 - 1
    share, both, own, std_groups, z = (
        on_device(values, fabric.device)
        # No group is split between processes if the share of each is a multiple of STD_GROUP.
        for values in (torch.cat([rows, rows + n]), torch.cat([y, y]), y[rows], rows // STD_GROUP, z[rows])
    )
    augmentation = sample_augmentation(ada.p[both], loop.generator(step, network, "augment"))
    augment = Augmentation(augmentation.theta[share], augmentation.stain[share])
    return _Batch(real, own, z, augment, std_groups)


def _require_finite(row: Mapping[str, float], step: int, lr: float) -> None:
    """Raise ``LeukError`` if the training has diverged, before the history or a checkpoint stores NaN."""
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        classes = ", ".join(name.removeprefix("r_") for name in bad if name.startswith("r_"))
        values = ", ".join(f"{name} {row[name]}" for name in bad if not name.startswith(("r_", "p_")))
        where = f"step {step}, class number {classes}" if classes else f"step {step}"
        raise LeukError(f"{LABEL}: training diverged at {where} ({values}); lower lr, now {lr:g}")


def _sum(fabric: Fabric, value: Tensor) -> Tensor:
    return value if fabric.world_size == 1 else cast(Tensor, fabric.all_reduce(value, reduce_op="sum"))


def _mean(fabric: Fabric, value: Tensor) -> float:
    value = value.detach()
    return float(value if fabric.world_size == 1 else cast(Tensor, fabric.all_reduce(value, reduce_op="mean")))


def _snapshot(generator: torch.nn.Module, n_classes: int, params: AcdbGanParams, learned: Tensor) -> Tensor:
    """Return the first samples of each learned class, (K,n,3,S,S) uint8."""
    out = torch.full((n_classes, SNAPSHOT_SAMPLES, 3, params.gan_size, params.gan_size), 255, dtype=torch.uint8)
    for c in torch.nonzero(learned).flatten().tolist():
        out[c] = generate(generator, c, SNAPSHOT_SAMPLES, params.latent, params.seed)
    return out
