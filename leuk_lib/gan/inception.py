"""Inception features and score by torch-fidelity, with weights from a local file; nothing is downloaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.tensors import named_tensors, read_tensors

INCEPTION = "torch-fidelity's Inception weights (weights-inception-2015-12-05-6726825d.pth)"
ALEXNET = "torchvision's AlexNet weights (alexnet-owt-7be5be79.pth)"
POOLED, LOGITS = "2048", "logits_unbiased"


def read_weights(path: Path, what: str) -> dict[str, Tensor]:
    """Read a state dict of tensors.

    Raises:
        LeukError: If the file is missing, damaged, or holds something else. The error names ``what`` was expected.
    """
    path, advice = Path(path), f"give the path of {what}"
    content, _ = read_tensors(path, "weights", advice)
    state = named_tensors(content, f"weights {path}", advice)
    for name, value in state.items():
        if not value.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise LeukError(f"weights {path}: {name} is of type {value.dtype}, not of floats; {advice}")
    return state


def load_inception(path: Path) -> nn.Module:
    """Return torch-fidelity's frozen InceptionV3 with the weights at ``path``.

    Raises:
        LeukError: If the file is missing or damaged, or if a weight does not fit.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = read_weights(path, INCEPTION)
    # torch-fidelity unpickles any content of the file, so it is given a copy with tensors only.
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "inception.pth"
        torch.save(state, clean)
        try:
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", [POOLED, LOGITS], feature_extractor_weights_path=str(clean)
            )
        except (RuntimeError, AttributeError) as error:
            raise LeukError(f"{path}: these are other weights; give the path of {INCEPTION}") from error


@torch.no_grad()
def inception_features(images: Tensor, model: nn.Module, batch: int = 16) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return pooled features (N,2048) and unbiased logits (N,1008) of uint8 images (N,3,S,S), resized to 299 px."""
    device = next(model.parameters()).device
    parts = [[out.cpu() for out in model(part.to(device))] for part in images.split(batch)]
    pooled, logits = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return pooled, logits


def inception_score(logits: NDArray[Any], seed: int = 0) -> float:
    r"""Return the Inception score, averaged over up to ten parts of the set.

    .. math:: \mathrm{IS} = \exp \mathbb{E}_x \operatorname{KL}\left(p(y \mid x) \,\Vert\, p(y)\right) \ge 1

    Args:
        logits: Inception's logits (N,C), N > 1.
        seed: Seed of the order of images.

    Raises:
        LeukError: If there are fewer than 2 images.

    References:
        Salimans et al. 2016.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    if len(logits) < 2:
        raise LeukError(f"the Inception score needs 2 images, got {len(logits)}")
    splits = max(1, min(10, len(logits) // 10))
    score = isc_features_to_metric(torch.from_numpy(logits).double(), splits=splits, shuffle=True, rng_seed=seed)
    return float(np.asarray(score["inception_score_mean"]))
