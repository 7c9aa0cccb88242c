"""A fine-tuned WPAT as one file, and class probabilities of image files (research use only)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from leuk_lib.data.decode import Unreadable, decode_file, square
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.tensors import named_tensors, read_tensors
from leuk_lib.training.augment import IMAGENET_MEAN, IMAGENET_STD
from leuk_lib.wpat.finetune import predict_logits
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams

FORMAT = "leuk_lib.wpat.model/1"
AGAIN = "run notebooks/05_wpat.ipynb again"
SIZES = ("scales", "dim", "heads", "window", "latents", "pairs", "mlp_ratio", "pooled")

Enhance = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself.

    classes in the order of the logits; variant and stem_stride of the encoder; sizes of the head; image_size: side in
    px it was trained at; enhanced: the images went through ALHE, with ``alhe_settings``; mean, std: standardisation of
    RGB in [0,1]; temperature: divides the logits (fitted on validation cells).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    classes: tuple[str, ...]
    variant: str
    stem_stride: int
    sizes: dict[str, Any]
    image_size: PositiveInt
    enhanced: bool
    alhe_settings: dict[str, Any]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    use: str = "research only; not a medical device"


def describe(
    model: WPAT, classes: Sequence[str], params: WpatParams, image_size: int, alhe_settings: Mapping[str, Any] | None,
    temperature: float,
) -> ModelCard:  # fmt: skip
    """The card of a model; ``alhe_settings`` is None where it was trained on raw images."""
    return ModelCard(
        classes=tuple(classes),
        variant=model.encoder.variant,
        stem_stride=model.encoder.stem_stride,
        sizes={name: getattr(params, name) for name in SIZES},
        image_size=image_size,
        enhanced=alhe_settings is not None,
        alhe_settings=dict(alhe_settings or {}),
        temperature=temperature,
    )


def save_model(model: WPAT, card: ModelCard, folder: Path) -> Path:
    """Write weights and card to ``folder/model.safetensors``, atomically; returns its path."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    path = Path(folder) / "model.safetensors"
    # One key: safetensors writes several in an order that changes from run to run, and so would the file's hash.
    with atomic(path) as temporary:
        save_file(tensors, str(temporary), metadata={"card": json.dumps({"format": FORMAT, **asdict(card)})})
    return path


def read_card(path: Path) -> ModelCard:
    """The card of a model file. Raises ``LeukError`` for a missing, damaged or foreign file."""
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, Tensor], ModelCard]:
    tensors, metadata = read_tensors(path, "model", AGAIN, exit_code=2)
    try:
        values = json.loads(metadata.get("card", "{}"))
        foreign = not isinstance(values, dict) or values.pop("format", None) != FORMAT
        card = None if foreign else TypeAdapter(ModelCard).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}"
        raise LeukError(f"model {path}: its card cannot be used ({reason}); {AGAIN}", 2) from error
    except json.JSONDecodeError as error:
        raise LeukError(f"model {path}: its card cannot be read ({error}); {AGAIN}", 2) from error
    if card is None:
        raise LeukError(f"model {path}: no WPAT classifier of this library; {AGAIN}", 2)
    return named_tensors(tensors, f"model {path}", AGAIN, exit_code=2), card


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[WPAT, ModelCard]:
    """A model in eval mode and its card. Raises ``LeukError`` for a missing, damaged or foreign file."""
    tensors, card = _read(Path(path))
    try:
        params = WpatParams(**card.sizes)
        model = WPAT(Encoder(card.variant, card.stem_stride), len(card.classes), params)
        model.load_state_dict(tensors, strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LeukError(f"model {path}: card and weights do not fit ({reason[:160]}); {AGAIN}", 2) from error
    return model.eval().to(device), card


def probabilities(model: torch.nn.Module, images: Tensor, temperature: float = 1.0, batch: int = 256) -> Tensor:
    """Class probabilities (n, K) of uint8 images (n, 3, S, S), on the device that the model is on."""
    device = next(model.parameters()).device
    return (predict_logits(model, images, device, batch) / temperature).softmax(dim=1)


def predict_files(paths: Sequence[Path], model_path: Path, enhance: Enhance | None = None) -> pd.DataFrame:
    """One row an image file: ``file``, a probability for each class (calibrated), ``predicted``.

    A model trained on enhanced images needs ``enhance``: (S,S,3) uint8 -> the same, ALHE with the card's
    ``alhe_settings``; for one trained on raw images it must be None. Raises ``LeukError`` that names a bad file.
    """
    model, card = load_model(model_path)
    if card.enhanced != (enhance is not None):
        need = "enhanced by ALHE: pass enhance" if card.enhanced else "not enhanced: pass no enhance"
        raise LeukError(f"model {model_path}: was trained on images {need}", exit_code=2)
    pictures = []
    for path in paths:
        try:
            image = square(decode_file(Path(path)).image, card.image_size)
        except Unreadable as error:
            raise LeukError(f"{path}: {error}", exit_code=2) from error
        pictures.append(image if enhance is None else enhance(image))
    if not pictures:
        raise LeukError("predict: no image was given", exit_code=2)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    chances = probabilities(model, stacked, card.temperature).numpy()
    table = pd.DataFrame(chances, columns=list(card.classes))
    table.insert(0, "file", [str(path) for path in paths])
    table["predicted"] = [card.classes[k] for k in chances.argmax(axis=1)]
    return table
