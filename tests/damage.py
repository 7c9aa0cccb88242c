"""Files as they come out of broken downloads, full disks and wrong links; what a reader of files must survive."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leuk_lib.runs.errors import LeukError

STRANGERS = {
    "empty": b"",
    "HTML page": b"<!DOCTYPE html>\n<html><body>404: not found</body></html>\n",
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n",
    "text": "weights, soon\n".encode("utf-16"),
    "JSON": b'{"weights": [1, 2, 3]}',
}


def damaged(whole: bytes, times: int, seed: int = 0) -> Iterator[bytes]:
    """``whole`` cut short, with some bytes changed (many near its ends, where formats keep their tables), and noise."""
    draw = random.Random(seed)
    for number in range(times):
        changed = bytearray(whole)
        for _ in range(draw.choice((1, 3, 30))):
            reach = min(draw.choice((40, 2000, len(whole))), len(whole))
            changed[draw.choice((1, -1)) * draw.randrange(1, reach)] = draw.randrange(256)
        yield bytes(changed)
        yield whole[: draw.randrange(len(whole))]
        yield draw.randbytes(1 + number * 20)


def survives(load: Callable[[Path], Any], path: Path, times: int = 30) -> list[Any]:
    """What ``load`` makes of the damaged copies of ``path``: read nevertheless, or one line that names the file."""
    whole, read = path.read_bytes(), []
    for content in (*STRANGERS.values(), *damaged(whole, times)):
        path.write_bytes(content)
        try:
            read.append(load(path))
        except LeukError as error:
            assert path.name in str(error) and "\n" not in str(error), error
    path.write_bytes(whole)
    return read
