"""`torch.compile` of networks, by parameter ``torch_compile``."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from leuk_lib.runs.errors import LeukError


def compiled(model: nn.Module, wanted: bool, device: torch.device) -> nn.Module:
    """Return the network for ``fabric.setup``: compiled if it is wanted, else as it is.

    Weights, names and random draws are those of the given network, so that losses are equal up to rounding.

    Args:
        model: The network.
        wanted: The parameter ``torch_compile``.
        device: Where it will run.

    Raises:
        LeukError: If this machine cannot compile for the device, with exit code 2.
    """
    if not wanted:
        return model
    _require_compiler(device)
    return cast(nn.Module, torch.compile(model, options={"fallback_random": True}))


def _require_compiler(device: torch.device) -> None:
    """Compile an addition, which needs a C++ compiler and Python's header files, on a GPU also Triton.

    Raises:
        LeukError: If it fails.
    """
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise LeukError(
            f"torch_compile = true: PyTorch cannot compile for {device.type} here ({reason[:200]}); install a C++ compiler and "
            "Python's header files (Debian: g++ python3-dev), or set torch_compile to false",
            exit_code=2,
        ) from error
