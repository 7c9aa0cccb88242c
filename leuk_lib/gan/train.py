"""Training of ACDB-GAN under Lightning Fabric: one function, on one process or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from leuk_lib.gan import losses
from leuk_lib.gan.augment import AdaController, Augmentation, class_sums, draw
from leuk_lib.gan.balance import sampling
from leuk_lib.gan.networks import Discriminator, Generator, NetworkConfig
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.samples import generate, resize
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import derive
from leuk_lib.training.augment import dihedral
from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.fabric import Fabric
from leuk_lib.training.loop import TrainingLoop
from leuk_lib.training.schedules import cosine, ema_decay, ramp

LABEL = "ACDB-GAN"
LOOKS = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the training at which samples are kept
LOOK_EACH = 4  # samples a class at each look
COMPARED = 16  # images of a batch that are compared for their variety, whatever the number of processes
GAMMA_SIZE = 32  # px; side of the images for which ``gamma`` is given


@dataclass(frozen=True)
class GanResult:
    """A trained generator (averaged weights, eval mode) and how it came to be.

    ``learned`` (K,) bool: classes with cells enough to be learned. ``looks`` (T,K,n,3,S,S) uint8: the same latents
    at the steps ``look_steps``; blank for classes not learned. ``history``: a row a logged step, with r_<c> and
    p_<c> for class number c.
    """

    generator: Generator
    discriminator: Discriminator
    learned: Tensor
    sampling: Tensor
    history: pd.DataFrame
    looks: Tensor
    look_steps: tuple[int, ...]


class _Looks:
    """Samples kept on the way; part of the checkpoint."""

    def __init__(self) -> None:
        self.images: dict[int, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        return {str(step): images for step, images in self.images.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.images = {int(step): images for step, images in state.items()}


def network_config(params: AcdbGanParams, n_classes: int) -> NetworkConfig:
    """The networks' sizes as the stage's parameters give them."""
    return NetworkConfig(
        size=params.gan_size, n_classes=n_classes, width=params.width, max_width=params.max_width,
        blocks=params.blocks, groups=params.groups, latent=params.latent, patch=params.patch,
    )  # fmt: skip


def build(params: AcdbGanParams, n_classes: int) -> tuple[Generator, Discriminator]:
    """Both networks with weights that depend on the seed only.

    Channels last: narrow convolutions run at up to twice the speed so (24 channels at 32 px on a CPU: 1.5 times
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
    """Train on ``images`` (N,3,S,S) uint8 with ``labels`` (N,) int64 < n_classes; continue a checkpoint in ``folder``.

    ``recall`` (K,): shrunk recall a class on held-out real cells, for the sampling weights; None: all equal.
    Classes under ``params.min_count`` cells are left out. Raises ``LeukError`` if none is left, or if the training diverges.
    """
    counts = torch.bincount(labels, minlength=n_classes)
    learned = counts >= params.min_count
    if not learned.any():
        raise LeukError(
            f"ACDB-GAN: no class has min_count = {params.min_count} inner-training cells (largest: {int(counts.max())})"
        )
    known = np.ones(n_classes) if recall is None else np.asarray(recall, dtype=np.float64)
    pi = torch.from_numpy(sampling(counts.numpy(), known, params.eta, params.min_count))
    small = torch.cat([resize(part, params.gan_size) for part in images.split(512)])

    generator, discriminator = build(params, n_classes)
    adam = {"lr": params.lr, "betas": (0.0, 0.9), "eps": 1e-8}
    opt_g: torch.optim.Optimizer = torch.optim.Adam(generator.parameters(), **adam)  # type: ignore[arg-type]
    opt_d: torch.optim.Optimizer = torch.optim.Adam(discriminator.parameters(), **adam)  # type: ignore[arg-type]
    model_g, opt_g = fabric.setup(generator, opt_g)
    model_d, opt_d = fabric.setup(discriminator, opt_d)
    critic = below_wrapper(model_d, fabric)
    ema = WeightAverage(generator)
    ada = AdaController(n_classes, params.ada_target, params.ada_images)
    looks = _Looks()

    loop = TrainingLoop(fabric, folder, identity, params.steps, params.seed, LABEL, every=params.checkpoint_every)
    loop.register(
        generator=generator, discriminator=discriminator, optimizer_g=opt_g, optimizer_d=opt_d,
        ema=ema, ada=ada, looks=looks,
    )  # fmt: skip
    pick = _Picker(small, labels, pi)
    look_steps = tuple(sorted({max(1, round(share * params.steps)) for share in LOOKS}))
    log_every = max(1, params.steps // 150)
    first_gamma = params.gamma * (params.gan_size / GAMMA_SIZE) ** 2

    for step in loop:
        progress = step / params.steps
        weight = ramp(progress, params.ramp_start, params.ramp_end)
        gamma = cosine(progress, first_gamma, first_gamma * params.gamma_end)
        for group in [*opt_g.param_groups, *opt_d.param_groups]:
            group["lr"] = cosine(progress, params.lr, params.lr / 4)
            group["betas"] = (0.0, cosine(progress, 0.9, 0.99))
        penalise = gamma > 0 and step % params.penalty_every == 0

        # -- discriminator
        discriminator.requires_grad_(True)
        batch = _batch(loop, pick, ada, params, step, "d", fabric)
        with torch.no_grad(), fabric.autocast():
            fake = generator(batch.z, batch.y, weight).float()
        both = torch.cat([batch.y, batch.y])
        apart = torch.cat([batch.sets, -1 - batch.sets])
        delta, r1, r2 = losses.critic_terms(critic, batch.augment, batch.real, fake, penalise, both, weight, apart)
        loss_d = losses.discriminator_loss(delta)
        total = loss_d
        if r1 is not None and r2 is not None:
            # Lazy: every k-th step with k times the weight has the same mean pull.
            total = loss_d + params.penalty_every * gamma / 2 * (r1.mean() + r2.mean())
        opt_d.zero_grad()
        fabric.backward(total)
        opt_d.step()
        signs, seen = class_sums(torch.sign(delta.detach()), batch.y, n_classes)
        ada.update(_sum(fabric, signs).cpu(), _sum(fabric, seen).cpu())

        # -- generator; the discriminator's own module, since its gradients are not wanted (nor reduced)
        discriminator.requires_grad_(False)
        batch = _batch(loop, pick, ada, params, step, "g", fabric)
        fake = model_g(batch.z, batch.y, weight).float()
        shown_real, shown_fake = batch.augment(torch.cat([batch.real, fake])).chunk(2)
        with fabric.autocast():
            with torch.no_grad():
                logit_real = discriminator(shown_real, batch.y, weight, batch.sets).float()
            logit_fake = discriminator(shown_fake, batch.y, weight, batch.sets).float()
        loss_g = losses.generator_loss(losses.pair_difference(logit_real, logit_fake))
        opt_g.zero_grad()
        fabric.backward(loss_g)
        opt_g.step()
        ema.update(generator, ema_decay(params.batch_size, cosine(progress, 0.0, params.ema_halflife)))

        logged = step % log_every == 0 or step == params.steps - 1
        if logged or (step + 1) % params.checkpoint_every == 0:
            row = {"loss_d": _mean(fabric, loss_d), "loss_g": _mean(fabric, loss_g)}
            if r1 is not None and r2 is not None:
                row |= {"r1": _mean(fabric, r1.mean()), "r2": _mean(fabric, r2.mean())}
            for c in torch.nonzero(learned).flatten().tolist():
                row |= {f"r_{c}": float(ada.r[c]), f"p_{c}": float(ada.p[c])}
            _require_finite(row, step, params.lr)
            if logged:
                loop.log(**row, ramp=weight)
        if step + 1 in look_steps:
            looks.images[step + 1] = _look(ema.model, n_classes, params, learned)

    return GanResult(
        generator=ema.model,  # type: ignore[arg-type]
        discriminator=discriminator,
        learned=learned,
        sampling=pi,
        history=pd.DataFrame(loop.history),
        looks=torch.stack([looks.images[step] for step in look_steps]),
        look_steps=look_steps,
    )


def below_wrapper(model: Any, fabric: Fabric) -> Callable[..., Tensor]:
    """``model`` as ``fabric.setup`` made it, with its processes and precision, but without Fabric's check of backward.

    That check forbids ``torch.autograd.grad`` on outputs under mixed precision, in order that no loss escapes the
    scaling of float16. The gradient penalties are no backward pass: they are part of the loss that Fabric is given.
    """
    inner = model._forward_module

    def forward(*args: Any) -> Tensor:
        with fabric.autocast():
            return cast(Tensor, inner(*args))

    return forward


class _Picker:
    """Real images for drawn labels."""

    def __init__(self, images: Tensor, labels: Tensor, pi: Tensor) -> None:
        self.images, self.pi = images, pi
        self.members = [torch.nonzero(labels == c).flatten() for c in range(len(pi))]
        self.sizes = torch.tensor([len(m) for m in self.members])

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(positions, labels) of a global batch: labels from pi, then a cell of that class."""
        y = torch.multinomial(self.pi, batch_size, replacement=True, generator=generator)
        u = torch.rand(batch_size, generator=generator, dtype=torch.float64)
        place = (u * self.sizes[y]).long()
        return torch.stack([self.members[c][i] for c, i in zip(y.tolist(), place.tolist(), strict=True)]), y


@dataclass(frozen=True)
class _Batch:
    """One process's share of a step: ``real`` (B,3,S,S) in [-1,1], ``y`` (B,), ``z`` (B,L), the augmentation of [real; fake].

    ``sets`` (B,): images that the discriminator compares with each other have the same number.
    """

    real: Tensor
    y: Tensor
    z: Tensor
    augment: Callable[[Tensor], Tensor]
    sets: Tensor


def _batch(
    loop: TrainingLoop, pick: _Picker, ada: AdaController, params: AcdbGanParams, step: int, who: str, fabric: Fabric
) -> _Batch:
    """Draw a step's share. A cell has no up, so real images are turned and mirrored first: data, not augmentation.

    Generated ones are not: where they were too, the generator drew fewer different cells.
    """
    n = params.batch_size
    positions, y = pick.draw(n, loop.generator(step, who, "labels"))
    z = torch.randn(n, params.latent, generator=loop.generator(step, who, "latent"))
    drawn = draw(ada.p[torch.cat([y, y])], loop.generator(step, who, "augment"))
    rows = loop.shard(torch.arange(n))
    real = pick.images[positions[rows]].to(fabric.device).float() / 255
    real = dihedral(real, loop.generator(step, who, "turn"), rows=rows, total=n) * 2 - 1
    sets = (rows // COMPARED).to(fabric.device)  # no set lies on two processes, if each has a multiple of such sets
    mine = torch.cat([rows, rows + n])
    augment = Augmentation(drawn.theta[mine].to(fabric.device), drawn.stain[mine].to(fabric.device))
    return _Batch(real, y[rows].to(fabric.device), z[rows].to(fabric.device), augment, sets)


def _require_finite(row: Mapping[str, float], step: int, lr: float) -> None:
    """Raise ``LeukError`` before a row of the history, or a checkpoint, holds the NaN of a training that diverged."""
    lost = [name for name, value in row.items() if not math.isfinite(value)]
    if lost:
        classes = ", ".join(name.removeprefix("r_") for name in lost if name.startswith("r_"))
        values = ", ".join(f"{name} {row[name]}" for name in lost if not name.startswith(("r_", "p_")))
        where = f"step {step}, class number {classes}" if classes else f"step {step}"
        raise LeukError(f"{LABEL}: training diverged at {where} ({values}); lower lr, now {lr:g}")


def _sum(fabric: Fabric, value: Tensor) -> Tensor:
    return value if fabric.world_size == 1 else cast(Tensor, fabric.all_reduce(value, reduce_op="sum"))


def _mean(fabric: Fabric, value: Tensor) -> float:
    value = value.detach()
    return float(value if fabric.world_size == 1 else cast(Tensor, fabric.all_reduce(value, reduce_op="mean")))


def _look(generator: torch.nn.Module, n_classes: int, params: AcdbGanParams, learned: Tensor) -> Tensor:
    """(K,n,3,S,S) uint8: the first samples of every learned class."""
    out = torch.full((n_classes, LOOK_EACH, 3, params.gan_size, params.gan_size), 255, dtype=torch.uint8)
    for c in torch.nonzero(learned).flatten().tolist():
        out[c] = generate(generator, c, LOOK_EACH, params.latent, params.seed)
    return out
