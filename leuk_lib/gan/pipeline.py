"""ACDB-GAN from training cells to delivered synthetic cells: inner split, gate, GAN, delivery."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.data.cellset import CellSet
from leuk_lib.data.splits import split_groups
from leuk_lib.gan import balance
from leuk_lib.gan.deliver import Delivery, deliver
from leuk_lib.gan.features import FrozenFeatures, Whitening
from leuk_lib.gan.gate import Gate
from leuk_lib.gan.generate import generate, resize
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.train import GanResult, train_gan
from leuk_lib.gan.verifier import LinearDiscriminant
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.ahead import Training
from leuk_lib.training.fabric import make_fabric

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

T = TypeVar("T")


@dataclass(frozen=True)
class InnerSplit:
    """The training part, split into inner-training and held-out cells that share no group.

    Attributes:
        train: Positions of the inner-training cells in the CellSet, int64.
        holdout: Positions of the held-out cells, int64.
        digest: See :func:`paths_digest`; of the whole training part.
    """

    train: Tensor
    holdout: Tensor
    digest: str


def inner_split(cells: CellSet, fraction: float, seed: int) -> InnerSplit:
    """Hold out ``fraction`` of the training cells by group, stratified by class.

    A class of a single group stays in inner training.

    Raises:
        LeukError: If the training part cannot be split.
    """
    train = cells.indices("train")
    if len(train) < 2:
        raise LeukError(f"{cells.name}: {len(train)} training cells; the GAN needs cells to learn and to hold out")
    part = split_groups(cells.labels[train].numpy(), cells.groups[train.numpy()], (1 - fraction, fraction), seed)
    digest = paths_digest(cells, train.numpy())
    return InnerSplit(train[torch.from_numpy(part == 0)], train[torch.from_numpy(part == 1)], digest)


def paths_digest(cells: CellSet, positions: NDArray[np.int64]) -> str:
    """Return the SHA-256 of the sorted paths of cells, one per line."""
    paths = sorted(cells.table["path"].iloc[positions].astype(str))
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()


class AcdbGan:
    """ACDB-GAN on the training part of a cell set.

    Call :meth:`freeze`, :meth:`fit_gate`, :meth:`train` and :meth:`deliver` in this order. Only training cells are read.

    Attributes:
        images_train: Inner-training cells at the GAN's resolution (N,3,S,S) uint8.
        labels_train: Their labels (N,).
        images_holdout: Held-out cells (H,3,S,S) uint8.
        labels_holdout: Their labels (H,).
        real_counts: Cells of the whole training part per class, (K,).
        frozen: The feature network, after ``freeze``; likewise ``features_train`` (N,D), ``features_holdout`` (H,D)
            and ``recall`` (K,), the shrunk held-out recall of a linear discriminant on these features.
    """

    frozen: FrozenFeatures
    features_train: NDArray[np.float32]
    features_holdout: NDArray[np.float32]
    recall: NDArray[np.float64]

    def __init__(self, cells: CellSet, params: AcdbGanParams, split: InnerSplit, fabric: Fabric) -> None:
        self.cells, self.params, self.split, self.fabric = cells, params, split, fabric
        self.images_train = resize(cells.images[split.train], params.gan_size)
        self.images_holdout = resize(cells.images[split.holdout], params.gan_size)
        self.labels_train = cells.labels[split.train].numpy()
        self.labels_holdout = cells.labels[split.holdout].numpy()
        training = cells.labels[cells.indices("train")]
        self.real_counts = torch.bincount(training, minlength=len(cells.classes)).numpy()
        self._gate: Gate | None = None
        self._trained: GanResult | None = None
        self._delivery: Delivery | None = None

    @classmethod
    def from_cells(cls, cells: CellSet, params: AcdbGanParams) -> AcdbGan:
        """Split the training cells and launch Fabric."""
        return cls(cells, params, inner_split(cells, params.inner_fraction, params.seed), make_fabric(params))

    def verifier_data(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return images and labels for the class verifier: those it is trained on, then the held-out ones."""
        return (
            self.images_train, torch.from_numpy(self.labels_train),
            self.images_holdout, torch.from_numpy(self.labels_holdout),
        )  # fmt: skip

    def freeze(self, encoder: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
        """Freeze the feature network, and measure the held-out recall.

        Args:
            encoder: The feature network.
            pool: Maps standardised images to its features (N,D).
        """
        self.frozen = FrozenFeatures(encoder, pool)
        self.features_train = self.frozen.embed(self.images_train)
        self.features_holdout = self.frozen.embed(self.images_holdout)
        whitening = Whitening.fit(self.features_train)
        holdout = whitening(self.features_holdout)
        head = LinearDiscriminant.fit(
            whitening(self.features_train), self.labels_train, holdout, self.labels_holdout, len(self.cells.classes)
        )
        self.recall = balance.shrunk_recall(*head.recalled(holdout, self.labels_holdout))

    def fit_gate(self, verifier: nn.Module | None = None) -> None:
        """Fit the gate.

        Args:
            verifier: Maps standardised images to logits (N,K). Without it, a linear discriminant on the features gives
                the class probabilities.
        """
        self._gate = Gate.fit(
            self.features_train, self.labels_train, self.features_holdout, self.labels_holdout, len(self.cells.classes),
            self.images_train, self.images_holdout, k=self.params.knn,
            verifier=None if verifier is None else FrozenFeatures(verifier, turns=4).embed,
            groups_holdout=self.cells.groups[self.split.holdout.numpy()],
        )  # fmt: skip

    @property
    def gate(self) -> Gate:
        """The fitted gate."""
        return _require(self._gate, "fit_gate")

    @property
    def screened_classes(self) -> set[int]:
        """Numbers of the classes that the gate has limits for; all classes before it is fitted."""
        return set(range(len(self.cells.classes))) if self._gate is None else set(self._gate.limits)

    def begin(self, folder: Path, identity: str) -> None:
        """Begin what ``train`` does in another process, if there is room for one (``Training.begin``)."""
        self._training(folder, identity).begin(self.fabric)

    def train(self, folder: Path, identity: str) -> GanResult:
        """Train the GAN on the inner-training cells, or continue from a checkpoint in ``folder``."""
        self._trained = self._training(folder, identity)(self.fabric)
        return self._trained

    def _training(self, folder: Path, identity: str) -> Training[GanResult]:
        run = functools.partial(
            train_gan, self.images_train, torch.from_numpy(self.labels_train), len(self.cells.classes), self.params, folder,
            identity, recall=getattr(self, "recall", None),
        )  # fmt: skip
        return Training(run, folder, self.params)

    @property
    def trained(self) -> GanResult:
        """The trained GAN."""
        return _require(self._trained, "train")

    def deliver(self) -> Delivery:
        """Fill the quotas with accepted candidates; see :func:`leuk_lib.gan.deliver.deliver`."""
        self._delivery = deliver(
            self._generate, self.frozen.embed, self.gate, self.real_counts, self.trained.learned.numpy(), self.recall,
            (self.features_train, self.labels_train), (self.features_holdout, self.labels_holdout), self.params,
        )  # fmt: skip
        return self._delivery

    def _generate(self, label: int, start: int, count: int) -> Tensor:
        p = self.params
        return generate(self.trained.generator, label, count, p.latent, p.seed, start, p.sample_batch)

    @property
    def delivery(self) -> Delivery:
        """The delivered cells."""
        return _require(self._delivery, "deliver")


def _require(value: T | None, method: str) -> T:
    if value is None:
        raise LeukError(f"ACDB-GAN: call {method}() first")
    return value
