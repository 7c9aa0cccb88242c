"""ConvNeXt V2 encoder, dense or on the visible sites of a mask only, with the official parameter names.

References:
    Woo et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leuk_lib.fcmae.depthwise import DepthwiseConv
from leuk_lib.fcmae.grn import GRN
from leuk_lib.fcmae.masking import VisiblePatches, upsample_mask
from leuk_lib.training.backbones import Backbone
from leuk_lib.training.drop_path import drop_path
from leuk_lib.training.transfer import on_device


class VariantSpec(TypedDict):
    """Numbers of blocks and channels of the four stages."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]


#: Woo et al. 2023, table 11 (atto to base); zepto is timm's smallest ConvNeXt, here in its V2 form.
VARIANTS: dict[str, VariantSpec] = {
    "zepto": {"depths": (2, 2, 4, 2), "dims": (32, 64, 128, 256)},
    "atto": {"depths": (2, 2, 6, 2), "dims": (40, 80, 160, 320)},
    "femto": {"depths": (2, 2, 6, 2), "dims": (48, 96, 192, 384)},
    "pico": {"depths": (2, 2, 6, 2), "dims": (64, 128, 256, 512)},
    "nano": {"depths": (2, 2, 8, 2), "dims": (80, 160, 320, 640)},
    "tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "base": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
}


@dataclass(frozen=True)
class EncoderSpec:
    """What rebuilds an :class:`Encoder` without its weights.

    Attributes:
        variant: A key of `VARIANTS`.
        stem_stride: Stride of the stem in pixels.
    """

    variant: str
    stem_stride: int


class ChannelLayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the channels of (B, C, H, W); in mixed precision the result has the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W); the shape stays."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype).permute(0, 3, 1, 2)


class Block(nn.Module):
    r"""ConvNeXt V2 block with a residual connection and drop path.

    .. math::

        y = x + W_2\, \mathrm{GRN}\big(\mathrm{GELU}(W_1\,
            \mathrm{LN}(\mathrm{DWConv}_{7 \times 7}(x)))\big)

    with linear maps :math:`W_1` from C to 4C channels and :math:`W_2` back.
    """

    def __init__(self, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv(dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.drop_path = drop_path

    def pointwise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply everything after the depthwise convolution, (B, ..., C) -> (B, ..., C); only GRN mixes sites."""
        return self.pwconv2(self.grn(F.gelu(self.pwconv1(self.norm(x))), mask))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Dense form on x (B, C, H, W); where ``mask`` (B, 1, H, W) is 0, x must be 0 and stays 0."""
        sites = self.dwconv(x).permute(0, 2, 3, 1)
        branch = self.pointwise(sites, None if mask is None else mask.permute(0, 2, 3, 1))
        branch = branch.permute(0, 3, 1, 2)
        branch = branch if mask is None else branch * mask
        return x + drop_path(branch, self.drop_path, self.training)

    def forward_visible(self, tokens: Tensor, visible: VisiblePatches) -> Tensor:
        """Visible-only form on tokens (B, K, r, r, C); equals the dense form with a mask at visible sites."""
        sites = visible.gather(self.dwconv(visible.scatter(tokens)))
        return tokens + drop_path(self.pointwise(sites), self.drop_path, self.training)


class Encoder(Backbone):
    """ConvNeXt V2 without a head; its four stages have the strides s, 2s, 4s and 8s for a stem of stride s.

    Args:
        variant: A key of `VARIANTS`.
        stem_stride: 1, 2, 4 or 8 pixels.
        drop_path: Drop path rate of the last block; it rises linearly from 0.

    Attributes:
        channels: (C_1, ..., C_4).
        strides: Total stride of each stage, in pixels.
        patch: Side of a mask patch in pixels, the stride of the last stage.
        load_report: Set by `leuk_lib.fcmae.weights.load_backbone`.

    Raises:
        ValueError: Unknown variant or stem stride.
    """

    def __init__(self, variant: str, stem_stride: int = 4, drop_path: float = 0.0) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"encoder variant {variant!r} is unknown: choose one of {', '.join(VARIANTS)}")
        if stem_stride not in (1, 2, 4, 8):
            raise ValueError(f"stem_stride {stem_stride} is not one of 1, 2, 4, 8")
        spec = VARIANTS[variant]
        depths, dims = spec["depths"], spec["dims"]
        self.variant, self.stem_stride = variant, stem_stride
        self.channels: tuple[int, ...] = dims
        self.strides: tuple[int, ...] = tuple(stem_stride * 2**i for i in range(4))
        self.patch: int = self.strides[-1]
        self.load_report: object = None
        stem = nn.Sequential(nn.Conv2d(3, dims[0], stem_stride, stem_stride), ChannelLayerNorm(dims[0], 1e-6))
        downs = [
            nn.Sequential(ChannelLayerNorm(dims[i], 1e-6), nn.Conv2d(dims[i], dims[i + 1], 2, 2)) for i in range(3)
        ]
        self.downsample_layers = nn.ModuleList([stem, *downs])
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, next(rates)) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)

    def forward(self, x: Tensor, visible: Tensor | None = None, dense: bool = False) -> list[Tensor]:
        """Compute the outputs of the four stages.

        Args:
            x: Standardised images (B, 3, H, W).
            visible: bool (B, H/patch, W/patch), True where visible, equally many in every sample; None: no mask. It may
                stay on the CPU when x is on a GPU, which the host then need not wait for.
            dense: Compute all sites and apply the mask, which gives the same result more slowly.

        Returns:
            Four maps (B, C_i, H_i, W_i), before any final norm, 0 at hidden sites.

        Raises:
            ValueError: The mask does not fit the images.
        """
        if visible is None:
            return self._forward_dense(x)
        expected = (x.shape[0], x.shape[2] // self.patch, x.shape[3] // self.patch)
        if tuple(visible.shape) != expected or x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(
                f"a mask {tuple(visible.shape)} does not fit images {tuple(x.shape)}: sides must be multiples "
                f"of the mask patch, {self.patch} px, and the mask {expected}"
            )
        if dense:
            return self._forward_dense(x, on_device(visible, x.device))
        patches = VisiblePatches.from_mask(visible, x.device)
        return [patches.scatter(t) for t in self.forward_tokens(x, patches)]

    def _forward_dense(self, x: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        features = []
        for stride, down, stage in zip(self.strides, self.downsample_layers, self.stages, strict=True):
            x = down(x)
            mask = None
            if visible is not None:
                mask = upsample_mask(visible, self.patch // stride)[:, None].to(x.dtype)
                x = x * mask
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, mask)
            features.append(x)
        return features

    def forward_tokens(self, x: Tensor, visible: VisiblePatches) -> list[Tensor]:
        """Compute visible features only: four tensors (B, K, r_i, r_i, C_i) with r_i = 8, 4, 2, 1."""
        tokens, features = visible.gather(x), []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            first, second = down[0], down[1]  # type: ignore[index]
            if i == 0:
                tokens = _layer_norm(_patch_linear(tokens, first), second)
            else:
                tokens = _patch_linear(_layer_norm(tokens, first), second)
            for block in stage:  # type: ignore[attr-defined]
                tokens = block.forward_visible(tokens, visible)
            features.append(tokens)
        return features

    @property
    def spec(self) -> EncoderSpec:
        """What rebuilds this encoder."""
        return EncoderSpec(self.variant, self.stem_stride)

    def freeze_unused(self) -> None:
        """Exclude from training the final norm, which belongs to :meth:`pool` only."""
        self.norm.requires_grad_(False)

    def level_of(self, parameter: str) -> int:
        """Position of the stage of a parameter of this module, given by name; the last one for the final norm."""
        first, _, rest = parameter.partition(".")
        return int(rest.split(".")[0]) if first in ("stages", "downsample_layers") else len(self.stages) - 1

    def pool(self, x: Tensor) -> Tensor:
        """Image features, (B, 3, H, W) -> (B, C_4): global average of the last stage, then LayerNorm."""
        return self.norm(self.forward(x)[-1].mean(dim=(2, 3)))


def _layer_norm(tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(tokens.dtype)


def _patch_linear(tokens: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a convolution whose kernel equals its stride s as a linear map: (B, K, r, r, C) -> (B, K, r/s, r/s, D)."""
    batch, count, r, _, channels = tokens.shape
    s = conv.kernel_size[0]
    if s > 1:
        tokens = tokens.view(batch, count, r // s, s, r // s, s, channels).transpose(3, 4)
    weight = conv.weight.permute(0, 2, 3, 1).reshape(conv.out_channels, -1)
    return F.linear(tokens.reshape(batch, count, r // s, r // s, s * s * channels), weight, conv.bias)


PUBLISHED = "published"


def init_weights(module: nn.Module, generator: torch.Generator | None = None, init: str = PUBLISHED) -> None:
    """Initialise linear and convolution weights, and set their biases to 0; norms and GRN are left alone.

    Args:
        module: Changed in place.
        generator: Source of the draws; None: torch's global generator.
        init: "published" draws from a normal distribution of standard deviation 0.02, truncated at two deviations;
            "fan_in" uses 1/sqrt(fan-in), and half of it in the last layer of a block. With 0.02 the branches of a
            narrow network contribute almost nothing, and training takes hundreds of steps to change that.
    """
    for name, m in module.named_modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            if init == PUBLISHED:
                nn.init.trunc_normal_(m.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
            else:
                gain = 0.5 if name.endswith("pwconv2") else 1.0
                nn.init.normal_(m.weight, std=gain / m.weight[0].numel() ** 0.5, generator=generator)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def build_encoder(
    variant: str,
    stem_stride: int = 4,
    drop_path: float = 0.0,
    generator: torch.Generator | None = None,
    init: str = PUBLISHED,
) -> Encoder:
    """Build an encoder with initial weights.

    Args:
        variant: As in `Encoder`.
        stem_stride: As in `Encoder`: 4 as published, 2 for images of up to 96 px, 1 up to 48 px.
        drop_path: As in `Encoder`.
        generator: As in `init_weights`.
        init: As in `init_weights`.

    Raises:
        ValueError: Unknown variant or stem stride.
    """
    encoder = Encoder(variant, stem_stride, drop_path)
    init_weights(encoder, generator, init)
    return encoder
