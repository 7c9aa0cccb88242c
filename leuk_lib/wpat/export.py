"""A fine-tuned WPAT for others: one module from RGB in [0,1] to probabilities, and the same as an ONNX file."""

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
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.predict import ModelCard, load_model

TOLERANCE = 1e-4  # most that logits of torch and ONNX may differ
BATCHES = (1, 2, 5)  # sizes at which they are compared
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Deployed(nn.Module):
    """Standardisation, network and temperature as one module, so that a user cannot forget any of them.

    images (B,3,S,S) float RGB in [0,1], S the card's ``image_size``, enhanced by ALHE if the card says ``enhanced``
    -> logits (B,K) divided by the temperature, probabilities (B,K) in the order of the card's classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: WPAT, card: ModelCard) -> None:
        super().__init__()
        self.model, self.card = model.eval(), card
        for name, values in (("mean", card.mean), ("std", card.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B,3,S,S) in [0,1] -> logits (B,K), probabilities (B,K)."""
        logits = self.model((images - self.mean) / self.std) / self.card.temperature
        return logits, logits.softmax(dim=1)


def deployed(model_path: Path, device: torch.device | str = "cpu") -> Deployed:
    """The module of a model file, in eval mode. Raises ``LeukError`` for a missing, damaged or foreign file."""
    model, card = load_model(model_path, device)
    return Deployed(model, card).to(device).eval()


def export_onnx(model_path: Path, onnx_path: Path) -> float:
    """Write a model file as ONNX with any batch size, compare it with torch, and return the largest difference of logits.

    Input ``images`` (batch,3,S,S) float32 in [0,1]; outputs ``logits`` and ``probabilities`` (batch,K); the card is in
    the file's metadata under "card". Nothing is written where the outputs differ by more than ``TOLERANCE``. Raises
    ``LeukError`` for a bad model file, a missing package, a place that cannot be written to.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise LeukError(f"export: {', '.join(missing)} not installed: pip install 'leuk-lib[onnx]'", exit_code=2)
    onnx_path = Path(onnx_path)
    if not onnx_path.parent.is_dir():
        raise LeukError(f"export: {onnx_path.parent} is no folder; make it first or name another file", exit_code=2)
    module = deployed(model_path)
    side = module.card.image_size
    # Two images: a batch of one would be taken for a constant.
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
        worst = largest_difference(module, Path(temporary))
        if not worst <= TOLERANCE:
            raise LeukError(f"export: ONNX and torch differ by {worst:.1e} in the logits (allowed: {TOLERANCE:.0e})")
    return worst


def largest_difference(module: Deployed, onnx_path: Path, batches: tuple[int, ...] = BATCHES) -> float:
    """Largest difference of logits between the module and an ONNX file run by onnxruntime, over random batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    side, worst = module.card.image_size, 0.0
    for size in batches:
        images = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            expected = module(images)[0].numpy()
        found = session.run(["logits"], {"images": images.numpy()})[0]
        if found.shape != expected.shape:
            raise LeukError(f"export: ONNX gives {found.shape} for a batch of {size}, torch {expected.shape}")
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst
