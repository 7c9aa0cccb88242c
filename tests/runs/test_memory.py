"""Freed memory is used again without the system, unless the user has set the allocator."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from leuk_lib.runs.memory import VARIABLES

BLOCKS, BYTES = 8, 48 << 20  # larger than the largest block that glibc would learn to keep by itself
# Pages that the kernel had to give while each block was written, freed and asked for again.
PROGRAM = f"""
import resource
import numpy as np
from leuk_lib.runs.memory import keep_freed_memory
print(keep_freed_memory())
np.ones({BYTES}, dtype=np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({BLOCKS}):
    np.ones({BYTES}, dtype=np.uint8)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")


def given_by_the_kernel(**variables: str) -> tuple[str, float]:
    """What `keep_freed_memory` returned, and the share of the blocks' bytes on pages that were new."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"NUMPY_MADVISE_HUGEPAGE": "0"} | variables  # pages of one size
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    kept, fresh = done.stdout.split()
    return kept, int(fresh) / (BLOCKS * BYTES)


def test_freed_memory_is_used_again():
    kept, fresh = given_by_the_kernel()
    assert kept == "True" and fresh < 0.01


def test_what_the_user_has_set_stands():
    kept, fresh = given_by_the_kernel(MALLOC_MMAP_MAX_="65536")
    assert kept == "False" and fresh > 0.9
