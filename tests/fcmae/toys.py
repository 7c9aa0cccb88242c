"""Small networks, parameters and images shared by the tests of FCMAE."""

import math

import torch
from torch import Tensor, nn

from leuk_lib.fcmae.encoder import VARIANTS, Encoder, build_encoder
from leuk_lib.fcmae.params import FcmaeParams


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stir(module: nn.Module, seed: int = 0) -> None:
    """Move norms, biases and GRN away from their initial values, so that a wrong use of them shows."""
    g = generator(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.numel() == max(parameter.shape):
                offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(offset + 0.3 * torch.randn(parameter.shape, generator=g))


def encoder(variant: str = "zepto", stem_stride: int = 2, seed: int = 0) -> Encoder:
    model = build_encoder(variant, stem_stride, generator=generator(seed))
    stir(model, seed)
    return model.eval()


def timm_model(variant: str, patch_size: int = 4, **kwargs: object) -> nn.Module:
    """timm's ConvNeXt in V2 form with random weights everywhere."""
    from timm.models.convnext import ConvNeXt

    spec = VARIANTS[variant]
    model = ConvNeXt(
        depths=spec["depths"], dims=spec["dims"], patch_size=patch_size, use_grn=True, ls_init_value=None,
        conv_mlp=variant not in ("tiny", "base"), num_classes=3, **kwargs,
    )  # fmt: skip
    stir(model)
    return model.eval()


def rolled(weight: Tensor) -> Tensor:
    """A dense kernel in the sparse layout: offsets x-major, (k*k, C) depthwise or (k*k, C, D)."""
    out, inner, k, _ = weight.shape
    flat = torch.stack([weight[:, :, y, x] for x in range(k) for y in range(k)])  # (k*k, D, C)
    assert math.isqrt(flat.shape[0]) == k
    return flat[:, :, 0].clone() if inner == 1 else flat.transpose(1, 2).clone().reshape(k * k, inner, out)


def small_params(**values: object) -> FcmaeParams:
    base: dict[str, object] = {
        "stem_stride": 1, "steps": 6, "batch_size": 8, "decoder_dim": 16, "checkpoint_every": 2,
        "accelerator": "cpu", "threads": 1, "contrast": 1.0,
    }  # fmt: skip
    return FcmaeParams(**(base | values))  # type: ignore[arg-type]


def cells(n: int = 20, size: int = 16, seed: int = 0) -> Tensor:
    """Blobs on a bright field, uint8 (n, 3, size, size)."""
    g = generator(seed)
    axis = torch.linspace(-1, 1, size)
    radius = (axis[:, None] ** 2 + axis[None] ** 2)[None] / torch.rand(n, 1, 1, generator=g).add(0.2)
    blob = (-2 * radius).exp()[:, None]
    colour = torch.rand(n, 3, 1, 1, generator=g)
    noise = 0.02 * torch.randn(n, 3, size, size, generator=g)
    return ((0.92 - blob * colour + noise).clamp(0, 1) * 255).to(torch.uint8)
