"""A trained classifier as one file, and class probabilities of image files (for research only)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from leuk_lib.data.decode import Unreadable, decode_file, quiet_decoders, square
from leuk_lib.data.image_files import MIN_SIDE
from leuk_lib.data.image_lists import Unusable
from leuk_lib.fcmae.encoder import Encoder, EncoderSpec
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic, with_checksum
from leuk_lib.runs.memory import keep_freed_memory
from leuk_lib.runs.numbers import parse_json
from leuk_lib.runs.tensors import CHECKSUM, check_digest, check_metadata, digest, named_tensors, read_tensors
from leuk_lib.runs.threads import torch_threads
from leuk_lib.training.augment import IMAGENET_MEAN, IMAGENET_STD, normalise
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
#: Pixels at a time. On a CPU, activations of more than these do not stay in its caches, which takes up to twice as long.
BATCH_PIXELS, BATCH_PIXELS_CPU = 1 << 20, 1 << 17
OWN_COLUMNS = ("file", "predicted", "problem", "use")  # of tables of predictions, beside those of the classes

Enhance = Callable[[Tensor], Tensor]


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
        origin: Facts of the published weights that the training started from (``Weights.facts``); None for random ones.
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
    origin: dict[str, Any] | None = None


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
        origin=dict(encoder_origin) if encoder_origin else None,
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
    values = with_checksum({"format": FORMAT, DIGEST: digest(tensors), **asdict(card)}, CHECKSUM)
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
    stored, metadata = read_tensors(path, "model", ADVICE, exit_code=2)
    tensors = named_tensors(stored, f"model {path}", ADVICE, exit_code=2)
    if len(metadata.get("card", "")) > MAX_CARD:
        raise LeukError(f"model {path}: its card has more than {MAX_CARD} characters; {ADVICE}", 2)
    try:
        content = parse_json(metadata.get("card", "{}"))
    except ValueError as error:
        raise LeukError(f"model {path}: its card cannot be read ({error}); {ADVICE}", 2) from error
    values: dict[str, Any] = content if isinstance(content, dict) else {}
    check_metadata(values, f"model {path}", ADVICE, exit_code=2)
    version, stated = values.pop("format", None), values.pop(DIGEST, None)
    if version not in (FORMAT, FORMAT_2, FORMAT_1):
        raise LeukError(f"model {path}: not a trained model (format {version!r}, expected {FORMAT!r}); {ADVICE}", 2)
    if version == FORMAT_1 and isinstance(values.get("sizes"), dict):
        values["sizes"] = {WpatParams.RENAMED.get(name, name): value for name, value in values["sizes"].items()}
    if version != FORMAT:
        backbone = {name: values.pop(name) for name in ("variant", "stem_stride") if name in values}
        values |= {"kind": "wpat", "backbone": backbone}
    check_digest(tensors, stated, f"model {path}", ADVICE, exit_code=2)
    try:
        return tensors, TypeAdapter(ModelCard).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}"
        raise LeukError(f"model {path}: its card cannot be used ({reason}); {ADVICE}", 2) from error


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


class LoadedModel(NamedTuple):
    """A model in eval mode, its card and its file."""

    model: nn.Module
    card: ModelCard
    path: Path

    @classmethod
    def open(cls, path: Path, device: str = "cpu") -> LoadedModel:
        """Load a model file (``load_model``) on the device of a name (``chosen_device``).

        The weights are channels-last, as the norms and linear layers need their inputs, which saves copies.
        """
        model, card = load_model(path, chosen_device(device))
        return cls(model.to(memory_format=torch.channels_last), card, Path(path))


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


@dataclass(frozen=True)
class Predicted:
    """The predictions of some files, or why there are none.

    Attributes:
        files: n files that were predicted.
        images: (n,3,S,S) uint8, as the model got them.
        probabilities: (n,K) calibrated probabilities of the classes.
        attention: (n,S,S) attention of the predicted class, each with sum 1, without the linear head; None unless it was
            asked for and the model has class attention.
        unusable: Files that gave no image.
    """

    files: list[Path]
    images: Tensor
    probabilities: NDArray[np.float32]
    attention: NDArray[np.float32] | None
    unusable: list[Unusable]


def chosen_device(name: str) -> torch.device:
    """Return the device of a name: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        LeukError: If there is no such device, with exit code 2.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LeukError(f"device {name!r} cannot be used ({reason[:120]}); try --device cpu", exit_code=2) from error
    return device


def predict_batches(
    files: Sequence[Path],
    loaded: LoadedModel,
    enhance: Enhance | None = None,
    *,
    batch: int = 0,
    attention: int = 0,
    workers: int = 2,
) -> Iterator[Predicted]:
    """Predict image files batch by batch, in order, several batches at a time.

    On a CPU each worker computes a batch of its own, so that no thread waits for the others within the network, whose
    steps are many and small. On another device the workers read and enhance the batches that follow.

    Args:
        files: Image files, one cell each.
        loaded: The model.
        enhance: ALHE with the card's ``alhe_settings``, (n,3,S,S) uint8 -> the same, for a model that was trained on
            enhanced images; else None.
        batch: Images at a time; 0: as many as fit into `BATCH_PIXELS`, on a CPU into `BATCH_PIXELS_CPU`.
        attention: Number of first images of which attention maps are computed, too; whole batches get them.
        workers: Batches that are worked on at a time.

    Raises:
        LeukError: If ``enhance`` does not fit the model, or if the model gives a probability that is not finite.
    """
    model, card, path = loaded
    if card.enhanced != (enhance is not None):
        need = "enhanced by ALHE; pass enhance" if card.enhanced else "not enhanced; pass enhance=None"
        raise LeukError(f"model {path}: the training images were {need}", exit_code=2)
    attention = attention if isinstance(model, WPAT) else 0
    on_cpu = _is_on_cpu(model)
    step = batch or min(256, max(1, (BATCH_PIXELS_CPU if on_cpu else BATCH_PIXELS) // card.image_size**2))
    starts = range(0, len(files), step)
    workers = max(1, min(workers, len(starts)))

    def prepare(start: int) -> _Prepared:
        return _prepare(files[start : start + step], card.image_size, enhance)

    def finish(start: int, prepared: _Prepared) -> Predicted:
        files, images, unusable = prepared
        return Predicted(files, images, *_probabilities(loaded, files, images, start < attention), unusable)

    def work(start: int) -> Predicted | _Prepared:
        return finish(start, prepare(start)) if on_cpu else prepare(start)

    keep_freed_memory()  # else a fifth of the processor's time goes into new pages for each batch
    share = max(1, torch.get_num_threads() // workers)  # of torch's threads, for each worker
    with quiet_decoders(), torch_threads(share), ThreadPoolExecutor(workers) as pool:
        following = iter(starts)
        running = deque((start, pool.submit(work, start)) for start in islice(following, workers + 1))
        while running:
            start, future = running.popleft()
            done = future.result()
            running.extend((later, pool.submit(work, later)) for later in islice(following, 1))
            yield done if isinstance(done, Predicted) else finish(start, done)


def _is_on_cpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cpu"


class _Prepared(NamedTuple):
    """The images of some files as the model gets them, and the files that gave none."""

    files: list[Path]
    images: Tensor
    unusable: list[Unusable]


def _prepare(files: Sequence[Path], size: int, enhance: Enhance | None) -> _Prepared:
    """Read and enhance files; images (n,3,S,S) uint8 of those that can be read."""
    read = [(Path(file), _read_image(Path(file), size)) for file in files]
    good = [(file, image) for file, image in read if not isinstance(image, str)]
    unusable = [Unusable(str(file), reason) for file, reason in read if isinstance(reason, str)]
    images = torch.zeros(0, 3, size, size, dtype=torch.uint8)
    if good:
        images = torch.from_numpy(np.stack([image for _, image in good])).permute(0, 3, 1, 2).contiguous()
        images = images if enhance is None else enhance(images)
    return _Prepared([file for file, _ in good], images, unusable)


def _read_image(path: Path, size: int) -> NDArray[np.uint8] | str:
    """Return an image (S,S,3), or why the file gives none."""
    try:
        return square(decode_file(path).image, size)
    except Unreadable as error:
        return str(error)


@torch.no_grad()
def _probabilities(
    loaded: LoadedModel, names: Sequence[Path], images: Tensor, attention: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Probabilities of a batch, and the attention of the predicted classes if it is asked for."""
    model, card, path = loaded
    maps = None
    if not len(images):
        probs = np.zeros((0, len(card.classes)), np.float32)
    elif attention:
        standardised = normalise(images.to(next(model.parameters()).device), card.mean, card.std)
        logits, of_classes = model(standardised, return_attention=True)
        probs = (logits.float() / card.temperature).softmax(dim=1).cpu().numpy()
        maps = of_classes[torch.arange(len(images)), logits.argmax(dim=1)].float().cpu().numpy()
    else:
        probs = probabilities(model, images, card.temperature, len(images), card.mean, card.std).numpy()
    if not np.isfinite(probs).all():
        file = names[int((~np.isfinite(probs)).any(axis=1).argmax())]
        raise LeukError(f"model {path}: its probabilities for {file} are not finite; {ADVICE}", exit_code=2)
    return probs, maps


def class_columns(classes: Sequence[str]) -> list[str]:
    """Names of the columns of the classes: "class file" for a class with the name of another column.

    Example:
        >>> class_columns(["AML", "file"])
        ['AML', 'class file']
    """
    return [f"class {name}" if name in OWN_COLUMNS else name for name in classes]


def as_table(predicted: Predicted, classes: Sequence[str]) -> pd.DataFrame:
    """Make a table: file, the probability of each class, predicted."""
    table = pd.DataFrame(predicted.probabilities, columns=class_columns(classes))
    table.insert(0, "file", [str(file) for file in predicted.files])
    table["predicted"] = [classes[k] for k in predicted.probabilities.argmax(axis=1)]
    return table


def predict_files(paths: Sequence[Path], model_path: Path, enhance: Enhance | None = None) -> pd.DataFrame:
    """Predict image files, all of which must be readable.

    Args:
        paths: Image files, one cell each.
        model_path: A model file.
        enhance: As for ``predict_batches``.

    Returns:
        One row per file: file, the calibrated probability of each class, predicted. The column of a class with the name
        of another column, such as "file", is "class file".

    Raises:
        LeukError: If a file cannot be read (the message names it), if there is none, if ``enhance`` does not fit
            the model, or if the model gives a probability that is not finite.
    """
    if not paths:
        raise LeukError("predict: no image was given", exit_code=2)
    loaded = LoadedModel.open(model_path)
    tables = []
    for predicted in predict_batches(paths, loaded, enhance):
        for file, reason in predicted.unusable:
            raise LeukError(f"{file}: {reason}", exit_code=2)
        tables.append(as_table(predicted, loaded.card.classes))
    return pd.concat(tables, ignore_index=True)
