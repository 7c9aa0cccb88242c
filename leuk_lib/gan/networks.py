"""Generator and discriminator after R3GAN: residual, without any normalisation, started as the identity.

Two kinds of block from the same code: ``groups = 0`` gives two plain 3x3 convolutions (slim, for CPUs),
``groups > 0`` gives R3GAN's 1x1 -> grouped 3x3 -> 1x1 with that many channels a group.
Source: Huang et al. 2024 (R3GAN); Zhang et al. 2019 (Fixup); Miyato & Koyama 2018 (projection);
Shahbazi et al. 2022 and Khorram et al. 2024 (late and gradual conditioning against collapse of rare classes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leuk_lib.runs.errors import LeukError

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through a leaky ReLU
COARSEST = 4  # px; the generator starts and the discriminator ends here


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of both networks; see ``AcdbGanParams`` for meanings."""

    size: int
    n_classes: int
    width: int = 32
    max_width: int = 96
    blocks: int = 1
    groups: int = 0
    latent: int = 64
    patch: int = 1

    def __post_init__(self) -> None:
        if self.size < 8 * self.patch or self.size & (self.size - 1):
            raise LeukError(f"GAN image size {self.size}: must be a power of two, {8 * self.patch} or more")
        if self.n_classes < 1:
            raise LeukError("GAN: there must be at least one class to learn")

    @property
    def levels(self) -> list[int]:
        """Sides of the levels, coarse to fine: 4, 8, … size/patch."""
        return [COARSEST * 2**i for i in range(int(math.log2(self.finest // COARSEST)) + 1)]

    @property
    def finest(self) -> int:
        """Side of the finest level; each of its sites stands for patch x patch pixels."""
        return self.size // self.patch

    def channels(self, side: int) -> int:
        """Channels at a level: ``width`` at the finest, doubled towards the coarse ones up to ``max_width``."""
        return min(self.width * (self.finest // side), self.max_width)


def upsample(x: Tensor) -> Tensor:
    """Twice the side: nearest neighbour, then [1,2,1]; (B,C,H,W) -> (B,C,2H,2W). Constants stay, edges replicated.

    The two together are bilinear interpolation between pixel centres, which torch has as one operation.
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def downsample(x: Tensor) -> Tensor:
    """Half the side: [1,2,1], then the mean of each 2x2, as one [1,3,3,1]/8 convolution; edges replicated."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    kernel = (row[:, None] * row[None, :]).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])


def _conv(inside: int, outside: int, kernel: int, groups: int = 1, gain: float = 1.0) -> nn.Conv2d:
    """Convolution without bias, variance-preserving times ``gain``; ``gain = 0`` starts as zero."""
    conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(conv.weight, std=gain / math.sqrt(inside // groups * kernel * kernel))
    return conv


class BiasedActivation(nn.Module):
    """x -> leaky ReLU(x + bias), a bias a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[:, None, None], SLOPE)


class ResidualBlock(nn.Module):
    """x + f(x), with f's last convolution at zero, so every network starts as its skip path.

    The other convolutions are scaled by L^(-1/(2m-2)) (Fixup: L blocks, m convolutions a block).
    ``condition`` (B, E), if the block has ``embedding`` = E > 0, scales and shifts the first activation,
    channel by channel; it too starts at zero.
    """

    def __init__(self, channels: int, groups: int, depth: int, embedding: int = 0) -> None:
        super().__init__()
        if groups:
            if channels % groups:
                raise LeukError(f"GAN: {channels} channels cannot be split into groups of {groups}")
            kernels, inner, split = [1, 3, 1], channels * 2, channels * 2 // groups
        else:
            kernels, inner, split = [3, 3], channels, 1
        gain = GAIN * depth ** (-1 / (2 * len(kernels) - 2))
        ends = [channels, *[inner] * (len(kernels) - 1), channels]
        self.convs = nn.ModuleList(
            _conv(
                a,
                b,
                kernel,
                split if len(kernels) == 3 and place == 1 else 1,
                0.0 if place == len(kernels) - 1 else gain,
            )
            for place, (a, b, kernel) in enumerate(zip(ends[:-1], ends[1:], kernels, strict=True))
        )
        self.acts = nn.ModuleList(BiasedActivation(inner) for _ in kernels[:-1])
        self.modulate = nn.Linear(embedding, 2 * inner) if embedding else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B,C,H,W), condition (B,E) or None -> (B,C,H,W)."""
        h = self.convs[0](x)
        if self.modulate is not None and condition is not None:
            scale, shift = self.modulate(condition)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        for act, conv in zip(self.acts, self.convs[1:], strict=True):
            h = conv(act(h))
        return x + h


class Level(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(self, channels: int, config: NetworkConfig, embedding: int = 0) -> None:
        super().__init__()
        depth = config.blocks * len(config.levels)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, config.groups, depth, embedding) for _ in range(config.blocks)
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, condition)
        return x


class Generator(nn.Module):
    """(z, y) -> image. The 4 px level sees z only; finer levels see z and the class, weighted by ``ramp``.

    Whatever the 4 px level hands on comes from z and has mean square 1. With a bias there and no such norm, the
    generator shrank z within a few hundred steps and then drew one picture a class.

    forward(z (B,latent), y (B,) int64, ramp in [0,1]) -> (B,3,size,size) float, about [-1,1] (not clipped).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        first = config.channels(COARSEST)
        self.basis = nn.Parameter(torch.randn(first, COARSEST, COARSEST))
        self.project = nn.Linear(config.latent, first, bias=False)
        self.classes = nn.Embedding(config.n_classes, config.latent)
        self.levels = nn.ModuleList()
        self.changes = nn.ModuleList()
        for place, side in enumerate(config.levels):
            channels = config.channels(side)
            self.levels.append(Level(channels, config, embedding=2 * config.latent if place else 0))
            before = config.channels(config.levels[place - 1]) if place else channels
            self.changes.append(_conv(before, channels, 1) if before != channels else nn.Identity())
        last = config.channels(config.finest)
        self.to_rgb = nn.Conv2d(last, 3 * config.patch**2, 1)
        nn.init.normal_(self.to_rgb.weight, std=1 / math.sqrt(last))
        self.to_rgb.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, z: Tensor, y: Tensor, ramp: float = 1.0) -> Tensor:
        z = F.rms_norm(z, z.shape[1:])
        x = self.basis * self.project(z)[:, :, None, None]  # (B,C,4,4)
        x = F.rms_norm(x, x.shape[1:])
        condition = torch.cat([z, ramp * self.classes(y)], dim=1)
        for place, (change, level) in enumerate(zip(self.changes, self.levels, strict=True)):
            if place:
                x = change(upsample(x))
            x = level(x, condition if place else None)
        return F.pixel_shuffle(self.to_rgb(x), self.config.patch)


def class_deviation(x: Tensor, y: Tensor, sets: Tensor | None = None) -> Tensor:
    """Standard deviation of every channel among the images of one class, averaged over sites: (B,C,H,W) -> (B,C).

    ``y`` (B,) int64. Images are compared with those of the same number in ``sets`` (B,) only; None: with all.
    An image alone in its class and set has 0.01, as has a class of equal images.
    """
    same = y[:, None] == y
    if sets is not None:
        same = same & (sets[:, None] == sets)
    with torch.autocast(x.device.type, enabled=False):  # small differences of large numbers
        share = same.float() / same.sum(dim=1, keepdim=True)
        flat = x.float().flatten(1)
        variance = share @ flat.square() - (share @ flat).square()
        return (variance.clamp(min=0) + 1e-4).sqrt().view(x.shape).mean(dim=(2, 3))


class Discriminator(nn.Module):
    """(image, y) -> one logit: linear in the features plus their projection on the class, weighted by ``ramp``.

    forward(x (B,3,size,size) in about [-1,1], y (B,) int64, ramp in [0,1], sets (B,) or None) -> (B,). It also sees how
    much the images of a class and set differ (``class_deviation``, weight 0 at the start), so that a generator which
    draws one picture a class is found out.
    Source: Karras et al. 2018, section 3 (standard deviation over the batch); within classes is ours.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        colours = 3 * config.patch**2
        self.from_rgb = nn.Conv2d(colours, config.channels(config.finest), 1)
        nn.init.normal_(self.from_rgb.weight, std=1 / math.sqrt(colours))
        self.from_rgb.bias.data.zero_()  # type: ignore[union-attr]
        self.levels = nn.ModuleList()
        self.changes = nn.ModuleList()
        sides = config.levels[::-1]
        for place, side in enumerate(sides):
            channels = config.channels(side)
            self.levels.append(Level(channels, config))
            after = config.channels(sides[place + 1]) if place + 1 < len(sides) else channels
            self.changes.append(_conv(channels, after, 1) if after != channels else nn.Identity())
        last = config.channels(COARSEST)
        self.collect = _conv(last, last, COARSEST, groups=last)
        self.collect.padding = (0, 0)  # one value a channel
        self.linear = nn.Linear(last, 1)
        self.variety = nn.Linear(last, 1, bias=False)
        nn.init.zeros_(self.variety.weight)
        self.classes = nn.Embedding(config.n_classes, last)
        nn.init.normal_(self.classes.weight, std=1 / math.sqrt(last))

    def forward(self, x: Tensor, y: Tensor, ramp: float = 1.0, sets: Tensor | None = None) -> Tensor:
        h = self.from_rgb(F.pixel_unshuffle(x, self.config.patch))
        for place, (level, change) in enumerate(zip(self.levels, self.changes, strict=True)):
            h = level(h)
            if place + 1 < len(self.levels):
                h = change(downsample(h))
        features = self.collect(h).flatten(1)  # (B,C)
        logit = self.linear(features) + self.variety(class_deviation(h, y, sets))  # (B,1)
        return logit.squeeze(1) + ramp * (self.classes(y) * features).sum(dim=1)
