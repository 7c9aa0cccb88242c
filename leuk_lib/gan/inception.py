"""Inception FID, KID and IS by torch-fidelity, from weights that are given by path; nothing is ever downloaded."""

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
    """A state dict, tensors only. Raises ``LeukError`` if the file is missing, damaged, or something else."""
    path, advice = Path(path), f"give the path of {what}"
    content, _ = read_tensors(path, "weights", advice)
    return named_tensors(content, f"weights {path}", advice)


def load_inception(path: Path) -> nn.Module:
    """torch-fidelity's InceptionV3 with the weights at ``path``, frozen. Raises ``LeukError`` unless every weight fits."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = read_weights(path, INCEPTION)
    # torch-fidelity unpickles whatever the file holds; so it gets a copy of the tensors only.
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
    """Pooled features (N,2048) and unbiased logits (N,1008) of images (N,3,S,S) uint8; resized to 299 px inside."""
    device = next(model.parameters()).device
    parts = [[out.cpu() for out in model(part.to(device))] for part in images.split(batch)]
    pooled, logits = (torch.cat(found).numpy() for found in zip(*parts, strict=True))
    return pooled, logits


def inception_score(logits: NDArray[Any], seed: int = 0) -> float:
    """IS of logits (N,C): exp of the mean KL divergence of p(y|x) from p(y), mean over up to ten parts of the set.

    At least 1 (all images get the same answer). Source: Salimans et al. 2016.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    if len(logits) < 2:
        raise LeukError(f"the Inception score needs 2 images, got {len(logits)}")
    splits = max(1, min(10, len(logits) // 10))
    found = isc_features_to_metric(torch.from_numpy(logits).double(), splits=splits, shuffle=True, rng_seed=seed)
    return float(np.asarray(found["inception_score_mean"]))
