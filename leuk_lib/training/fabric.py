"""Lightning Fabric: device, precision and processes."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.memory import keep_freed_memory
from leuk_lib.runs.processes import refuse_other_number

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from leuk_lib.runs.params import TrainParams

__all__ = ["Fabric", "fabric_class", "make_fabric", "set_tf32"]

TF32 = "tf32"  # a precision of `TrainParams`


def fabric_class() -> type[Fabric]:
    """Import and return Lightning's class, with which torch's compiler is loaded; only a training waits for it."""
    try:  # the package `lightning` has the same class under another name
        from lightning_fabric import Fabric
    except ModuleNotFoundError:
        from lightning.fabric import Fabric  # type: ignore[no-redef]
    return Fabric


def make_fabric(params: TrainParams, **settings: Any) -> Fabric:
    """Launch a Fabric; under ``torchrun`` or ``fabric run`` it joins the processes of the environment.

    Algorithms are deterministic, for which cuBLAS needs a workspace of a fixed size (``CUBLAS_WORKSPACE_CONFIG``, which is
    left alone if it is set).

    Args:
        params: accelerator, devices, precision and threads are used.
        settings: Further arguments of `Fabric`.

    Raises:
        LeukError: CUDA is required but not available, several devices are required in a single process, machines start
            different numbers of processes, or the processes cannot meet.
    """
    if params.accelerator == "cuda" and not torch.cuda.is_available():
        raise LeukError("accelerator = 'cuda': no CUDA device is available; use accelerator = 'cpu' or 'auto'")
    started = "RANK" in os.environ  # by torchrun or another launcher
    if params.devices > 1 and not started:
        raise LeukError(
            f"devices = {params.devices}: a notebook runs in one process; train with "
            f"python -m leuk_lib.runs.script STAGE … -p devices {params.devices}, which starts the others"
        )
    refuse_other_number("training", params.devices)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", params.devices)) if started else 1  # processes on this machine
    if params.devices % here:
        raise LeukError(f"devices = {params.devices}: {here} processes on this machine; start equally many on each")
    if params.accelerator != "cpu" and torch.cuda.is_available() and here > torch.cuda.device_count():
        raise LeukError(
            f"devices = {params.devices}: {here} processes on this machine, which has {torch.cuda.device_count()} GPUs; "
            "start at most one process for each"
        )
    if params.devices > 1:
        settings = {"strategy": "ddp", **settings}
    keep_freed_memory()
    torch.set_num_threads(params.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # else: filled with NaN
    tf32 = params.precision == TF32
    precision: Any = "32-true" if tf32 else params.precision
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")  # on a login node, for one process
        machines = params.devices // here
        fabric = fabric_class()(
            accelerator=params.accelerator, devices=here, num_nodes=machines, precision=precision, **settings
        )
    set_tf32(tf32)
    try:
        fabric.launch()
    except torch.distributed.DistError as error:  # the port is taken, or others did not come
        place = f"{os.environ.get('MASTER_ADDR', 'this machine')}:{os.environ.get('MASTER_PORT', '')}"
        raise LeukError(
            f"devices = {params.devices}: the processes cannot meet at {place} ({(str(error).splitlines() or [''])[0][:200]}); "
            "name an address that all of them reach, and a free port"
        ) from error
    return fabric


def set_tf32(on: bool) -> None:
    """Let a GPU round the factors of float32 products to 10 bits (TF32), or not; convolutions and matrix products alike.

    PyTorch's default is TF32 for convolutions only, which is neither float32 nor fast.
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
