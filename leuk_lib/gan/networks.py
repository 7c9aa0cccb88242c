"""Class-conditional generator and discriminator after R3GAN: residual blocks without normalisation layers.

There are two kinds of block: ``groups = 0`` gives two 3x3 convolutions (slim, for CPUs), ``groups > 0`` gives R3GAN's
1x1, grouped 3x3, 1x1 with that many channels per group. Every block starts as the identity.

References:
    Huang et al. 2024 (R3GAN); Zhang et al. 2019 (Fixup); Miyato & Koyama 2018 (projection discriminator);
    Karras et al. 2018, section 3 (minibatch standard deviation); Shahbazi et al. 2022 and Khorram et al. 2024
    (late and gradual conditioning against collapse of rare classes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leuk_lib.runs.errors import LeukError
from leuk_lib.training.transfer import on_device

SLOPE = 0.2  # of the leaky ReLU
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # preserves the variance through the leaky ReLU
COARSEST = 4  # px; the generator starts and the discriminator ends here


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of both networks, as described in ``AcdbGanParams``.

    Raises:
        LeukError: If ``size`` is no power of two or smaller than ``8 * patch``, or if there is no class.
    """

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
        """Sides of the feature maps in px, coarse to fine: 4, 8, … size/patch."""
        return [COARSEST * 2**i for i in range(int(math.log2(self.finest // COARSEST)) + 1)]

    @property
    def finest(self) -> int:
        """Side of the finest level; each of its sites covers patch x patch pixels."""
        return self.size // self.patch

    def channels(self, side: int) -> int:
        """Return the channels at a level: ``width`` at the finest, doubled per coarser level up to ``max_width``."""
        return min(self.width * (self.finest // side), self.max_width)


def upsample(x: Tensor) -> Tensor:
    """Double the side, (B,C,H,W) -> (B,C,2H,2W), edges replicated.

    Nearest neighbour followed by the filter [1,2,1]/4 is bilinear interpolation between pixel centres.
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def downsample(x: Tensor) -> Tensor:
    """Halve the side, (B,C,H,W) -> (B,C,H/2,W/2), with the separable filter [1,3,3,1]/8, edges replicated."""
    row = on_device(torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype), x.device) / 8
    kernel = (row[:, None] * row[None, :]).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])


def _conv(channels_in: int, channels_out: int, kernel: int, groups: int = 1, gain: float = 1.0) -> nn.Conv2d:
    """Return a convolution without bias that scales the variance by ``gain`` squared; 0 initialises it with zeros."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(conv.weight, std=gain / math.sqrt(channels_in // groups * kernel * kernel))
    return conv


class BiasedActivation(nn.Module):
    """Leaky ReLU of x + b with one bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C,H,W)."""
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], SLOPE)


class ResidualBlock(nn.Module):
    r"""Residual block :math:`x + f(x)` with Fixup initialisation.

    The last convolution of :math:`f` starts at zero, the others are scaled by :math:`L^{-1/(2m-2)}` for :math:`L`
    blocks in the network and :math:`m` convolutions per block. A condition (B,E) scales and shifts the channels after
    the first convolution; this too starts as the identity.

    Args:
        channels: Channels of input and output.
        groups: Channels per group of the 3x3 convolution; 0 for two plain 3x3 convolutions.
        depth: :math:`L`, the residual blocks in the network.
        embedding: :math:`E`, the length of the condition; 0 for none.

    Raises:
        LeukError: If ``groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int, groups: int, depth: int, embedding: int = 0) -> None:
        super().__init__()
        if groups:
            if channels % groups:
                raise LeukError(f"GAN: {channels} channels cannot be split into groups of {groups}")
            kernels, hidden, conv_groups = [1, 3, 1], channels * 2, channels * 2 // groups
        else:
            kernels, hidden, conv_groups = [3, 3], channels, 1
        gain = GAIN * depth ** (-1 / (2 * len(kernels) - 2))
        widths = [channels, *[hidden] * (len(kernels) - 1), channels]
        last = len(kernels) - 1
        self.convs = nn.ModuleList(
            _conv(
                widths[i], widths[i + 1], kernel,
                groups=conv_groups if i == 1 and last == 2 else 1, gain=0.0 if i == last else gain,
            )
            for i, kernel in enumerate(kernels)
        )  # fmt: skip
        self.acts = nn.ModuleList(BiasedActivation(hidden) for _ in kernels[:-1])
        self.modulate = nn.Linear(embedding, 2 * hidden) if embedding else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map x (B,C,H,W) and condition (B,E) or None to (B,C,H,W)."""
        h = self.convs[0](x)
        if self.modulate is not None and condition is not None:
            scale, shift = self.modulate(condition)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        for act, conv in zip(self.acts, self.convs[1:], strict=True):
            h = conv(act(h))
        return x + h


class Level(nn.Module):
    """The residual blocks of one resolution."""

    def __init__(self, channels: int, config: NetworkConfig, embedding: int = 0) -> None:
        super().__init__()
        depth = config.blocks * len(config.levels)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, config.groups, depth, embedding) for _ in range(config.blocks)
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map x (B,C,H,W) and condition (B,E) or None to (B,C,H,W)."""
        for block in self.blocks:
            x = block(x, condition)
        return x


class Generator(nn.Module):
    """Generator of images from a latent vector and a class.

    The 4 px level depends on z only, finer levels on z and on the class embedding times ``ramp``. The input of the 4 px
    level is linear in z and normalised to mean square 1. With a bias and without the norm, training shrinks z and the
    generator collapses to one image per class.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        first = config.channels(COARSEST)
        self.basis = nn.Parameter(torch.randn(first, COARSEST, COARSEST))
        self.project = nn.Linear(config.latent, first, bias=False)
        self.class_embedding = nn.Embedding(config.n_classes, config.latent)
        self.levels = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for i, side in enumerate(config.levels):
            channels = config.channels(side)
            self.levels.append(Level(channels, config, embedding=2 * config.latent if i else 0))
            before = config.channels(config.levels[i - 1]) if i else channels
            self.transitions.append(_conv(before, channels, 1) if before != channels else nn.Identity())
        last = config.channels(config.finest)
        self.to_rgb = nn.Conv2d(last, 3 * config.patch**2, 1)
        nn.init.normal_(self.to_rgb.weight, std=1 / math.sqrt(last))
        self.to_rgb.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, z: Tensor, y: Tensor, ramp: float = 1.0) -> Tensor:
        """Map z (B,latent), y (B,) int64 and ramp in [0,1] to images (B,3,size,size) in about [-1,1], not clipped."""
        z = F.rms_norm(z, z.shape[1:])
        projected = self.project(z)  # (B,C)
        x = self.basis * projected[:, :, None, None]  # (B,C,4,4)
        x = F.rms_norm(x, x.shape[1:]).to(projected.dtype)  # in mixed precision the levels keep the dtype of this
        condition = torch.cat([z, ramp * self.class_embedding(y)], dim=1)  # (B,2 latent)
        for i, (transition, level) in enumerate(zip(self.transitions, self.levels, strict=True)):
            if i:
                x = transition(upsample(x))
            x = level(x, condition if i else None)
        return F.pixel_shuffle(self.to_rgb(x), self.config.patch)


def group_variance(share: Tensor, flat: Tensor, centred: bool) -> Tensor:
    r"""Variance within each image's group, :math:`\operatorname{E}[x^2] - \operatorname{E}[x]^2`.

    Args:
        share: (B,B), row b is 1/n at the n images of b's group and 0 elsewhere.
        flat: Features (B,D).
        centred: Compute :math:`\operatorname{E}[(x - \operatorname{E}[x])^2]` instead: where a GPU rounds the factors of
            products (TF32), the difference of two large numbers would lose a small variance.

    Returns:
        (B,D).
    """
    if centred:
        return share @ (flat - share @ flat).square()
    return share @ flat.square() - (share @ flat).square()


def class_minibatch_std(x: Tensor, y: Tensor, std_groups: Tensor | None = None) -> Tensor:
    r"""Return the minibatch standard deviation within each class, averaged over sites.

    .. math:: s_{bk} = \frac{1}{HW} \sum_{ij} \sqrt{\operatorname{Var}_{b' \sim b}[x_{b'kij}] + 10^{-4}},

    where :math:`b' \sim b` are the images of the same class and group.

    Args:
        x: Feature maps (B,C,H,W).
        y: Classes (B,) int64.
        std_groups: Group numbers (B,); images are compared within their group only. None: one group.

    Returns:
        (B,C); 0.01 for an image that is alone in its class and group, and for a class of equal images.
    """
    same = y[:, None] == y
    if std_groups is not None:
        same = same & (std_groups[:, None] == std_groups)
    with torch.autocast(x.device.type, enabled=False):  # small differences of large numbers
        share = same.float() / same.sum(dim=1, keepdim=True)
        flat = x.float().flatten(1)
        variance = group_variance(share, flat, centred=x.device.type == "cuda")
        return (variance.clamp(min=0) + 1e-4).sqrt().view(x.shape).mean(dim=(2, 3))


class Discriminator(nn.Module):
    r"""Projection discriminator that sees the diversity within each class.

    .. math:: D(x, y) = w^\top \phi(x) + b + v^\top s(x, y) + \rho\, e_y^\top \phi(x)

    :math:`\phi` are the features, :math:`s` the standard deviations of :func:`class_minibatch_std` (:math:`v = 0` at the
    start), :math:`e_y` the class embedding and :math:`\rho` the ramp. :math:`s` exposes a generator that draws the same
    image of a class again and again. Computing it within classes is this companion's variant of Karras et al. 2018.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        colours = 3 * config.patch**2
        self.from_rgb = nn.Conv2d(colours, config.channels(config.finest), 1)
        nn.init.normal_(self.from_rgb.weight, std=1 / math.sqrt(colours))
        self.from_rgb.bias.data.zero_()  # type: ignore[union-attr]
        self.levels = nn.ModuleList()
        self.transitions = nn.ModuleList()
        sides = config.levels[::-1]
        for i, side in enumerate(sides):
            channels = config.channels(side)
            self.levels.append(Level(channels, config))
            after = config.channels(sides[i + 1]) if i + 1 < len(sides) else channels
            self.transitions.append(_conv(channels, after, 1) if after != channels else nn.Identity())
        last = config.channels(COARSEST)
        self.global_depthwise = _conv(last, last, COARSEST, groups=last)
        self.global_depthwise.padding = (0, 0)  # one value per channel
        self.linear = nn.Linear(last, 1)
        self.diversity = nn.Linear(last, 1, bias=False)
        nn.init.zeros_(self.diversity.weight)
        self.class_embedding = nn.Embedding(config.n_classes, last)
        nn.init.normal_(self.class_embedding.weight, std=1 / math.sqrt(last))

    def forward(self, x: Tensor, y: Tensor, ramp: float = 1.0, std_groups: Tensor | None = None) -> Tensor:
        """Map x (B,3,size,size) in about [-1,1], y (B,) int64 and ramp in [0,1] to logits (B,)."""
        h = self.from_rgb(F.pixel_unshuffle(x, self.config.patch))
        for i, (level, transition) in enumerate(zip(self.levels, self.transitions, strict=True)):
            h = level(h)
            if i + 1 < len(self.levels):
                h = transition(downsample(h))
        features = self.global_depthwise(h).flatten(1)  # (B,C)
        logit = self.linear(features) + self.diversity(class_minibatch_std(h, y, std_groups))  # (B,1)
        return logit.squeeze(1) + ramp * (self.class_embedding(y) * features).sum(dim=1)
