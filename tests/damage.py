"""Damaged and foreign files, as broken downloads, full disks, wrong links and editors leave them, for tests of readers."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


WRONG: list[Any] = [
    None, True, False, 0, -1, 5, 10**30, 1.5, float("nan"), float("inf"), "", "x", "\0", "../x", "\ud800", "x" * 9999,
    [], [1], ["x"], [[]], {}, {"x": 1}, {"": None}, {"x": {"y": []}},
]  # fmt: skip


WRONG_CELLS = [
    "", " ", "x", "nan", "inf", "-1", "1e400", "1.5", "9" * 40, "0x10", "1_0", "\0", '"', "'", "=1+1", "true", "\u202e", "\ud7ff", "x" * 3000,
]  # fmt: skip


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in a JSON value, the whole included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in nodes(item, (*path, key)))]


def mutated(value: Any, rng: random.Random) -> Any:
    """``value`` with one place replaced, deleted, or given another name."""
    changed = copy.deepcopy(value)
    path = rng.choice(nodes(changed))
    if not path:
        return rng.choice(WRONG)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    kind = rng.choice(["replace", "replace", "delete", "rename"])
    if kind == "replace" or isinstance(holder, list):
        holder[path[-1]] = rng.choice(WRONG)
    else:
        item = holder.pop(path[-1])
        if kind == "rename":
            holder[rng.choice(["x", "", "..", "a/b", "\0"])] = item
    return changed


def one_line(call: Any) -> Any:
    """Result of ``call``, or the ``LeukError``; anything else fails the test."""
    try:
        return call()
    except LeukError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
        return error


def mutated_table(text: str, rng: random.Random) -> str:
    """A CSV ``text`` with a cell, line or column replaced, removed, doubled, or renamed, or cut anywhere."""
    rows = [line.split(",") for line in text.splitlines()]
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    match rng.randrange(8):
        case 0:
            rows[row][column % len(rows[row])] = rng.choice(WRONG_CELLS)
        case 1:
            del rows[row]
        case 2:
            rows.insert(row, rows[row])
        case 3:
            rows = [line[:column] + line[column + 1 :] for line in rows]
        case 4:
            rows[0][column] = rng.choice(["x", "", rows[0][0]])
        case 5:
            rows[row] = rows[row] * 2
        case 6:
            return text[: rng.randrange(len(text))]
        case 7:
            return rng.choice(["", "\n", "\0", '"', "a", "a,b\n1", "\ufeff" + text])
    return "\n".join(",".join(line) for line in rows) + "\n"


def fuzz_json(path: Path, read: Callable[[], Any], times: int, seed: int = 1) -> int:
    """Put mutated copies of a JSON file in its place and ``read``; return how many were read.

    What is read or refused must be so in one line; the file is restored.
    """
    whole, rng, taken = path.read_text(encoding="utf-8"), random.Random(seed), 0
    value = json.loads(whole)
    for _ in range(times):
        path.write_text(json.dumps(mutated(value, rng)), encoding="utf-8")
        taken += not isinstance(one_line(read), LeukError)
    path.write_text(whole, encoding="utf-8")
    return taken


def fuzz_table(path: Path, read: Callable[[], Any], times: int, seed: int = 1) -> int:
    """As :func:`fuzz_json`, for a CSV file."""
    whole, rng, taken = path.read_text(encoding="utf-8"), random.Random(seed), 0
    for _ in range(times):
        path.write_text(mutated_table(whole, rng), encoding="utf-8")
        taken += not isinstance(one_line(read), LeukError)
    path.write_text(whole, encoding="utf-8")
    return taken


#: Numbers of mutations in the tests, and in ``make test-long``.
TIMES = [40, pytest.param(2000, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
