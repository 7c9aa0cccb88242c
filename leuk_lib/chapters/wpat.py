"""Chapter 5: inputs, training and files of the networks of a run, tensors and attention to draw."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.splits import EXTERNAL
from leuk_lib.evaluation.baselines import display_name, published_weights, select, split_kind
from leuk_lib.evaluation.calibration import fit_temperature
from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.fcmae.weights import load_backbone, origin_sentence, read_origin
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.recorder import Notes
from leuk_lib.runs.records import CardParams, read_record
from leuk_lib.runs.seeds import derive
from leuk_lib.runs.stage import Stage
from leuk_lib.runs.tensors import named_tensors, read_tensors
from leuk_lib.training import pretrained
from leuk_lib.training.ahead import Training, side_by_side
from leuk_lib.training.augment import normalise
from leuk_lib.training.backbones import Backbone, TimmBackbone
from leuk_lib.wpat import model_card
from leuk_lib.wpat.finetune import Finetuned, finetune
from leuk_lib.wpat.model import WPAT, WindowLayout, attention_map
from leuk_lib.wpat.params import FCMAE, WpatParams
from leuk_lib.wpat.predict import describe, save_model

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

# ---- inputs and training -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What the networks of a run are trained on.

    Attributes:
        cells: The cells; their images are those that the models see.
        train: Positions of the training cells (n,).
        val: Positions of the validation cells (n,).
        synthetic_images: Accepted synthetic cells (M, 3, S, S), uint8.
        synthetic_labels: Their classes (M,).
        alhe_settings: Parameters of ALHE, or None for raw images.
        encoder_path: File of the pretrained encoder.
        encoder_origin: What its pretraining started from, with the licence; None for random weights.
    """

    cells: CellSet
    train: Tensor
    val: Tensor
    synthetic_images: Tensor
    synthetic_labels: Tensor
    alhe_settings: Mapping[str, Any] | None
    encoder_path: Path
    encoder_origin: Mapping[str, Any] | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes K, including those without training cells."""
        return len(self.cells.classes)

    def counts(self) -> dict[str, list[Any]]:
        """Number of cells per class: columns class, train, synthetic, val."""

        def per_class(labels: Tensor) -> list[int]:
            return torch.bincount(labels, minlength=self.n_classes).tolist()

        return {
            "class": list(self.cells.classes),
            "train": per_class(self.cells.labels[self.train]),
            "synthetic": per_class(self.synthetic_labels),
            "val": per_class(self.cells.labels[self.val]),
        }


def load_inputs(stage: Stage[Any], params: WpatParams, alhe_fields: Iterable[str]) -> Inputs:
    """Open the cells, images and encoder of a run, and note in the stage's card what they are.

    Args:
        stage: The running stage.
        params: Which images the models see, and whether synthetic cells are among them.
        alhe_fields: Parameters of stage ``alhe`` that determine an enhanced image; ``leuk predict`` needs them.
    """
    cells = CellSet.open(stage.input("data"))
    settings = None
    alhe_folder = stage.input("alhe")
    if params.images == "alhe":
        cells = cells.with_images(alhe_folder)
        card, advice = alhe_folder / "card.json", "run notebooks/02_alhe.ipynb again"
        given = read_record(card, CardParams, "a run card", advice)["params"]
        if lacking := [name for name in alhe_fields if name not in given]:
            raise LeukError(f"{card}: lacks parameter {lacking[0]!r}; {advice}")
        settings = {name: given[name] for name in alhe_fields}
    images, labels = cells.images[:0], cells.labels[:0]
    if params.synthetic:
        images, labels = read_synthetic(stage.input("acdb_gan"), cells)
    stage.note(f"trained on {params.images} images and {len(labels)} accepted synthetic cells")
    encoder_path = stage.input("fcmae") / "encoder.safetensors"
    origin = read_origin(encoder_path)
    if origin is not None:
        stage.notice(origin_sentence(origin))
    return Inputs(cells, cells.indices("train"), cells.indices("val"), images, labels, settings, encoder_path, origin)


def open_test_parts(cells: CellSet, stage: Notes) -> dict[str, Tensor]:
    """Open the test part and each external test set, which the run card records: split -> positions of its cells."""
    parts = {"test": cells.open_test(stage)}
    return parts | {EXTERNAL + name: cells.open_test(stage, name) for name in cells.external}


def read_synthetic(folder: Path, cells: CellSet) -> tuple[Tensor, Tensor]:
    """Read the accepted cells of stage ``acdb_gan``.

    Returns:
        Images (M, 3, S, S), uint8, and labels (M,), int64.

    Raises:
        LeukError: If the file is missing or damaged, or does not fit ``cells``.
    """
    path, advice = Path(folder) / "synthetic.safetensors", "run notebooks/03_acdb_gan.ipynb again"
    tensors = named_tensors(read_tensors(path, "synthetic cells", advice)[0], str(path), advice)
    if not {"images", "labels"} <= set(tensors):
        raise LeukError(f"{path}: holds {sorted(tensors)}, not images and labels; {advice}")
    images, labels = tensors["images"], tensors["labels"].long()
    side = cells.size
    if labels.ndim != 1 or images.shape != (len(labels), 3, side, side) or images.dtype != torch.uint8:
        raise LeukError(
            f"{path}: images {tuple(images.shape)} {images.dtype} and labels {tuple(labels.shape)} do not fit cells of "
            f"{side} px; {advice}"
        )
    unknown = labels[(labels < 0) | (labels >= len(cells.classes))]
    if len(unknown):
        raise LeukError(f"{path}: label {int(unknown[0])} is none of the {len(cells.classes)} classes; {advice}")
    return images, labels


def open_backbone(inputs: Inputs, params: WpatParams, name: str) -> Encoder | TimmBackbone:
    """The network under WPAT: the encoder of stage fcmae, or one of timm's (``pretrained.split_name``).

    Raises:
        LeukError: For an unknown name, or weights that are missing or do not fit.
    """
    if name == FCMAE:
        return load_backbone(inputs.encoder_path, drop_path=params.drop_path)
    torch.manual_seed(derive(params.seed, "backbone", name))
    return TimmBackbone.of(name, inputs.cells.size)


def check_backbone(name: str, image_size: int) -> None:
    """Check a name of parameter ``backbones`` for images of a size in px, before any stage starts.

    Raises:
        LeukError: For an unknown name, weights that are missing or do not fit, or a network without feature maps of such
            images.
    """
    if name == FCMAE:
        return
    subject = f"backbone {name!r}"
    base, published = pretrained.split_name(name)
    pretrained.architecture_of(base, subject, [FCMAE])
    weights = pretrained.locate(name) if published else None
    spec = pretrained.NetworkSpec.of(base, image_size, bool(published))
    pretrained.check_network(subject, spec, image_size, weights, TimmBackbone)


def wpat_names(backbones: Sequence[str]) -> dict[str, str]:
    """Name of WPAT on each backbone in tables and figures -> the backbone; on the first one it is "wpat".

    Example:
        >>> wpat_names(["fcmae", "efficientnet_lite0@pretrained"])
        {'wpat': 'fcmae', 'wpat on efficientnet_lite0': 'efficientnet_lite0@pretrained'}
    """
    further = {
        f"wpat on {display_name(name).removesuffix('@' + pretrained.PRETRAINED)}": name for name in backbones[1:]
    }
    return {"wpat": backbones[0], **further}


def training_of(
    stage: Stage[Any], params: WpatParams, inputs: Inputs, model: nn.Module, label: str
) -> Training[Finetuned]:
    """The training of a network with the parameters of WPAT; only WPAT (given as its backbone) gets the synthetic cells."""
    is_wpat = isinstance(model, Backbone)
    cells, folder = inputs.cells, stage.checkpoints / re.sub(r"[^\w.-]+", "_", label)
    run = functools.partial(
        finetune,
        cells.images[inputs.train], cells.labels[inputs.train], cells.images[inputs.val], cells.labels[inputs.val],
        model, params, folder, stage.identity,
        extra_images=inputs.synthetic_images if is_wpat else None,
        extra_labels=inputs.synthetic_labels if is_wpat else None,
        n_classes=inputs.n_classes, label=label,
    )  # fmt: skip
    return Training(run, folder, params)


def train_wpat(
    stage: Stage[WpatParams], inputs: Inputs, fabric: Fabric, backbones: Sequence[str] = (FCMAE,)
) -> dict[str, Finetuned]:
    """Train WPAT on each backbone, by default on the pretrained encoder of stage ``fcmae``: name in tables -> result."""
    trainings = {}
    for name, backbone in wpat_names(backbones).items():
        label = "WPAT" if backbone == FCMAE else f"WPAT on {display_name(backbone)}"
        trainings[name] = training_of(stage, stage.params, inputs, open_backbone(inputs, stage.params, backbone), label)
    return side_by_side(trainings, fabric)


def available(names: Iterable[str], stage: Stage[Any]) -> list[str]:
    """Leave out networks whose weights are in a Python package that is not installed; the run card names them.

    Raises:
        LeukError: If none is left.
    """
    names, kept = list(names), []
    for name in names:
        if package := pretrained.missing_package(split_kind(name)[1]):
            stage.notice(f"{name} is left out: its weights are in the package {package}, which is not installed")
        else:
            kept.append(name)
    if names and not kept:
        raise LeukError(
            f"stage {stage.name}: none of {', '.join(names)} is left; install the package, or name others", 2
        )
    return kept


def use_weights(stage: Stage[Any], names: Iterable[str], cells: CellSet) -> None:
    """Note the published weights of some networks: source, hash, licence and what they were trained on.

    A licence with limits, or cells among those that a network was trained on, are shown, too. Hashes of files that are
    not in a Python package become part of the stage's identity: call this before training.

    Args:
        stage: The running stage.
        names: Baselines or backbones, as the parameters name them.
        cells: The cells of the run.
    """
    data_sets = (stage.params.dataset, cells.name, *cells.external)
    for name, weights in published_weights(names).items():
        if not pretrained.is_packaged(split_kind(name)[1]):
            stage.use_file(str(weights.path.absolute()))
        say = stage.notice if weights.concerns(data_sets) else stage.note
        say(weights.sentence(data_sets))


def model_file(name: str) -> str:
    """Name of the file of a trained network, given by its name in tables.

    Example:
        >>> model_file("wpat"), model_file("wpat on efficientnet_lite0"), model_file("resnet10t")
        ('model.safetensors', 'wpat-on-efficientnet_lite0.safetensors', 'resnet10t.safetensors')
    """
    return ("model" if name == "wpat" else re.sub(r"[^\w.-]+", "-", name)) + ".safetensors"


def save_models(
    stage: Stage[Any], params: WpatParams, inputs: Inputs, models: Mapping[str, nn.Module],
    networks: Mapping[str, str], predictions: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    """Write trained networks as files for ``leuk predict`` and ``leuk export``: ``wpat`` as ``model.safetensors``.

    The temperature of each is fitted on the validation part.

    Args:
        stage: The running stage.
        params: Parameters of stage ``wpat``, by which all networks are trained.
        inputs: What they were trained on.
        models: Name in ``predictions`` -> network.
        networks: Name in ``predictions`` -> the network that it was started from, as the parameters name it.
        predictions: From ``prediction_table``.

    Returns:
        One row per file: model, file, network, temperature.
    """
    rows = []
    for name, model in models.items():
        temperature = fit_temperature(select(predictions, name, "val"))
        origin = origin_of(networks[name], inputs)
        card = describe(
            model, inputs.cells.classes, params, inputs.cells.size, inputs.alhe_settings, temperature, origin
        )
        stage.save_file(save_model(model, card, stage.folder, model_file(name)))
        rows.append(
            {
                "model": name,
                "file": model_file(name),
                "network": model_card.architecture(card),
                "temperature": temperature,
            }
        )
    return pd.DataFrame(rows)


def origin_of(network: str, inputs: Inputs) -> Mapping[str, Any] | None:
    """Facts of the published weights that a network was started from; None for random ones."""
    name = split_kind(network)[1]
    if name == FCMAE:
        return inputs.encoder_origin
    return pretrained.locate(name).facts() if pretrained.split_name(name)[1] else None


# ---- the model: tensors and attention --------------------------------------------------------------------------------


def tensor_table(encoder: Encoder | TimmBackbone, params: WpatParams, size: int, n_classes: int) -> pd.DataFrame:
    """Shapes of all tensors between image and logits: columns name, step, height, width, channels."""
    with torch.no_grad():
        maps = encoder.eval()(torch.zeros(1, 3, size, size))
    features = list(zip(encoder.strides, maps, strict=True))
    sizes = [(m.shape[2], m.shape[3]) for m in maps[-params.levels :]]
    layout = WindowLayout.of(sizes, params.window, torch.device("cpu"))
    rows: list[tuple[str, str, int, int, int]] = [("image", "image", size, size, 3)]
    rows += [(f"stride {s}", "encoder", m.shape[2], m.shape[3], m.shape[1]) for s, m in features]
    rows += [
        (f"tokens {s}", "window tokens", m.shape[2], m.shape[3], params.dim) for s, m in features[-params.levels :]
    ]
    rows += [
        ("regions", "region tokens", sum(layout.counts), 1, params.dim),
        ("latents", "latents", params.latents, 1, params.dim),
        ("queries", "class queries", n_classes, 1, params.dim),
    ]
    if params.linear_head:  # mean, deviation and maximum of every channel of every map
        rows.append(("pooled", "pooled features", 3, 1, sum(encoder.channels)))
    rows.append(("logits", "logits", n_classes, 1, 1))
    return pd.DataFrame(rows, columns=["name", "step", "height", "width", "channels"])


def parameter_counts(model: WPAT) -> pd.DataFrame:
    """Number of parameters of the encoder and of the rest: columns part, parameters."""
    encoder = sum(p.numel() for p in model.encoder.parameters())
    rest = sum(p.numel() for p in model.parameters()) - encoder
    return pd.DataFrame({"part": ["encoder", "windows, latents, queries"], "parameters": [encoder, rest]})


@dataclass(frozen=True)
class AttentionViews:
    """Attention in the last blocks for one image.

    Attributes:
        image: (H, W, 3), uint8.
        strides: Stride of each feature level in pixels.
        region: Attention of the region tokens of the finest level within their windows (H, W).
        latents: Attention of some latents, traced to the image (n, H, W).
    """

    image: NDArray[np.uint8]
    strides: tuple[int, ...]
    region: NDArray[Any]
    latents: NDArray[Any]


@torch.no_grad()
def attention_views(model: WPAT, image: Tensor, shown: int = 4) -> AttentionViews:
    """Attention of region tokens and of the ``shown`` latents that differ most, for one image (3, H, W), uint8.

    Latents are selected greedily: each is the one farthest from those before it.
    """
    device = next(model.parameters()).device
    x = normalise(image[None].to(device))
    features = model.forward_features(x, need_weights=True)
    assert features.region_attention is not None and features.read_attention is not None  # need_weights
    layout, size = features.layout, (int(x.shape[-2]), int(x.shape[-1]))
    finest = torch.zeros(1, 1, sum(layout.counts), device=device)
    finest[..., : layout.counts[0]] = 1
    region = attention_map(finest, features.region_attention, layout, model.window_size, size)[0, 0]
    maps = attention_map(features.read_attention, features.region_attention, layout, model.window_size, size)[0]
    selected = [0]
    distance = torch.cdist(maps.flatten(1), maps.flatten(1))
    while len(selected) < min(shown, len(maps)):
        selected.append(int(distance[selected].min(dim=0).values.argmax()))
    strides = model.encoder.strides[-model.levels :]
    return AttentionViews(
        image.permute(1, 2, 0).numpy(), tuple(strides), region.cpu().numpy(), maps[selected].cpu().numpy()
    )


def one_cell(model: WPAT, cells: CellSet, stage: Notes) -> AttentionViews | None:
    """Attention on the same cell; None for a data set without test cells."""
    cell = find_cell(cells, stage)
    return None if cell is None else attention_views(model, cells.images[cell.position])
