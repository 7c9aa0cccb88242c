"""Freed memory stays with the process, to be used again, instead of going back to the system."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of glibc's allocator (malloc.h), their values here, and the environment variables by which a user sets them.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
SETTINGS = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep freed memory; return whether it does.

    By default it returns large blocks to the system at once. The next tensor of that size then gets pages that the
    kernel has to fill with zeros first, which takes longer than to compute the tensor, and one thread at a time
    (``tests/benchmarks/bench_memory.py``). The process keeps the memory of its peak until it ends. Results do not
    depend on it.

    Nothing changes where the allocator is not glibc's, or where a variable of the environment sets it.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in SETTINGS.items())
