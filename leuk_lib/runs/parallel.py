"""Map a function over many items in several processes; in order, with progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from leuk_lib.runs import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
Context = Callable[[], AbstractContextManager[None]]

CHUNK = 32  # items that a process gets at a time
MOST = 256  # processes
LEAST = 512  # items from which on processes are worth their start of about a second; fewer are left to threads


def available_cores() -> int:
    """Number of cores that this process may use, within the limits of ``taskset``, a container or SLURM."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    what: str,
    unit: str = "image",
    within: Context = nullcontext,
    least: int = LEAST,
) -> Iterator[Result]:
    """Yield ``work(item)`` of each item, in order.

    Many small steps of Python hold the interpreter's lock, so that threads do not use a second core. From ``LEAST``
    items on the work is therefore done in processes; a script needs no ``if __name__ == "__main__"`` for them.

    Args:
        work: A function of a module, or a ``functools.partial`` of one. In a process, OpenCV has one thread.
        items: What it is called with.
        workers: Processes, or threads, at a time, at most ``MOST``; 0: one per core that this process may use.
        what: Name of the work in the progress (``progress.track``).
        unit: Name of an item in the progress.
        within: Context in which the work is done, in each process.
        least: Items from which on processes are started.
    """
    yield from progress.track(
        _results(work, items, workers or available_cores(), within, least), what, len(items), unit
    )


def _results(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, within: Context, least: int
) -> Iterator[Result]:
    workers = min(workers, MOST)
    if workers <= 1 or len(items) < least:
        with within(), ThreadPoolExecutor(workers) as pool:
            yield from pool.map(work, items)
        return
    from joblib import Parallel, delayed  # only where it is used: it takes a moment to load

    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    parallel = Parallel(min(workers, len(chunks)), backend="loky", return_as="generator", max_nbytes=None, batch_size=1)
    for part in parallel(delayed(_each)(work, chunk, within) for chunk in chunks):
        yield from part


def _each(work: Callable[[Item], Result], items: Sequence[Item], within: Context) -> list[Result]:
    """Do the work of one process."""
    import cv2  # images are small: parallel over images, not inside OpenCV

    cv2.setNumThreads(1)
    with within():
        return [work(item) for item in items]
