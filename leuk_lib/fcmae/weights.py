"""Reading and writing backbones: ours, the official ConvNeXt V2 (dense and sparse layouts) and timm's names.

Strict: every non-head key of the encoder must be found with its shape, and nothing else may remain.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from leuk_lib.fcmae.encoder import VARIANTS, Encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.tensors import named_tensors, read_tensors

FORMAT = "leuk_lib.fcmae.encoder/1"
KEY = "encoder"  # the metadata entry that holds our description, as JSON
ADVICE = "make it or fetch it again"


@dataclass(frozen=True)
class LoadReport:
    """What `load_backbone` did: counts and names of keys."""

    loaded: int
    total: int
    ignored: tuple[str, ...]
    left_at_start: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.loaded} of {self.total} tensors loaded"
        if self.left_at_start:
            text += f"; left at their start: {', '.join(self.left_at_start)}"
        if self.ignored:
            text += f"; not part of a backbone: {', '.join(self.ignored)}"
        return text


# timm's names -> the official ones (the order matters: the head's norm before the head).
_TIMM = [
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.grn\.weight$", ".grn.gamma"),
    (r"\.mlp\.grn\.bias$", ".grn.beta"),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
]
# The sparse pretraining code wraps the encoder, its linear layers and its norms once more.
_SPARSE = [
    (r"^encoder\.", ""),
    (r"\.linear\.(weight|bias)$", r".\1"),
    (r"\.ln\.(weight|bias)$", r".\1"),
]
# Parts of published files that no backbone has: classifier, and the pretraining decoder.
_NOT_BACKBONE = ("head.", "decoder.", "proj.", "pred.", "mask_token")


def _official(key: str) -> str:
    for pattern, name in (*_SPARSE, *_TIMM):
        key = re.sub(pattern, name, key)
    return key


def _unroll_kernel(value: Tensor) -> Tensor:
    """A sparse conv's kernel as a dense weight; its k*k offsets run down the columns (x slowest).

    (k*k, C) depthwise -> (C, 1, k, k); (k*k, C, D) -> (D, C, k, k).
    """
    k = math.isqrt(value.shape[0]) if value.dim() in (2, 3) else 0
    if not k or k * k != value.shape[0]:
        raise LeukError(f"a sparse kernel of shape {tuple(value.shape)} is no square convolution")
    if value.dim() == 2:
        value = value[:, None, :]  # (k*k, 1, C): one input channel an output channel
    return value.unflatten(0, (k, k)).permute(3, 2, 1, 0).contiguous()


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename foreign keys (timm, sparse FCMAE) to the official dense names; kernels of sparse convs unrolled."""
    out = {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            key, value = key.removesuffix("kernel") + "weight", _unroll_kernel(value)
        out[_official(key)] = value
    return out


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    return tuple(s for s in shape if s != 1)


def _describe(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def load_state(encoder: Encoder, state: Mapping[str, Tensor], source: str = "state dict") -> LoadReport:
    """Fill `encoder` from a state dict in any of the known layouts; counts the keys.

    Dimensions of size 1 may differ (1x1 convs for linears, the GRN's shape); everything else must agree.
    The final norm belongs to the head (FCMAE checkpoints have none) and keeps its start if absent.
    Raises LeukError on a missing or unexpected non-head key or a wrong shape; then nothing was loaded.
    """
    given = to_official(state)
    ignored = tuple(sorted(k for k in given if k.startswith(_NOT_BACKBONE)))
    target = encoder.state_dict()
    kept = tuple(sorted(k for k in target if k.startswith("norm.") and k not in given))
    missing = [k for k in target if k not in given and k not in kept]
    extra = sorted(k for k in given if k not in target and k not in ignored)
    if missing or extra:
        raise LeukError(
            f"backbone {source}: not a ConvNeXt V2 {encoder.variant}; missing keys: {_describe(missing)}, "
            f"unexpected keys: {_describe(extra)}"
        )
    new = {}
    for key, old in target.items():
        value = given.get(key, old)
        if _squeezed(value.shape) != _squeezed(old.shape):
            raise LeukError(
                f"backbone {source}: {key} has shape {tuple(value.shape)}, a {encoder.variant} with stem stride "
                f"{encoder.stem_stride} needs {tuple(old.shape)}"
            )
        new[key] = value.reshape(old.shape).to(old.dtype)
    encoder.load_state_dict(new, strict=True)
    return LoadReport(len(target) - len(kept), len(target), ignored, kept)


def save_backbone(encoder: Encoder, path: Path, extra: Mapping[str, str | int | float] | None = None) -> Path:
    """Write an encoder as safetensors (atomically); its metadata is enough for `load_backbone` to rebuild it.

    `extra`: more facts for the metadata (where the weights come from). The same weights give the same bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    config = {"format": FORMAT, "variant": encoder.variant, "stem_stride": encoder.stem_stride}
    # One entry only: safetensors writes several in an order that changes from call to call.
    metadata = {KEY: json.dumps(dict(extra or {}) | config, sort_keys=True)}
    with atomic(path) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    content, metadata = read_tensors(path, "backbone", ADVICE)
    while isinstance(content, Mapping):
        inner = next((content[k] for k in ("model", "state_dict", "model_ema") if k in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    return named_tensors(content, f"backbone {path}", ADVICE), metadata


def _described(metadata: Mapping[str, str]) -> tuple[Any, Any] | None:
    """Variant and stem stride by the metadata of our own files; None for a foreign file, whatever its metadata are."""
    try:
        config = json.loads(metadata.get(KEY, "{}"))
    except json.JSONDecodeError:
        return None
    ours = isinstance(config, dict) and config.get("format") == FORMAT
    return (config.get("variant"), config.get("stem_stride")) if ours else None


def infer_variant(state: Mapping[str, Tensor], source: str = "state dict") -> tuple[str, int]:
    """(variant, stem stride) from the shapes of a state dict in any known layout. Raises LeukError if none fits."""
    official = to_official(state)
    depths = tuple(
        len({k.split(".")[2] for k in official if k.startswith(f"stages.{i}.") and k.count(".") > 2}) for i in range(4)
    )
    dims = tuple(value.numel() for i in range(4) if (value := official.get(f"stages.{i}.0.dwconv.bias")) is not None)
    stem = official.get("downsample_layers.0.0.weight")
    for name, spec in VARIANTS.items():
        if spec["depths"] == depths and spec["dims"] == dims and stem is not None and stem.dim() == 4:
            return name, stem.shape[-1]
    raise LeukError(
        f"backbone {source}: depths {depths} and channels {dims} are none of the ConvNeXt V2 variants "
        f"{', '.join(VARIANTS)}"
    )


def load_backbone(
    path: Path,
    variant: str | None = None,
    stem_stride: int | None = None,
    drop_path: float = 0.0,
) -> Encoder:
    """An encoder with the weights of a file: ours (.safetensors), official, sparse FCMAE or timm (also .pt/.pth).

    Variant and stem stride come from our metadata, else from the shapes; giving them demands them.
    The encoder's `load_report` counts the keys. Raises LeukError on a missing file, code in a pickle, a
    damaged file, values that are not finite, an unknown architecture, a missing or extra non-head key, or a wrong shape.
    """
    path = Path(path)
    state, metadata = _read(path)
    found = _described(metadata)
    if found is None and variant is not None and stem_stride is not None:
        found = (variant, stem_stride)  # told both: let the shapes be checked against them, key by key
    found = found or infer_variant(state, str(path))
    wanted = (variant or found[0], stem_stride or found[1])
    if wanted != found:
        raise LeukError(
            f"backbone {path}: is a {found[0]} with stem stride {found[1]}, not the {wanted[0]} with stem stride "
            f"{wanted[1]} that was asked for"
        )
    try:
        encoder = Encoder(found[0], found[1], drop_path)
    except (TypeError, ValueError) as error:
        raise LeukError(f"backbone {path}: no encoder of this library ({error}); {ADVICE}") from error
    encoder.load_report = load_state(encoder, state, str(path))
    return encoder
