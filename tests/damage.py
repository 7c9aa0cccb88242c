"""Damaged and foreign files, as broken downloads, full disks and wrong links leave them, for tests of readers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from leuk_lib.runs.errors import LeukError

OTHER_FILES = {
    "empty": b"",
    "HTML page": b"<!DOCTYPE html>\n<html><body>404: not found</body></html>\n",
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n",
    "text": "weights, soon\n".encode("utf-16"),
    "JSON": b'{"weights": [1, 2, 3]}',
}


def damaged(whole: bytes, times: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies: with changed bytes (many near the ends, where formats keep their tables), cut, and noise."""
    rng = random.Random(seed)
    for number in range(times):
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            reach = min(rng.choice((40, 2000, len(whole))), len(whole))
            changed[rng.choice((1, -1)) * rng.randrange(1, reach)] = rng.randrange(256)
        yield bytes(changed)
        yield whole[: rng.randrange(len(whole))]
        yield rng.randbytes(1 + number * 20)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, overwrite, cut off, cut out, repeat, splice, or write a large number where a size may stand."""
    out = bytearray(data)
    at, length = int(rng.integers(len(out))), int(rng.integers(1, 64))
    match int(rng.integers(7)):
        case 0:
            for place in rng.integers(0, len(out), int(rng.integers(1, 9))):
                out[place] ^= 1 << int(rng.integers(8))
        case 1:
            out[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        case 2:
            del out[at:]
        case 3:
            del out[at : at + length]
        case 4:
            out[at:at] = out[at : at + length]
        case 5:
            other = int(rng.integers(len(out)))
            out = out[:at] + out[other:]
        case 6:
            head = int(rng.integers(min(len(out), 300)))
            out[head : head + 4] = b"\xff\xff\xff\x7f"
    return bytes(out)


def survives(load: Callable[[Path], Any], path: Path, times: int = 30) -> list[Any]:
    """Return what ``load`` reads from damaged copies of ``path``; any error must be one line that names the file."""
    whole, loaded = path.read_bytes(), []
    for content in (*OTHER_FILES.values(), *damaged(whole, times)):
        path.write_bytes(content)
        try:
            loaded.append(load(path))
        except LeukError as error:
            assert path.name in str(error) and "\n" not in str(error), error
    path.write_bytes(whole)
    return loaded
