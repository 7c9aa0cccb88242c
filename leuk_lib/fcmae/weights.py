"""Read and write backbones: files of this library, of the official ConvNeXt V2 (dense and sparse) and of timm.

Loading is strict: every key of the encoder must be present with its shape, and only keys of a head may be left over.
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
from leuk_lib.runs.files import atomic, with_checksum
from leuk_lib.runs.numbers import parse_json
from leuk_lib.runs.tensors import CHECKSUM, check_digest, check_metadata, digest, named_tensors, read_tensors

FORMAT = "leuk_lib.fcmae.encoder/1"
KEY = "encoder"  # metadata entry with the architecture, as JSON
ORIGIN = "origin"  # entry of that JSON with the weights that the training started from
DIGEST = "tensors_sha256"  # entry of that JSON
ADVICE = "create or download it again"


@dataclass(frozen=True)
class LoadReport:
    """Outcome of `load_backbone`.

    Attributes:
        loaded: Number of tensors loaded.
        total: Number of tensors of the encoder.
        ignored: Keys of the file that belong to no backbone.
        not_in_file: Keys of the encoder that kept their initial values.
    """

    loaded: int
    total: int
    ignored: tuple[str, ...]
    not_in_file: tuple[str, ...]


# timm's names -> the official ones; the order matters: the head's norm before the head.
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
# Wrappers of the sparse pretraining code around the encoder, its linear layers and its norms.
_SPARSE = [
    (r"^encoder\.", ""),
    (r"\.linear\.(weight|bias)$", r".\1"),
    (r"\.ln\.(weight|bias)$", r".\1"),
]
# Classifier and pretraining decoder in published files.
_NOT_BACKBONE = ("head.", "decoder.", "proj.", "pred.", "mask_token")


def _official(key: str) -> str:
    for pattern, name in (*_SPARSE, *_TIMM):
        key = re.sub(pattern, name, key)
    return key


def _unroll_kernel(value: Tensor) -> Tensor:
    """Convert the kernel of a sparse convolution, whose k*k offsets have x slowest, to a dense weight.

    Depthwise: (k*k, C) -> (C, 1, k, k); else (k*k, C, D) -> (D, C, k, k).
    """
    k = math.isqrt(value.shape[0]) if value.dim() in (2, 3) else 0
    if not k or k * k != value.shape[0]:
        raise LeukError(f"a sparse kernel of shape {tuple(value.shape)} does not belong to a square convolution")
    if value.dim() == 2:
        value = value[:, None, :]  # (k*k, 1, C): one input channel per output channel
    return value.unflatten(0, (k, k)).permute(3, 2, 1, 0).contiguous()


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of timm or of sparse FCMAE to the official dense names and shapes."""
    out = {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            key, value = key.removesuffix("kernel") + "weight", _unroll_kernel(value)
        out[_official(key)] = value
    return out


def _without_ones(shape: torch.Size) -> tuple[int, ...]:
    return tuple(s for s in shape if s != 1)


def _count_and_names(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def load_state(encoder: Encoder, state: Mapping[str, Tensor], source: str = "state dict") -> LoadReport:
    """Load a state dict in any known layout into `encoder`.

    Shapes may differ in dimensions of size 1 only (1x1 convolutions for linear layers, GRN). The final norm belongs to
    the head; where it is absent, as in FCMAE checkpoints, it keeps its initial values.

    Args:
        encoder: Changed in place.
        state: Tensors by name.
        source: Named in error messages.

    Raises:
        LeukError: A key outside the head is missing or unexpected, or a shape is wrong; nothing is loaded then.
    """
    given = to_official(state)
    ignored = tuple(sorted(k for k in given if k.startswith(_NOT_BACKBONE)))
    target = encoder.state_dict()
    kept = tuple(sorted(k for k in target if k.startswith("norm.") and k not in given))
    missing = [k for k in target if k not in given and k not in kept]
    extra = sorted(k for k in given if k not in target and k not in ignored)
    if missing or extra:
        raise LeukError(
            f"backbone {source}: not a ConvNeXt V2 {encoder.variant}; missing keys: {_count_and_names(missing)}, "
            f"unexpected keys: {_count_and_names(extra)}"
        )
    new = {}
    for key, old in target.items():
        value = given.get(key, old)
        if _without_ones(value.shape) != _without_ones(old.shape):
            raise LeukError(
                f"backbone {source}: {key} has shape {tuple(value.shape)}, a {encoder.variant} with stem stride "
                f"{encoder.stem_stride} needs {tuple(old.shape)}"
            )
        if not value.is_floating_point():
            raise LeukError(f"backbone {source}: {key} is of type {value.dtype}, not of floats; convert the file")
        new[key] = value.reshape(old.shape).to(old.dtype)
    encoder.load_state_dict(new, strict=True)
    return LoadReport(len(target) - len(kept), len(target), ignored, kept)


def save_backbone(encoder: Encoder, path: Path, extra: Mapping[str, Any] | None = None) -> Path:
    """Write an encoder as safetensors, atomically; the same weights give the same bytes.

    Args:
        encoder: The encoder; its architecture goes into the metadata.
        path: Usually ending in ``.safetensors``; folders are created.
        extra: Further metadata that JSON can hold, such as the origin of the weights (`ORIGIN`).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    config = {"format": FORMAT, "variant": encoder.variant, "stem_stride": encoder.stem_stride, DIGEST: digest(tensors)}
    # A single entry, because safetensors writes several in an order that changes from call to call.
    metadata = {KEY: json.dumps(with_checksum(dict(extra or {}) | config, CHECKSUM), sort_keys=True)}
    with atomic(path) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and `_config` of a file."""
    content, metadata = read_tensors(path, "backbone", ADVICE)
    while isinstance(content, Mapping):
        inner = next((content[k] for k in ("model", "state_dict", "model_ema") if k in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    tensors = named_tensors(content, f"backbone {path}", ADVICE)
    config = _config(path, metadata)
    check_digest(tensors, config.get(DIGEST), f"backbone {path}", ADVICE)
    return tensors, config


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a file of this library; empty for other files.

    Raises:
        LeukError: They are damaged.
    """
    try:
        config = parse_json(metadata.get(KEY, "{}"))
    except ValueError as error:
        if CHECKSUM in metadata[KEY]:
            raise LeukError(f"backbone {path}: damaged (its metadata cannot be read: {error}); {ADVICE}") from error
        return {}
    if not isinstance(config, dict):
        return {}
    check_metadata(config, f"backbone {path}", ADVICE)
    return config if config.get("format") == FORMAT else {}


def read_origin(path: Path) -> dict[str, Any] | None:
    """What an encoder of this library was started from (name, file, sha256, licence, source, revision, ...).

    None for random weights and for files of others.

    Raises:
        LeukError: The file is missing or damaged.
    """
    _, metadata = read_tensors(Path(path), "backbone", ADVICE)
    origin = _config(Path(path), metadata).get(ORIGIN)
    return origin if isinstance(origin, dict) else None


def origin_sentence(origin: Mapping[str, Any]) -> str:
    """Name, source, commit, hash and licence of the weights that an encoder was started from, and what they have seen.

    >>> print(origin_sentence({"name": "a.pt", "source": "a file", "sha256": "12" * 32, "licence": "not stated"}))
    The encoder was started from the weights a.pt (a file, SHA-256 121212121212). Their licence: not stated.
    """
    commit = f", commit {origin['revision']}" if origin.get("revision") else ""
    sets = origin.get("trained_on")
    seen = f" They were trained on {', '.join(map(str, sets))}." if sets and isinstance(sets, list | tuple) else ""
    return (
        f"The encoder was started from the weights {origin.get('name', '?')} ({origin.get('source', '?')}{commit}, SHA-256 "
        f"{str(origin.get('sha256', '?'))[:12]}). Their licence: {origin.get('licence', '?')}.{seen}"
    )


def infer_variant(state: Mapping[str, Tensor], source: str = "state dict") -> tuple[str, int]:
    """Infer variant and stem stride from the shapes of a state dict in any known layout.

    Raises:
        LeukError: No variant fits.
    """
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


def with_stem_stride(encoder: Encoder, stem_stride: int) -> Encoder:
    r"""Change the stride of an encoder's stem: the same weights, the stem's kernel resampled.

    With :math:`R` the matrix that resizes a patch of the old to the new side, the new kernel

    .. math:: \hat w = \arg\min_v \lVert R^\top v - w \rVert^2

    responds to a resized patch as the old one to the patch,
    :math:`\langle R x, \hat w \rangle \approx \langle x, w \rangle`: to rounding where the new side is larger, and for
    smooth kernels and patches where it is smaller. An encoder with half the stride sees images of half the side about
    as it saw the large ones.

    Args:
        encoder: Left alone.
        stem_stride: As in `Encoder`.

    Returns:
        A new encoder, or `encoder` itself if its stem has this stride.

    References:
        Beyer et al. 2023, FlexiViT, section 3.4; timm's ``resample_patch_embed``.
    """
    from timm.layers import resample_patch_embed

    if encoder.stem_stride == stem_stride:
        return encoder
    state = encoder.state_dict()
    stem = "downsample_layers.0.0.weight"
    state[stem] = resample_patch_embed(state[stem].float(), [stem_stride, stem_stride])
    changed = Encoder(encoder.variant, stem_stride)
    changed.load_state_dict(state, strict=True)
    changed.load_report = encoder.load_report
    return changed


def load_backbone(
    path: Path,
    variant: str | None = None,
    stem_stride: int | None = None,
    drop_path: float = 0.0,
) -> Encoder:
    """Load an encoder from a file of this library, of the official code (dense or sparse) or of timm.

    The encoder's `load_report` counts the keys.

    Args:
        path: ``.safetensors``, ``.pt`` or ``.pth``; no code in it is executed.
        variant: Required variant; None: that of the file's metadata or, without such, of its shapes.
        stem_stride: Required stride of the stem; None as for `variant`.
        drop_path: As in `Encoder`.

    Raises:
        LeukError: The file is missing, damaged or contains code, a value is not finite, the architecture is unknown or
            not the required one, or the keys or shapes do not match.
    """
    path = Path(path)
    state, config = _read(path)
    actual: tuple[Any, Any] | None = (config.get("variant"), config.get("stem_stride")) if config else None
    if actual is None and variant is not None and stem_stride is not None:
        actual = (variant, stem_stride)  # load_state checks the shapes against these
    actual = actual or infer_variant(state, str(path))
    required = (variant or actual[0], stem_stride or actual[1])
    if required != actual:
        raise LeukError(
            f"backbone {path}: is a {actual[0]} with stem stride {actual[1]}, not the required {required[0]} with stem "
            f"stride {required[1]}"
        )
    try:
        encoder = Encoder(actual[0], actual[1], drop_path)
    except (TypeError, ValueError) as error:
        raise LeukError(f"backbone {path}: not an encoder of this library ({error}); {ADVICE}") from error
    encoder.load_report = load_state(encoder, state, str(path))
    return encoder
