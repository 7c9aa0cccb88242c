"""A training step of WPAT where freed memory stays with the process, against one where it goes back to the system.

Run: python tests/benchmarks/bench_memory.py [--threads 2]. Two processes take turns, so that a busy machine slows both.
Exit code 1 if keeping the memory is no faster.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from timing import in_turns, ratio

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.memory import keep_freed_memory
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams

SIDE, BATCH = 64, 48  # of the laptop profile


def serve(link: Connection, keep: bool, threads: int) -> None:
    """Make a training step for each message."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 2), 4, WpatParams()).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters())
    x = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    while link.recv():
        optimiser.zero_grad()
        model(x).square().sum().backward()
        optimiser.step()
        link.send(True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    context = multiprocessing.get_context("spawn")

    def stepper(keep: bool) -> tuple[Connection, Callable[[], object]]:
        own, other = context.Pipe()
        context.Process(target=serve, args=(other, keep, threads), daemon=True).start()
        return own, lambda: (own.send(True), own.recv())

    steppers = {name: stepper(keep) for name, keep in (("kept", True), ("returned", False))}
    seconds = in_turns({name: function for name, (_, function) in steppers.items()})
    for link, _ in steppers.values():
        link.send(False)
    for name, times in seconds.items():
        print(f"memory {name}: {times.min() * 1000:.0f} ms per step")
    faster = ratio(seconds["returned"], seconds["kept"])
    print(f"{faster} times as fast, {threads} threads")
    return 0 if faster.value > 1 else 1


if __name__ == "__main__":
    sys.exit(main())
