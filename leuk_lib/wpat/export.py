"""Deployment: a trained classifier as one module from RGB to probabilities, and as an ONNX file."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.wpat.predict import ModelCard, load_model

TOLERANCE = 1e-4  # largest difference allowed between the logits of PyTorch and ONNX
BATCHES = (1, 2, 5)  # batch sizes at which they are compared
REQUIRED = ("onnx", "onnxscript", "onnxruntime")


class Deployed(nn.Module):
    """Standardisation, network and temperature in one module, so that none can be forgotten.

    After ``.half()`` or ``.bfloat16()`` it computes by autocast in that type; logits then differ by about 0.01.

    Args:
        model: The network.
        card: Its card.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.model, self.card = model.eval(), card
        for name, values in (("mean", card.mean), ("std", card.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classify images.

        Args:
            images: RGB (B, 3, S, S), float in [0,1], S the card's ``image_size``; enhanced by ALHE if the card says so.

        Returns:
            Logits (B, K) divided by the temperature, and probabilities (B, K), in the order of the card's classes.

        Raises:
            LeukError: For integer images, whose values are not in [0,1].
        """
        if not images.is_floating_point():
            raise LeukError(f"deployed model: images of type {images.dtype}; give floats in [0,1] (divide by 255)")
        dtype = self.mean.dtype
        x = (images.to(dtype) - self.mean) / self.std
        if dtype in (torch.float16, torch.bfloat16):
            with torch.autocast(images.device.type, dtype):
                logits = self.model(x)
        else:
            logits = self.model(x)
        logits = logits / self.card.temperature
        return logits, logits.softmax(dim=1)


def deployed(model_path: Path, device: torch.device | str = "cpu") -> Deployed:
    """Load a model file as a :class:`Deployed` module in eval mode.

    Raises:
        LeukError: If the file is missing, damaged, or not a trained classifier.
    """
    model, card = load_model(model_path, device)
    return Deployed(model, card).to(device).eval()


def export_onnx(model_path: Path, onnx_path: Path) -> float:
    """Convert a model file to ONNX, and check that both give the same logits.

    The ONNX file has the input ``images`` (batch, 3, S, S), float32 in [0,1], and the outputs ``logits`` and
    ``probabilities`` (batch, K); its metadata hold the card under "card".

    Returns:
        The largest difference of logits, at most ``TOLERANCE``.

    Raises:
        LeukError: If the model file cannot be used, a package is missing, the folder does not exist, or the logits
            differ by more (then nothing is written).
    """
    if missing := [name for name in REQUIRED if importlib.util.find_spec(name) is None]:
        raise LeukError(f"export: {', '.join(missing)} not installed: pip install 'leuk-lib[onnx]'", exit_code=2)
    onnx_path = Path(onnx_path)
    if not onnx_path.parent.is_dir():
        raise LeukError(f"export: no such folder: {onnx_path.parent}; create it, or name another file", exit_code=2)
    module = deployed(model_path)
    side = module.card.image_size
    # Two images, because a batch size of one would be exported as a constant.
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            input_names=["images"], output_names=["logits", "probabilities"], verbose=False,
        )  # fmt: skip
    assert program is not None  # dynamo=True returns a program
    program.model.metadata_props["card"] = json.dumps(asdict(module.card))
    with atomic(onnx_path) as temporary:
        program.save(str(temporary), external_data=False)
        difference = largest_difference(module, Path(temporary))
        if not difference <= TOLERANCE:
            raise LeukError(
                f"export: the logits of ONNX and PyTorch differ by {difference:.1e} (allowed: {TOLERANCE:.0e})"
            )
    return difference


def largest_difference(module: Deployed, onnx_path: Path, batches: tuple[int, ...] = BATCHES) -> float:
    """Largest difference of logits between a module and an ONNX file (run by onnxruntime) over random batches.

    NaN if a logit is NaN or infinite.

    Raises:
        LeukError: If the shapes of the logits differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    side, largest = module.card.image_size, 0.0
    for size in batches:
        images = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            expected = module(images)[0].numpy()
        logits = session.run(["logits"], {"images": images.numpy()})[0]
        if logits.shape != expected.shape:
            raise LeukError(f"export: for a batch of {size}, ONNX gives {logits.shape} and PyTorch {expected.shape}")
        if not (np.isfinite(logits).all() and np.isfinite(expected).all()):
            return float("nan")  # which no tolerance allows
        largest = max(largest, float(np.abs(logits - expected).max()))
    return largest
