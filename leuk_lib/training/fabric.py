"""Lightning Fabric owns device, precision and processes; this is the only place that makes one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from leuk_lib.runs.errors import LeukError

if TYPE_CHECKING:
    from leuk_lib.runs.params import TrainParams

try:  # the small package; machines with the whole `lightning` carry the same class under another name
    from lightning_fabric import Fabric
except ModuleNotFoundError:
    from lightning.fabric import Fabric  # type: ignore[no-redef]

__all__ = ["Fabric", "make_fabric"]


def make_fabric(params: TrainParams, **settings: Any) -> Fabric:
    """A launched Fabric for ``params`` (accelerator, devices, precision, threads); ``settings`` go to Fabric as they are.

    Under ``torchrun`` or ``fabric run`` the environment's processes are joined. Raises ``LeukError`` where CUDA was
    asked for and there is none.
    """
    if params.accelerator == "cuda" and not torch.cuda.is_available():
        raise LeukError("accelerator = 'cuda': no CUDA device is visible; use accelerator = 'cpu' or 'auto'")
    if params.devices > 1 and "RANK" not in os.environ:
        raise LeukError(
            f"devices = {params.devices}: start that many processes with torchrun --nproc-per-node {params.devices} "
            "-m leuk_lib.runs.script STAGE …; one notebook is one process"
        )
    if params.devices > 1:
        settings = {"strategy": "ddp", **settings}
    torch.set_num_threads(params.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    fabric = Fabric(accelerator=params.accelerator, devices=params.devices, precision=params.precision, **settings)
    fabric.launch()
    return fabric
