"""A trained classifier as one file, and class probabilities of image files (for research only)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from leuk_lib.data.decode import Unreadable, decode_file, quiet_decoders, square
from leuk_lib.data.image_files import MIN_SIDE
from leuk_lib.fcmae.encoder import Encoder, EncoderSpec
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.tensors import check_digest, digest, named_tensors, read_tensors
from leuk_lib.training.augment import IMAGENET_MEAN, IMAGENET_STD
from leuk_lib.training.backbones import TimmBackbone
from leuk_lib.training.pretrained import MAX_SIDE, Finite, NetworkSpec, Positive, build
from leuk_lib.wpat.finetune import predict_logits
from leuk_lib.wpat.linear_head import LinearClassifier
from leuk_lib.wpat.model import WPAT, format_1_name
from leuk_lib.wpat.params import WpatParams

FORMAT, FORMAT_2, FORMAT_1 = (f"leuk_lib.wpat.model/{version}" for version in (3, 2, 1))
ADVICE = "run notebooks/05_wpat.ipynb again"
SIZES = ("levels", "dim", "heads", "window", "latents", "depth", "mlp_ratio", "linear_head")

DIGEST = "weights_sha256"  # entry of the card in the file
MAX_CARD = 1 << 20  # characters
MAX_CLASSES = 1000
BATCH_PIXELS = 1 << 20  # at a time

Enhance = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def _distinct(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) < len(classes):
        raise ValueError("must be different names")
    return classes


@dataclass(frozen=True)
class ModelCard:
    """Metadata of a model file.

    Attributes:
        classes: In the order of the logits.
        kind: WPAT, a linear head on pooled features, or a whole timm network.
        backbone: The network under the head (or the whole one): our ConvNeXt V2 encoder or a network of timm.
        sizes: Parameters of WPAT's architecture (``SIZES``); empty for other kinds.
        image_size: Side of the training images in pixels.
        enhanced: Whether the training images were enhanced by ALHE.
        alhe_settings: Parameters of ALHE, empty without it.
        temperature: Divisor of the logits, fitted on validation cells.
        mean: Mean of RGB in [0,1] for standardisation.
        std: Standard deviation of RGB in [0,1] for standardisation.
        use: Intended use.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CLASSES), AfterValidator(_distinct)]
    kind: Literal["wpat", "linear", "network"]
    backbone: EncoderSpec | NetworkSpec
    sizes: dict[str, Any]
    image_size: Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
    enhanced: bool
    alhe_settings: dict[str, Any]
    temperature: Positive = 1.0
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    use: str = "research only; not a medical device"


def describe(
    model: nn.Module, classes: Sequence[str], params: WpatParams, image_size: int,
    alhe_settings: Mapping[str, Any] | None, temperature: float, encoder_origin: Mapping[str, Any] | None = None,
) -> ModelCard:  # fmt: skip
    """Make the card of a trained classifier: a WPAT, a ``LinearClassifier``, or a network of ``pretrained.create``.

    ``alhe_settings`` is None for a model trained on raw images; the licence of ``encoder_origin``, the weights that the
    encoder was started from, is part of the intended use.
    """
    licence = f"; encoder from weights under {encoder_origin.get('licence')}" if encoder_origin else ""
    kind: Literal["wpat", "linear", "network"] = "network"
    if isinstance(model, WPAT | LinearClassifier):
        kind = "wpat" if isinstance(model, WPAT) else "linear"
    backbone: Any = model if kind == "network" else model.encoder
    return ModelCard(
        classes=tuple(classes),
        kind=kind,
        backbone=backbone.spec,
        sizes={name: getattr(params, name) for name in SIZES} if kind == "wpat" else {},
        image_size=image_size,
        enhanced=alhe_settings is not None,
        alhe_settings=dict(alhe_settings or {}),
        temperature=temperature,
        use=ModelCard.use + licence,
    )


def build_classifier(card: ModelCard) -> nn.Module:
    """Build the network of a card, with random weights."""
    n_classes, backbone = len(card.classes), card.backbone
    if isinstance(backbone, NetworkSpec):
        if card.kind == "network":
            return build(backbone, n_classes, card.image_size)
        encoder: Encoder | TimmBackbone = TimmBackbone(backbone, card.image_size)
    else:
        encoder = Encoder(backbone.variant, backbone.stem_stride)
    return (
        WPAT(encoder, n_classes, WpatParams(**card.sizes))
        if card.kind == "wpat"
        else LinearClassifier(encoder, n_classes)
    )


def save_model(model: nn.Module, card: ModelCard, folder: Path, name: str = "model.safetensors") -> Path:
    """Write weights and card to ``folder/name``, atomically, and return its path."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    path = Path(folder) / name
    # A single metadata key: safetensors writes several in random order, which would change the hash of the file.
    values = {"format": FORMAT, DIGEST: digest(tensors), **asdict(card)}
    with atomic(path) as temporary:
        save_file(tensors, str(temporary), metadata={"card": json.dumps(values)})
    return path


def read_card(path: Path) -> ModelCard:
    """Read the card of a model file.

    Raises:
        LeukError: If the file is missing, damaged, or not a trained classifier.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, Tensor], ModelCard]:
    """Tensors and card; those of earlier formats get their present names."""
    content, metadata = read_tensors(path, "model", ADVICE, exit_code=2)
    tensors = named_tensors(content, f"model {path}", ADVICE, exit_code=2)
    if len(metadata.get("card", "")) > MAX_CARD:
        raise LeukError(f"model {path}: its card has more than {MAX_CARD} characters; {ADVICE}", 2)
    try:
        values = json.loads(metadata.get("card", "{}"))
        version, stated = (values.pop(key, None) if isinstance(values, dict) else None for key in ("format", DIGEST))
        if version not in (FORMAT, FORMAT_2, FORMAT_1):
            raise LeukError(f"model {path}: not a trained model (format {version!r}, expected {FORMAT!r}); {ADVICE}", 2)
        if version == FORMAT_1 and isinstance(values.get("sizes"), dict):
            values["sizes"] = {WpatParams.RENAMED.get(name, name): value for name, value in values["sizes"].items()}
        if version != FORMAT:
            backbone = {name: values.pop(name) for name in ("variant", "stem_stride") if name in values}
            values |= {"kind": "wpat", "backbone": backbone}
        check_digest(tensors, stated, f"model {path}", ADVICE, exit_code=2)
        card = TypeAdapter(ModelCard).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}"
        raise LeukError(f"model {path}: its card cannot be used ({reason}); {ADVICE}", 2) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise LeukError(f"model {path}: its card cannot be read ({error}); {ADVICE}", 2) from error
    return tensors, card


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load a model in eval mode, and its card.

    Raises:
        LeukError: If the file is missing, damaged, or not a trained classifier.
    """
    tensors, card = _read(Path(path))
    try:
        with torch.device("meta"):  # nothing is allocated for a card that does not fit its weights
            needed = build_classifier(card).state_dict()
        present = {format_1_name(name): name for name in needed}
        state = {present.get(name, name): value for name, value in tensors.items()}
        for name, value in needed.items():
            if name in state and (state[name].shape != value.shape or state[name].dtype != value.dtype):
                given, wanted = (f"{tuple(t.shape)} {t.dtype}".replace("torch.", "") for t in (state[name], value))
                raise ValueError(f"{name} is {given}, not {wanted}")
        model = build_classifier(card)
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LeukError(f"model {path}: card and weights do not fit ({reason[:160]}); {ADVICE}", 2) from error
    return model.eval().to(device), card


def probabilities(
    model: nn.Module,
    images: Tensor,
    temperature: float = 1.0,
    batch: int = 256,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Class probabilities (n, K) of uint8 images (n, 3, S, S): softmax of the logits divided by the temperature.

    ``mean`` and ``std`` standardise RGB in [0,1]; a model's card holds its own.
    """
    device = next(model.parameters()).device
    return (predict_logits(model, images, device, batch, mean, std) / temperature).softmax(dim=1)


def _read_image(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        return square(decode_file(path).image, size)
    except Unreadable as error:
        raise LeukError(f"{path}: {error}", exit_code=2) from error


def predict_files(paths: Sequence[Path], model_path: Path, enhance: Enhance | None = None) -> pd.DataFrame:
    """Predict image files.

    Args:
        paths: Image files, one cell each.
        model_path: A model file.
        enhance: ALHE with the card's ``alhe_settings``, (S, S, 3) uint8 -> the same, for a model that was trained on
            enhanced images; else None.

    Returns:
        One row per file: file, the calibrated probability of each class, predicted. The column of a class with the name
        "file" or "predicted" is "class file" or "class predicted".

    Raises:
        LeukError: If a file cannot be read (the message names it), if there is none, if ``enhance`` does not fit
            the model, or if the model gives a probability that is not finite.
    """
    model, card = load_model(model_path)
    if card.enhanced != (enhance is not None):
        need = "enhanced by ALHE; pass enhance" if card.enhanced else "not enhanced; pass enhance=None"
        raise LeukError(f"model {model_path}: the training images were {need}", exit_code=2)
    if not paths:
        raise LeukError("predict: no image was given", exit_code=2)
    step = min(256, max(1, BATCH_PIXELS // card.image_size**2))
    parts = []
    for start in range(0, len(paths), step):
        with quiet_decoders():
            images = [_read_image(Path(path), card.image_size) for path in paths[start : start + step]]
        images = images if enhance is None else [enhance(image) for image in images]
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        parts.append(probabilities(model, batch, card.temperature, mean=card.mean, std=card.std).numpy())
    probs = np.concatenate(parts)
    if not np.isfinite(probs).all():
        file = paths[int((~np.isfinite(probs)).any(axis=1).argmax())]
        raise LeukError(f"model {model_path}: its probabilities for {file} are not finite; {ADVICE}", exit_code=2)
    columns = [f"class {name}" if name in ("file", "predicted") else name for name in card.classes]
    table = pd.DataFrame(probs, columns=columns)
    table.insert(0, "file", [str(path) for path in paths])
    table["predicted"] = [card.classes[k] for k in probs.argmax(axis=1)]
    return table
