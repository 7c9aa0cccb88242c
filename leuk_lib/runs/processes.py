"""Several processes that train together: as many as asked for, started and ended with one line."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence

from leuk_lib.runs.errors import LeukError

ENDED = (130, 143)  # exit codes of a training that ended after a request or SIGTERM, its checkpoint written
STOPPED = 130
END_WITHIN = 120  # s for the present step and the checkpoint, then processes are killed


def keep_standard_streams() -> None:
    """Open standard streams that were closed (``>&-``) on the null device, also for child processes.

    Otherwise the next file that is opened, such as a lock, gets their number, and what a child process prints ends in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115  it stays open


def refuse_other_number(owner: str, devices: int | None) -> None:
    """Raise ``LeukError`` if a launcher started another number of processes than the parameters state.

    Args:
        owner: What runs, for the error message.
        devices: Parameter ``devices``, or None for a stage that does not train.
    """
    if "RANK" not in os.environ:  # torchrun and other launchers set it
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == (devices or 1):
        return
    if devices is None:
        raise LeukError(f"{owner} trains nothing and runs in one process, not in {world}: start it without torchrun")
    if devices == 1:
        raise LeukError(
            f"{owner}: {world} processes were started, but devices = 1: each would train alone and write the same files; "
            f"add -p devices {world}"
        )
    raise LeukError(
        f"{owner}: processes started: {world}, but devices = {devices}: give the same number to torchrun "
        f"(--nproc-per-node) and to -p devices"
    )


def start(devices: int, module: str, arguments: Sequence[str]) -> int:
    """Run ``python -m module`` in ``devices`` processes of this machine, as torchrun does, on a free port.

    SIGTERM and SIGINT are passed on; a training then writes its checkpoint first.

    Returns:
        The exit code: 0, 130 after a stop that was asked for, else that of the process that failed first, which has
        said why.
    """
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # torch's launcher reads it when it is imported
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(END_WITHIN))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=devices, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", max_restarts=0,
    )  # fmt: skip
    stopped = "stopped; a training has written its checkpoint, and the same command continues from there"
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except SignalException:
        print(stopped, file=sys.stderr, flush=True)
        return STOPPED
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code in ENDED:
            print(stopped, file=sys.stderr, flush=True)
            return STOPPED
        if code < 0:
            print(f"a process was killed (signal {-code}; out of memory?)", file=sys.stderr, flush=True)
        return code if code > 0 else 1
    except (OSError, RuntimeError) as error:  # no free port, no process
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        print(f"{devices} processes cannot be started: {reason}", file=sys.stderr, flush=True)
        return 1
    return 0
